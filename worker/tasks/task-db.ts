/**
 * The tasks of this node with their last observed status, on disk, so that a restarted daemon knows what it runs before a
 * manager tells it. Holds no secrets and no registry credentials: those come again with the next session.
 * Writes are not synced: they survive the daemon, and after a crash of the machine nothing of what they describe runs.
 */
import { Level } from "level";
import { ClusterError } from "../../common/errors.ts";
import type { Task, TaskStatus } from "../../model/objects.ts";

export interface StoredTask {
  readonly task: Task;
  readonly status: TaskStatus;
}

export interface TaskDb {
  load(): Promise<readonly StoredTask[]>;
  put(stored: StoredTask): void;
  remove(taskId: string): void;
  /** Waits for what is under way. */
  close(): Promise<void>;
}

function withoutCredentials(task: Task): Task {
  const { registryAuth: _registryAuth, ...rest } = task;
  return rest;
}

export class LevelTaskDb implements TaskDb {
  readonly #folder: string;
  readonly #level: Level<string, StoredTask>;
  /** Writes in order: a later status must not be overtaken by an earlier one. */
  #tail: Promise<void> = Promise.resolve();
  readonly #failed: (error: unknown) => void;

  /** `failed` is told of writes that did not succeed (full disk): the task goes on, only a restart would know less. */
  constructor(folder: string, failed: (error: unknown) => void) {
    this.#folder = folder;
    this.#level = new Level<string, StoredTask>(folder, { valueEncoding: "json" });
    this.#failed = failed;
  }

  async load(): Promise<readonly StoredTask[]> {
    try {
      await this.#level.open();
    } catch (caught) {
      // The library says that it failed; why (a full disk, a damaged file) is in the cause alone.
      const { message, cause } = caught as Error;
      const reason = cause instanceof Error ? cause.message : message;
      throw new ClusterError("internal", `Cannot read the node's tasks in "${this.#folder}": ${reason}`, {
        cause: caught,
      });
    }
    return this.#level.values().all();
  }

  put({ task, status }: StoredTask): void {
    this.#enqueue(() => this.#level.put(task.id, { task: withoutCredentials(task), status }));
  }

  remove(taskId: string): void {
    this.#enqueue(() => this.#level.del(taskId));
  }

  async close(): Promise<void> {
    await this.#tail;
    await this.#level.close();
  }

  #enqueue(write: () => Promise<void>): void {
    this.#tail = this.#tail.then(write).catch(this.#failed);
  }
}

/** For tests. */
export class MemoryTaskDb implements TaskDb {
  readonly #tasks = new Map<string, StoredTask>();

  load(): Promise<readonly StoredTask[]> {
    return Promise.resolve([...this.#tasks.values()]);
  }

  put({ task, status }: StoredTask): void {
    this.#tasks.set(task.id, { task: withoutCredentials(task), status });
  }

  remove(taskId: string): void {
    this.#tasks.delete(taskId);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
