/**
 * The loop that gives pending tasks a node. Keeps the node set up to date from events, decides in memory and writes
 * decisions in batches; a decision that the store no longer agrees with is taken back and made again. Runs on the
 * leader only. Says in status.err why a task can't be placed, and tries again when anything changes that could help.
 */
import { firstUnmet, parseConstraints } from "../../model/constraints.ts";
import { rfc3339 } from "../../common/time.ts";
import type { Node, StoreEvent, Task } from "../../model/objects.ts";
import { NodeState } from "../../model/objects.ts";
import { TaskState, isLive } from "../../model/task-state.ts";
import { SCHEDULE_DEBOUNCE_MS, SCHEDULE_ROUND_COUNT_MAX } from "../limits.ts";
import type { NodeImages } from "../node-images.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import type { Transaction } from "../store/store.ts";
import { NodeSet } from "./node-set.ts";
import type { Placed, Placement, Unplaced } from "./place.ts";
import { placePreassigned, placeTasks } from "./place.ts";

export class Scheduler extends ReconcileLoop {
  readonly #images: Pick<NodeImages, "nodesWith">;
  #nodes = new NodeSet();
  /** Version of the view that the node set was begun from; undefined until all that this manager wrote before has landed, or was lost. */
  #countedVersion: number | undefined;
  /** Pending tasks without a decision. */
  readonly #pending = new Map<string, Task>();
  /** Pending tasks that no node wanted, until something changes. */
  readonly #refused = new Map<string, Task>();

  constructor(deps: LoopDeps, images: Pick<NodeImages, "nodesWith">) {
    super(deps, {
      name: "scheduler",
      tables: ["node", "task"],
      debounceMs: SCHEDULE_DEBOUNCE_MS,
    });
    this.#images = images;
  }

  protected override load(): void {
    this.#countedVersion = undefined;
  }

