/**
 * One simulated machine: a disk that outlives the process, and a raft member that is started, killed and started again.
 * The member is the production code; only time, disk, network and the checkpoint store come from here.
 */
import { hasNodeCode } from "../../common/errors.ts";
import type { Env } from "../../common/env.ts";
import { silentLogger } from "../../common/log.ts";
import { FakeDisk, noFaults } from "../../common/testing/fake-disk.ts";
import type { CheckpointStore, LoadedCheckpoint, StateEntry } from "../../manager/raft/checkpoint-store.ts";
import type { SnapshotMeta } from "../../manager/raft/core/messages.ts";
import type { RaftLimits } from "../../manager/raft/limits.ts";
import { createRaftNode, type RaftNode } from "../../manager/raft/node.ts";
import type { StartMode } from "../../manager/raft/open-state.ts";
import type { Checkpoint, StateMachine } from "../../manager/raft/replicated-log.ts";
import type { Network, SimTransport } from "./network.ts";
import { Life, type World } from "./world.ts";

const CLUSTER_ID = "simulated";

/** Keeps checkpoints as `level` does: a batch is there after a crash whole or not at all, and once it resolved, whole. */
class SimCheckpoints {
  meta: SnapshotMeta | undefined;
  state = new Map<string, Uint8Array>();

  open(wait: () => Promise<void>, survives: () => boolean): CheckpointStore {
    const commit = async (change: () => void): Promise<void> => {
      let isDone = false;
      const doOnce = (): void => {
        if (!isDone) change();
        isDone = true;
      };
      // On its way to the disk it may or may not outlive a crash.
      if (survives()) doOnce();
      await wait();
      doOnce();
    };
    return {
      load: (): Promise<LoadedCheckpoint | undefined> =>
        Promise.resolve(this.meta === undefined ? undefined : { meta: this.meta, entries: [...this.state] }),
      write: (meta: SnapshotMeta, changes: Checkpoint): Promise<void> =>
        commit(() => {
          for (const [key, value] of changes.puts) this.state.set(key, value);
          for (const key of changes.removes) this.state.delete(key);
          this.meta = meta;
        }),
      replace: (meta: SnapshotMeta, entries: Iterable<StateEntry>): Promise<void> =>
        commit(() => {
          this.state = new Map(entries);
          this.meta = meta;
        }),
      close: () => Promise.resolve(),
    };
  }
}

export interface MachineOptions {
  readonly world: World;
  readonly network: Network;
  readonly raftId: number;
  /** Default: made of the raft id. */
  readonly nodeId?: string | undefined;
  readonly limits: Partial<RaftLimits>;
  readonly encryptionKey: Uint8Array | undefined;
  readonly makeState: (env: Env) => StateMachine;
  readonly onStarted: (machine: Machine) => void;
  readonly onDied: (machine: Machine) => void;
}

export class Machine {
  readonly disk: FakeDisk;
  readonly raftId: number;
  readonly nodeId: string;
  readonly #options: MachineOptions;
  #checkpoints = new SimCheckpoints();
  #life: Life | undefined;
  node: RaftNode | undefined;
  transport: SimTransport | undefined;
  state: StateMachine | undefined;
  /** Time and randomness of the present life. */
  env: Env | undefined;
  clock: { rate: number; wallOffsetMs: number } = { rate: 1, wallOffsetMs: 0 };
  /** For the next start that finds an empty disk. */
  mode: StartMode;
  /** It was removed from the cluster: not to be started again. */
  isRetired = false;

  constructor(options: MachineOptions, mode: StartMode) {
    this.#options = options;
    this.raftId = options.raftId;
    this.nodeId = options.nodeId ?? `node-${options.raftId}`;
    this.mode = mode;
    const timers = {
      after: (delayMs: number, run: () => void) =>
        this.#life === undefined ? options.world.after(delayMs, run) : this.#life.exactly(delayMs, run),
    };
    this.disk = new FakeDisk(timers, options.world.random.fork(), noFaults());
  }

  get isRunning(): boolean {
    return this.#life !== undefined;
  }

  get isPaused(): boolean {
    return this.transport?.isPaused === true;
  }

  /** Begins a life; the member is there some disk operations later. */
  start(): void {
    if (this.#life !== undefined || this.isRetired) return;
    const { world } = this.#options;
    const life = new Life(world, this.clock);
    this.#life = life;
    this.#boot(life).catch((caught: unknown) => {
      if (life.isOver) return;
      if (hasNodeCode(caught, "EIO", "ENOSPC")) {
        this.kill();
        world.after(2_000, () => this.start());
        return;
      }
      world.fail(caught);
    });
  }

  /** The process dies here and now; the machine's disk loses what was not synced if `power` goes too. */
  kill(): void {
    if (this.#life === undefined) return;
    this.#life.end();
    this.#life = undefined;
    this.disk.crash();
    this.node = undefined;
    this.transport = undefined;
    this.#options.network.disconnect(this.raftId);
    this.#options.onDied(this);
  }

  /** SIGSTOP for a while. */
  pause(ms: number): void {
    const { world } = this.#options;
    const life = this.#life;
    const { transport } = this;
    if (life === undefined || transport === undefined || transport.isPaused) return;
    life.pausedUntilMs = world.nowMs + ms;
    transport.pause();
    world.after(ms, () => transport.resume());
  }

  async #boot(life: Life): Promise<void> {
    const { limits, network, raftId, world, encryptionKey } = this.#options;
    const random = world.random.fork();
    const env = life.env(this.disk);
    const state = this.#options.makeState(env);
    const transport = network.connect(raftId);
    const wait = (): Promise<void> =>
      new Promise((resolve) => {
        life.after(this.disk.faults.latencyMs() * 3 + 1, resolve);
      });
    const survives = (): boolean => random.float() < 0.5;
    const node = await createRaftNode({
      env,
      log: silentLogger,
      raftId,
      nodeId: this.nodeId,
      clusterId: CLUSTER_ID,
      folder: "/raft",
      checkpoints: this.#checkpoints.open(wait, survives),
      transport,
      stateMachine: state,
      mode: this.mode,
      ...(encryptionKey === undefined ? {} : { encryptionKey }),
      limits,
      onFatal: (error) => this.#onFatal(life, error),
    });
    if (life.isOver) return;
    this.node = node;
    this.state = state;
    this.transport = transport;
    this.env = env;
    this.#options.onStarted(this);
    node.start();
  }

  /** A failed sync ends the process, and something starts it again; a broken invariant ends the run. */
  #onFatal(life: Life, error: unknown): void {
    const { world } = this.#options;
    if (life.isOver) return;
    if (hasNodeCode(error, "EIO")) {
      world.note(9, this.raftId, () => `member ${this.raftId} ends: its disk failed a sync`);
      world.after(0, () => {
        if (this.#life === life) this.kill();
        world.after(1_000, () => this.start());
      });
      return;
    }
    world.fail(error);
  }
}
