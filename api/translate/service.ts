/**
 * Services in Docker's JSON, with defaults filled in where asked for: Docker's own for `insertDefaults=true`, since its clients
 * and scripts go by them; what is in force here for `insertDefaults=effective`. Pure. The spec goes out as it came in, but
 * for the fields that clients dereference without looking (Replicas, MaxConcurrent, ContainerSpec, Labels).
 */
import type { EffectiveUpdateConfig } from "../../model/defaults.ts";
import { restartPolicyOf, rollbackConfigOf, stopGraceMsOf, updateConfigOf } from "../../model/defaults.ts";
import type { Endpoint, Service, Task, UpdateStatus } from "../../model/objects.ts";
import type { ServiceMode, ServiceSpec, TaskSpec, UpdateConfig } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState, isLive } from "../../model/task-state.ts";
import { metaJson, withLabels } from "./meta.ts";

const MS_NS = 1_000_000;

export type ModeName = "replicated" | "global" | "replicated-job" | "global-job";

export function modeName(spec: ServiceSpec): ModeName {
  const mode = spec.Mode ?? {};
  if (mode.Global !== undefined) return "global";
  if (mode.ReplicatedJob !== undefined) return "replicated-job";
  if (mode.GlobalJob !== undefined) return "global-job";
  return "replicated";
}

/** Completions of a job default to its concurrency and the other way round; both to 1. */
function modeJson(mode: ServiceMode | undefined): ServiceMode {
  if (mode?.Global !== undefined) return { Global: mode.Global };
  if (mode?.GlobalJob !== undefined) return { GlobalJob: mode.GlobalJob };
  if (mode?.ReplicatedJob !== undefined) {
    const { MaxConcurrent, TotalCompletions } = mode.ReplicatedJob;
    const concurrent = MaxConcurrent ?? 1;
    return {
      ReplicatedJob: {
        ...mode.ReplicatedJob,
        MaxConcurrent: concurrent,
        TotalCompletions: TotalCompletions ?? concurrent,
      },
    };
  }
  return { Replicated: { ...mode?.Replicated, Replicas: mode?.Replicated?.Replicas ?? 1 } };
}

export function taskSpecJson(spec: TaskSpec): TaskSpec {
  return {
    ...spec,
    ContainerSpec: spec.ContainerSpec ?? { Image: "" },
    ForceUpdate: spec.ForceUpdate ?? 0,
    Runtime: spec.Runtime ?? "container",
  };
}

function updateConfigJson(config: EffectiveUpdateConfig): UpdateConfig {
  return {
    Parallelism: config.parallelism,
    Delay: config.delayMs * MS_NS,
    FailureAction: config.failureAction,
    Monitor: config.monitorMs * MS_NS,
    MaxFailureRatio: config.maxFailureRatio,
    Order: config.order,
  };
}

/** What Docker fills in, whatever the service: roll-outs here go by model/defaults.ts where the spec is silent. */
const DOCKER_UPDATE = {
  Parallelism: 1,
  FailureAction: "pause",
  Monitor: 5_000 * MS_NS,
  MaxFailureRatio: 0,
  Order: "stop-first",
} as const satisfies UpdateConfig;

export type Defaults = "none" | "docker" | "effective";

/** The query parameter; "effective" is ours. */
export function defaultsAskedFor(query: {
  optional(name: string): string | undefined;
  flag(name: string): boolean;
}): Defaults {
  if (query.optional("insertDefaults") === "effective") return "effective";
  return query.flag("insertDefaults") ? "docker" : "none";
}

function insertDefaults(spec: ServiceSpec, defaults: "docker" | "effective"): ServiceSpec {
  const isEffective = defaults === "effective";
  const template = spec.TaskTemplate;
  const restart = restartPolicyOf(template);
  return {
    ...spec,
    TaskTemplate: {
      ...template,
      ContainerSpec: {
        StopGracePeriod: stopGraceMsOf(template) * MS_NS,
        DNSConfig: {},
        ...template.ContainerSpec,
      },
      Resources: template.Resources ?? {},
      RestartPolicy: {
        Condition: restart.condition,
        Delay: restart.delayMs * MS_NS,
        MaxAttempts: restart.maxAttempts,
        Window: restart.windowMs * MS_NS,
        ...template.RestartPolicy,
      },
      Placement: template.Placement ?? {},
    },
    UpdateConfig: isEffective
      ? updateConfigJson(updateConfigOf(spec))
      : { ...DOCKER_UPDATE, ...spec.UpdateConfig },
    RollbackConfig: isEffective
      ? updateConfigJson(rollbackConfigOf(spec))
      : { ...DOCKER_UPDATE, ...spec.RollbackConfig },
  };
}

