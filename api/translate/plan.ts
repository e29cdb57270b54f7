/**
 * What a service spec would change if it were sent now: fields with their effective values, and tasks that would be
 * kept, replaced, added or removed, and in which way. Pure, and by the same rules as the updater's. Says nothing about
 * whether nodes fit.
 */
import { isObject } from "../../common/json.ts";
import { modeOf } from "../../model/defaults.ts";
import type { Service, Task } from "../../model/objects.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import { deepEqual, isTaskUpToDate } from "../../model/up-to-date.ts";
import { serviceSpecJson } from "./service.ts";

export interface PlannedField {
  /** Dotted, as in the spec. */
  readonly path: string;
  readonly before: unknown;
  readonly after: unknown;
}

export interface ServicePlan {
  readonly action: "create" | "update" | "none";
  readonly fields: readonly PlannedField[];
  /** Tasks of global services and jobs depend on the nodes; for them `added` and `removed` are absent. */
  readonly tasks: {
    readonly kept: number;
    readonly replaced: number;
    readonly added?: number;
    readonly removed?: number;
  };
  /** In force for the replacement of tasks. */
  readonly update: NonNullable<ServiceSpec["UpdateConfig"]>;
}

/** Leaves that differ; lists are compared as a whole. */
function differences(path: string, before: unknown, after: unknown): PlannedField[] {
  if (deepEqual(before, after)) return [];
  if (!isObject(before) || !isObject(after)) return [{ path, before: before ?? null, after: after ?? null }];
  const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort();
  return keys.flatMap((key) => differences(path === "" ? key : `${path}.${key}`, before[key], after[key]));
}

function isWorking(task: Task): boolean {
  return task.desiredState <= TaskState.running && !isTerminal(task.status.state);
}

/** `existing`: the service of that name or id, if there is one. */
export function planService(view: StoreView, existing: Service | undefined, spec: ServiceSpec): ServicePlan {
  const after = serviceSpecJson(spec, "effective");
  const update = after.UpdateConfig ?? {};
  const wanted = replicasOf(spec);
  if (existing === undefined) {
    const added = wanted === undefined ? {} : { added: wanted, removed: 0 };
    return { action: "create", fields: [], tasks: { kept: 0, replaced: 0, ...added }, update };
  }
  const fields = differences("", serviceSpecJson(existing.spec, "effective"), after);
  const changed = { ...existing, spec, specVersion: existing.specVersion + 1 };
  const working = view.list("task", { kind: "service", serviceId: existing.id }).filter(isWorking);
  const current = working.filter((task) => isTaskUpToDate(changed, task, view.get("node", task.nodeId)));
  const staying = wanted === undefined ? working.length : Math.min(wanted, working.length);
  const kept = Math.min(current.length, staying);
  const counts =
    wanted === undefined
      ? {}
      : { added: Math.max(0, wanted - working.length), removed: Math.max(0, working.length - wanted) };
  return {
    action: fields.length === 0 ? "none" : "update",
    fields,
    tasks: { kept, replaced: staying - kept, ...counts },
    update,
  };
}

function replicasOf(spec: ServiceSpec): number | undefined {
  const mode = modeOf(spec);
  return mode.kind === "replicated" ? mode.replicas : undefined;
}
