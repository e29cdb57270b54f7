/**
 * Which secondary index entries an object has. An entry is a string "kind NUL value NUL id", so that all objects of a
 * value are one key range, sorted by id. Pure; tables.ts keeps the entries up to date.
 */
import type { Node, Service, StoreEvent, Task } from "../../model/objects.ts";
import type { NetworkAttachmentConfig, TaskSpec } from "../../model/specs.ts";
import type { By } from "../../model/store-view.ts";

export type StoredObject = StoreEvent["object"];

const NUL = "\0";

/** Tables whose names are unique (compared without case). */
const NAMED_TABLES: ReadonlySet<string> = new Set(["cluster", "service", "network", "secret", "config"]);

export function hasUniqueName(table: string): boolean {
  return NAMED_TABLES.has(table);
}

/** The name by which users call the object, or "" if it has none. Nodes: the hostname, which need not be unique. */
export function nameOf(table: string, object: StoredObject): string {
  if (table === "task") return (object as Task).name;
  if (table === "node") return (object as Node).description?.Hostname ?? "";
  return (object as Service).spec?.Name ?? "";
}

function networkTargets(...lists: readonly (readonly NetworkAttachmentConfig[] | undefined)[]): string[] {
  return lists.flatMap((list) => (list ?? []).map((each) => each.Target));
}

function fileReferences(spec: TaskSpec | undefined): string[] {
  const container = spec?.ContainerSpec;
  return [
    ...(container?.Secrets ?? []).map((each) => `s${NUL}${each.SecretID}`),
    ...(container?.Configs ?? []).map((each) => `c${NUL}${each.ConfigID}`),
  ];
}

function serviceValues(service: Service): string[] {
  const networks = networkTargets(service.spec.TaskTemplate?.Networks, service.spec.Networks);
  return [...networks.map((id) => `w${NUL}${id}`), ...fileReferences(service.spec.TaskTemplate)];
}

function taskValues(task: Task): string[] {
  const networks = [...task.networks.map((each) => each.networkId), ...networkTargets(task.spec?.Networks)];
  const values = [`v${NUL}${task.serviceId}`, `l${NUL}${task.serviceId}${NUL}${task.slot}`];
  if (task.nodeId !== "") values.push(`n${NUL}${task.nodeId}`);
  values.push(...networks.map((id) => `w${NUL}${id}`), ...fileReferences(task.spec));
  return values;
}

/** Every index entry of `object`, without duplicates. */
export function indexEntries(table: string, object: StoredObject): readonly string[] {
  const values =
    table === "task"
      ? taskValues(object as Task)
      : table === "service"
        ? serviceValues(object as Service)
        : [];
  const name = table === "task" ? "" : nameOf(table, object);
  if (name !== "") values.push(`m${NUL}${name.toLowerCase()}`);
  return [...new Set(values)].map((value) => `${value}${NUL}${object.id}`);
}

/** True if both have no value, or the same one of each element in the same order. */
function sameValues<T>(
  before: readonly T[] | undefined,
  after: readonly T[] | undefined,
  valueOf: (each: T) => string,
): boolean {
  if (before === after) return true;
  const count = before?.length ?? 0;
  if (count !== (after?.length ?? 0)) return false;
  for (let at = 0; at < count; at += 1) {
    const old = before?.[at];
    const now = after?.[at];
    if (old !== undefined && now !== undefined && valueOf(old) !== valueOf(now)) return false;
  }
  return true;
}

const targetOf = (each: NetworkAttachmentConfig): string => each.Target;
const secretOf = (each: { readonly SecretID: string }): string => each.SecretID;
const configOf = (each: { readonly ConfigID: string }): string => each.ConfigID;
const networkOf = (each: { readonly networkId: string }): string => each.networkId;

function sameReferences(before: TaskSpec | undefined, after: TaskSpec | undefined): boolean {
  if (before === after) return true;
  const old = before?.ContainerSpec;
  const now = after?.ContainerSpec;
  return (
    sameValues(before?.Networks, after?.Networks, targetOf) &&
    sameValues(old?.Secrets, now?.Secrets, secretOf) &&
    sameValues(old?.Configs, now?.Configs, configOf)
  );
}

/**
 * True if both certainly have the same entries but for that of the node, found without making them. By value: on all
 * members but the leader each object comes from the log, with nothing in common with the one before.
 */
export function onlyNodeDiffers(table: string, before: StoredObject, after: StoredObject): boolean {
  if (table !== "task") return false;
  const old = before as Task;
  const now = after as Task;
  return (
    old.serviceId === now.serviceId &&
    old.slot === now.slot &&
    sameValues(old.networks, now.networks, networkOf) &&
    sameReferences(old.spec, now.spec)
  );
}

/** True if both certainly have the same entries. */
export function sameEntries(table: string, before: StoredObject, after: StoredObject): boolean {
  if (table === "task")
    return onlyNodeDiffers(table, before, after) && (before as Task).nodeId === (after as Task).nodeId;
  return table !== "service" && nameOf(table, before) === nameOf(table, after);
}

/** The index entry by which a task is found on its node. */
export function nodeEntry(task: StoredObject): string | undefined {
  const { nodeId } = task as Task;
  return nodeId === "" ? undefined : `n${NUL}${nodeId}${NUL}${task.id}`;
}

/** Range of index entries that answers `by`, or undefined if another way does. */
export function indexPrefix(by: By): string | undefined {
  switch (by.kind) {
    case "name":
      return `m${NUL}${by.name.toLowerCase()}${NUL}`;
    case "namePrefix":
      return `m${NUL}${by.prefix.toLowerCase()}`;
    case "service":
      return `v${NUL}${by.serviceId}${NUL}`;
    case "slot":
      return `l${NUL}${by.serviceId}${NUL}${by.slot}${NUL}`;
    case "node":
      return `n${NUL}${by.nodeId}${NUL}`;
    case "network":
      return `w${NUL}${by.networkId}${NUL}`;
    case "secret":
      return `s${NUL}${by.secretId}${NUL}`;
    case "config":
      return `c${NUL}${by.configId}${NUL}`;
    case "all":
    case "idPrefix":
      return undefined;
  }
}
