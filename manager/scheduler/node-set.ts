/**
 * What the scheduler knows of nodes: what is free on each and how many tasks of each service it has, kept up to date
 * task by task, so that placing never walks over all tasks. Pure state; the scheduler feeds it events and decisions.
 */
import type { Node, Task } from "../../model/objects.ts";
import type { GenericResource } from "../../model/specs.ts";
import { TaskState, isTerminal, isLive } from "../../model/task-state.ts";
import { FAILURE_COUNT_FOR_DEPREFERENCE, FAILURE_WINDOW_MS } from "../limits.ts";

/** Free generic resources of a kind: a count, or names. */
interface FreeGeneric {
  count: number;
  readonly names: Set<string>;
}

const NO_KEYS: readonly string[] = [];

export function hostPortKeys(task: Task): readonly string[] {
  if (task.ports.length === 0) return NO_KEYS;
  return task.ports
    .filter((port) => port.PublishMode === "host" && port.PublishedPort > 0)
    .map((port) => `${port.Protocol}/${port.PublishedPort}`);
}

function isActive(task: Task): boolean {
  return isLive(task) && !isTerminal(task.status.state);
}

export class NodeInfo {
  node: Node;
  readonly tasks: Map<string, Task> = new Map<string, Task>();
  freeNanoCpus = 0;
  freeMemoryBytes = 0;
  /** Tasks that are to go on. */
  activeCount = 0;
  readonly generic: Map<string, FreeGeneric> = new Map<string, FreeGeneric>();
  readonly #hostPorts = new Map<string, number>();
  readonly #serviceCounts = new Map<string, number>();
  /** Service id to the times at which its tasks failed here. */
  readonly #failures = new Map<string, number[]>();

  constructor(node: Node) {
    this.node = node;
    this.#resetResources();
  }

  /** The node changed; what its tasks use is counted anew. */
  setNode(node: Node): void {
    const before = this.node.description?.Resources;
    this.node = node;
    if (before === node.description?.Resources) return;
    this.#resetResources();
    for (const task of this.tasks.values()) this.#reserve(task, -1);
  }

  serviceCount(serviceId: string): number {
    return this.#serviceCounts.get(serviceId) ?? 0;
  }

  isHostPortFree(key: string): boolean {
    return (this.#hostPorts.get(key) ?? 0) === 0;
  }

  /** Adds a task, or replaces what was known of it. */
  add(task: Task): void {
    const before = this.tasks.get(task.id);
    if (before !== undefined) {
      // Most updates only say how far the task is.
      const isSame =
        before.spec === task.spec && before.assignedGenericResources === task.assignedGenericResources;
      if (isSame && isActive(before) === isActive(task) && before.ports === task.ports) {
        this.tasks.set(task.id, task);
        return;
      }
      this.remove(task.id);
    }
    this.tasks.set(task.id, task);
    this.#reserve(task, -1);
    for (const key of hostPortKeys(task)) this.#hostPorts.set(key, (this.#hostPorts.get(key) ?? 0) + 1);
    if (!isActive(task)) return;
    this.activeCount += 1;
    this.#serviceCounts.set(task.serviceId, this.serviceCount(task.serviceId) + 1);
  }

  remove(taskId: string): void {
    const task = this.tasks.get(taskId);
    if (task === undefined) return;
    this.tasks.delete(taskId);
    this.#reserve(task, 1);
    for (const key of hostPortKeys(task)) {
      const count = (this.#hostPorts.get(key) ?? 0) - 1;
      if (count > 0) this.#hostPorts.set(key, count);
      else this.#hostPorts.delete(key);
    }
    if (!isActive(task)) return;
    this.activeCount -= 1;
    const count = this.serviceCount(task.serviceId) - 1;
    if (count > 0) this.#serviceCounts.set(task.serviceId, count);
    else this.#serviceCounts.delete(task.serviceId);
  }

  failed(serviceId: string, nowMs: number): void {
    const times = (this.#failures.get(serviceId) ?? []).filter((ms) => ms > nowMs - FAILURE_WINDOW_MS);
    // More than enough to de-prefer: the newest tell when that ends.
    this.#failures.set(serviceId, [...times, nowMs].slice(-4 * FAILURE_COUNT_FOR_DEPREFERENCE));
  }

  /** Recent failures of the service here, 0 while they are too few to matter. */
  failureCount(serviceId: string, nowMs: number): number {
    const times = this.#failures.get(serviceId);
    if (times === undefined) return 0;
    const recent = times.filter((ms) => ms > nowMs - FAILURE_WINDOW_MS).length;
    if (recent === 0) this.#failures.delete(serviceId);
    return recent >= FAILURE_COUNT_FOR_DEPREFERENCE ? recent : 0;
  }

  #resetResources(): void {
    const resources = this.node.description?.Resources;
    this.freeNanoCpus = resources?.NanoCPUs ?? 0;
    this.freeMemoryBytes = resources?.MemoryBytes ?? 0;
    this.generic.clear();
    for (const each of resources?.GenericResources ?? []) this.#changeGeneric(each, 1);
  }

  #reserve(task: Task, sign: 1 | -1): void {
    if (isTerminal(task.status.state)) return;
    const reserved = task.spec.Resources?.Reservations;
    if (reserved === undefined) return;
    this.freeNanoCpus += sign * (reserved.NanoCPUs ?? 0);
    this.freeMemoryBytes += sign * (reserved.MemoryBytes ?? 0);
    for (const each of task.assignedGenericResources ?? []) this.#changeGeneric(each, sign);
  }

  #changeGeneric(resource: GenericResource, sign: 1 | -1): void {
    const named = resource.NamedResourceSpec;
    const discrete = resource.DiscreteResourceSpec;
    const kind = named?.Kind ?? discrete?.Kind;
    if (kind === undefined) return;
    let free = this.generic.get(kind);
    if (free === undefined) {
      free = { count: 0, names: new Set() };
      this.generic.set(kind, free);
    }
    if (discrete !== undefined) free.count += sign * discrete.Value;
    if (named === undefined) return;
    if (sign > 0) free.names.add(named.Value);
    else free.names.delete(named.Value);
  }
}

