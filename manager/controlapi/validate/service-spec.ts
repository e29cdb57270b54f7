/** Checks of a service spec that need nothing but the spec. Answers with the spec as it is to be stored. Pure. */
import { parseConstraints } from "../../../model/constraints.ts";
import type {
  EndpointSpec,
  Placement,
  Resources,
  RestartPolicy,
  ServiceMode,
  ServiceSpec,
  TaskSpec,
  UpdateConfig,
} from "../../../model/specs.ts";
import { checkContainerSpec } from "./container-spec.ts";
import {
  checkLabels,
  checkLogDriver,
  checkNotNegative,
  checkServiceName,
  checkWord,
  refuse,
} from "./rules.ts";
import { checkShape, withoutNulls } from "./shape.ts";
import { SERVICE_SHAPE } from "./shapes.ts";

const NANO_CPUS_MIN = 1e6;
const MEMORY_BYTES_MIN = 4 * 1024 * 1024;
const PORT_MAX = 65_535;
const REPLICAS_MAX = 1_000_000;
/** Docker takes any descriptor of a node and spreads over labels only. */
const SPREAD = /^(?:(?:node|engine)\.labels\.[^\s]+|node\.(?:id|hostname|ip|role|platform\.(?:os|arch)))$/i;

/** The spec without nulls, checked. Throws invalid_argument. */
export function checkServiceSpec(given: unknown): ServiceSpec {
  const plain = withoutNulls(given);
  checkShape(plain, { fields: {} }, "spec");
  checkShape(plain, SERVICE_SHAPE, "spec");
  const spec = plain as ServiceSpec;
  checkServiceName(spec.Name);
  checkLabels(spec.Labels);
  checkMode(spec);
  checkTaskSpec(spec.TaskTemplate, spec.Labels);
  checkUpdateConfig(spec.UpdateConfig, ["pause", "continue", "rollback"], "UpdateConfig");
  checkUpdateConfig(spec.RollbackConfig, ["pause", "continue"], "RollbackConfig");
  checkEndpoint(spec.EndpointSpec);
  return spec;
}

export type ModeName = "replicated" | "global" | "replicated-job" | "global-job";

export function modeName(mode: ServiceMode | undefined): ModeName {
  if (mode?.Global !== undefined) return "global";
  if (mode?.ReplicatedJob !== undefined) return "replicated-job";
  if (mode?.GlobalJob !== undefined) return "global-job";
  return "replicated";
}

function checkMode(spec: ServiceSpec): void {
  const mode = spec.Mode ?? {};
  const given = [mode.Replicated, mode.Global, mode.ReplicatedJob, mode.GlobalJob].filter(
    (each) => each !== undefined,
  );
  if (given.length > 1) throw refuse("must specify only one service mode", "Mode");
  const name = modeName(mode);
  const counts = [
    ["replicas", mode.Replicated?.Replicas],
    ["maximum concurrent jobs", mode.ReplicatedJob?.MaxConcurrent],
    ["total completions", mode.ReplicatedJob?.TotalCompletions],
  ] as const;
  for (const [what, count] of counts) {
    checkNotNegative(count, `Number of ${what} must be non-negative`);
    if ((count ?? 0) > REPLICAS_MAX)
      throw refuse(`Number of ${what} must be at most ${REPLICAS_MAX}, got ${count}`);
  }
  if (name === "replicated-job" || name === "global-job") {
    if (spec.UpdateConfig !== undefined) throw refuse("UpdateConfig cannot be set on a job", "UpdateConfig");
    if (spec.RollbackConfig !== undefined)
      throw refuse("RollbackConfig cannot be set on a job", "RollbackConfig");
  }
  if (
    name !== "replicated" &&
    name !== "replicated-job" &&
    (spec.TaskTemplate?.Placement?.MaxReplicas ?? 0) > 0
  ) {
    throw refuse(
      "replicas-max-per-node can only be used with replicated or replicated-job mode",
      "Placement",
    );
  }
}

function checkTaskSpec(task: TaskSpec | undefined, serviceLabels: ServiceSpec["Labels"]): void {
  if (task === undefined) throw refuse("TaskTemplate: missing in service spec", "TaskTemplate");
  checkWord(task.Runtime, ["container"], "TaskTemplate.Runtime");
  checkContainerSpec(task.ContainerSpec, serviceLabels);
  checkResources(task.Resources?.Limits);
  checkResources(task.Resources?.Reservations);
  checkRestart(task.RestartPolicy);
  checkPlacement(task.Placement);
  checkLogDriver(task.LogDriver, "TaskTemplate.LogDriver");
}

