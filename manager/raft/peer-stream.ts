/**
 * The outgoing message stream to one member: opens it, writes batches, drops what would pile up, opens it again after a
 * break, and tells when nothing listens there any more. Made by grpc-transport.ts, one per peer.
 */
import type { Cancel, Random, Timers } from "../../common/env.ts";
import { Backoff } from "../../common/backoff.ts";
import type { shoal } from "../../proto/messages.ts";
import { raftService } from "../../proto/services.ts";
import { encodeBatch } from "./message-codec.ts";
import type { Client, ClientDuplexStream, ServiceError } from "@grpc/grpc-js";

/** What is needed of a gRPC client; grpc.Client has it. */
export type RaftClient = Pick<Client, "makeBidiStreamRequest" | "close">;

/** Written but not yet taken by the connection; beyond it messages are dropped, Raft sends them again. */
const BUFFERED_BYTES_MAX = 16 * 1024 * 1024;
/** Something waits and nothing was taken by the connection for so long, up to twice that: it is given up and opened anew. */
const STALL_MS = 3_000;
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 1_000;

export interface PeerStreamOptions {
  readonly connect: () => RaftClient;
  readonly timers: Timers;
  readonly random: Pick<Random, "float">;
  /** The peer has no open stream to us: it answers on this one. */
  readonly onAnswer: (batch: shoal.v1.IRaftBatch) => void;
  readonly onUnreachable: () => void;
  readonly onRefused: () => void;
}

type Batch = shoal.v1.IRaftBatch;

export class PeerStream {
  readonly #options: PeerStreamOptions;
  readonly #backoff: Backoff;
  #client: RaftClient | undefined;
  #call: ClientDuplexStream<Batch, Batch> | undefined;
  #isOpen = false;
  #bufferedBytes = 0;
  #retry: Cancel | undefined;
  #stall: Cancel | undefined;
  /** Since the timer of #stall was set. */
  #hasTaken = false;
  #isStopped = false;

  constructor(options: PeerStreamOptions) {
    this.#options = options;
    this.#backoff = new Backoff(options.random, { firstMs: RETRY_FIRST_MS, maxMs: RETRY_MAX_MS });
    this.#open();
  }

  /** The peer has taken the stream. Until then what is sent waits for that, at an address that may not be its own any more. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  send(batch: Batch, bytes: number): void {
    const call = this.#call;
    if (call === undefined) return;
    if (this.#bufferedBytes > BUFFERED_BYTES_MAX) {
      this.#options.onUnreachable();
      return;
    }
    this.#bufferedBytes += bytes;
    this.#watch(call);
    call.write(batch, () => {
      if (this.#call !== call) return;
      this.#bufferedBytes -= bytes;
      this.#hasTaken = true;
    });
  }

  /** The peer opened a stream to us: it is there again. */
  retryNow(): void {
    if (this.#call !== undefined || this.#isStopped) return;
    this.#backoff.reset();
    this.#open();
  }

  stop(): void {
    this.#isStopped = true;
    this.#retry?.();
    this.#stall?.();
    this.#call?.end();
    this.#call?.cancel();
    this.#call = undefined;
    this.#client?.close();
  }

  #open(): void {
    this.#retry?.();
    this.#retry = undefined;
    this.#client ??= this.#options.connect();
    const { path, responseDeserialize } = raftService.messages;
    const call = this.#client.makeBidiStreamRequest(path, encodeBatch, responseDeserialize);
    this.#call = call;
    this.#isOpen = false;
    this.#bufferedBytes = 0;
    call.on("metadata", () => {
      this.#backoff.reset();
      if (this.#call === call) this.#isOpen = true;
    });
    call.on("data", (batch: Batch) => {
      if (this.#call === call) this.#options.onAnswer(batch);
    });
    call.on("error", (error: ServiceError) => this.#broken(call, error));
    call.on("end", () => this.#broken(call, undefined));
  }

  /** A timer of its own for each message would cost as much as encoding it: one looks back over the time since it was set. */
  #watch(call: ClientDuplexStream<Batch, Batch>): void {
    if (this.#stall !== undefined) return;
    this.#hasTaken = false;
    this.#stall = this.#options.timers.after(STALL_MS, () => {
      this.#stall = undefined;
      if (this.#bufferedBytes === 0) return;
      if (this.#hasTaken) this.#watch(call);
      else this.#broken(call, undefined);
    });
  }

  #broken(call: ClientDuplexStream<Batch, Batch>, error: ServiceError | undefined): void {
    if (this.#call !== call || this.#isStopped) return;
    this.#call = undefined;
    this.#isOpen = false;
    this.#stall?.();
    this.#stall = undefined;
    call.cancel();
    this.#options.onUnreachable();
    // gRPC has no code of its own for it; the text is the system call's.
    if (error?.details.includes("ECONNREFUSED") === true) this.#options.onRefused();
    const isFirst = this.#retry === undefined && error?.details.includes("ECONNREFUSED") !== true;
    this.#retry = this.#options.timers.after(isFirst ? 0 : this.#backoff.nextMs(), () => this.#open());
  }
}
