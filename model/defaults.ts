/**
 * What a silent spec means. Readers (orchestrators, updater, worker, inspect with insertDefaults) ask here; nothing of it
 * is written into a spec. Where a client gives a value, exactly that value holds. Durations come out in milliseconds.
 */
import type {
  EndpointSpec,
  NetworkAttachmentConfig,
  PortConfig,
  ServiceSpec,
  TaskSpec,
  UpdateConfig,
} from "./specs.ts";

const NANOS_PER_MS = 1e6;

export interface EffectiveUpdateConfig {
  /** Slots at once; 0: all. */
  readonly parallelism: number;
  readonly delayMs: number;
  readonly failureAction: "pause" | "continue" | "rollback";
  readonly monitorMs: number;
  readonly maxFailureRatio: number;
  readonly order: "stop-first" | "start-first";
}

export interface EffectiveRestartPolicy {
  readonly condition: "none" | "on-failure" | "any";
  readonly delayMs: number;
  /** 0: no limit. */
  readonly maxAttempts: number;
  /** 0: the whole life of the slot. */
  readonly windowMs: number;
}

export type EffectiveMode =
  | { readonly kind: "replicated"; readonly replicas: number }
  | { readonly kind: "global" }
  | { readonly kind: "replicated-job"; readonly maxConcurrent: number; readonly totalCompletions: number }
  | { readonly kind: "global-job" };

const DEFAULT_STOP_GRACE_MS: number = 10_000;
const DEFAULT_RESTART_DELAY_MS = 5_000;
const DEFAULT_MONITOR_MS = 5_000;

function millis(nanos: number | undefined, fallback: number): number {
  return nanos === undefined ? fallback : nanos / NANOS_PER_MS;
}

export function modeOf(spec: ServiceSpec): EffectiveMode {
  const mode = spec.Mode;
  if (mode?.Global !== undefined) return { kind: "global" };
  if (mode?.GlobalJob !== undefined) return { kind: "global-job" };
  if (mode?.ReplicatedJob !== undefined) {
    const maxConcurrent = mode.ReplicatedJob.MaxConcurrent ?? 1;
    return {
      kind: "replicated-job",
      maxConcurrent,
      totalCompletions: mode.ReplicatedJob.TotalCompletions ?? maxConcurrent,
    };
  }
  return { kind: "replicated", replicas: mode?.Replicated?.Replicas ?? 1 };
}

export function isJob(spec: ServiceSpec): boolean {
  return spec.Mode?.ReplicatedJob !== undefined || spec.Mode?.GlobalJob !== undefined;
}

/** True if tasks are bound to nodes rather than to numbered slots. */
export function isGlobal(spec: ServiceSpec): boolean {
  return spec.Mode?.Global !== undefined || spec.Mode?.GlobalJob !== undefined;
}

/** The networks that the tasks are on. Old clients give them beside the task's template, as Docker allowed once. */
export function networksOf(spec: ServiceSpec): readonly NetworkAttachmentConfig[] {
  return spec.TaskTemplate.Networks ?? spec.Networks ?? [];
}

export function hostPortsOf(endpoint: EndpointSpec | undefined): readonly PortConfig[] {
  return (endpoint?.Ports ?? []).filter((port) => port.PublishMode === "host");
}

/**
 * start-first where traffic comes through an address that outlives the task (ingress port, VIP) and nothing that two
 * tasks can't share is used (volume, bind, host port, a bounded number of replicas on a node).
 */
export function defaultUpdateOrder(spec: ServiceSpec): "stop-first" | "start-first" {
  const ports = spec.EndpointSpec?.Ports ?? [];
  const hasHostPort = hostPortsOf(spec.EndpointSpec).length > 0;
  const hasNetwork = networksOf(spec).length > 0;
  const hasVip = hasNetwork && spec.EndpointSpec?.Mode !== "dnsrr";
  const mounts = spec.TaskTemplate.ContainerSpec?.Mounts ?? [];
  const hasVolume = mounts.some((mount) => mount.Type !== "tmpfs" && mount.Type !== "image");
  const isLimited = (spec.TaskTemplate.Placement?.MaxReplicas ?? 0) > 0;
  const isReachable = ports.length > 0 || hasVip;
  return isReachable && !hasHostPort && !hasVolume && !isLimited ? "start-first" : "stop-first";
}

function effective(
  spec: ServiceSpec,
  config: UpdateConfig | undefined,
  silentAction: "pause" | "rollback",
): EffectiveUpdateConfig {
  return {
    parallelism: config?.Parallelism ?? 1,
    delayMs: millis(config?.Delay, 0),
    failureAction: config?.FailureAction || silentAction,
    monitorMs: config?.Monitor ? millis(config.Monitor, DEFAULT_MONITOR_MS) : DEFAULT_MONITOR_MS,
    maxFailureRatio: config?.MaxFailureRatio ?? 0,
    order: config?.Order || defaultUpdateOrder(spec),
  };
}

export function updateConfigOf(spec: ServiceSpec): EffectiveUpdateConfig {
  return effective(spec, spec.UpdateConfig, "rollback");
}

/** A rollback never rolls back again. */
export function rollbackConfigOf(spec: ServiceSpec): EffectiveUpdateConfig {
  const config = effective(spec, spec.RollbackConfig, "pause");
  return config.failureAction === "rollback" ? { ...config, failureAction: "pause" } : config;
}

export function restartPolicyOf(spec: TaskSpec): EffectiveRestartPolicy {
  const policy = spec.RestartPolicy;
  return {
    condition: policy?.Condition || "any",
    delayMs: millis(policy?.Delay, DEFAULT_RESTART_DELAY_MS),
    maxAttempts: policy?.MaxAttempts ?? 0,
    windowMs: millis(policy?.Window, 0),
  };
}

export function stopGraceMsOf(spec: TaskSpec): number {
  return millis(spec.ContainerSpec?.StopGracePeriod, DEFAULT_STOP_GRACE_MS);
}
