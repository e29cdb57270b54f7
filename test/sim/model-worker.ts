/**
 * A model worker: speaks the agent's side of the dispatcher's protocol over a simulated stream and runs make-believe
 * containers. Obeys desired states, reports observed ones until they are acknowledged, finds another manager when its
 * own falls silent. It checks what it is sent: sequence numbers, and that it holds no secret it has no use for.
 */
import { rfc3339 } from "../../common/time.ts";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { Dispatcher, FromAgent, ToAgent } from "../../manager/dispatcher/dispatcher.ts";
import type { RemoteEndpoint } from "../../model/dispatch.ts";
import type { Task } from "../../model/objects.ts";
import { isTerminal, TaskState } from "../../model/task-state.ts";
import { BAD_IMAGE } from "./operator.ts";
import { LIE } from "./store-checks.ts";
import { Violation, type World } from "./world.ts";

const HEARTBEAT_MS = 1_000;
/** Nothing heard for so long: the session is given up. */
const PATIENCE_MS = 3_000;
const RETRY_MS = 250;
const STEP_MS_MAX = 60;
/** A container takes its time to end. */
const STOP_MS_MAX = 400;
const LATE_MS_MAX = 3_000;
/** After a fault of its machine or network, until when a worker is out of step for good reasons. */
const UNSTEADY_MS = 20_000;

const decoder = new TextDecoder();
const NOTHING = new Uint8Array(0);
const endpoints = new WeakMap<Uint8Array, RemoteEndpoint>();

/** Where a dispatcher can be reached now; undefined while nobody leads. */
export interface Door {
  readonly dispatcher: Dispatcher;
  readonly isOpen: () => boolean;
}

export interface WorkerOptions {
  readonly world: World;
  readonly nodeId: string;
  readonly findDoor: () => Door | undefined;
  readonly delayMs: () => number;
  readonly onStarted: (worker: ModelWorker, task: Task) => void;
  /** It is told to get a new certificate. */
  readonly onRenew: (worker: ModelWorker) => void;
  /** A task that runs is told to stop. */
  readonly onStopping: (worker: ModelWorker, task: Task) => void;
}

interface Session {
  readonly door: Door;
  readonly handle: { readonly receive: (message: FromAgent) => void; readonly ended: () => void };
  sequence: number;
  heardMs: number;
  lastUpMs: number;
  isOver: boolean;
}

export class ModelWorker {
  readonly nodeId: string;
  /** Tasks whose container runs. */
  readonly containers: Map<string, Task> = new Map();
  /** What it was told of the containers of others, by network and task. */
  readonly endpoints: Map<string, Map<string, RemoteEndpoint>> = new Map();
  readonly #options: WorkerOptions;
  readonly #random: SeededRandom;
  readonly #tasks = new Map<string, Task>();
  readonly #observed = new Map<string, TaskState>();
  /** When containers came to run, RFC 3339. */
  readonly #ranAt = new Map<string, string>();
  readonly #secrets = new Set<string>();
  readonly #unacknowledged = new Map<number, ReadonlyMap<string, TaskState>>();
  readonly #stepping = new Set<string>();
  #session: Session | undefined;
  #batchId = 0;
  #isUp = true;
  #isCut = false;
  #isBuried = false;
  #steadyFromMs = 0;

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.nodeId = options.nodeId;
    this.#random = options.world.random.fork();
    this.#beat();
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  /** Nothing has happened to it for a while. */
  get isSteady(): boolean {
    return this.#isUp && !this.#isCut && this.#options.world.nowMs >= this.#steadyFromMs;
  }

  /** True if both have been told everything by the same dispatcher. */
  isTogetherWith(other: ModelWorker): boolean {
    const [own, theirs] = [this.#session, other.#session];
    return own !== undefined && own.sequence > 0 && own.door.dispatcher === theirs?.door.dispatcher;
  }

  #disturb(): void {
    this.#steadyFromMs = this.#options.world.nowMs + UNSTEADY_MS;
  }

