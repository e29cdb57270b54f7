/**
 * O10, upward: once nothing fails any more, what is asked for runs, on the workers too, and nothing else does; workers know
 * of each other's containers what the store says; updates that can't succeed were rolled back.
 */
import { isGlobal, updateConfigOf } from "../../model/defaults.ts";
import { NodeState, type Service, type Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import type { ModelWorker } from "./model-worker.ts";
import { BAD_IMAGE } from "./operator.ts";
import { isActive } from "./store-mirror.ts";

interface State {
  readonly service: Service;
  readonly active: readonly Task[];
  readonly running: readonly Task[];
  /** More are asked for than there is room for: some wait for ever, and an update with them. */
  readonly isCrowded: boolean;
  /** At least and at most so many. */
  readonly wanted: readonly [number, number];
}

export function isConverged(view: StoreView, workers: readonly ModelWorker[]): boolean {
  const states = view.list("service").map((service) => stateOf(view, service));
  if (!states.every((state) => isReached(view, state))) return false;
  if (workers.some(({ nodeId }) => view.get("node", nodeId)?.status.state !== NodeState.ready)) return false;
  const wanted = new Map(states.flatMap(({ running }) => running.map((task) => [task.id, task] as const)));
  const containers = workers.flatMap((worker) => [...worker.containers.keys()]);
  if (containers.length !== wanted.size || !containers.every((taskId) => wanted.has(taskId))) return false;
  return workers.every((worker) => knowsEndpoints(worker, wanted));
}

function stateOf(view: StoreView, service: Service): State {
  const tasks = view.list("task", { kind: "service", serviceId: service.id });
  // A node that is down keeps the tasks of global services: they are found again when it returns.
  const isKept = (task: Task): boolean =>
    isGlobal(service.spec) && view.get("node", task.nodeId)?.status.state !== NodeState.ready;
  const active = tasks.filter((task) => isActive(task) && !isKept(task));
  const running = active.filter((task) => task.status.state === TaskState.running);
  return { service, active, running, ...wantedCount(view, service) };
}

function isReached(view: StoreView, { active, isCrowded, running, service, wanted }: State): boolean {
  const { ContainerSpec, Placement } = service.spec.TaskTemplate;
  // Where there is no room for the new tasks, or their port is another's, they can't show that they fail.
  if (ContainerSpec.Image === BAD_IMAGE && wanted[1] > 0 && !isCrowded && hasItsPorts(service)) {
    // An update of a global service that found no node to run on is done; what is wrong with it shows when one comes.
    if (isGlobal(service.spec) && service.updateStatus?.state === "completed") return true;
    // Given again before its rollback had replaced anything, it changes nothing, so that no update begins that could fail.
    const isUnchanged =
      active.length > 0 && active.every((task) => task.spec.ContainerSpec.Image === BAD_IMAGE);
    if (service.updateStatus === undefined && isUnchanged) return true;
    // Rolled back, unless what was there before is no better.
    const before = service.previousSpec?.TaskTemplate.ContainerSpec.Image;
    return before === undefined || before === BAD_IMAGE;
  }
  const [least, most] = wanted;
  if (running.length < least || running.length > most) return false;
  // What has no place (ports taken, nodes full) waits without one.
  if (active.some(({ status }) => status.state >= TaskState.assigned && status.state < TaskState.running)) {
    return false;
  }
  // A rollback that fails too waits for somebody; what it had not come to runs on as it was.
  const isHalted = service.updateStatus?.state === "rollback_paused";
  return running.every((task) => {
    const node = view.get("node", task.nodeId);
    const isPlaceRight = Placement?.Constraints === undefined || node?.spec.Labels?.["zone"] === "a";
    return (
      (isCrowded || isHalted || task.spec.ContainerSpec.Image === ContainerSpec.Image) &&
      node?.spec.Availability === "active" &&
      isPlaceRight
    );
  });
}

function wantedCount(view: StoreView, service: Service): Pick<State, "isCrowded" | "wanted"> {
  const { Placement, RestartPolicy } = service.spec.TaskTemplate;
  const isZoned = Placement?.Constraints !== undefined;
  const nodeCount = view
    .list("node")
    .filter(
      ({ spec, status }) =>
        spec.Availability === "active" &&
        status.state === NodeState.ready &&
        (!isZoned || spec.Labels?.["zone"] === "a"),
    ).length;
  const perNode = Placement?.MaxReplicas ?? 0;
  const room = perNode === 0 ? (nodeCount === 0 ? 0 : Infinity) : nodeCount * perNode;
  const asked = service.spec.Mode?.Replicated?.Replicas ?? nodeCount;
  // One that starts first needs room for one more.
  const isCrowded = asked + (updateConfigOf(service.spec).order === "start-first" ? 1 : 0) > room;
  const count = Math.min(asked, room);
  // Whose attempts may be used up, and who may wait for a port that another has.
  const mayBeFewer = (RestartPolicy?.MaxAttempts ?? 0) > 0 || !hasItsPorts(service) || isCrowded;
  return { isCrowded, wanted: [mayBeFewer ? 0 : count, count] };
}

function hasItsPorts(service: Service): boolean {
  const ports = service.spec.EndpointSpec?.Ports ?? [];
  return ports.every((port) =>
    service.endpoint?.ports.some(
      (each) => port.PublishedPort === undefined || each.PublishedPort === port.PublishedPort,
    ),
  );
}

/** Of each network that its own tasks are on: all running containers on it, ready for traffic, and no others. */
function knowsEndpoints(worker: ModelWorker, running: ReadonlyMap<string, Task>): boolean {
  const networkIds = new Set(
    [...worker.containers.values()].flatMap((task) => task.networks.map((each) => each.networkId)),
  );
  for (const networkId of networkIds) {
    const known = worker.endpoints.get(networkId);
    const there = [...running.values()].filter((task) =>
      task.networks.some((each) => each.networkId === networkId),
    );
    const ready = [...(known?.values() ?? [])].filter((endpoint) => endpoint.state === "ready");
    if (ready.length !== there.length || !ready.every(({ taskId }) => running.has(taskId))) return false;
  }
  return true;
}

/** What is not as it should be, in a few words. */
export function missing(view: StoreView, workers: readonly ModelWorker[]): string {
  const states = view.list("service").map((service) => stateOf(view, service));
  const parts = states
    .filter((state) => !isReached(view, state))
    .map(({ service, wanted }) => {
      const tasks = view.list("task", { kind: "service", serviceId: service.id });
      const words = tasks
        .filter((task) => !isTerminal(task.status.state) || task.desiredState <= TaskState.running)
        .map((task) => `${task.slot}:${task.status.state}/${task.desiredState}@${task.nodeId}`);
      const { Image } = service.spec.TaskTemplate.ContainerSpec;
      return `${service.spec.Name} wants ${wanted[1]} of ${Image} (${service.updateStatus?.state ?? ""}), has ${words.join(" ")}`;
    });
  const wanted = new Map(states.flatMap(({ running }) => running.map((task) => [task.id, task] as const)));
  const kept = new Set(workers.flatMap((worker) => [...worker.containers.keys()]));
  for (const task of wanted.values()) {
    if (!kept.has(task.id)) parts.push(`${task.nodeId} has no container of ${task.id}`);
  }
  for (const worker of workers) {
    const state = view.get("node", worker.nodeId)?.status.state;
    if (state !== NodeState.ready) parts.push(`${worker.nodeId} is ${state}`);
    for (const id of worker.containers.keys()) {
      if (!wanted.has(id)) parts.push(`${worker.nodeId} runs ${id}, which is not wanted`);
    }
    if (!knowsEndpoints(worker, wanted)) parts.push(`${worker.nodeId} knows not the endpoints of others`);
  }
  return parts.join("; ");
}