/** The spec as clients read it. */
export function serviceSpecJson(spec: ServiceSpec, defaults: Defaults): ServiceSpec {
  const full: ServiceSpec = {
    ...withLabels(spec),
    TaskTemplate: taskSpecJson(spec.TaskTemplate),
    Mode: modeJson(spec.Mode),
    EndpointSpec: { ...spec.EndpointSpec, Mode: spec.EndpointSpec?.Mode ?? "vip" },
  };
  return defaults === "none" ? full : insertDefaults(full, defaults);
}

/** Docker writes a VIP with the mask of its network. */
function withMask(view: StoreView, networkId: string, addr: string): string {
  if (addr.includes("/")) return addr;
  const subnets = view.get("network", networkId)?.allocation?.subnets ?? [];
  const subnet = subnets.find((each) => each.subnet.includes(":") === addr.includes(":"));
  const bits = subnet?.subnet.split("/")[1];
  return bits === undefined ? addr : `${addr}/${bits}`;
}

function endpointJson(endpoint: Endpoint | undefined, spec: ServiceSpec, view: StoreView): object {
  // Docker shows an empty endpoint for services that publish nothing and have no network.
  if (endpoint === undefined) return { Spec: {} };
  const vips = endpoint.virtualIps.map(({ networkId, addr }) => ({
    NetworkID: networkId,
    Addr: withMask(view, networkId, addr),
  }));
  if (endpoint.ports.length === 0 && vips.length === 0) return { Spec: { Mode: endpoint.spec.Mode } };
  return {
    Spec: { ...spec.EndpointSpec, Mode: endpoint.spec.Mode },
    ...(endpoint.ports.length > 0 ? { Ports: endpoint.ports } : {}),
    ...(vips.length > 0 ? { VirtualIPs: vips } : {}),
  };
}

function updateStatusJson(status: UpdateStatus): object {
  return {
    State: status.state,
    StartedAt: status.startedAt,
    ...(status.completedAt === undefined ? {} : { CompletedAt: status.completedAt }),
    Message: status.message,
  };
}

export interface ServiceCounts {
  readonly RunningTasks: number;
  readonly DesiredTasks: number;
  readonly CompletedTasks: number;
}

function desiredCount(service: Service, tasks: readonly Task[]): number {
  const mode = modeJson(service.spec.Mode);
  if (mode.Replicated !== undefined) return mode.Replicated.Replicas ?? 1;
  if (mode.ReplicatedJob !== undefined) return mode.ReplicatedJob.MaxConcurrent ?? 1;
  const isJob = mode.GlobalJob !== undefined;
  const wanted = isJob ? TaskState.complete : TaskState.running;
  const own = tasks.filter((task) => task.desiredState === wanted && isOfIteration(service, task));
  // As Docker: clients add what is complete to what is still to come.
  return own.filter((task) => !isJob || task.status.state !== TaskState.complete).length;
}

function isOfIteration(service: Service, task: Task): boolean {
  return service.jobStatus === undefined || task.jobIteration === service.jobStatus.jobIteration;
}

/** Counted from the service's tasks, for lists that ask for `status`. */
export function serviceCounts(service: Service, tasks: readonly Task[]): ServiceCounts {
  const own = tasks.filter((task) => isOfIteration(service, task));
  const isRunning = (task: Task): boolean => task.status.state === TaskState.running && isLive(task);
  return {
    RunningTasks: own.filter(isRunning).length,
    DesiredTasks: desiredCount(service, tasks),
    CompletedTasks: own.filter((task) => task.status.state === TaskState.complete).length,
  };
}

export interface ServiceJsonOptions {
  /** Where the service was read, for the networks that it is on. */
  readonly view: StoreView;
  readonly insertDefaults: Defaults;
  readonly counts?: ServiceCounts;
}

export function serviceJson(service: Service, options: ServiceJsonOptions): object {
  const wantsDefaults = options.insertDefaults;
  const { previousSpec, updateStatus, jobStatus } = service;
  return {
    ...metaJson(service),
    Spec: serviceSpecJson(service.spec, wantsDefaults),
    ...(previousSpec === undefined ? {} : { PreviousSpec: serviceSpecJson(previousSpec, wantsDefaults) }),
    Endpoint: endpointJson(service.endpoint, service.spec, options.view),
    ...(updateStatus === undefined ? {} : { UpdateStatus: updateStatusJson(updateStatus) }),
    ...(options.counts === undefined ? {} : { ServiceStatus: options.counts }),
    ...(jobStatus === undefined
      ? {}
      : {
          JobStatus: {
            JobIteration: { Index: jobStatus.jobIteration },
            LastExecution: jobStatus.lastExecution,
          },
        }),
  };
}
