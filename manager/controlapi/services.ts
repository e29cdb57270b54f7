/** Creating, updating, rolling back and removing services: plans of transactions. */
import { ClusterError } from "../../common/errors.ts";
import type { UpdateServiceOptions } from "../../model/cluster-control.ts";
import type { Service } from "../../model/objects.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import type { Transaction } from "../store/store.ts";
import { checkNameFree, checkVersion, existing } from "./lookup.ts";
import { checkPortsFree, resolveReferences } from "./validate/references.ts";
import { isSameJson } from "./validate/rules.ts";
import { checkServiceSpec, modeName } from "./validate/service-spec.ts";

export interface CreateServicePlan {
  readonly id: string;
  readonly spec: unknown;
  readonly registryAuth?: string | undefined;
  /** RFC 3339. */
  readonly now: string;
}

function isJob(spec: ServiceSpec): boolean {
  const name = modeName(spec.Mode);
  return name === "replicated-job" || name === "global-job";
}

function accepted(tx: Transaction, id: string, given: unknown): ServiceSpec {
  const checked = checkServiceSpec(given);
  checkNameFree(tx, "service", { id, name: checked.Name });
  const spec = resolveReferences(tx, checked);
  checkPortsFree(tx, spec, id);
  return spec;
}

export function createService(tx: Transaction, plan: CreateServicePlan): undefined {
  if (tx.get("service", plan.id) !== undefined) return undefined;
  const spec = accepted(tx, plan.id, plan.spec);
  tx.create("service", {
    id: plan.id,
    spec,
    specVersion: 1,
    // No one can have read it before this transaction.
    specReplacedVersion: Math.max(0, tx.version),
    ...(isJob(spec) ? { jobStatus: { jobIteration: 0, lastExecution: plan.now } } : {}),
    ...(plan.registryAuth ? { registryAuth: plan.registryAuth } : {}),
  });
  return undefined;
}

export interface UpdateServicePlan extends Omit<UpdateServiceOptions, "spec"> {
  readonly id: string;
  readonly spec: unknown;
  readonly now: string;
}

/** New spec, previous spec and cleared update status in one write, so that no reader sees an old "completed". */
export function updateService(tx: Transaction, plan: UpdateServicePlan): undefined {
  const service = existing(tx, "service", plan.id);
  checkAuthSource(service, plan);
  checkVersion(service, plan.version);
  if (plan.rollback === true) {
    tx.update("service", rolledBack(service, plan.now));
    return undefined;
  }
  const spec = accepted(tx, plan.id, plan.spec);
  if (spec.Name !== service.spec.Name) {
    throw new ClusterError("unimplemented", "renaming services is not supported");
  }
  if (modeName(spec.Mode) !== modeName(service.spec.Mode)) {
    throw new ClusterError("unimplemented", "service mode change is not allowed");
  }
  tx.update("service", respecified(service, spec, plan));
  return undefined;
}

/** Docker's engine looks for the credentials first: whatever else is wrong, this is what it says, with its status 500. */
function checkAuthSource(service: Service, plan: UpdateServicePlan): void {
  const isAsked = plan.registryAuthFrom === "previous-spec" && !plan.registryAuth;
  if (!isAsked || service.previousSpec !== undefined) return;
  throw new ClusterError("internal", "service does not have a previous spec");
}

function respecified(service: Service, spec: ServiceSpec, plan: UpdateServicePlan): Service {
  const { updateStatus: _status, registryAuth, previousRegistryAuth, ...rest } = service;
  const isChanged = !isSameJson(spec, service.spec);
  const kept = plan.registryAuthFrom === "previous-spec" ? previousRegistryAuth : registryAuth;
  const auth = plan.registryAuth || kept;
  const common = {
    ...rest,
    spec,
    specReplacedVersion: service.version,
    ...(auth === undefined ? {} : { registryAuth: auth }),
    ...(registryAuth === undefined ? {} : { previousRegistryAuth: registryAuth }),
  };
  // The same spec again is no step to which one could roll back, and runs no job anew.
  if (!isChanged) return common;
  return {
    ...common,
    previousSpec: service.spec,
    previousSpecVersion: service.specVersion,
    specVersion: nextSpecVersion(service),
    ...(isJob(spec) ? { jobStatus: nextRun(service, plan.now) } : {}),
  };
}

/** Greater than any that the service ever had: its version in the store grows with each write. */
function nextSpecVersion(service: Service): number {
  return Math.max(service.version, service.specVersion + 1, (service.previousSpecVersion ?? 0) + 1);
}

function nextRun(service: Service, now: string): NonNullable<Service["jobStatus"]> {
  return { jobIteration: (service.jobStatus?.jobIteration ?? 0) + 1, lastExecution: now };
}

function rolledBack(service: Service, now: string): Service {
  const { previousSpec, previousSpecVersion, previousRegistryAuth, registryAuth, ...rest } = service;
  if (previousSpec === undefined) {
    throw new ClusterError("failed_precondition", `service ${service.id} does not have a previous spec`);
  }
  return {
    ...rest,
    spec: previousSpec,
    specReplacedVersion: service.version,
    specVersion: previousSpecVersion ?? nextSpecVersion(service),
    previousSpec: service.spec,
    previousSpecVersion: service.specVersion,
    ...(previousRegistryAuth === undefined ? {} : { registryAuth: previousRegistryAuth }),
    ...(registryAuth === undefined ? {} : { previousRegistryAuth: registryAuth }),
    ...(isJob(previousSpec) ? { jobStatus: nextRun(service, now) } : {}),
    updateStatus: { state: "rollback_started", startedAt: now, message: "manually requested rollback" },
  };
}

/** Its tasks are the orchestrator's to stop. */
export function removeService(tx: Transaction, id: string): undefined {
  existing(tx, "service", id);
  tx.remove("service", id);
  return undefined;
}