  /** The machine loses power: containers die with it. */
  crash(): void {
    this.#isUp = false;
    this.#disturb();
    this.containers.clear();
    this.#secrets.clear();
    this.#stepping.clear();
    this.#unacknowledged.clear();
    this.#drop(false);
  }

  /** It never comes back. */
  bury(): void {
    this.crash();
    this.#isBuried = true;
  }

  restart(): void {
    if (this.#isUp || this.#isBuried) return;
    this.#isUp = true;
    this.#disturb();
    // Its task table is on disk: what was under way has failed.
    for (const [taskId, state] of this.#observed) {
      if (state >= TaskState.starting && !isTerminal(state)) this.#observed.set(taskId, TaskState.failed);
    }
  }

  /** The network of this machine, both ways. */
  setCut(isCut: boolean): void {
    if (isCut || this.#isCut) this.#disturb();
    this.#isCut = isCut;
  }

  /** Reports the end of a task that is none of its own: a broken or taken over node. */
  lie(task: Task): void {
    const session = this.#session;
    if (session === undefined || this.#tasks.has(task.id)) return;
    const status = { state: TaskState.failed, timestamp: this.#timestamp(), message: LIE, err: "exit 1" };
    this.#batchId += 1;
    this.#unacknowledged.set(this.#batchId, new Map());
    const updates = [{ taskId: task.id, statusJson: Buffer.from(JSON.stringify(status)) }];
    this.#send(session, { statuses: { batchId: this.#batchId, updates } });
  }

  #beat(): void {
    const { world } = this.#options;
    world.after(RETRY_MS * (0.8 + this.#random.float() * 0.4), () => {
      this.#beat();
      if (!this.#isUp) return;
      const session = this.#session;
      if (session === undefined) this.#connect();
      else if (!session.door.isOpen() || world.nowMs - session.heardMs > PATIENCE_MS) this.#drop(true);
      else if (world.nowMs - session.heardMs > HEARTBEAT_MS * 0.8) this.#send(session, { heartbeat: {} });
    });
  }

  #connect(): void {
    const { world, nodeId, findDoor } = this.#options;
    const door = findDoor();
    if (door === undefined || this.#isCut) return;
    let downMs = 0;
    const stream = {
      backlogCount: 0,
      send: (message: ToAgent): void => {
        // One stream: in order.
        downMs = Math.max(downMs, world.nowMs + this.#options.delayMs());
        world.post(downMs - world.nowMs, () => {
          if (this.#session !== session || session.isOver) return;
          // A stream loses nothing from its middle: what can't arrive ends it, and the other end learns by silence.
          if (this.#isCut) this.#drop(false);
          else this.#receive(session, message);
        });
      },
      end: (): void => {
        world.after(this.#options.delayMs(), () => {
          if (this.#session === session) this.#drop(false);
        });
      },
    };
    const handle = door.dispatcher.open(nodeId, stream, `192.0.2.${nodeId.length}`);
    const session: Session = {
      door,
      handle,
      sequence: 0,
      heardMs: world.nowMs,
      lastUpMs: 0,
      isOver: false,
    };
    this.#session = session;
    this.#unacknowledged.clear();
    this.#send(session, { hello: { addr: nodeId, rpcAddress: `${nodeId}:1`, dataPathAddress: "192.0.2.1" } });
    this.#report(session, new Map(this.#observed));
  }

  #drop(tellManager: boolean): void {
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined || session.isOver) return;
    session.isOver = true;
    // The manager's end of a broken connection notices sooner or later; of a crashed machine, by silence.
    if (tellManager && session.door.isOpen()) session.handle.ended();
  }

  #send(session: Session, message: FromAgent): void {
    const { world } = this.#options;
    session.lastUpMs = Math.max(session.lastUpMs, world.nowMs + this.#options.delayMs());
    world.post(session.lastUpMs - world.nowMs, () => {
      if (session.isOver || !session.door.isOpen()) return;
      if (!this.#isCut) {
        session.handle.receive(message);
        return;
      }
      this.#drop(false);
      // Sent again by the kernel until the link is back, also when a new session has long been opened.
      world.after(this.#random.float() * LATE_MS_MAX, () => {
        if (!this.#isCut && session.door.isOpen()) session.handle.receive(message);
      });
    });
  }

  #receive(session: Session, message: ToAgent): void {
    session.heardMs = this.#options.world.nowMs;
    if (message.assignments) this.#assign(session, message.assignments);
    else if (message.opened?.info?.renewCertificate === true || message.update?.renewCertificate === true)
      this.#options.onRenew(this);
    else if (message.statusAck) this.#acknowledged(message.statusAck.batchId ?? 0);
    else if (message.disconnect) this.#drop(false);
  }

  #assign(session: Session, assignments: NonNullable<ToAgent["assignments"]>): void {
    const sequence = assignments.sequence ?? 0;
    if (sequence !== session.sequence + 1) {
      throw new Violation("U6", `${this.nodeId} is told ${sequence} after ${session.sequence}`);
    }
    session.sequence = sequence;
    const told = new Set<string>();
    for (const document of assignments.tasks ?? []) {
      const task = JSON.parse(decoder.decode(document.json ?? NOTHING)) as Task;
      if (task.nodeId !== this.nodeId)
        throw new Violation("U7", `${this.nodeId} is sent a task of ${task.nodeId}`);
      told.add(task.id);
      const known = this.#tasks.get(task.id);
      this.#tasks.set(task.id, task);
      const isTold = known !== undefined && known.desiredState <= TaskState.running && mustStop(task);
      if (isTold && this.containers.has(task.id)) this.#options.onStopping(this, task);
      if (!this.#observed.has(task.id)) {
        this.#observed.set(task.id, task.status.state);
        if (task.status.ranAt !== undefined) this.#ranAt.set(task.id, task.status.ranAt);
      }
    }
    const gone = assignments.full === true ? [...this.#tasks.keys()].filter((id) => !told.has(id)) : [];
    for (const id of [...gone, ...(assignments.removedTasks ?? [])]) this.#forget(id);
    this.#keepEndpoints(assignments);
    this.#keepSecrets(assignments);
    for (const id of this.#tasks.keys()) this.#step(id);
    this.#send(session, { ack: { sequence } });
  }

  #keepEndpoints(assignments: NonNullable<ToAgent["assignments"]>): void {
    if (assignments.full === true) this.endpoints.clear();
    for (const id of assignments.removedNetworks ?? []) this.endpoints.delete(id);
    for (const change of assignments.networkChanges ?? []) {
      const networkId = change.networkId ?? "";
      const known = this.endpoints.get(networkId);
      if (known === undefined && change.full !== true) {
        throw new Violation(
          "U6",
          `${this.nodeId} is told differences of network ${networkId}, which it has not`,
        );
      }
      const table = change.full === true || known === undefined ? new Map<string, RemoteEndpoint>() : known;
      for (const { id, json } of change.endpoints ?? []) {
        table.set(id ?? "", endpointOf(json ?? NOTHING));
      }
      for (const id of change.removedEndpoints ?? []) table.delete(id);
      this.endpoints.set(networkId, table);
    }
  }

  #forget(taskId: string): void {
    this.#tasks.delete(taskId);
    this.#observed.delete(taskId);
    this.#ranAt.delete(taskId);
    this.containers.delete(taskId);
  }

  #keepSecrets(assignments: NonNullable<ToAgent["assignments"]>): void {
    if (assignments.full === true) this.#secrets.clear();
    for (const { id } of assignments.secrets ?? []) this.#secrets.add(id ?? "");
    for (const id of assignments.removedSecrets ?? []) this.#secrets.delete(id);
    // Most bring news of other nodes only: what is held and used is as it was when it was last looked at.
    const { full, secrets, removedSecrets, tasks, removedTasks } = assignments;
    const isNew = [secrets, removedSecrets, tasks, removedTasks].some((each) => (each?.length ?? 0) > 0);
    if (this.#secrets.size === 0 || (!isNew && full !== true)) return;
    const used = new Set<string>();
    for (const task of this.#tasks.values()) {
      for (const { SecretID } of task.spec.ContainerSpec.Secrets ?? []) used.add(SecretID);
    }
    for (const id of this.#secrets) {
      if (!used.has(id))
        throw new Violation("U5", `${this.nodeId} holds secret ${id}, which none of its tasks uses`);
    }
  }

  /** What the container does next, a little later. */
  #step(taskId: string): void {
    const waiting = this.#tasks.get(taskId);
    const reached = this.#observed.get(taskId);
    const isIdle = waiting === undefined || reached === undefined || isTerminal(reached);
    if (isIdle || nextState(waiting, reached) === undefined || this.#stepping.has(taskId)) return;
    this.#stepping.add(taskId);
    const isStop = this.containers.has(taskId);
    this.#options.world.after(1 + this.#random.float() * (isStop ? STOP_MS_MAX : STEP_MS_MAX), () => {
      this.#stepping.delete(taskId);
      const task = this.#tasks.get(taskId);
      const state = this.#observed.get(taskId);
      if (!this.#isUp || task === undefined || state === undefined || isTerminal(state)) return;
      const next = nextState(task, state);
      if (next === undefined) return;
      if (next === TaskState.running) {
        this.containers.set(taskId, task);
        this.#options.onStarted(this, task);
      } else if (isTerminal(next)) this.containers.delete(taskId);
      this.#observe(taskId, next);
      this.#step(taskId);
    });
  }

  /** A container dies by itself. */
  killContainer(): void {
    const [taskId] = this.containers.keys();
    if (taskId === undefined) return;
    this.containers.delete(taskId);
    this.#observe(taskId, this.#random.float() < 0.7 ? TaskState.failed : TaskState.complete);
  }

  #observe(taskId: string, state: TaskState): void {
    this.#observed.set(taskId, state);
    if (state === TaskState.running) this.#ranAt.set(taskId, this.#timestamp());
    const session = this.#session;
    if (session !== undefined) this.#report(session, new Map([[taskId, state]]));
  }

  #report(session: Session, states: ReadonlyMap<string, TaskState>): void {
    if (states.size === 0) return;
    this.#batchId += 1;
    this.#unacknowledged.set(this.#batchId, states);
    const timestamp = this.#timestamp();
    const updates = [...states].map(([taskId, state]) => {
      const ranAt = this.#ranAt.get(taskId);
      const err = state === TaskState.failed ? "exit 1" : "";
      const ran = ranAt === undefined ? {} : { ranAt };
      const status = { state, timestamp, message: "model", err, ...ran };
      return { taskId, statusJson: Buffer.from(JSON.stringify(status)) };
    });
    this.#send(session, { statuses: { batchId: this.#batchId, updates } });
  }

