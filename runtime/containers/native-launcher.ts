/**
 * The daemon's end of the native launcher: starts it if none lives, keeps it alive by a held connection, opens a
 * connection per job. Sockets are reached through a descriptor of the exec root, so that a long folder name does no
 * harm.
 */
import { spawn } from "node:child_process";
import { closeSync, constants, openSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createConnection, type Socket } from "node:net";
import path from "node:path";
import { setImmediate as nextTurn, setTimeout as pause } from "node:timers/promises";
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { FrameType, NativeConnection, u32 } from "./native-frames.ts";

/** A launcher that is going away between two attempts must be replaced; more often than this something else is wrong. */
const CONNECT_ATTEMPTS_MAX = 3;

/** From a start to the making of the next spare: less than a client takes from there to its next start. */
const SPARE_PAUSE_MS = 3;

type JobKind = "create" | "exec";

export interface LauncherOptions {
  readonly execRoot: string;
  readonly nativeBinary: string;
  readonly log: Logger;
}

export class NativeLauncher {
  readonly #options: LauncherOptions;
  #rootFd: number | undefined;
  #held: NativeConnection | undefined;
  /** To processes that wait for their job, one of each kind; that for a creation has a network namespace made ahead. */
  readonly #spares = new Map<JobKind, NativeConnection>();
  readonly #comingSpares = new Set<JobKind>();
  #starting: Promise<void> | undefined;

