/** /services and /tasks, with their logs. Answers of one request come from one view, so that pollers see whole states. */
import type { ClusterControl, ClusterLogLine, LogSelector } from "../../model/cluster-control.ts";
import type { Filters, LogLine } from "../../model/engine.ts";
import type { Service, Task } from "../../model/objects.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { madeUpName } from "../../common/made-up-names.ts";
import { parseTaskState, TaskState } from "../../model/task-state.ts";
import { isTaskUpToDate } from "../../model/up-to-date.ts";
import { managerOf, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { anyValue, exactMatches, labelsMatch, prefixMatches } from "../filters.ts";
import { streamType } from "../hijack.ts";
import { writeLogLines } from "../log-stream.ts";
import { lookup, lookupNode } from "../lookup.ts";
import { defaultsAskedFor, modeName, serviceCounts, serviceJson } from "../translate/service.ts";
import { taskJson } from "../translate/task.ts";
import { SWARM_FIELDS } from "../vocabulary.ts";
import { logOptions } from "./containers.ts";
import { get, post, remove, type Route } from "./table.ts";

const SERVICE_KEYS = new Set(["id", "label", "mode", "name", "runtime"]);
const TASK_KEYS = new Set([
  "_up-to-date",
  "desired-state",
  "id",
  "label",
  "name",
  "node",
  "runtime",
  "service",
]);
const MODES = new Set(["replicated", "global", "replicated-job", "global-job"]);

function runtimeOf(runtime: string | undefined): string {
  return runtime === undefined || runtime === "" ? "container" : runtime;
}

function serviceMatches(service: Service, filters: Filters): boolean {
  return (
    prefixMatches(filters, "id", service.id) &&
    prefixMatches(filters, "name", service.spec.Name) &&
    labelsMatch(filters, "label", service.spec.Labels) &&
    exactMatches(filters, "mode", modeName(service.spec)) &&
    exactMatches(filters, "runtime", runtimeOf(service.spec.TaskTemplate.Runtime))
  );
}

function tasksOf(view: StoreView, service: Service): readonly Task[] {
  return view.list("task", { kind: "service", serviceId: service.id });
}

async function listServices(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const filters = exchange.filters(SERVICE_KEYS);
  const badMode = filters.get("mode")?.find((mode) => !MODES.has(mode));
  if (badMode !== undefined) throw badParameter(`invalid filter 'mode=${badMode}'`);
  const wantsStatus = exchange.query.flag("status");
  const insertDefaults = defaultsAskedFor(exchange.query);
  const view = await control.view();
  const services = view.list("service").filter((service) => serviceMatches(service, filters));
  await exchange.sendList(services, (service) =>
    serviceJson(service, {
      view,
      insertDefaults,
      ...(wantsStatus ? { counts: serviceCounts(service, tasksOf(view, service)) } : {}),
    }),
  );
}

async function inspectService(exchange: Exchange, context: ApiContext): Promise<void> {
  const view = await managerOf(context).view();
  const service = lookup(view, "service", exchange.param("id"));
  exchange.send(200, serviceJson(service, { view, insertDefaults: defaultsAskedFor(exchange.query) }));
}

/** Clients send "e30=" ({}) for "no credentials". */
function registryAuth(exchange: Exchange): { readonly registryAuth?: string } {
  const header = exchange.header("x-registry-auth");
  return header === undefined || header === "e30=" ? {} : { registryAuth: header };
}

export async function serviceSpec(exchange: Exchange): Promise<ServiceSpec> {
  const body = (await exchange.json(SWARM_FIELDS)) as unknown as Partial<ServiceSpec>;
  return {
    ...body,
    Name: body.Name ?? "",
    TaskTemplate: body.TaskTemplate ?? { ContainerSpec: { Image: "" } },
  };
}

function freeName(view: StoreView, { env }: ApiContext): string {
  const name = madeUpName(env.random);
  const isTaken = view.list("service", { kind: "name", name }).length > 0;
  return isTaken ? `${name}${env.random.below(1_000_000)}` : name;
}

async function createService(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const given = await serviceSpec(exchange);
  // As Docker's own engine does for services without a name.
  const spec = given.Name === "" ? { ...given, Name: freeName(await control.view(), context) } : given;
  const { id, warnings } = await control.createService(spec, registryAuth(exchange));
  exchange.send(201, { ID: id, Warnings: warnings.length === 0 ? null : warnings });
}

async function updateService(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const { query } = exchange;
  const version = query.objectVersion("service");
  const [rollback, authFrom] = [query.text("rollback"), query.text("registryAuthFrom")];
  if (rollback !== "" && rollback !== "previous")
    throw badParameter(`unrecognized rollback option ${rollback}`);
  if (authFrom !== "" && authFrom !== "spec" && authFrom !== "previous-spec") {
    throw badParameter(`unsupported registryAuthFrom value ${authFrom}`);
  }
  const spec = await serviceSpec(exchange);
  const service = lookup(await control.view(), "service", exchange.param("id"));
  const { warnings } = await control.updateService(service.id, {
    version,
    spec,
    rollback: rollback === "previous",
    ...registryAuth(exchange),
    ...(authFrom === "" ? {} : { registryAuthFrom: authFrom }),
  });
  exchange.send(200, { Warnings: warnings.length === 0 ? null : warnings });
}

async function removeService(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const service = lookup(await control.view(), "service", exchange.param("id"));
  await control.removeService(service.id);
  exchange.empty(200);
}

/** `service` and `node` of a task filter may be IDs, names or prefixes; an unknown one is a 404. */
function resolveIds(
  values: readonly string[] | undefined,
  toId: (value: string) => string,
): ReadonlySet<string> | undefined {
  return values === undefined || values.length === 0 ? undefined : new Set(values.map(toId));
}

function desiredStates(filters: Filters): ReadonlySet<number> | undefined {
  const values = filters.get("desired-state");
  if (values === undefined || values.length === 0) return undefined;
  return new Set(
    values.map((value) => {
      const state = value === "allocated" ? TaskState.pending : parseTaskState(value.toLowerCase());
      if (state === undefined) throw badParameter(`Invalid task state: ${JSON.stringify(value)}`);
      return state;
    }),
  );
}

function taskName(task: Task): string {
  return task.name || `${task.serviceName}.${task.slot === 0 ? task.nodeId : task.slot}.${task.id}`;
}

/** The shortest list that holds everything the filter can match. */
function candidates(
  view: StoreView,
  serviceIds: ReadonlySet<string> | undefined,
  nodeIds: ReadonlySet<string> | undefined,
): readonly Task[] {
  if (serviceIds !== undefined) {
    return [...serviceIds].flatMap((serviceId) => view.list("task", { kind: "service", serviceId }));
  }
  if (nodeIds !== undefined)
    return [...nodeIds].flatMap((nodeId) => view.list("task", { kind: "node", nodeId }));
  return view.list("task");
}

function isCurrent(task: Task, view: StoreView): boolean {
  const service = view.get("service", task.serviceId);
  return service !== undefined && isTaskUpToDate(service, task, view.get("node", task.nodeId));
}

/** The labels that `label` filters of tasks mean: their service's, as it is now or as it was. */
function serviceLabels(task: Task, view: StoreView): Readonly<Record<string, string>> {
  return view.get("service", task.serviceId)?.spec.Labels ?? task.serviceLabels;
}

function filterTasks(view: StoreView, filters: Filters): readonly Task[] {
  const serviceIds = resolveIds(filters.get("service"), (value) => lookup(view, "service", value).id);
  const nodeIds = resolveIds(filters.get("node"), (value) => lookupNode(view, value).id);
  const desired = desiredStates(filters);
  const onlyCurrent = anyTrue(filters.get("_up-to-date"));
  const runtimes = filters.get("runtime");
  return candidates(view, serviceIds, nodeIds).filter(
    (task) =>
      (nodeIds === undefined || nodeIds.has(task.nodeId)) &&
      (desired === undefined || desired.has(task.desiredState)) &&
      prefixMatches(filters, "id", task.id) &&
      anyValue(filters, "name", (wanted) => taskName(task).startsWith(wanted)) &&
      labelsMatch(filters, "label", serviceLabels(task, view)) &&
      (runtimes === undefined || runtimes.includes(runtimeOf(task.spec.Runtime))) &&
      (!onlyCurrent || isCurrent(task, view)),
  );
}

function anyTrue(values: readonly string[] | undefined): boolean {
  return values !== undefined && values.some((value) => value === "true" || value === "1");
}

async function listTasks(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const filters = exchange.filters(TASK_KEYS);
  const view = await control.view();
  await exchange.sendList(filterTasks(view, filters), (task) => taskJson(task, view));
}

async function inspectTask(exchange: Exchange, context: ApiContext): Promise<void> {
  const view = await managerOf(context).view();
  exchange.send(200, taskJson(lookup(view, "task", exchange.param("id")), view));
}

/** One frame a line; the CLI needs all three ids in the details of every line. */
async function* withDetails(lines: AsyncIterable<ClusterLogLine>): AsyncGenerator<LogLine, void> {
  for await (const { taskId, serviceId, nodeId, stream, timestamp, data } of lines) {
    const attrs = {
      "com.docker.swarm.node.id": nodeId,
      "com.docker.swarm.service.id": serviceId,
      "com.docker.swarm.task.id": taskId,
    };
    yield { stream, timestamp, data, attrs };
  }
}

/** Of containers' logs another value means all lines; the cluster refuses it, as Swarm does. */
function checkTail(tail: string): void {
  if (!/^(?:all|\d{1,9})?$/.test(tail))
    throw badParameter(`tail value must be a positive integer or "all", got ${JSON.stringify(tail)}`);
}

async function sendLogs(
  exchange: Exchange,
  control: ClusterControl,
  selector: LogSelector,
  isTty: boolean,
): Promise<void> {
  checkTail(exchange.query.text("tail"));
  const lines = control.logs(selector, logOptions(exchange), exchange.signal);
  await writeLogLines(exchange, withDetails(lines), {
    contentType: streamType(isTty, exchange.apiMinor),
    isRaw: isTty,
    timestamps: exchange.query.flag("timestamps"),
    details: exchange.query.flag("details"),
  });
}

async function serviceLogs(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const service = lookup(await control.view(), "service", exchange.param("id"));
  const isTty = service.spec.TaskTemplate.ContainerSpec?.TTY ?? false;
  await sendLogs(exchange, control, { serviceIds: [service.id] }, isTty);
}

async function taskLogs(exchange: Exchange, context: ApiContext): Promise<void> {
  const control = managerOf(context);
  const task = lookup(await control.view(), "task", exchange.param("id"));
  await sendLogs(exchange, control, { taskIds: [task.id] }, task.spec.ContainerSpec?.TTY ?? false);
}

export const SERVICE_ROUTES: readonly Route[] = [
  get("/services", listServices),
  post("/services/create", createService),
  get("/services/{id}", inspectService),
  post("/services/{id}/update", updateService),
  remove("/services/{id}", removeService),
  get("/services/{id}/logs", serviceLogs),
  get("/tasks", listTasks),
  get("/tasks/{id}", inspectTask),
  get("/tasks/{id}/logs", taskLogs),
];