  async #count(signal: AbortSignal): Promise<void> {
    const view = await this.settledView(signal);
    this.#countedVersion = view.version;
    this.#nodes = new NodeSet();
    this.#pending.clear();
    this.#refused.clear();
    for (const node of view.list("node")) this.#nodes.putNode(node);
    for (const task of view.list("task")) {
      if (isPending(task)) this.#pending.set(task.id, task);
      else this.#nodes.putTask(task);
    }
  }

  protected override observe(event: StoreEvent): boolean {
    // Told of what the view will show, or late of what it has shown.
    if (this.#countedVersion === undefined || event.version <= this.#countedVersion) return false;
    if (event.table === "node") {
      if (event.action === "remove") this.#nodes.removeNode(event.object.id);
      else this.#nodes.putNode(event.object);
      return (
        (event.previous === undefined || isBetterNode(event.object, event.previous)) && this.#retryRefused()
      );
    }
    if (event.table !== "task") return false;
    const task = event.object;
    if (event.action === "remove" || !isPending(task)) {
      this.#pending.delete(task.id);
      this.#refused.delete(task.id);
      this.#noteFailure(event);
      const isFreed = event.action === "remove" ? this.#nodes.removeTask(task.id) : this.#nodes.putTask(task);
      return isFreed && this.#retryRefused();
    }
    // Already decided on: the write is on its way, and this is news of before it.
    if (this.#nodes.get(task.nodeId)?.tasks.has(task.id) === true) return false;
    if (this.#refused.has(task.id)) {
      this.#refused.set(task.id, task);
      return false;
    }
    this.#pending.set(task.id, task);
    return true;
  }

  #noteFailure(event: Extract<StoreEvent, { readonly table: "task" }>): void {
    const { object, previous } = event;
    const { state } = object.status;
    if (state !== TaskState.failed && state !== TaskState.rejected) return;
    if (previous === undefined || previous.status.state === state || object.nodeId === "") return;
    this.#nodes.get(object.nodeId)?.failed(object.serviceId, this.deps.clock.monotonicMs());
  }

  #retryRefused(): boolean {
    if (this.#refused.size === 0) return false;
    for (const [id, task] of this.#refused) this.#pending.set(id, task);
    this.#refused.clear();
    return true;
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    if (this.#countedVersion === undefined) await this.#count(signal);
    if (this.#pending.size === 0) return;
    const { clock } = this.deps;
    const options = {
      nowMs: clock.monotonicMs(),
      timestamp: rfc3339(clock.wallMs()),
      nodesWith: (image: string): ReadonlySet<string> => this.#images.nodesWith(image),
    };
    const round = [...this.#pending.values()].slice(0, SCHEDULE_ROUND_COUNT_MAX);
    for (const task of round) this.#pending.delete(task.id);
    const own = placePreassigned(
      this.#nodes,
      round.filter((task) => task.nodeId !== ""),
      options,
    );
    const free = placeTasks(
      this.#nodes,
      round.filter((task) => task.nodeId === ""),
      options,
    );
    const placement: Placement = {
      placed: [...own.placed, ...free.placed],
      unplaced: [...own.unplaced, ...free.unplaced],
    };
    for (const { task } of placement.unplaced) this.#refused.set(task.id, task);
    await this.#commit(placement, options.timestamp, signal);
    if (this.#pending.size > 0) this.wake();
  }

  async #commit(placement: Placement, timestamp: string, signal: AbortSignal): Promise<void> {
    const { store, log } = this.deps;
    const rejected = new Map<string, Placed>();
    const news: (Placed | Unplaced)[] = [
      ...placement.placed,
      ...placement.unplaced.filter(
        (each) => each.task.status.err !== each.reason || each.task.status.message !== messageOf(each),
      ),
    ];
    if (news.length === 0) return;
    await store.batch(
      news,
      (tx, each) => {
        if (!("assigned" in each)) writeReason(tx, each, timestamp);
        else if (writeAssignment(tx, each)) rejected.delete(each.taskId);
        else rejected.set(each.taskId, each);
      },
      {
        signal,
        failed: (each, error) =>
          log.error("scheduler could not write", {
            error,
            ...("assigned" in each ? { taskId: each.taskId } : {}),
          }),
      },
    );
    this.#takeBack(rejected);
  }

  /** The store no longer agreed: forget the decision, and decide again if the task still waits. */
  #takeBack(rejected: ReadonlyMap<string, Placed>): void {
    const view = this.deps.store.view();
    for (const taskId of rejected.keys()) {
      this.#nodes.removeTask(taskId);
      const task = view.get("task", taskId);
      if (task === undefined) continue;
      if (isPending(task)) this.#pending.set(taskId, task);
      else this.#nodes.putTask(task);
    }
  }
}

function isPending(task: Task): boolean {
  return task.status.state === TaskState.pending && isLive(task);
}

/** False for changes that can't make room for a task that was refused. */
function isBetterNode(node: Node, before: Node): boolean {
  return (
    node.status.state !== before.status.state ||
    node.spec !== before.spec ||
    node.description !== before.description ||
    node.certificateRole !== before.certificateRole ||
    node.status.addr !== before.status.addr
  );
}

/** False if the task or its node are not what the decision was made on. */
function writeAssignment(tx: Transaction, placed: Placed): boolean {
  const task = tx.get("task", placed.taskId);
  const node = tx.get("node", placed.nodeId);
  const isNodeFit = node?.status.state === NodeState.ready && node.spec.Availability === "active";
  if (task === undefined || node === undefined || !isPending(task) || !isNodeFit) return false;
  if (firstUnmet(parseConstraints(task.spec.Placement?.Constraints), node) !== undefined) return false;
  const { nodeId, status, assignedGenericResources } = placed.assigned;
  const generic = assignedGenericResources === undefined ? {} : { assignedGenericResources };
  tx.update("task", { ...task, nodeId, status, ...generic });
  return true;
}

function messageOf(unplaced: Unplaced): string {
  return unplaced.detail === "" ? "pending task scheduling" : unplaced.detail;
}

function writeReason(tx: Transaction, unplaced: Unplaced, timestamp: string): void {
  const task = tx.get("task", unplaced.task.id);
  if (task === undefined || !isPending(task)) return;
  const status = { ...task.status, timestamp, message: messageOf(unplaced), err: unplaced.reason };
  tx.update("task", { ...task, status });
}
