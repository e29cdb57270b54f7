/**
 * How members reach each other, as node.ts needs it. grpc-transport.ts does it over gRPC streams, the simulator over a
 * seeded network. Messages may be lost, repeated and reordered; Raft doesn't mind.
 */
import type { StateEntry } from "./checkpoint-store.ts";
import type { Message, SnapshotMessage } from "./core/messages.ts";
import type { Member, StateSnapshot } from "./replicated-log.ts";

export interface TransportHandler {
  onMessages(messages: readonly Message[]): void;
  /** What was sent lately to this member may be lost. */
  onUnreachable(raftId: number): void;
  /** The connection broke and nothing listens at its address: it is dead, not slow. */
  onRefused(raftId: number): void;
  /** A whole state arrived. Resolves when it is installed and durable, or was not needed. */
  onSnapshot(message: SnapshotMessage, entries: readonly StateEntry[]): Promise<void>;
}

export interface RaftTransport {
  start(handler: TransportHandler): void;
  /** Whom to reach; called at each change of the configuration. This member itself may be among them. */
  setPeers(members: readonly Member[]): void;
  /** Sends without waiting; drops what can't be sent. */
  send(messages: readonly Message[]): void;
  /** Sends a whole state on a connection of its own. Resolves when the receiver has it durable. */
  sendSnapshot(message: SnapshotMessage, state: StateSnapshot, signal: AbortSignal): Promise<void>;
  stop(): Promise<void>;
}
