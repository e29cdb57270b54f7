/** Collectors at the other end of a stream: TCP, TLS over it, or a UNIX socket. */
import * as net from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import * as tls from "node:tls";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import { boundAcknowledgement, unacknowledgedBytes } from "../network/libc.ts";
import { Loss, type Collector, type Outgoing } from "./collector.ts";

const CONNECT_MS_MAX = 10_000;
/** Of what was sent. The kernel's own patience with a dead host is a quarter of an hour. */
const UNACKNOWLEDGED_MS_MAX = 30_000;
const ANSWER_MS_MAX = 60_000;
const ANSWER_BYTES_MAX = 64 * 1024;
const SETTLE_MS = 1000;
/** Between two looks at what is not acknowledged yet. */
const POLL_MS_MIN = 1;
const POLL_MS_MAX = 50;

export interface StreamOptions {
  readonly to: net.TcpNetConnectOpts | net.IpcNetConnectOpts;
  /** Absent: plain. */
  readonly tls?: tls.ConnectionOptions;
  /** The receiver answers what asks for it. */
  readonly hasAnswers: boolean;
  /** Ends the connection, also while it is being made. */
  readonly signal: AbortSignal;
}

/** The kernel's number of a socket; undefined where Node doesn't tell. */
function descriptorOf(socket: net.Socket): number | undefined {
  const handle: unknown = Reflect.get(socket, "_handle");
  const fd = isObject(handle) ? handle["fd"] : undefined;
  return typeof fd === "number" && fd >= 0 ? fd : undefined;
}

function lostError(cause?: Error): ClusterError {
  const why = cause === undefined ? "it was closed from the other side" : cause.message;
  return new ClusterError("unavailable", `connection to the log collector is lost: ${why}`, { cause });
}

async function opened(socket: net.Socket, event: "connect" | "secureConnect"): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const late = setTimeout(() => {
    reject(new ClusterError("deadline_exceeded", `log collector must answer within ${CONNECT_MS_MAX} ms`));
  }, CONNECT_MS_MAX);
  socket.once(event, resolve).once("error", reject);
  try {
    await promise;
  } catch (caught) {
    socket.destroy();
    throw caught;
  } finally {
    clearTimeout(late);
    socket.off(event, resolve).off("error", reject);
  }
}

export class StreamCollector implements Collector {
  readonly settleMs: number;
  readonly #socket: net.Socket;
  readonly #fd: number | undefined;
  readonly loss: Loss = new Loss();
  #answers: Buffer = Buffer.alloc(0);
  #hasAnswered: (() => void) | undefined;

  private constructor(socket: net.Socket, fd: number | undefined, hasAnswers: boolean) {
    this.#socket = socket;
    this.#fd = fd;
    this.settleMs = hasAnswers ? 0 : SETTLE_MS;
    socket.on("error", (error) => this.loss.happened(lostError(error)));
    socket.on("close", () => this.loss.happened(lostError()));
    socket.on("end", () => this.loss.happened(lostError()));
    socket.on("data", (bytes) => this.#heard(Buffer.from(bytes)));
  }

  static async connect({ to, tls: secure, hasAnswers, signal }: StreamOptions): Promise<StreamCollector> {
    const plain = net.connect({ ...to, signal });
    await opened(plain, "connect");
    const fd = descriptorOf(plain);
    if (fd !== undefined && "port" in to) boundAcknowledgement(fd, UNACKNOWLEDGED_MS_MAX);
    if (secure === undefined) return new StreamCollector(plain, fd, hasAnswers);
    const socket = tls.connect({ ...secure, socket: plain });
    await opened(socket, "secureConnect");
    return new StreamCollector(socket, fd, hasAnswers);
  }

  async send({ units, answer }: Outgoing): Promise<void> {
    if (units.length > 0) await this.loss.guard(this.#write(Buffer.concat(units)));
    if (answer !== undefined) await this.#answered(answer);
  }

  async arrived(): Promise<void> {
    for (let waitMs = POLL_MS_MIN; ; waitMs = Math.min(POLL_MS_MAX, waitMs * 2)) {
      if (this.#socket.destroyed) throw lostError();
      if (this.#fd === undefined || unacknowledgedBytes(this.#fd) === 0) return;
      await this.loss.guard(pause(waitMs));
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #write(bytes: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.write(bytes, (error) => (error ? reject(lostError(error)) : resolve()));
    });
  }

  #heard(bytes: Buffer): void {
    // What nobody has asked for is let go.
    if (this.settleMs > 0) return;
    this.#answers = Buffer.concat([this.#answers, bytes]).subarray(0, ANSWER_BYTES_MAX);
    this.#hasAnswered?.();
  }

  async #answered(wanted: Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const late = setTimeout(() => {
      reject(new ClusterError("deadline_exceeded", `log collector must answer within ${ANSWER_MS_MAX} ms`));
    }, ANSWER_MS_MAX);
    this.#hasAnswered = () => {
      if (this.#answers.length >= wanted.length) resolve();
    };
    try {
      this.#hasAnswered();
      await this.loss.guard(promise);
    } finally {
      clearTimeout(late);
      this.#hasAnswered = undefined;
    }
    const got = this.#answers.subarray(0, wanted.length);
    if (!got.equals(wanted)) {
      throw new ClusterError(
        "unavailable",
        `log collector must answer ${Buffer.from(wanted).toString("hex")}, got ${got.toString("hex")}`,
      );
    }
    this.#answers = this.#answers.subarray(wanted.length);
  }
}
