/** Finding the object of a request, with Docker's words when it is not there or was changed meanwhile. */
import { ClusterError } from "../../common/errors.ts";
import type { TableName, TableTypes, UserVersioned } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";

/** Requests carry full ids: the API edge resolves names and prefixes. */
export function existing<K extends TableName>(view: StoreView, table: K, id: string): TableTypes[K] {
  const object = view.get(table, id);
  if (object !== undefined) return object;
  throw new ClusterError("not_found", `${table} ${id} not found`, { details: { table, id } });
}

/**
 * Throws out_of_sequence unless the caller has seen the object's newest spec. What the system wrote since (addresses, a
 * node's state) is no reason to refuse. A version that is not yet committed (negative) can't be judged and is refused.
 */
export function checkVersion(
  object: UserVersioned & { readonly id: string; readonly version: number },
  version: number,
): void {
  const { id, version: current, specReplacedVersion = current - 1 } = object;
  if (version === current || (current > 0 && version < current && version > specReplacedVersion)) return;
  throw new ClusterError("out_of_sequence", "update out of sequence", {
    details: { id, wanted: current, got: version },
  });
}

/** Throws already_exists if another object of the table has the name. */
export function checkNameFree(
  view: StoreView,
  table: "service" | "network" | "secret" | "config",
  own: { readonly id: string; readonly name: string },
): void {
  const holder = view.list(table, { kind: "name", name: own.name }).find((each) => each.id !== own.id);
  if (holder === undefined) return;
  const texts = {
    service: `name conflicts with an existing object: service ${own.name} already exists`,
    network: `network with name ${own.name} already exists`,
    secret: `secret ${own.name} already exists`,
    config: `config ${own.name} already exists`,
  };
  throw new ClusterError("already_exists", texts[table], { details: { table, id: holder.id } });
}
