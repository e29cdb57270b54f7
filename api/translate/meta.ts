/** What all swarm objects have in common in Docker's JSON. Pure. */
import type { ObjectMeta, TlsInfo } from "../../model/objects.ts";
import type { Annotations } from "../../model/specs.ts";

export interface MetaJson {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly CreatedAt: string;
  readonly UpdatedAt: string;
}

export function metaJson(object: ObjectMeta): MetaJson {
  return {
    ID: object.id,
    Version: { Index: object.version },
    CreatedAt: object.createdAt,
    UpdatedAt: object.updatedAt,
  };
}

/** Labels are always there in answers, also when the spec was silent. */
export function withLabels<S extends Partial<Annotations>>(spec: S): S & { readonly Labels: object } {
  return { ...spec, Labels: spec.Labels ?? {} };
}

export function tlsJson(info: TlsInfo | undefined): object {
  return info === undefined ? {} : { ...info };
}