  #timestamp(): string {
    return rfc3339(this.#options.world.nowMs + 1_700_000_000_000);
  }

  #acknowledged(batchId: number): void {
    if (!this.#unacknowledged.delete(batchId) && batchId > this.#batchId) {
      throw new Violation("U6", `${this.nodeId} gets an acknowledgement of ${batchId}, which it never sent`);
    }
  }
}

/** The dispatcher sends all workers the same bytes: they are read once. */
function endpointOf(json: Uint8Array): RemoteEndpoint {
  let endpoint = endpoints.get(json);
  if (endpoint === undefined) {
    endpoint = JSON.parse(decoder.decode(json)) as RemoteEndpoint;
    endpoints.set(json, endpoint);
  }
  return endpoint;
}

function mustStop(task: Task): boolean {
  return task.desiredState > TaskState.complete;
}

function nextState(task: Task, state: TaskState): TaskState | undefined {
  if (mustStop(task)) return TaskState.shutdown;
  if (state < TaskState.accepted) return TaskState.accepted;
  if (state < TaskState.preparing) return TaskState.preparing;
  if (state < TaskState.ready) return TaskState.ready;
  if (task.desiredState < TaskState.running) return undefined;
  if (state < TaskState.starting) return TaskState.starting;
  if (task.spec.ContainerSpec.Image === BAD_IMAGE) return TaskState.failed;
  return state < TaskState.running ? TaskState.running : undefined;
}