  constructor(options: LauncherOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    await mkdir(path.join(this.#options.execRoot, "m"), { recursive: true, mode: 0o711 });
    await mkdir(path.join(this.#options.execRoot, "c"), { recursive: true, mode: 0o711 });
    this.#rootFd = openSync(this.#options.execRoot, constants.O_RDONLY | constants.O_DIRECTORY);
    // Also when one lives: it may be of another build, or of other namespaces, and gives way then.
    await this.#spawn();
    await this.#hold();
  }

  /** The launcher stays as long as containers run. */
  stop(): void {
    this.#held?.close();
    this.#held = undefined;
    for (const spare of this.#spares.values()) spare.close();
    this.#spares.clear();
    if (this.#rootFd !== undefined) closeSync(this.#rootFd);
    this.#rootFd = undefined;
  }

  /**
   * Sends a job; resolves with the connection and the process's number once it waits for its start. `sent` is called
   * when the job is on its way, and again where another process has to do it, unless that isn't `mayRepeat`: what it
   * asks is answered after that.
   */
  async run(
    kind: JobKind,
    job: Uint8Array,
    {
      sent,
      mayRepeat = () => true,
    }: { readonly sent?: (connection: NativeConnection) => void; readonly mayRepeat?: () => boolean } = {},
  ): Promise<{ connection: NativeConnection; pid: number }> {
    const spare = this.#takeSpare(kind);
    if (spare !== undefined) {
      try {
        return await ask(spare, { kind, job, sent });
      } catch (caught) {
        // It was killed while it waited, and nothing runs: what it may have begun is what any start finds that follows
        // a failed one.
        if (!hasCode(caught, "unavailable") || !mayRepeat()) throw caught;
      }
    }
    return ask(await this.#connect(), { kind, job, sent });
  }

  /**
   * For the next job of the kind, at a time when nobody waits: a process that has done already what doesn't depend on
   * the job.
   */
  async prepareSpare(kind: JobKind): Promise<void> {
    if (this.#spares.get(kind)?.isClosed === false || this.#rootFd === undefined) return;
    if (this.#comingSpares.has(kind)) return;
    this.#comingSpares.add(kind);
    // Whoever waits for what was just started is answered first, and a short program ends: it takes a millisecond of a
    // processor.
    await (kind === "create" ? pause(SPARE_PAUSE_MS, undefined, { ref: false }) : nextTurn());
    try {
      const spare = await NativeConnection.connect(this.#place("launcher.sock"));
      if (this.#rootFd === undefined) {
        spare.close();
        return;
      }
      if (kind === "create") spare.send(FrameType.spare);
      this.#spares.set(kind, spare);
    } catch (caught) {
      this.#options.log.debug("no process waits for the next job", { kind, error: caught });
    } finally {
      this.#comingSpares.delete(kind);
    }
  }

  #takeSpare(kind: JobKind): NativeConnection | undefined {
    const spare = this.#spares.get(kind);
    this.#spares.delete(kind);
    return spare?.isClosed === true ? undefined : spare;
  }

  /** A bare connection to a process that does the archive job, which has been sent. Frames and tar are the caller's. */
  async archive(job: Uint8Array): Promise<Socket> {
    const head = Buffer.alloc(5);
    head.writeUInt32LE(job.byteLength + 1, 0);
    head.writeUInt8(FrameType.archive, 4);
    // One connection that reaches the launcher shows that it lives.
    (await this.#connect()).close();
    return new Promise((resolve, reject) => {
      const socket = createConnection({ path: this.#place("launcher.sock"), allowHalfOpen: true });
      socket.once("error", (error) => reject(ClusterError.from(error)));
      socket.once("connect", () => {
        socket.write(head);
        socket.write(job);
        resolve(socket);
      });
    });
  }

  /** Removes folders (absolute paths), in a process of its own; rejects if one is left. One that is gone already is fine. */
  async removeTrees(folders: readonly string[]): Promise<void> {
    const connection = await this.#connect();
    try {
      await connection.ask(FrameType.remove, Buffer.from(folders.map((folder) => `${folder}\0`).join("")));
    } finally {
      connection.close();
    }
  }

  /** Connects to a container's monitor by its socket name; `unavailable` or `not_found` if there is none. */
  connectMonitor(socket: string): Promise<NativeConnection> {
    return NativeConnection.connect(this.#place(socket));
  }

  /** Tells the monitor that this connection wants the exit, and learns where the container stands. */
  async watch(
    connection: NativeConnection,
  ): Promise<{ pid: number; isStarted: boolean; startedAtNs: bigint }> {
    const answer = await connection.ask(FrameType.watch, u32(0));
    return {
      pid: answer.readUInt32LE(0),
      isStarted: answer.readUInt8(4) !== 0,
      startedAtNs: answer.readBigUInt64LE(5),
    };
  }

  #place(name: string): string {
    if (this.#rootFd === undefined) throw new ClusterError("unavailable", "The container engine is stopped");
    return `/proc/self/fd/${this.#rootFd}/${name}`;
  }

  async #connect(): Promise<NativeConnection> {
    const place = this.#place("launcher.sock");
    for (let attempt = 1; ; attempt++) {
      try {
        return await NativeConnection.connect(place);
      } catch (caught) {
        if (attempt >= CONNECT_ATTEMPTS_MAX || !hasCode(caught, "not_found", "unavailable")) throw caught;
        await this.#spawn();
      }
    }
  }

  /** A connection that stays open: the launcher lives on while there is one. */
  async #hold(): Promise<void> {
    const connection = await this.#connect();
    await connection.ask(FrameType.hold);
    this.#held = connection;
    connection.handle({
      closed: () => {
        if (this.#held !== connection) return;
        this.#options.log.warn("launcher is gone, starting another");
        this.#hold().catch((caught: unknown) => {
          this.#options.log.error("launcher does not start", { error: caught });
        });
      },
    });
  }

  #spawn(): Promise<void> {
    this.#starting ??= this.#spawnOnce().finally(() => {
      this.#starting = undefined;
    });
    return this.#starting;
  }

  #spawnOnce(): Promise<void> {
    const { nativeBinary, execRoot } = this.#options;
    return new Promise((resolve, reject) => {
      const child = spawn(nativeBinary, ["launcher", execRoot], {
        stdio: ["ignore", "ignore", "pipe"],
        detached: true,
        cwd: "/",
        env: {},
      });
      let words = "";
      child.stderr.on("data", (chunk: Buffer) => (words += chunk.toString()));
      child.once("error", (error) => {
        reject(
          new ClusterError("unavailable", `Cannot start ${nativeBinary}: ${error.message}`, { cause: error }),
        );
      });
      child.once("exit", (code) => {
        // 2: another one lives there already.
        if (code === 0 || code === 2) resolve();
        else reject(new ClusterError("unavailable", `Cannot start the launcher: ${words.trim()}`));
      });
    });
  }
}

async function ask(
  connection: NativeConnection,
  request: {
    readonly kind: JobKind;
    readonly job: Uint8Array;
    readonly sent: ((connection: NativeConnection) => void) | undefined;
  },
): Promise<{ connection: NativeConnection; pid: number }> {
  try {
    const asked = connection.ask(FrameType[request.kind], request.job);
    request.sent?.(connection);
    const answer = await asked;
    return { connection, pid: answer.readUInt32LE(0) };
  } catch (caught) {
    connection.close();
    throw caught;
  }
}
