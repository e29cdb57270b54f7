/**
 * What must hold after every commit of the store, whatever fails, and that all managers make the same of it. Fed with each
 * manager's watch as it is delivered; judges a commit when the first manager tells it, compares when the others do.
 */
import { isGlobal, rollbackConfigOf, updateConfigOf } from "../../model/defaults.ts";
import {
  type Cluster,
  type Node,
  NodeState,
  type Service,
  type StoreEvent,
  type Task,
} from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import { parseRfc3339 } from "../../common/time.ts";
import type { WatchItem } from "../../manager/store/store.ts";
import { Claims } from "./claims.ts";
import {
  byAge,
  CommitRecord,
  diedByItself,
  isActive,
  isWanted,
  slotOf,
  StoreMirror,
} from "./store-mirror.ts";
import { Violation } from "./world.ts";

/** Said by a model worker of tasks that are not its own. */
export const LIE = "not my task";
/** Restart delays are measured by the managers' clocks, in whole milliseconds, and from the commit on. */
const DELAY_TOLERANCE_MS = 50;
/** How fast the fastest of those clocks is (profiles.ts, clockDrift). */
const CLOCK_RATE_MAX = 1.2;
/** How long a loop may act on what was. */
const PLAN_MS = 2_000;

export class StoreChecks {
  readonly mirror: StoreMirror = new StoreMirror();
  /** Services that ever could have two tasks in a slot: what was begun is not undone by another spec. */
  readonly overlapping: Set<string> = new Set();
  readonly #claims = new Claims();
  readonly #nowMs: () => number;
  readonly #commits = new CommitRecord();
  /**
   * When a task died by itself. What came first is told by the commits' versions: a manager may tell of many commits at one
   * moment.
   */
  readonly #died = new Map<string, { readonly ms: number; readonly version: number }>();
  /** When a task was written to run, and a node's spec or state was last changed: by the leader's stamps. */
  readonly #runningStampMs = new Map<string, number>();
  readonly #nodeChangedStampMs = new Map<string, number>();
  /** The commit that last wrote a node that was anything but ready. */
  readonly #nodeLostVersions = new Map<string, number>();
  /** The commit that last changed what a service asks for, its task's template or only how many. */
  readonly #askedVersions = new Map<string, number>();
  /** The commit with which the operator last changed what a node is for: its availability, role or labels. */
  readonly #nodeAskedVersions = new Map<string, number>();
  /** The stamp of the transaction by which a node that was lost came back. */
  readonly #nodeBackStampMs = new Map<string, number>();
  /** By the id of a task, the nodes of others of its slot that were lost when it was let start. */
  readonly #lostWhenLet = new Map<string, ReadonlySet<string>>();
  readonly #madeVersions = new Map<string, number>();
  /** The stamp of the transaction that told a task to stop; no two have the same. */
  readonly #toldStamps = new Map<string, string>();
  /** By a new task's id, the one that was told to stop by the plan that made it: it may be removed before the new one starts. */
  readonly #replaced = new Map<string, Task>();
  /** Tasks that had to leave their node when they were told to stop. */
  readonly #displaced = new Set<string>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** For one manager's life: what to do with what its watch delivers. */
  follow(raftId: number, view: () => StoreView, version: number): (items: readonly WatchItem[]) => void {
    if (version > this.mirror.version) this.#adopt(view(), version);
    let events: StoreEvent[] = [];
    return (items) => {
      for (const item of items) {
        if (item.kind === "event") events.push(item.event);
        else if (item.kind === "commit") {
          this.#commit(raftId, item.version, events);
          events = [];
        } else {
          events = [];
          if (item.version > this.mirror.version) this.#adopt(view(), item.version);
        }
      }
    };
  }

