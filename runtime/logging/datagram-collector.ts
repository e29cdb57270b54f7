/** Collectors that take datagrams: UDP, and UNIX sockets such as /dev/log and the journal's. */
import * as dgram from "node:dgram";
import { lookup } from "node:dns/promises";
import { setTimeout as pause } from "node:timers/promises";
import { ClusterError } from "../../common/errors.ts";
import { closeFile, hasErrno, openUnixDatagram, sendDatagram } from "../network/libc.ts";
import { Loss, type Collector, type Outgoing } from "./collector.ts";

const SETTLE_MS = 1000;
/** A closed port is told by the answer to the first datagram, which waits for it before others follow. */
const PROBE_MS = 100;
/** Datagrams in a row; then a moment passes, so that a receiver with a usual buffer keeps up with a backlog. */
const BURST_COUNT = 50;
const BURST_PAUSE_MS = 1;
const FULL_PAUSE_MS_MAX = 50;

/** Told of a message that fits into no datagram. */
export type TooLong = (bytes: number) => void;

function lostError(cause: unknown): ClusterError {
  return new ClusterError(
    "unavailable",
    `log collector takes no datagrams: ${ClusterError.from(cause).message}`,
    {
      cause,
    },
  );
}

export class UdpCollector implements Collector {
  readonly settleMs: number = SETTLE_MS;
  readonly #socket: dgram.Socket;
  readonly loss: Loss = new Loss();
  readonly #tooLong: TooLong;
  #isProven = false;

  private constructor(socket: dgram.Socket, tooLong: TooLong) {
    this.#socket = socket;
    this.#tooLong = tooLong;
    socket.on("error", (error) => this.loss.happened(lostError(error)));
    socket.on("message", () => undefined);
  }

  static async connect(
    { host, port }: { readonly host: string; readonly port: number },
    tooLong: TooLong,
  ): Promise<UdpCollector> {
    const { address, family } = await lookup(host);
    const socket = dgram.createSocket(family === 6 ? "udp6" : "udp4");
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once("error", reject);
    socket.connect(port, address, () => resolve());
    try {
      await promise;
    } catch (caught) {
      socket.close();
      throw lostError(caught);
    }
    socket.off("error", reject);
    return new UdpCollector(socket, tooLong);
  }

  async send({ units }: Outgoing): Promise<void> {
    for (let at = 0; at < units.length;) {
      const burst = units.slice(at, at + (this.#isProven ? BURST_COUNT : 1));
      await this.loss.guard(Promise.all(burst.map((unit) => this.#sendOne(unit))));
      await this.loss.guard(pause(this.#isProven ? BURST_PAUSE_MS : PROBE_MS));
      this.#isProven = true;
      at += burst.length;
    }
  }

  /** Nothing tells: a second without a refusal has to do. */
  arrived(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.#socket.close();
  }

  #sendOne(unit: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.send(unit, (error) => {
        if (error === null) resolve();
        else if ("code" in error && error.code === "EMSGSIZE") {
          this.#tooLong(unit.length);
          resolve();
        } else reject(lostError(error));
      });
    });
  }
}

export class UnixDatagramCollector implements Collector {
  readonly settleMs: number = SETTLE_MS;
  readonly loss: Loss = new Loss();
  readonly #tooLong: TooLong;
  readonly #fd: number;
  #isClosed = false;

  constructor(path: string, tooLong: TooLong) {
    this.#fd = openUnixDatagram(path);
    this.#tooLong = tooLong;
  }

  async send({ units }: Outgoing): Promise<void> {
    let waitMs = 1;
    for (let at = 0; at < units.length;) {
      if (this.#isClosed) throw lostError(new ClusterError("cancelled", "it was closed"));
      if (this.#sendOne(units[at] ?? Buffer.alloc(0))) {
        waitMs = 1;
        at += 1;
      } else {
        await pause(waitMs);
        waitMs = Math.min(FULL_PAUSE_MS_MAX, waitMs * 2);
      }
    }
  }

  /** Nothing tells: a second without a refusal has to do. */
  arrived(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    closeFile(this.#fd);
  }

  #sendOne(unit: Uint8Array): boolean {
    try {
      return sendDatagram(this.#fd, unit);
    } catch (caught) {
      if (!hasErrno(caught, "EMSGSIZE")) throw lostError(caught);
      this.#tooLong(unit.length);
      return true;
    }
  }
}
