/**
 * Finds swarm objects by what users type: full ID, then full name, then ID prefix, with Docker's errors. Pure reads of a
 * view; every route that takes the id of a swarm object goes through here.
 */
import { ClusterError } from "../common/errors.ts";
import type { Node, TableName, TableTypes } from "../model/objects.ts";
import type { StoreView } from "../model/store-view.ts";

function notFound(what: string, wanted: string): ClusterError {
  return new ClusterError("not_found", `${what} ${wanted} not found`);
}

function ambiguous(what: string, wanted: string, count: number): ClusterError {
  return new ClusterError("invalid_argument", `${what} ${wanted} is ambiguous (${count} matches found)`);
}

function only<T>(what: string, wanted: string, found: readonly T[]): T | undefined {
  if (found.length > 1) throw ambiguous(what, wanted, found.length);
  return found[0];
}

/** undefined if nothing has this ID, name or prefix; throws if several have it. */
export function find<K extends TableName>(
  view: StoreView,
  table: K,
  wanted: string,
): TableTypes[K] | undefined {
  if (wanted === "") return undefined;
  const byId = view.get(table, wanted);
  if (byId !== undefined) return byId;
  const byName = only(table, wanted, view.list(table, { kind: "name", name: wanted }));
  if (byName !== undefined) return byName;
  return only(table, wanted, view.list(table, { kind: "idPrefix", prefix: wanted }));
}

/** As find, but throws Docker's "service X not found". */
export function lookup<K extends TableName>(view: StoreView, table: K, wanted: string): TableTypes[K] {
  const found = find(view, table, wanted);
  if (found === undefined) throw notFound(table, wanted);
  return found;
}

/** The name that users see: the one given in the spec, else the machine's. */
export function nodeName(node: Node): string {
  return node.spec.Name || (node.description?.Hostname ?? "");
}

/** Nodes go by their machine's name as well. */
export function lookupNode(view: StoreView, wanted: string): Node {
  const byId = wanted === "" ? undefined : view.get("node", wanted);
  if (byId !== undefined) return byId;
  const all = view.list("node");
  const named = all.filter((node) => node.spec.Name === wanted || node.description?.Hostname === wanted);
  const byName = only("node", wanted, named);
  if (byName !== undefined) return byName;
  const byPrefix = only(
    "node",
    wanted,
    wanted === "" ? [] : all.filter((node) => node.id.startsWith(wanted)),
  );
  if (byPrefix === undefined) throw notFound("node", wanted);
  return byPrefix;
}
