/**
 * One connection to the native side (launcher, monitor or exec): length-prefixed frames, answers in the order of the
 * questions, and what comes unasked (output, exit, oom). Reading pauses while the owner has enough, so that a slow
 * client of ours holds the container back instead of filling memory.
 */
import { createConnection, type Socket } from "node:net";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";

export const FrameType = {
  create: 1,
  exec: 2,
  hold: 3,
  archive: 4,
  spare: 6,
  remove: 7,
  start: 10,
  signal: 11,
  resize: 12,
  stdin: 13,
  closeStdin: 14,
  attach: 15,
  watch: 16,
  names: 17,
  done: 20,
  error: 21,
  stdout: 22,
  stderr: 23,
  exit: 24,
  oom: 25,
  gone: 26,
  born: 27,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

/** Attach flags. */
export const ATTACH_STDIN = 1;
export const ATTACH_STDOUT = 2;
export const ATTACH_STDERR = 4;

/** How the native side reports an end. Times are nanoseconds since 1970; 0 for never. */
export interface NativeExit {
  readonly exitCode: number;
  readonly signal: number;
  readonly oomKills: number;
  readonly isStarted: boolean;
  readonly startedAtNs: bigint;
  readonly finishedAtNs: bigint;
}

export interface FrameHandlers {
  readonly output?: (stream: "stdout" | "stderr", data: Buffer) => void;
  readonly exit?: (exit: NativeExit) => void;
  readonly oom?: () => void;
  /** The process that a job makes is there with its namespaces, though far from ready. */
  readonly born?: (pid: number) => void;
  /** Once, after everything else. */
  readonly closed?: () => void;
}

function parseExit(payload: Buffer): NativeExit {
  return {
    exitCode: payload.readUInt32LE(0),
    signal: payload.readUInt32LE(4),
    oomKills: payload.readUInt32LE(8),
    isStarted: payload.readUInt32LE(12) !== 0,
    startedAtNs: payload.readBigUInt64LE(16),
    finishedAtNs: payload.readBigUInt64LE(24),
  };
}

const HEAD_BYTES = 5;
/** A longer payload isn't copied to be sent together with its head. */
const COPIED_BYTES_MAX = 64 * 1024;

function frame(type: FrameType, length: number, payload: readonly Uint8Array[]): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + payload.reduce((sum, part) => sum + part.byteLength, 0));
  bytes.writeUInt32LE(length + 1, 0);
  bytes.writeUInt8(type, 4);
  let at = HEAD_BYTES;
  for (const part of payload) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}

interface Asked {
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (error: ClusterError) => void;
}

export class NativeConnection {
  readonly #socket: Socket;
  #handlers: FrameHandlers = {};
  readonly #asked: Asked[] = [];
  /** Bytes of a frame that is not whole yet. */
  #parts: Buffer[] = [];
  #partBytes = 0;
  #isClosed = false;
  readonly #closed = Promise.withResolvers<void>();
  readonly #gone = Promise.withResolvers<void>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => this.#take(chunk));
    socket.on("error", () => undefined);
    socket.on("close", () => this.#close());
  }

  static connect(path: string): Promise<NativeConnection> {
    return new Promise((resolve, reject) => {
      const socket = createConnection({ path });
      socket.once("connect", () => resolve(new NativeConnection(socket)));
      socket.once("error", (error) => reject(ClusterError.from(error)));
    });
  }

  /** What to do with frames that come unasked. */
  handle(handlers: FrameHandlers): void {
    this.#handlers = handlers;
    if (this.#isClosed) handlers.closed?.();
  }

  /** Resolves when the other side is gone, whoever handles the frames by then. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /**
   * Resolves when the run that this was a monitor's connection of is in nobody's way any more; only unmounting may be
   * left.
   */
  get gone(): Promise<void> {
    return this.#gone.promise;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Sends a frame that has no answer. False: wait for `drained` before more. */
  send(type: FrameType, ...payload: readonly Uint8Array[]): boolean {
    const length = payload.reduce((sum, part) => sum + part.byteLength, 0);
    if (length <= COPIED_BYTES_MAX) return this.#socket.write(frame(type, length, payload));
    this.#socket.cork();
    let isRoomy = this.#socket.write(frame(type, length, []));
    for (const part of payload) isRoomy = this.#socket.write(part);
    this.#socket.uncork();
    return isRoomy;
  }

  /** Sends a frame and resolves with the answer's payload; rejects with the native side's words as `internal`. */
  ask(type: FrameType, ...payload: readonly Uint8Array[]): Promise<Buffer> {
    if (this.#isClosed) return Promise.reject(gone());
    return new Promise((resolve, reject) => {
      this.#asked.push({ resolve, reject });
      this.send(type, ...payload);
    });
  }

  /** Once there is room again, or the other side is gone. */
  onDrained(run: () => void): void {
    const once = (): void => {
      this.#socket.off("drain", once);
      this.#socket.off("close", once);
      run();
    };
    this.#socket.on("drain", once);
    this.#socket.on("close", once);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    this.#parts.push(chunk);
    this.#partBytes += chunk.byteLength;
    if (this.#partBytes < 5) return;
    const first = must(this.#parts[0], "a part was just added");
    if (first.byteLength >= 4 && this.#partBytes < first.readUInt32LE(0) + 4) return;
    let rest = this.#parts.length === 1 ? first : Buffer.concat(this.#parts);
    while (rest.byteLength >= 5) {
      const total = rest.readUInt32LE(0);
      if (rest.byteLength < total + 4) break;
      this.#frame(rest.readUInt8(4), rest.subarray(5, 4 + total));
      rest = rest.subarray(4 + total);
    }
    this.#parts = rest.byteLength === 0 ? [] : [rest];
    this.#partBytes = rest.byteLength;
  }

  #frame(type: number, payload: Buffer): void {
    switch (type) {
      case FrameType.done:
        this.#asked.shift()?.resolve(payload);
        return;
      case FrameType.error:
        this.#asked.shift()?.reject(new ClusterError("internal", payload.toString("utf8")));
        return;
      case FrameType.stdout:
        this.#handlers.output?.("stdout", payload);
        return;
      case FrameType.stderr:
        this.#handlers.output?.("stderr", payload);
        return;
      case FrameType.exit:
        this.#handlers.exit?.(parseExit(payload));
        return;
      case FrameType.born:
        this.#handlers.born?.(payload.readUInt32LE(0));
        return;
      case FrameType.gone:
        this.#gone.resolve();
        return;
      case FrameType.oom:
        this.#handlers.oom?.();
        return;
    }
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const asked of this.#asked.splice(0)) asked.reject(gone());
    this.#handlers.closed?.();
    this.#gone.resolve();
    this.#closed.resolve();
  }
}

function gone(): ClusterError {
  return new ClusterError("unavailable", "The container's monitor has closed the connection");
}

export function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(values.length * 4);
  values.forEach((value, index) => bytes.writeInt32LE(value | 0, index * 4));
  return bytes;
}
