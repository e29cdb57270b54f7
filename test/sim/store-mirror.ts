/**
 * The store's state as all managers' events tell it, each commit counted once, by whoever applies it first. The checks of
 * store-checks.ts look at it: unlike a manager's view it is never ahead of the event that is judged.
 */
import { crc32 } from "node:zlib";
import type { Cluster, Network, Node, Service, StoreEvent, Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";

export function isWanted(task: Task): boolean {
  return task.desiredState <= TaskState.complete;
}

/** It died although it was to run on. */
export function diedByItself(task: Task): boolean {
  const { state } = task.status;
  return state === TaskState.complete || state === TaskState.failed || state === TaskState.rejected;
}

export function isActive(task: Task): boolean {
  return task.desiredState === TaskState.running && !isTerminal(task.status.state);
}

/** The same text for the tasks of one slot; of a global service, of one node. */
export function slotOf(task: Task): string {
  return `${task.serviceId}/${task.slot}/${task.slot === 0 ? task.nodeId : ""}`;
}

export function byAge(left: Task, right: Task): number {
  if (left.createdAt !== right.createdAt) return left.createdAt < right.createdAt ? -1 : 1;
  return left.id < right.id ? -1 : 1;
}

export class StoreMirror {
  readonly clusters: Map<string, Cluster> = new Map();
  readonly nodes: Map<string, Node> = new Map();
  readonly networks: Map<string, Network> = new Map();
  readonly services: Map<string, Service> = new Map();
  readonly tasks: Map<string, Task> = new Map();
  /** Ids of the tasks of each slot. */
  readonly #slots = new Map<string, Set<string>>();
  /** Slots that have tasks, of each service. */
  readonly #slotsOf = new Map<string, Set<string>>();
  version = -1;

  /** Starts over from a whole state. */
  adopt(view: StoreView, version: number): void {
    const { clusters, nodes, networks, services, tasks } = this;
    for (const map of [clusters, nodes, networks, services, tasks, this.#slots, this.#slotsOf]) map.clear();
    for (const each of view.list("cluster")) this.clusters.set(each.id, each);
    for (const each of view.list("node")) this.nodes.set(each.id, each);
    for (const each of view.list("network")) this.networks.set(each.id, each);
    for (const each of view.list("service")) this.services.set(each.id, each);
    for (const each of view.list("task")) this.#putTask(each);
    this.version = version;
  }

  apply(event: StoreEvent): void {
    const { object, action } = event;
    const isGone = action === "remove";
    if (event.table === "task") {
      if (isGone) this.#dropTask(event.object);
      else this.#putTask(event.object);
      return;
    }
    const table = this.#table(event.table);
    if (isGone) table?.delete(object.id);
    else table?.set(object.id, object);
  }

  /** Oldest first. Tasks that are to be removed are no part of it. */
  slot(key: string): readonly Task[] {
    const tasks: Task[] = [];
    for (const id of this.#slots.get(key) ?? []) {
      const task = this.tasks.get(id);
      if (task !== undefined && task.desiredState !== TaskState.remove) tasks.push(task);
    }
    return tasks.length > 1 ? tasks.sort(byAge) : tasks;
  }

  /** Slots that have tasks, of one service. */
  slotsOf(serviceId: string): Iterable<string> {
    return this.#slotsOf.get(serviceId) ?? [];
  }

  #table(name: StoreEvent["table"]): Map<string, unknown> | undefined {
    switch (name) {
      case "cluster":
        return this.clusters;
      case "node":
        return this.nodes;
      case "network":
        return this.networks;
      case "service":
        return this.services;
      case "image":
      case "task":
      case "secret":
      case "config":
        return undefined;
    }
  }

  #putTask(task: Task): void {
    this.tasks.set(task.id, task);
    const key = slotOf(task);
    const ids = this.#slots.get(key);
    if (ids !== undefined) {
      ids.add(task.id);
      return;
    }
    this.#slots.set(key, new Set([task.id]));
    const keys = this.#slotsOf.get(task.serviceId);
    if (keys === undefined) this.#slotsOf.set(task.serviceId, new Set([key]));
    else keys.add(key);
  }

  #dropTask(task: Task): void {
    this.tasks.delete(task.id);
    const key = slotOf(task);
    const ids = this.#slots.get(key);
    ids?.delete(task.id);
    if (ids?.size !== 0) return;
    this.#slots.delete(key);
    this.#slotsOf.get(task.serviceId)?.delete(key);
  }
}

/** Most managers tell of a commit long before so many more. */
const TEXT_COUNT_MAX = 500;

/** What each commit did, by the manager that told of it first: the newest in full, of older ones a checksum. */
export class CommitRecord {
  readonly #texts = new Map<number, string>();
  readonly #checksums = new Map<number, number>();

  /** False if another manager has told otherwise. */
  agrees(version: number, events: readonly StoreEvent[]): boolean {
    const text = textOf(events);
    const known = this.#texts.get(version);
    if (known !== undefined) return known === text;
    const checksum = this.#checksums.get(version);
    if (checksum !== undefined) return checksum === crc32(text);
    this.#texts.set(version, text);
    if (this.#texts.size > TEXT_COUNT_MAX) this.#shorten();
    return true;
  }

  #shorten(): void {
    for (const [version, text] of this.#texts) {
      this.#texts.delete(version);
      this.#checksums.set(version, crc32(text));
      return;
    }
  }
}

function textOf(events: readonly StoreEvent[]): string {
  return JSON.stringify(
    events.map(({ action, object, table }) => [table, action, action === "remove" ? object.id : object]),
  );
}
