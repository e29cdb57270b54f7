/** Read access to one consistent state of the replicated store. Cheap to take, never changes once taken. */
import type { TableName, TableTypes } from "./objects.ts";

/** Which objects `list` returns. Each form is served by an index. */
export type By =
  | { readonly kind: "all" }
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "idPrefix"; readonly prefix: string }
  | { readonly kind: "namePrefix"; readonly prefix: string }
  /** Tasks of a service. */
  | { readonly kind: "service"; readonly serviceId: string }
  /** Tasks on a node. */
  | { readonly kind: "node"; readonly nodeId: string }
  /** Tasks of one slot of a service. */
  | { readonly kind: "slot"; readonly serviceId: string; readonly slot: number }
  /** Services and tasks that use the network, by ID. */
  | { readonly kind: "network"; readonly networkId: string }
  /** Services and tasks that use the secret or config, by ID. */
  | { readonly kind: "secret"; readonly secretId: string }
  | { readonly kind: "config"; readonly configId: string };

export interface StoreView {
  /** Raft index of the last transaction this view contains. */
  readonly version: number;
  get<K extends TableName>(table: K, id: string): TableTypes[K] | undefined;
  /** Sorted by id. */
  list<K extends TableName>(table: K, by?: By): readonly TableTypes[K][];
}