function checkResources(resources: Resources | undefined): void {
  const { NanoCPUs = 0, MemoryBytes = 0, Pids } = resources ?? {};
  if (NanoCPUs !== 0 && NanoCPUs < NANO_CPUS_MIN) {
    throw refuse(`invalid cpu value ${NanoCPUs / 1e9}: Must be at least ${NANO_CPUS_MIN / 1e9}`, "NanoCPUs");
  }
  if (MemoryBytes !== 0 && MemoryBytes < MEMORY_BYTES_MIN) {
    throw refuse(`invalid memory value ${MemoryBytes}: Must be at least 4MiB`, "MemoryBytes");
  }
  checkNotNegative(Pids, `invalid pids value ${Pids}: Must not be negative`);
  for (const each of resources?.GenericResources ?? []) {
    const { DiscreteResourceSpec: discrete, NamedResourceSpec: named } = each;
    if ((discrete === undefined) === (named === undefined)) {
      throw refuse("invalid generic resource: want either a named or a discrete one", "GenericResources");
    }
    checkNotNegative(
      discrete?.Value,
      `invalid generic resource ${discrete?.Kind}: value must not be negative`,
    );
  }
}

function checkRestart(policy: RestartPolicy | undefined): void {
  checkWord(policy?.Condition, ["none", "on-failure", "any"], "RestartPolicy.Condition");
  checkNotNegative(policy?.Delay, "TaskSpec: restart-delay cannot be negative");
  checkNotNegative(policy?.Window, "TaskSpec: restart-window cannot be negative");
  checkNotNegative(policy?.MaxAttempts, "TaskSpec: restart-max-attempts cannot be negative");
}

function checkPlacement(placement: Placement | undefined): void {
  parseConstraints(placement?.Constraints);
  checkNotNegative(placement?.MaxReplicas, "Placement: max replicas per node cannot be negative");
  for (const { Spread } of placement?.Preferences ?? []) {
    const descriptor = Spread?.SpreadDescriptor ?? "";
    if (!SPREAD.test(descriptor)) {
      throw refuse(
        `invalid placement preference: want spread over node.labels.*, engine.labels.* or an attribute of the node, got "${descriptor}"`,
        "Preferences",
      );
    }
  }
}

function checkUpdateConfig(config: UpdateConfig | undefined, actions: readonly string[], name: string): void {
  if (config === undefined) return;
  checkNotNegative(config.Delay, "TaskSpec: update-delay cannot be negative");
  checkNotNegative(config.Monitor, "TaskSpec: update-monitor cannot be negative");
  checkNotNegative(config.Parallelism, "TaskSpec: update-parallelism cannot be negative");
  const ratio = config.MaxFailureRatio ?? 0;
  if (ratio < 0 || ratio > 1) {
    throw refuse("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1", name);
  }
  checkWord(config.FailureAction, actions, `${name}.FailureAction`);
  checkWord(config.Order, ["stop-first", "start-first"], `${name}.Order`);
}

function checkEndpoint(endpoint: EndpointSpec | undefined): void {
  checkWord(endpoint?.Mode, ["vip", "dnsrr"], "EndpointSpec.Mode");
  const taken = new Set<string>();
  for (const port of endpoint?.Ports ?? []) {
    checkWord(port.Protocol, ["tcp", "udp", "sctp"], "port protocol");
    checkWord(port.PublishMode, ["ingress", "host"], "publish mode");
    const isIngress = port.PublishMode !== "host";
    if (isIngress && endpoint?.Mode === "dnsrr") {
      throw refuse("EndpointSpec: port published with ingress mode can't be used with dnsrr mode");
    }
    const target = port.TargetPort ?? 0;
    if (target < 1 || target > PORT_MAX)
      throw refuse(`invalid target port ${target}: must be 1 to ${PORT_MAX}`);
    const published = port.PublishedPort ?? 0;
    if (published < 0 || published > PORT_MAX) {
      throw refuse(`invalid published port ${published}: must be 0 to ${PORT_MAX}`);
    }
    if (published === 0) continue;
    // Whatever the modes: an ingress port is open on the node that a host port would be opened on.
    const key = `${port.Protocol || "tcp"}/${published}`;
    if (taken.has(key))
      throw refuse("EndpointSpec: duplicate published ports provided", "EndpointSpec.Ports");
    taken.add(key);
  }
}
