/** Creating, relabelling and removing secrets and configs: plans of transactions. Their data never changes. */
import { ClusterError } from "../../common/errors.ts";
import type { Service } from "../../model/objects.ts";
import type { Transaction } from "../store/store.ts";
import { checkNameFree, checkVersion, existing } from "./lookup.ts";
import { checkConfigSpec, checkSecretSpec, labelUpdate } from "./validate/other-specs.ts";

export type BlobTable = "secret" | "config";

export function createBlob(
  tx: Transaction,
  table: BlobTable,
  plan: { readonly id: string; readonly spec: unknown },
): undefined {
  if (tx.get(table, plan.id) !== undefined) return undefined;
  const spec = table === "secret" ? checkSecretSpec(plan.spec) : checkConfigSpec(plan.spec);
  checkNameFree(tx, table, { id: plan.id, name: spec.Name });
  tx.create(table, { id: plan.id, spec });
  return undefined;
}

export function updateBlob(
  tx: Transaction,
  table: BlobTable,
  plan: { readonly id: string; readonly version: number; readonly spec: unknown },
): undefined {
  const blob = existing(tx, table, plan.id);
  checkVersion(blob, plan.version);
  tx.update(table, { ...blob, spec: labelUpdate(blob.spec, plan.spec) });
  return undefined;
}

export function removeBlob(tx: Transaction, table: BlobTable, id: string): undefined {
  const blob = existing(tx, table, id);
  const users = tx.list("service").filter((service) => uses(service, table, id));
  if (users.length > 0) {
    const names = users.map((service) => service.spec.Name).join(", ");
    const noun = users.length === 1 ? "service" : "services";
    throw new ClusterError(
      "invalid_argument",
      `${table} '${blob.spec.Name}' is in use by the following ${noun}: ${names}`,
      { details: { table, id } },
    );
  }
  tx.remove(table, id);
  return undefined;
}

function uses(service: Service, table: BlobTable, id: string): boolean {
  const { Secrets = [], Configs = [] } = service.spec.TaskTemplate.ContainerSpec;
  return table === "secret"
    ? Secrets.some((reference) => reference.SecretID === id)
    : Configs.some((reference) => reference.ConfigID === id);
}
