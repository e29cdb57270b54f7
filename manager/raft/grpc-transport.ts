/**
 * RaftTransport over gRPC: one message stream from each member to each other one, snapshots on connections of their own.
 * Who speaks but can't be reached, as far as is known here, is answered on its own stream: a member that was away while others
 * joined or moved would have no way to tell such a leader what it lacks.
 * How channels are made and served is the caller's: it gives `connect` and registers `service` for managers only. For a
 * fast failover, channels should be made with grpc.initial_reconnect_backoff_ms of 100 or less,
 * grpc.max_reconnect_backoff_ms of 1000, keepalive, and different options per purpose, so that they don't share a
 * connection.
 */
import { Metadata, type ServerDuplexStream, type UntypedServiceImplementation } from "@grpc/grpc-js";
import type { Cancel, Random, Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { shoal } from "../../proto/messages.ts";
import { failStream } from "../../proto/rpc-errors.ts";
import { raftService } from "../../proto/services.ts";
import { entryBytes } from "./core/log.ts";
import type { Message, SnapshotMessage } from "./core/messages.ts";
import { EntryEncoder } from "./entry-codec.ts";
import { decodeMessage, encodeMessage, type WireMessage } from "./message-codec.ts";
import { PeerStream, type RaftClient } from "./peer-stream.ts";
import type { Member, StateSnapshot } from "./replicated-log.ts";
import { SnapshotReceiver } from "./snapshot-receiver.ts";
import { sendSnapshotOnce } from "./snapshot-sender.ts";
import type { RaftTransport, TransportHandler } from "./transport.ts";

const SNAPSHOT_TRIES_MAX = 5;
const SNAPSHOT_RETRY_MS = 500;
const MESSAGE_OVERHEAD_BYTES = 40;
/** The stream to a removed member stays open so long: several elections. */
const REMOVED_PEER_MS = 30_000;

export interface GrpcTransportOptions {
  readonly raftId: number;
  readonly clusterId: string;
  readonly timers: Timers;
  readonly random: Random;
  readonly log: Logger;
  /** A client of the member at "host:port"; closed by the transport. */
  readonly connect: (addr: string, purpose: "messages" | "snapshot") => RaftClient;
  /** The node's own, so that a batch is encoded once for disk and peers. */
  readonly encoder?: EntryEncoder;
}

type BatchStream = ServerDuplexStream<shoal.v1.IRaftBatch, shoal.v1.IRaftBatch>;

type SnapshotStream = ServerDuplexStream<shoal.v1.ISnapshotPart, shoal.v1.ISnapshotAnswer>;

/** Who is at the other end, by its certificate. */
export interface Speaker {
  readonly nodeId: string;
  /** True of a manager that was demoted; it may not know yet. */
  readonly isDemoted: () => boolean;
}

interface Peer {
  readonly addr: string;
  readonly stream: PeerStream;
}

export class GrpcTransport implements RaftTransport {
  readonly #options: GrpcTransportOptions;
  readonly #encoder: EntryEncoder;
  readonly #peers = new Map<number, Peer>();
  /** Removed members whose streams are still open, and what keeps them from being closed. */
  readonly #leaving = new Map<number, Cancel>();
  /** Streams of members that speak to this one, for answers to those that it has no address of, or an old one. */
  readonly #incoming = new Map<number, BatchStream>();
  readonly #receiver: SnapshotReceiver;
  /** Of all members that were ever known: a number is never given to another node. */
  readonly #nodeOf = new Map<number, string>();
  #handler: TransportHandler | undefined;
  #isStopped = false;

  constructor(options: GrpcTransportOptions) {
    this.#options = options;
    this.#encoder = options.encoder ?? new EntryEncoder();
    this.#receiver = new SnapshotReceiver({
      clusterId: options.clusterId,
      raftId: options.raftId,
      install: (message, entries) => {
        if (this.#handler === undefined)
          throw new ClusterError("unavailable", "The raft member is not started");
        return this.#handler.onSnapshot(message, entries);
      },
    });
  }

  /** For servers where whoever reaches them is trusted: tests and measurements. */
  get service(): UntypedServiceImplementation {
    return {
      messages: (call: BatchStream) => this.serveMessages(call),
      snapshot: (call: SnapshotStream) => this.serveSnapshot(call),
    };
  }

  static readonly definition: typeof raftService = raftService;

  start(handler: TransportHandler): void {
    this.#handler = handler;
  }

  setPeers(members: readonly Member[]): void {
    if (this.#isStopped) return;
    for (const { raftId, nodeId } of members) this.#nodeOf.set(raftId, nodeId);
    const wanted = new Map(members.map((member) => [member.raftId, member.addr]));
    wanted.delete(this.#options.raftId);
    for (const [raftId, peer] of this.#peers) {
      if (wanted.get(raftId) === peer.addr) continue;
      if (wanted.has(raftId)) this.#close(raftId, peer);
      else this.#closeLater(raftId, peer);
    }
    for (const [raftId, addr] of wanted) {
      this.#leaving.get(raftId)?.();
      this.#leaving.delete(raftId);
      if (!this.#peers.has(raftId)) this.#peers.set(raftId, { addr, stream: this.#openStream(raftId, addr) });
    }
  }

  send(messages: readonly Message[]): void {
    const batches = new Map<number, { readonly wire: WireMessage[]; bytes: number }>();
    for (const message of messages) {
      if (!this.#peers.has(message.to) && !this.#incoming.has(message.to)) continue;
      let batch = batches.get(message.to);
      if (batch === undefined) {
        batch = { wire: [], bytes: 0 };
        batches.set(message.to, batch);
      }
      batch.wire.push(encodeMessage(message, this.#encoder));
      batch.bytes += MESSAGE_OVERHEAD_BYTES;
      if (message.type === "append") for (const entry of message.entries) batch.bytes += entryBytes(entry);
    }
    const { clusterId, raftId } = this.#options;
    for (const [to, { wire, bytes }] of batches) {
      const batch = { clusterId, from: raftId, to, messages: wire };
      const stream = this.#peers.get(to)?.stream;
      const incoming = this.#incoming.get(to);
      if (incoming === undefined || stream?.isOpen === true) stream?.send(batch, bytes);
      // Dropped where the connection takes nothing: Raft sends it again.
      else if (!incoming.writableNeedDrain) incoming.write(batch);
    }
  }

  async sendSnapshot(message: SnapshotMessage, state: StateSnapshot, signal: AbortSignal): Promise<void> {
    const { clusterId, connect, random, timers } = this.#options;
    const snapshotId = Buffer.from(random.bytes(12)).toString("hex");
    for (let tried = 1; ; tried += 1) {
      const addr = this.#peers.get(message.to)?.addr;
      if (addr === undefined)
        throw new ClusterError("not_found", "Cannot send a snapshot: not a member any more");
      const client = connect(addr, "snapshot");
      try {
        await sendSnapshotOnce(client, { clusterId, snapshotId, message, state, signal });
        return;
      } catch (caught) {
        if (tried >= SNAPSHOT_TRIES_MAX || signal.aborted) throw caught;
      } finally {
        client.close();
      }
      await new Promise<void>((resolve) => {
        timers.after(SNAPSHOT_RETRY_MS, resolve);
      });
    }
  }

  stop(): Promise<void> {
    this.#isStopped = true;
    for (const [raftId, peer] of this.#peers) this.#close(raftId, peer);
    this.#incoming.clear();
    this.#handler = undefined;
    return Promise.resolve();
  }

  /** A removed member hears nothing of its removal but the notice that answers its campaign: leave it a way to come. */
  #closeLater(raftId: number, peer: Peer): void {
    if (this.#leaving.has(raftId)) return;
    const cancel = this.#options.timers.after(REMOVED_PEER_MS, () => {
      this.#leaving.delete(raftId);
      this.#close(raftId, peer);
    });
    this.#leaving.set(raftId, cancel);
  }

  #close(raftId: number, peer: Peer): void {
    this.#leaving.get(raftId)?.();
    this.#leaving.delete(raftId);
    peer.stream.stop();
    if (this.#peers.get(raftId) === peer) this.#peers.delete(raftId);
  }

  #openStream(raftId: number, addr: string): PeerStream {
    const { connect, random, timers } = this.#options;
    return new PeerStream({
      connect: () => connect(addr, "messages"),
      timers,
      random,
      onAnswer: (batch) => {
        const isOurs = batch.clusterId === this.#options.clusterId && batch.to === this.#options.raftId;
        if (isOurs && batch.from === raftId) this.#takeAnswer(raftId, batch);
      },
      onUnreachable: () => this.#handler?.onUnreachable(raftId),
      onRefused: () => this.#handler?.onRefused(raftId),
    });
  }

  #takeAnswer(from: number, batch: shoal.v1.IRaftBatch): void {
    try {
      this.#handler?.onMessages(this.#decode(from, batch));
    } catch (caught) {
      this.#options.log.warn("raft message from a peer not understood", { from, error: caught });
    }
  }

  #decode(from: number, batch: shoal.v1.IRaftBatch): readonly Message[] {
    const envelope = { from, to: this.#options.raftId };
    return (batch.messages ?? []).map((wire) => decodeMessage(wire, envelope, this.#encoder));
  }

  /** A snapshot that comes in; of a member other than `speaker` it is refused. Throws permission_denied for a demoted one. */
  serveSnapshot(call: SnapshotStream, speaker?: Speaker): void {
    if (speaker?.isDemoted() === true)
      throw new ClusterError("permission_denied", `Node "${speaker.nodeId}" is no manager any more`);
    this.#receiver.serve(call, (from) => this.#isOf(from, speaker));
  }

  /** Nobody speaks for another member; a number that is not known yet may be that of one that has just joined. */
  #isOf(raftId: number, speaker: Speaker | undefined): boolean {
    return speaker === undefined || (this.#nodeOf.get(raftId) ?? speaker.nodeId) === speaker.nodeId;
  }

  /** The messages of one peer's stream; of a member other than `speaker` they are refused. */
  serveMessages(call: BatchStream, speaker?: Speaker): void {
    let isKnown = false;
    const forget = (): void => {
      for (const [from, each] of this.#incoming) if (each === call) this.#incoming.delete(from);
    };
    for (const over of ["end", "error", "close", "cancelled"]) call.on(over, forget);
    call.sendMetadata(new Metadata());
    call.on("data", (batch: shoal.v1.IRaftBatch) => {
      const from = batch.from ?? 0;
      if (batch.clusterId !== this.#options.clusterId || batch.to !== this.#options.raftId) {
        failStream(call, new ClusterError("failed_precondition", `Raft messages are for member ${batch.to}`));
        return;
      }
      if (!this.#isOf(from, speaker)) {
        this.#options.log.warn("raft message in another member's name", { from, nodeId: speaker?.nodeId });
        failStream(call, new ClusterError("permission_denied", `Raft messages are not from member ${from}`));
        return;
      }
      if (!isKnown) {
        isKnown = true;
        this.#incoming.set(from, call);
        this.#peers.get(from)?.stream.retryNow();
      }
      try {
        const messages = this.#decode(from, batch);
        this.#handler?.onMessages(speaker?.isDemoted() === true ? questionsOf(messages) : messages);
      } catch (caught) {
        this.#options.log.warn("raft message from a peer not understood", { from, error: caught });
        failStream(call, new ClusterError("invalid_argument", "Raft message was not understood"));
      }
    });
    call.on("end", () => call.end());
    // The peer's stream broke; it opens another.
    call.on("error", () => undefined);
  }
}

/** What is left to a demoted manager: to ask for votes, which is how it learns that it was taken out. */
function questionsOf(messages: readonly Message[]): readonly Message[] {
  return messages
    .filter((message) => message.type === "preVote" || message.type === "vote")
    .map((message) => ({ ...message, isTransfer: false }));
}
