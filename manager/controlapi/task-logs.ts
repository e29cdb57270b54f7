/**
 * Log lines of tasks from the nodes that run them, merged as they come. One stream to each task's node; following, new
 * tasks of the selected services join in, and a stream that breaks (the node's daemon is updated) goes on where it was.
 * A slow reader slows the streams down, nothing is dropped.
 */
import type { Client, ClientReadableStream, ServiceError } from "@grpc/grpc-js";
import type { Cancel, Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { ClusterLogLine, LogSelector } from "../../model/cluster-control.ts";
import type { LogOptions } from "../../model/engine.ts";
import { NodeState, type Task } from "../../model/objects.ts";
import type { StoreView } from "../../model/store-view.ts";
import { TaskState } from "../../model/task-state.ts";
import type { shoal } from "../../proto/messages.ts";
import { dial, openServerStream } from "../../proto/rpc-client.ts";
import { fromServiceError } from "../../proto/rpc-errors.ts";
import type { LiveIdentity } from "../../proto/rpc-identity.ts";
import { nodeService } from "../../proto/services.ts";
import type { Store } from "../store/store.ts";

/** Lines that wait for the reader before the streams are paused. */
const LINE_COUNT_MAX = 1_024;
/** Tasks read at once, the newest first; a service's history can be long. */
const TASK_COUNT_MAX = 1_000;
/** Between tries to follow on after a stream broke. */
const REOPEN_MS = 1_000;

export interface TaskLogDeps {
  readonly store: Store;
  readonly identity: LiveIdentity;
  /** "host:port" where this machine reaches its own node: behind a NAT that is not the address the others use. */
  readonly selfAddr: string;
  readonly log: Logger;
  readonly timers: Timers;
}

export interface TaskLogRequest {
  readonly selector: LogSelector;
  readonly options: LogOptions;
  readonly signal: AbortSignal;
}

type Line = shoal.v1.TaskLogLine.$Properties;

/** What a task's reader was given last: lines of one moment are told apart by their count. */
interface Place {
  readonly timestamp: string;
  readonly count: number;
}

export async function* readTaskLogs(
  deps: TaskLogDeps,
  request: TaskLogRequest,
): AsyncGenerator<ClusterLogLine, void> {
  const merge = new LogMerge(deps, request);
  try {
    merge.start();
    yield* merge.lines();
  } finally {
    merge.stop();
  }
}

class LogMerge {
  readonly #deps: TaskLogDeps;
  readonly #request: TaskLogRequest;
  readonly #streams = new Map<string, ClientReadableStream<Line>>();
  readonly #clients = new Map<string, Client>();
  readonly #seen = new Set<string>();
  readonly #places = new Map<string, Place>();
  readonly #retries = new Map<string, Cancel>();
  readonly #lines: ClusterLogLine[] = [];
  #wake: (() => void) | undefined;
  #cancelWatch: (() => void) | undefined;
  #isPaused = false;
  #failure: ClusterError | undefined;

  constructor(deps: TaskLogDeps, request: TaskLogRequest) {
    this.#deps = deps;
    this.#request = request;
  }

  start(): void {
    const { store } = this.#deps;
    const { options, signal } = this.#request;
    signal.addEventListener("abort", this.#onAbort, { once: true });
    const { view, watch } = store.viewAndWatch({ tables: ["task", "node"] }, () => {
      if (options.follow) this.#openAll(store.view());
      else this.#giveUpDown(store.view());
    });
    this.#cancelWatch = watch.cancel;
    this.#openAll(view);
    if (!options.follow) this.#giveUpDown(view);
  }

  stop(): void {
    this.#cancelWatch?.();
    this.#request.signal.removeEventListener("abort", this.#onAbort);
    for (const cancel of this.#retries.values()) cancel();
    for (const stream of this.#streams.values()) stream.cancel();
    for (const client of this.#clients.values()) client.close();
    this.#streams.clear();
  }

  async *lines(): AsyncGenerator<ClusterLogLine, void> {
    const { options, signal } = this.#request;
    while (true) {
      const line = this.#lines.shift();
      if (line !== undefined) {
        this.#resume();
        yield line;
        continue;
      }
      if (signal.aborted || (!options.follow && this.#streams.size === 0)) break;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    // What could be read was given; that some node could not be asked is still to be said.
    if (this.#failure !== undefined && !signal.aborted) throw this.#failure;
  }

  readonly #onAbort = (): void => this.#wake?.();

  #openAll(view: StoreView): void {
    for (const task of selectTasks(view, this.#request.selector)) {
      if (this.#seen.has(task.id) || task.nodeId === "" || task.status.state < TaskState.starting) continue;
      const address = this.#addressOf(view, task.nodeId);
      if (address === "") continue;
      this.#seen.add(task.id);
      this.#open(task, address);
    }
  }

  /** A node that is switched off answers nothing, and it takes the network half a minute to say so. */
  #giveUpDown(view: StoreView): void {
    for (const [taskId, stream] of this.#streams) {
      const task = view.get("task", taskId);
      if (task === undefined || view.get("node", task.nodeId)?.status.state !== NodeState.down) continue;
      this.#streams.delete(taskId);
      stream.cancel();
      this.#problem(task, new ClusterError("unavailable", `Node "${task.nodeId}" is down`));
    }
    this.#wake?.();
  }

  #addressOf(view: StoreView, nodeId: string): string {
    const { identity, selfAddr } = this.#deps;
    return nodeId === identity.current.nodeId ? selfAddr : (view.get("node", nodeId)?.rpcAddress ?? "");
  }

  #open(task: Task, address: string): void {
    const { options: asked } = this.#request;
    const place = this.#places.get(task.id);
    // What was asked of the end, or of a time, was given.
    const { tail: _tail, ...whole } = asked;
    const options = place === undefined ? asked : { ...whole, sinceMs: Date.parse(place.timestamp) };
    const isKnown = place === undefined ? () => false : skipTo(place);
    const stream = openServerStream(this.#clientTo(address, task.nodeId), nodeService.taskLogs, {
      taskId: task.id,
      optionsJson: new TextEncoder().encode(JSON.stringify(options)),
    });
    this.#streams.set(task.id, stream);
    if (this.#isPaused) stream.pause();
    stream.on("data", (line: Line) => {
      if (!isKnown(line.timestamp ?? "")) this.#add(task, line);
    });
    const ended = (): void => {
      this.#streams.delete(task.id);
      this.#wake?.();
    };
    stream.on("end", ended);
    stream.on("error", (caught: ServiceError) => {
      // Given up here, or the end of all.
      if (this.#streams.get(task.id) !== stream) return;
      const error = fromServiceError(caught);
      this.#problem(task, error);
      ended();
      if (asked.follow && error.code !== "not_found") this.#reopenLater(task.id);
    });
  }

  #reopenLater(taskId: string): void {
    const { store, timers } = this.#deps;
    const cancel = timers.after(REOPEN_MS, () => {
      this.#retries.delete(taskId);
      const task = store.view().get("task", taskId);
      const address = task === undefined ? "" : this.#addressOf(store.view(), task.nodeId);
      if (task !== undefined && address !== "") this.#open(task, address);
    });
    this.#retries.set(taskId, cancel);
  }

  /** A container that is gone has no log; a node that doesn't answer is told at the end, the others' lines come first. */
  #problem(task: Task, error: ClusterError): void {
    if (error.code === "cancelled" || error.code === "not_found") return;
    this.#deps.log.warn("log of a task could not be read", { taskId: task.id, nodeId: task.nodeId, error });
    if (this.#request.options.follow) return;
    this.#failure ??= new ClusterError(
      "unavailable",
      `warning: incomplete log stream. some logs could not be retrieved for the following reasons: node ${task.nodeId} is not available`,
      { cause: error, details: { taskId: task.id, nodeId: task.nodeId } },
    );
  }

  #add(task: Task, line: Line): void {
    const timestamp = line.timestamp ?? "";
    const before = this.#places.get(task.id);
    this.#places.set(task.id, {
      timestamp,
      count: before?.timestamp === timestamp ? before.count + 1 : 1,
    });
    this.#lines.push({
      taskId: task.id,
      serviceId: task.serviceId,
      nodeId: task.nodeId,
      stream: line.stream === "stderr" ? "stderr" : "stdout",
      timestamp,
      data: line.data ?? new Uint8Array(),
    });
    if (this.#lines.length >= LINE_COUNT_MAX && !this.#isPaused) {
      this.#isPaused = true;
      for (const stream of this.#streams.values()) stream.pause();
    }
    this.#wake?.();
  }

  #resume(): void {
    if (!this.#isPaused || this.#lines.length > LINE_COUNT_MAX / 2) return;
    this.#isPaused = false;
    for (const stream of this.#streams.values()) stream.resume();
  }

  #clientTo(address: string, nodeId: string): Client {
    let client = this.#clients.get(address);
    if (client === undefined) {
      client = dial(address, this.#deps.identity, { nodeId });
      this.#clients.set(address, client);
    }
    return client;
  }
}

/** True for lines up to and with the one at `place`, as they come again in order. */
function skipTo(place: Place): (timestamp: string) => boolean {
  let left = place.count;
  return (timestamp) => {
    if (timestamp === place.timestamp && left > 0) {
      left -= 1;
      return true;
    }
    return timestamp < place.timestamp;
  };
}

function selectTasks(view: StoreView, selector: LogSelector): readonly Task[] {
  const tasks = new Map<string, Task>();
  for (const serviceId of selector.serviceIds ?? []) {
    for (const task of view.list("task", { kind: "service", serviceId })) tasks.set(task.id, task);
  }
  for (const taskId of selector.taskIds ?? []) {
    const task = view.get("task", taskId);
    if (task !== undefined) tasks.set(task.id, task);
  }
  return [...tasks.values()]
    .toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : a.createdAt > b.createdAt ? -1 : 0))
    .slice(0, TASK_COUNT_MAX);
}