  #adopt(view: StoreView, version: number): void {
    this.mirror.adopt(view, version);
    this.#claims.adopt(this.mirror);
  }

  #commit(raftId: number, version: number, events: readonly StoreEvent[]): void {
    if (!this.#commits.agrees(version, events)) {
      throw new Violation("O4", `manager ${raftId} makes something else of commit ${version}`);
    }
    if (version <= this.mirror.version) return;
    this.mirror.version = version;
    for (const event of events) {
      this.mirror.apply(event);
      this.#claims.apply(event);
      if (event.table === "cluster") this.#checkRotation(event.object, event.previous);
      if (event.table === "node") this.#noteNode(event.object, event.previous);
      if (event.table === "service") this.#noteService(event.object, event.previous);
    }
    const touched = new Map<string, Task>();
    const made = new Set<string>();
    for (const event of events) {
      if (event.table !== "task" || event.action === "remove") continue;
      if (event.action === "create") made.add(event.object.id);
      this.#checkTask(event.object, event.previous);
      touched.set(slotOf(event.object), event.object);
    }
    for (const [slot, task] of touched) this.#checkSlot(slot, task, made);
  }

  /** C2: a root's rotation ends when every node has a certificate of the new root. */
  #checkRotation(cluster: Cluster, previous: Cluster | undefined): void {
    const isEnd =
      previous?.rootCa.rotationInProgress === true && cluster.rootCa.rotationInProgress === undefined;
    if (!isEnd) return;
    const late = [...this.mirror.nodes.values()].find(
      (node) => node.certificateIssuer !== cluster.rootCa.digest,
    );
    if (late !== undefined) {
      throw new Violation("C2", `the former root is dropped while node ${late.id} knows no other`);
    }
  }

  #checkTask(task: Task, previous: Task | undefined): void {
    if (previous !== undefined) checkProgress(task, previous);
    if (task.status.message === LIE) throw new Violation("U7", `task ${task.id}: a strange node is believed`);
    if (isTerminal(task.status.state) && diedByItself(task) && isWanted(task) && !this.#died.has(task.id)) {
      this.#died.set(task.id, { ms: this.#nowMs(), version: this.mirror.version });
    }
    if (task.status.state === TaskState.running && !this.#runningStampMs.has(task.id)) {
      this.#runningStampMs.set(task.id, Date.parse(task.updatedAt));
    }
    const before = previous?.status.state ?? TaskState.new;
    if (task.status.state === TaskState.assigned && before < TaskState.assigned) this.#checkPlacement(task);
    if (previous === undefined) {
      this.#madeVersions.set(task.id, this.mirror.version);
      // Where an update starts first two may have died: it is the restart of the one that was told to stop for it.
      const replaced = this.mirror.slot(slotOf(task)).findLast((each) => this.#isOnePlan(each, task));
      if (replaced !== undefined) this.#replaced.set(task.id, replaced);
      this.#checkAttempts(task);
    }
    if (!isWanted(task) && !this.#toldStamps.has(task.id)) this.#toldStamps.set(task.id, task.updatedAt);
    const wasLet = previous !== undefined && previous.desiredState >= TaskState.running;
    if (task.desiredState === TaskState.running && !wasLet) this.#checkDelay(task);
    if (task.desiredState >= TaskState.running && isWanted(task) && !wasLet) this.#noteLost(task);
    if (previous !== undefined) this.#checkStartFirst(task, previous);
    const service = this.mirror.services.get(task.serviceId);
    if (!isWanted(task) && service !== undefined && this.#isDisplaced(task, service))
      this.#displaced.add(task.id);
  }

  #noteLost(task: Task): void {
    const nodeIds = this.mirror.slot(slotOf(task)).map((each) => each.nodeId);
    const lost = nodeIds.filter((nodeId) => {
      if (this.mirror.nodes.get(nodeId)?.status.state !== NodeState.ready) return true;
      // Planned before it came back.
      const sinceMs = Date.parse(task.updatedAt) - (this.#nodeBackStampMs.get(nodeId) ?? -Infinity);
      return sinceMs >= 0 && sinceMs < PLAN_MS;
    });
    this.#lostWhenLet.set(task.id, new Set(lost));
  }

  /** Whether what runs on the node was not waited for, as the node was lost then; it may have come back before the task starts. */
  wasLostWhenLet(taskId: string, nodeId: string): boolean {
    return this.#lostWhenLet.get(taskId)?.has(nodeId) === true;
  }

  /** U4, U8, U9: the scheduler looks again inside the transaction, so this holds at the very commit. */
  #checkPlacement(task: Task): void {
    const node = this.mirror.nodes.get(task.nodeId);
    const isFit = node?.status.state === NodeState.ready && node.spec.Availability === "active";
    if (!isFit) {
      const found = `${node?.status.state ?? "gone"}, ${node?.spec.Availability ?? ""}`;
      throw new Violation("U8", `task ${task.id} is given to ${task.nodeId}, which is ${found}`);
    }
    const unmet = unmetConstraint(task, node.spec.Labels);
    if (unmet !== undefined) throw new Violation("U4", `task ${task.id} is on ${node.id}, against ${unmet}`);
    const countMax = task.spec.Placement?.MaxReplicas ?? 0;
    if (countMax === 0) return;
    let count = 0;
    for (const each of this.mirror.tasks.values()) {
      if (each.serviceId === task.serviceId && each.nodeId === task.nodeId && isActive(each)) count += 1;
    }
    if (count > countMax) {
      throw new Violation(
        "U9",
        `${node.id} has ${count} tasks of service ${task.serviceId}, at most ${countMax}`,
      );
    }
  }

  #noteNode(node: Node, previous: Node | undefined): void {
    if (JSON.stringify(node.spec) !== JSON.stringify(previous?.spec))
      this.#nodeAskedVersions.set(node.id, this.mirror.version);
    this.#nodeChangedStampMs.set(node.id, Date.parse(node.updatedAt));
    if (node.status.state !== NodeState.ready) this.#nodeLostVersions.set(node.id, this.mirror.version);
    else if (previous?.status.state !== NodeState.ready)
      this.#nodeBackStampMs.set(node.id, Date.parse(node.updatedAt));
  }

  #noteService(service: Service, previous: Service | undefined): void {
    if (JSON.stringify(service.spec) !== JSON.stringify(previous?.spec))
      this.#askedVersions.set(service.id, this.mirror.version);
  }

  /** The task before this one in its slot, if it died by itself under the same spec: this one is its restart. */
  #restartOf(task: Task): { readonly dead: Task; readonly same: readonly Task[] } | undefined {
    const before = this.mirror.slot(slotOf(task)).filter((each) => byAge(each, task) < 0);
    const same = before.filter((each) => each.specVersion === task.specVersion);
    const dead = this.#replaced.get(task.id) ?? before.at(-1);
    // One that is moved off its node is replaced at once, whatever became of others in its slot.
    if (before.some((each) => this.#displaced.has(each.id) && !isTerminal(each.status.state)))
      return undefined;
    // An update puts it in the place of one that ran on beside the dead: a rollback to a spec that was tried here before.
    if (before.some((each) => this.#isOustedBy(each, task))) return undefined;
    const died = dead === undefined ? undefined : this.#died.get(dead.id);
    if (dead === undefined || dead.specVersion !== task.specVersion || died === undefined) return undefined;
    // Who asks for something else asks anew for what was given up, as in Swarm.
    if ((this.#askedVersions.get(task.serviceId) ?? -1) > died.version) return undefined;
    // So does who gives a node back to a global service: what died there as it was taken away was not to be restarted.
    const service = this.mirror.services.get(task.serviceId);
    const isOfNode = service !== undefined && isGlobal(service.spec);
    if (isOfNode && (this.#nodeAskedVersions.get(task.nodeId) ?? -1) > died.version) return undefined;
    return { dead, same };
  }

  /** `old` was told to stop by the plan that made `task`. */
  #isOnePlan(old: Task, task: Task): boolean {
    return this.#toldStamps.get(old.id) === task.createdAt;
  }

  /** Alive, of another spec, and told to stop by the plan that made `task`. */
  #isOustedBy(old: Task, task: Task): boolean {
    return this.#isOnePlan(old, task) && old.specVersion !== task.specVersion && !this.#died.has(old.id);
  }

  /** U10: a task that died is not started again before its delay has passed. */
  #checkDelay(task: Task): void {
    const dead = this.#restartOf(task)?.dead;
    const diedMs = dead === undefined ? undefined : this.#died.get(dead.id)?.ms;
    if (diedMs === undefined) return;
    const delayMs = (task.spec.RestartPolicy?.Delay ?? 5e9) / 1e6;
    const waitedMs = this.#nowMs() - diedMs;
    // The clocks of the leader that made it and of the one that lets it start may differ: by what they say it is in time.
    const saidMs = parseRfc3339(task.updatedAt) - parseRfc3339(task.createdAt);
    if (Math.max(waitedMs, saidMs) < delayMs / CLOCK_RATE_MAX - DELAY_TOLERANCE_MS) {
      throw new Violation(
        "U10",
        `task ${task.id} starts ${waitedMs.toFixed(0)} ms after a death, want ${delayMs}`,
      );
    }
  }

  /** U11: no more attempts than the restart policy allows. */
  #checkAttempts(task: Task): void {
    const attempts = task.spec.RestartPolicy?.MaxAttempts ?? 0;
    const restart = this.#restartOf(task);
    if (attempts === 0 || restart === undefined) return;
    if (restart.same.length - 1 >= attempts) {
      throw new Violation(
        "U11",
        `slot ${slotOf(task)} is restarted for the ${restart.same.length}th time of ${attempts}`,
      );
    }
  }

  /** U12: an update that starts first stops a running task only when another of the slot runs. */
  #checkStartFirst(task: Task, previous: Task): void {
    const service = this.mirror.services.get(task.serviceId);
    const isUpdating = service?.updateStatus?.state === "updating" && mayOverlap(service);
    const isTold = previous.desiredState === TaskState.running && task.desiredState === TaskState.shutdown;
    if (!isUpdating || !isTold || previous.status.state !== TaskState.running) return;
    if (task.status.state !== TaskState.running || this.#isDisplaced(task, service)) return;
    // What did not run yet when the plan was made, however long that took to commit, is not worth waiting for.
    if (Date.parse(task.updatedAt) - (this.#runningStampMs.get(task.id) ?? 0) < PLAN_MS) return;
    const others = this.mirror.slot(slotOf(task)).filter((each) => each.id !== task.id);
    // One that ran and died since the plan was made is the updater's bad luck.
    if (others.some((each) => each.status.state >= TaskState.running && each.specVersion > task.specVersion))
      return;
    if (others.some((each) => isActive(each) && each.status.state === TaskState.running)) return;
    throw new Violation("U12", `task ${task.id} is stopped before another one of its slot runs`);
  }

  #isDisplaced(task: Task, service: Service): boolean {
    if (this.#displaced.has(task.id)) return true;
    const node = this.mirror.nodes.get(task.nodeId);
    const changedMs = this.#nodeChangedStampMs.get(task.nodeId) ?? -Infinity;
    const sinceMs = Date.parse(task.updatedAt) - changedMs;
    // Planned before it changed back.
    if (sinceMs >= 0 && sinceMs < PLAN_MS) return true;
    if (node?.status.state !== NodeState.ready || node.spec.Availability === "drain") return true;
    const constraints = service.spec.TaskTemplate.Placement?.Constraints;
    return unmet(constraints, node.spec.Labels) !== undefined;
  }

  /**
   * U2: one active task per slot, two only while an update starts the new one first. U13: updates keep to their
   * parallelism.
   */
  #checkSlot(slot: string, task: Task, made: ReadonlySet<string>): void {
    const service = this.mirror.services.get(task.serviceId);
    if (service === undefined) return;
    const count = this.mirror.slot(slot).filter(isActive).length;
    if (mayOverlap(service)) this.overlapping.add(service.id);
    const countMax = this.overlapping.has(service.id) ? 2 : 1;
    if (count > countMax)
      throw new Violation("U2", `slot ${slot} has ${count} active tasks, at most ${countMax}`);
    if (service.updateStatus?.state === "updating") this.#checkParallelism(service, made);
  }

  /** The task that an update put `first` in the place of; undefined if it is there for another reason. */
  #replacedBy(first: Task, tasks: readonly Task[], service: Service): Task | undefined {
    // On a node that went down it is no longer awaited, and when the node comes back others are under way.
    const node = this.mirror.nodes.get(first.nodeId);
    if (first.nodeId !== "" && node?.status.state !== NodeState.ready) return undefined;
    const madeVersion = this.#madeVersions.get(first.id) ?? Infinity;
    if ((this.#nodeLostVersions.get(first.nodeId) ?? -1) > madeVersion) return undefined;
    // Nor is one of a global service whose node was taken away or changed for it, drained for one, or had been when it was made.
    if (isGlobal(service.spec)) {
      if ((this.#nodeAskedVersions.get(first.nodeId) ?? -1) > madeVersion) return undefined;
      const constraints = service.spec.TaskTemplate.Placement?.Constraints;
      const isOpen = node?.spec.Availability === "active";
      if (!isOpen || unmet(constraints, node.spec.Labels) !== undefined) return undefined;
    }
    const old = tasks.filter((each) => byAge(each, first) < 0);
    // Stopped by the plan that made it, or, where it is to start first, running on.
    const replaced = old.filter((each) => this.#isOnePlan(each, first));
    const overlapped = old.filter((each) => isActive(each) && each.status.state === TaskState.running);
    const isForced = replaced.some((each) => this.#died.has(each.id) || this.#isDisplaced(each, service));
    return isForced ? undefined : (replaced.at(-1) ?? overlapped.at(-1));
  }

  /**
   * Judged when one more is begun: what is under way may have been begun by a rollback, which has a parallelism of its
   * own.
   */
  #checkParallelism(service: Service, made: ReadonlySet<string>): void {
    const parallelism = service.spec.UpdateConfig?.Parallelism ?? 1;
    if (parallelism === 0 || made.size === 0) return;
    // Image and secrets: what the operator changes. A task of a spec in between is as old as any.
    const wanted = textOf(service.spec.TaskTemplate.ContainerSpec);
    const isNew = (task: Task): boolean => textOf(task.spec.ContainerSpec) === wanted;
    const busy: string[] = [];
    let isOneMore = false;
    for (const key of this.mirror.slotsOf(service.id)) {
      const tasks = this.mirror.slot(key);
      const fresh = tasks.filter(isNew);
      const [first] = fresh;
      if (first === undefined || fresh.length > 1 || !isWanted(first)) continue;
      const old = this.#replacedBy(first, tasks, service);
      if (old === undefined) continue;
      if (first.status.state >= TaskState.running) continue;
      busy.push(`${first.slot} (${first.id} for ${old.id})`);
      isOneMore ||= made.has(first.id);
    }
    if (isOneMore && busy.length > parallelism) {
      throw new Violation(
        "U13",
        `slots ${busy.join(", ")} of ${service.spec.Name} are updated at once, at most ${parallelism}`,
      );
    }
  }
}

const texts = new WeakMap<object, string>();

/** As JSON, remembered: a task is compared again with every commit of its service. */
function textOf(spec: object): string {
  let text = texts.get(spec);
  if (text === undefined) {
    text = JSON.stringify(spec);
    texts.set(spec, text);
  }
  return text;
}

/** U1: states only grow, a task never moves. */
function checkProgress(task: Task, previous: Task): void {
  const from = previous.status.state;
  if (task.status.state < from) {
    throw new Violation("U1", `task ${task.id} goes back from ${from} to ${task.status.state}`);
  }
  if (task.desiredState < previous.desiredState) {
    throw new Violation("U1", `desired state of task ${task.id} goes back to ${task.desiredState}`);
  }
  if (previous.nodeId !== "" && task.nodeId !== previous.nodeId) {
    throw new Violation("U1", `task ${task.id} moves from ${previous.nodeId} to ${task.nodeId}`);
  }
}

/** True while two tasks of one slot may work at once: an update, or a rollback, starts the new one first. */
function mayOverlap(service: Service): boolean {
  const isRollback = service.updateStatus?.state.startsWith("rollback") === true;
  const orders = [updateConfigOf(service.spec).order, isRollback ? rollbackConfigOf(service.spec).order : ""];
  return orders.includes("start-first");
}

function unmetConstraint(
  task: Task,
  labels: Readonly<Record<string, string>> | undefined,
): string | undefined {
  return unmet(task.spec.Placement?.Constraints, labels);
}

/** The model's constraints are all of the form node.labels.NAME==VALUE. */
function unmet(
  constraints: readonly string[] | undefined,
  labels: Readonly<Record<string, string>> | undefined,
): string | undefined {
  return constraints?.find((constraint) => {
    const [label = "", wanted = ""] = constraint.split("==").map((part) => part.trim());
    return labels?.[label.replace("node.labels.", "")] !== wanted;
  });
}