/** Named resources if the kind has names, else a count; undefined if there is not enough. */
export function pickGeneric(
  info: NodeInfo,
  wanted: readonly GenericResource[],
): readonly GenericResource[] | undefined {
  const picked: GenericResource[] = [];
  for (const each of wanted) {
    const kind = each.DiscreteResourceSpec?.Kind ?? each.NamedResourceSpec?.Kind ?? "";
    const free = info.generic.get(kind);
    const name = each.NamedResourceSpec?.Value;
    const count = each.DiscreteResourceSpec?.Value ?? 1;
    if (free === undefined) return undefined;
    if (name !== undefined) {
      if (!free.names.has(name)) return undefined;
      picked.push({ NamedResourceSpec: { Kind: kind, Value: name } });
    } else if (free.names.size > 0) {
      if (free.names.size < count) return undefined;
      const names = [...free.names].sort().slice(0, count);
      picked.push(...names.map((Value) => ({ NamedResourceSpec: { Kind: kind, Value } })));
    } else {
      if (free.count < count) return undefined;
      picked.push({ DiscreteResourceSpec: { Kind: kind, Value: count } });
    }
  }
  return picked;
}

export class NodeSet {
  readonly #nodes = new Map<string, NodeInfo>();
  /** Task id to the node it is counted on. */
  readonly #places = new Map<string, string>();

  get size(): number {
    return this.#nodes.size;
  }

  get(nodeId: string): NodeInfo | undefined {
    return this.#nodes.get(nodeId);
  }

  values(): Iterable<NodeInfo> {
    return this.#nodes.values();
  }

  putNode(node: Node): void {
    const info = this.#nodes.get(node.id);
    if (info === undefined) this.#nodes.set(node.id, new NodeInfo(node));
    else info.setNode(node);
  }

  removeNode(nodeId: string): void {
    for (const taskId of this.#nodes.get(nodeId)?.tasks.keys() ?? []) this.#places.delete(taskId);
    this.#nodes.delete(nodeId);
  }

  /** Counts the task where it is now; one that ended or has no node counts nowhere. True if that freed something. */
  putTask(task: Task): boolean {
    const isCounted =
      task.nodeId !== "" && task.status.state >= TaskState.assigned && !isTerminal(task.status.state);
    if (!isCounted) return this.removeTask(task.id);
    const before = this.#places.get(task.id);
    const wasActive = before !== undefined && isActive(this.#nodes.get(before)?.tasks.get(task.id) ?? task);
    if (before !== undefined && before !== task.nodeId) this.removeTask(task.id);
    const info = this.#nodes.get(task.nodeId);
    if (info === undefined) return false;
    info.add(task);
    this.#places.set(task.id, task.nodeId);
    return wasActive && !isActive(task);
  }

  removeTask(taskId: string): boolean {
    const nodeId = this.#places.get(taskId);
    if (nodeId === undefined) return false;
    this.#places.delete(taskId);
    this.#nodes.get(nodeId)?.remove(taskId);
    return true;
  }
}
