/**
 * Why a node can't have a task, as a list of filters in Swarm's order with Docker's words. The first that refuses counts.
 * Static filters hold for all tasks of one spec; dynamic ones change with each task that is placed. Pure.
 */
import type { Constraint } from "../../model/constraints.ts";
import { firstUnmet, parseConstraints, platformMatches } from "../../model/constraints.ts";
import { NodeState } from "../../model/objects.ts";
import type { Task } from "../../model/objects.ts";
import type { GenericResource, Mount, Platform } from "../../model/specs.ts";
import type { NodeInfo } from "./node-set.ts";
import { hostPortKeys, pickGeneric } from "./node-set.ts";

/** What a task asks of a node, taken out of its spec once for each group. */
export interface Requirements {
  readonly serviceId: string;
  readonly nanoCpus: number;
  readonly memoryBytes: number;
  readonly generic: readonly GenericResource[];
  readonly constraints: readonly Constraint[];
  readonly platforms: readonly Platform[];
  readonly hostPorts: readonly string[];
  /** 0: no limit. */
  readonly maxReplicas: number;
  readonly logDriver: string;
  /** Of the volumes that are mounted; those that every node has are left out. */
  readonly volumeDrivers: readonly string[];
}

/** Drivers that every node has. */
const BUILT_IN_LOG_DRIVERS: ReadonlySet<string> = new Set(["", "json-file", "none", "local"]);

export function requirementsOf(task: Task): Requirements {
  const { spec } = task;
  const reserved = spec.Resources?.Reservations;
  return {
    serviceId: task.serviceId,
    nanoCpus: reserved?.NanoCPUs ?? 0,
    memoryBytes: reserved?.MemoryBytes ?? 0,
    generic: reserved?.GenericResources ?? [],
    constraints: parseConstraints(spec.Placement?.Constraints),
    platforms: spec.Placement?.Platforms ?? [],
    hostPorts: hostPortKeys(task),
    maxReplicas: spec.Placement?.MaxReplicas ?? 0,
    logDriver: spec.LogDriver?.Name ?? task.logDriver?.Name ?? "",
    volumeDrivers: volumeDriversOf(spec.ContainerSpec.Mounts),
  };
}

function volumeDriversOf(mounts: readonly Mount[] | undefined): readonly string[] {
  const names = (mounts ?? [])
    .filter(({ Type }) => (Type ?? "volume") === "volume")
    .map(({ VolumeOptions }) => VolumeOptions?.DriverConfig?.Name ?? "");
  return names.filter((name) => name !== "" && name !== "local");
}

export type FilterName =
  | "ready"
  | "resources"
  | "plugins"
  | "constraints"
  | "platform"
  | "hostPort"
  | "maxReplicas";

export interface Refusal {
  readonly filter: FilterName;
  /** What exactly: the constraint, the resource, the port. */
  readonly detail: string;
}

/** The node's refusal of every task with these requirements, or undefined. */
export function staticRefusal(info: NodeInfo, wanted: Requirements): Refusal | undefined {
  const { node } = info;
  if (node.status.state !== NodeState.ready) return { filter: "ready", detail: "not ready" };
  if (node.spec.Availability !== "active") {
    return { filter: "ready", detail: `availability ${node.spec.Availability}` };
  }
  if (!BUILT_IN_LOG_DRIVERS.has(wanted.logDriver) && !hasPlugin(info, "Log", wanted.logDriver)) {
    return { filter: "plugins", detail: `log driver ${wanted.logDriver}` };
  }
  for (const name of wanted.volumeDrivers) {
    if (!hasPlugin(info, "Volume", name)) return { filter: "plugins", detail: `volume driver ${name}` };
  }
  if (wanted.constraints.length > 0) {
    const unmet = firstUnmet(wanted.constraints, node);
    if (unmet !== undefined) return refusalOf(unmet);
  }
  if (wanted.platforms.length > 0 && !platformMatches(wanted.platforms, node)) {
    const { OS = "?", Architecture = "?" } = node.description?.Platform ?? {};
    return { filter: "platform", detail: `platform ${OS}/${Architecture}` };
  }
  return undefined;
}

