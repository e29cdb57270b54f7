/**
 * One container in memory: its record, the connection to its monitor while it runs, those who wait for it, and one line in
 * which changes to it queue. Holds no policy: lifecycle.ts moves it from state to state.
 */
import path from "node:path";
import type { Cancel } from "../../common/env.ts";
import type { ContainerState, ExitStatus, TaskExtras } from "../../model/engine.ts";
import { ContainerFiles } from "./container-files.ts";
import type { ContainerRecord, PersistedState, RecordFile } from "./container-record.ts";
import type { NativeConnection } from "./native-frames.ts";

/** Somebody attached before the start: given a connection to the monitor between create and start. */
export interface PendingAttachment {
  readonly connected: (connection: NativeConnection) => Promise<void>;
  readonly failed: () => void;
}

export interface HealthStatus {
  readonly status: "none" | "starting" | "healthy" | "unhealthy";
  readonly failingStreak: number;
  readonly log: readonly {
    readonly Start: string;
    readonly End: string;
    readonly ExitCode: number;
    readonly Output: string;
  }[];
}

export const NO_HEALTH: HealthStatus = { status: "none", failingStreak: 0, log: [] };

export class LiveContainer {
  readonly folder: string;
  readonly files: ContainerFiles;
  readonly task: TaskExtras | undefined;
  #record: ContainerRecord;
  readonly #file: RecordFile;
  #line: Promise<unknown> = Promise.resolve();
  readonly #onSaveFailed: (caught: unknown) => void;

  /** To the monitor, while there is one. */
  connection: NativeConnection | undefined;
  /** To the monitor of the last run, which tells when its groups are gone and closes it when nothing of the run is left. */
  ending: NativeConnection | undefined;
  /** Resolves when the present run has ended and is cleaned up. */
  ended: Promise<ExitStatus> | undefined;
  resolveEnded: ((exit: ExitStatus) => void) | undefined;
  readonly exitWaiters: Set<(exit: ExitStatus) => void> = new Set();
  readonly removeWaiters: Set<(exit: ExitStatus) => void> = new Set();
  readonly pendingAttachments: Set<PendingAttachment> = new Set();
  /** It is being ended to be removed, and must not be started again in between. */
  isRemovalWanted = false;
  /** Stop or kill was asked: the restart policy stays quiet. */
  isStopping = false;
  isRemoving = false;
  isRestarting = false;
  cancelRestart: Cancel | undefined;
  stopHealth: (() => void) | undefined;
  health: HealthStatus = NO_HEALTH;
  /** Length of the last pause before a restart. */
  restartDelayMs = 0;
  /** Called when output may have come or the container has ended, for log followers. */
  readonly changed: Set<() => void> = new Set();

  constructor(
    record: ContainerRecord,
    options: {
      readonly root: string;
      /** Of hosts, hostname and resolv.conf. */
      readonly filesFolder: string;
      readonly file: RecordFile;
      readonly task?: TaskExtras | undefined;
      readonly onSaveFailed: (caught: unknown) => void;
    },
  ) {
    this.#record = record;
    this.folder = path.join(options.root, record.id);
    this.#file = options.file;
    this.files = new ContainerFiles(options.filesFolder);
    this.task = options.task;
    this.#onSaveFailed = options.onSaveFailed;
  }

  get record(): ContainerRecord {
    return this.#record;
  }

  get id(): string {
    return this.#record.id;
  }

  get isRunning(): boolean {
    const { status } = this.#record.state;
    return status === "running" || status === "paused";
  }

  /** Changes the record, in memory and on disk. What is the same already costs nothing. */
  change(change: Partial<ContainerRecord>): void {
    const before: Readonly<Record<string, unknown>> = { ...this.#record };
    if (Object.entries(change).every(([key, value]) => before[key] === value)) return;
    this.#record = { ...this.#record, ...change };
    // Its folder has another name by now, and goes.
    if (this.isRemoving) return;
    try {
      this.#file.change(change, this.#record);
    } catch (caught) {
      this.#onSaveFailed(caught);
    }
  }

  changeState(change: Partial<PersistedState>): void {
    this.change({ state: { ...this.#record.state, ...change } });
  }

  /** Resolves when a loss of power takes nothing any more of what changed so far. Failures are told and change nothing. */
  async synced(): Promise<void> {
    if (this.isRemoving) return;
    await this.#file.synced().catch(this.#onSaveFailed);
  }

  /** Runs `work` after everything that was queued before. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#line.then(work, work);
    this.#line = result.catch(() => undefined);
    return result;
  }

  exitStatus(): ExitStatus {
    const { exitCode, isOomKilled, error } = this.#record.state;
    return { exitCode, isOomKilled, error };
  }

  state(): ContainerState {
    const { status, pid, exitCode, isOomKilled, error, startedAt, finishedAt } = this.#record.state;
    return {
      status: this.isRemoving ? "removing" : status,
      isRunning: this.isRunning || status === "restarting",
      isPaused: status === "paused",
      pid,
      exitCode,
      isOomKilled,
      error,
      startedAt,
      finishedAt,
      health: this.health.status,
    };
  }
}