const refusals = new WeakMap<Constraint, Refusal>();

/** The same object for the same constraint: most nodes refuse for one of a few reasons. */
function refusalOf(unmet: Constraint): Refusal {
  let refusal = refusals.get(unmet);
  if (refusal === undefined) {
    refusal = { filter: "constraints", detail: `constraint ${unmet.text}` };
    refusals.set(unmet, refusal);
  }
  return refusal;
}

/** A plugin is named "rclone:latest" by the node that has it, and "rclone" or "rclone:latest" by who wants it. */
function hasPlugin(info: NodeInfo, type: "Log" | "Volume", name: string): boolean {
  return (info.node.description?.Engine.Plugins ?? []).some(
    (plugin) => plugin.Type === type && (plugin.Name === name || plugin.Name === `${name}:latest`),
  );
}

/** The node's refusal with what is free on it now, or undefined. */
export function dynamicRefusal(info: NodeInfo, wanted: Requirements): Refusal | undefined {
  if (wanted.nanoCpus > 0 && info.freeNanoCpus < wanted.nanoCpus)
    return { filter: "resources", detail: "too little CPU" };
  if (wanted.memoryBytes > 0 && info.freeMemoryBytes < wanted.memoryBytes) {
    return { filter: "resources", detail: "too little memory" };
  }
  if (wanted.generic.length > 0 && pickGeneric(info, wanted.generic) === undefined) {
    const kinds = wanted.generic.map(
      (each) => each.DiscreteResourceSpec?.Kind ?? each.NamedResourceSpec?.Kind ?? "",
    );
    return { filter: "resources", detail: `too little of ${kinds.join(", ")}` };
  }
  if (wanted.hostPorts.length > 0) {
    const taken = wanted.hostPorts.find((key) => !info.isHostPortFree(key));
    if (taken !== undefined) return { filter: "hostPort", detail: `port ${taken}` };
  }
  if (wanted.maxReplicas > 0 && info.serviceCount(wanted.serviceId) >= wanted.maxReplicas) {
    return { filter: "maxReplicas", detail: `${wanted.maxReplicas} replicas` };
  }
  return undefined;
}

function nodes(count: number): string {
  return count === 1 ? "1 node" : `${count} nodes`;
}

function sentence(filter: FilterName, count: number): string {
  switch (filter) {
    case "ready":
      return `${nodes(count)} not available for new tasks`;
    case "resources":
      return `insufficient resources on ${nodes(count)}`;
    case "plugins":
      return `missing plugin on ${nodes(count)}`;
    case "constraints":
      return `scheduling constraints not satisfied on ${nodes(count)}`;
    case "platform":
      return `unsupported platform on ${nodes(count)}`;
    case "hostPort":
      return `host-mode port already in use on ${nodes(count)}`;
    case "maxReplicas":
      return "max replicas per node limit exceed";
  }
}

/** Counts refusals, to say why no node fits. */
export class Explanation {
  readonly #counts = new Map<FilterName, number>();
  readonly #details = new Map<string, number>();

  add(refusal: Refusal): void {
    this.#counts.set(refusal.filter, (this.#counts.get(refusal.filter) ?? 0) + 1);
    this.#details.set(refusal.detail, (this.#details.get(refusal.detail) ?? 0) + 1);
  }

  /** Docker's text, which clients match to its end: "no suitable node (insufficient resources on 1 node)". */
  text(): string {
    if (this.#counts.size === 0) return "no suitable node";
    const counts = [...this.#counts].map(([filter, count]) => sentence(filter, count));
    return `no suitable node (${counts.join("; ")})`;
  }

  /** What exactly, on how many nodes, most first: "2 nodes: constraint node.labels.zone==b". */
  detail(): string {
    return [...this.#details]
      .sort(([left, many], [right, few]) => few - many || (left < right ? -1 : 1))
      .slice(0, EXPLANATION_DETAIL_COUNT_MAX)
      .map(([detail, count]) => `${nodes(count)}: ${detail}`)
      .join("; ");
  }
}

const EXPLANATION_DETAIL_COUNT_MAX = 8;
