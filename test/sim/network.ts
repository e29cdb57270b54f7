/**
 * The network of a simulated cluster: loss, duplication, delay (hence reordering), cut links in one or both directions,
 * and what a dead process shows to others: refused connections. Every message passes the checks on its way out.
 */
import type { StateEntry } from "../../manager/raft/checkpoint-store.ts";
import type { Message, SnapshotMessage } from "../../manager/raft/core/messages.ts";
import type { Member, StateSnapshot } from "../../manager/raft/replicated-log.ts";
import type { RaftTransport, TransportHandler } from "../../manager/raft/transport.ts";
import { ClusterError } from "../../common/errors.ts";
import type { World } from "./world.ts";

export interface NetworkFaults {
  lossRate: number;
  duplicateRate: number;
  minDelayMs: number;
  meanDelayMs: number;
  /** What arrives at a member within so long comes as one piece, as from a busy socket; 0: each by itself. */
  chunkMs: number;
}

export class Network {
  readonly faults: NetworkFaults = {
    lossRate: 0,
    duplicateRate: 0,
    minDelayMs: 0.2,
    meanDelayMs: 0.5,
    chunkMs: 0,
  };
  readonly #world: World;
  readonly #onSend: (message: Message) => void;
  readonly #transports = new Map<number, SimTransport>();
  /** "from>to". */
  readonly #cut = new Set<string>();
  readonly #slow = new Map<string, number>();
  readonly #chunks = new Map<number, Message[]>();

  constructor(world: World, onSend: (message: Message) => void) {
    this.#world = world;
    this.#onSend = onSend;
  }

  connect(raftId: number): SimTransport {
    const transport = new SimTransport(this, raftId);
    this.#transports.set(raftId, transport);
    return transport;
  }

  /** The process died: its peers find the connection refused, most of the time at once. */
  disconnect(raftId: number): void {
    const gone = this.#transports.get(raftId);
    this.#transports.delete(raftId);
    for (const [other, transport] of this.#transports) {
      if (!this.isOpen(other, raftId)) continue;
      this.#world.after(this.delayMs(), () => {
        transport.handler?.onUnreachable(raftId);
        if (this.#transports.get(raftId) === undefined && gone !== undefined)
          transport.handler?.onRefused(raftId);
      });
    }
  }

  /** A refusal that says nothing: a proxy, a full backlog. Must be harmless. */
  refuseFalsely(from: number, to: number): void {
    this.#transports.get(from)?.handler?.onRefused(to);
  }

  cut(from: number, to: number): void {
    this.#cut.add(`${from}>${to}`);
  }

  slow(from: number, to: number, delayMs: number): void {
    this.#slow.set(`${from}>${to}`, delayMs);
  }

  heal(): void {
    this.#cut.clear();
    this.#slow.clear();
  }

  isOpen(from: number, to: number): boolean {
    return this.#cut.size === 0 || !this.#cut.has(`${from}>${to}`);
  }

  delayMs(): number {
    const { meanDelayMs, minDelayMs } = this.faults;
    return minDelayMs - Math.log(1 - this.#world.random.float()) * meanDelayMs;
  }

  deliver(messages: readonly Message[]): void {
    for (const message of messages) {
      this.#onSend(message);
      const { random } = this.#world;
      const copies = random.float() < this.faults.duplicateRate ? 2 : 1;
      for (let copy = 0; copy < copies; copy += 1) {
        if (random.float() < this.faults.lossRate || !this.isOpen(message.from, message.to)) continue;
        const extraMs = this.#slow.size === 0 ? 0 : (this.#slow.get(`${message.from}>${message.to}`) ?? 0);
        this.#world.post(this.delayMs() + extraMs, () => {
          if (this.isOpen(message.from, message.to)) this.#arrive(message);
        });
      }
    }
  }

  #arrive(message: Message): void {
    const { chunkMs } = this.faults;
    if (chunkMs === 0) {
      this.#transports.get(message.to)?.receive([message]);
      return;
    }
    const chunk = this.#chunks.get(message.to);
    if (chunk !== undefined) {
      chunk.push(message);
      return;
    }
    const begun = [message];
    this.#chunks.set(message.to, begun);
    this.#world.after(chunkMs, () => {
      this.#chunks.delete(message.to);
      this.#transports.get(message.to)?.receive(begun);
    });
  }

  /** Rejects if the link is cut, the receiver dies or chance wills it. */
  snapshot(message: SnapshotMessage, entries: readonly StateEntry[], signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const broken = (): void => reject(new ClusterError("unavailable", "The snapshot broke off"));
      const takesMs = this.delayMs() * 4 + entries.length * 0.05;
      this.#world.after(takesMs, () => {
        const receiver = this.#transports.get(message.to);
        const isLost = this.#world.random.float() < this.faults.lossRate * 2;
        if (signal.aborted || isLost || receiver === undefined || !this.isOpen(message.from, message.to)) {
          broken();
          return;
        }
        // The receiver may die while it installs: then nobody ever answers, and the sender's connection breaks.
        const check = (): void => {
          if (this.#transports.get(message.to) !== receiver) broken();
          else this.#world.after(1_000, check);
        };
        this.#world.after(1_000, check);
        receiver.receiveSnapshot(message, entries).then(resolve, broken);
      });
    });
  }
}

/** One member's end. */
export class SimTransport implements RaftTransport {
  readonly #network: Network;
  readonly #raftId: number;
  handler: TransportHandler | undefined;
  /** Messages wait while the process is paused. */
  isPaused = false;
  #waiting: Message[] = [];
  /** Whom this end has an address of, or is spoken to by: nobody else can be sent anything, as over gRPC. */
  readonly #reachable = new Set<number>();

  constructor(network: Network, raftId: number) {
    this.#network = network;
    this.#raftId = raftId;
  }

  start(handler: TransportHandler): void {
    this.handler = handler;
  }

  setPeers(members: readonly Member[]): void {
    for (const { raftId } of members) if (raftId !== this.#raftId) this.#reachable.add(raftId);
  }

  send(messages: readonly Message[]): void {
    this.#network.deliver(messages.filter((message) => this.#reachable.has(message.to)));
  }

  sendSnapshot(message: SnapshotMessage, state: StateSnapshot, signal: AbortSignal): Promise<void> {
    return this.#network.snapshot(message, [...state.entries()], signal);
  }

  stop(): Promise<void> {
    this.handler = undefined;
    return Promise.resolve();
  }

  receive(messages: readonly Message[]): void {
    for (const { from } of messages) this.#reachable.add(from);
    if (this.isPaused) this.#waiting.push(...messages);
    else this.handler?.onMessages(messages);
  }

  receiveSnapshot(message: SnapshotMessage, entries: readonly StateEntry[]): Promise<void> {
    if (this.handler === undefined) return Promise.reject(new ClusterError("unavailable", "No receiver"));
    return this.handler.onSnapshot(message, entries);
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
    const waiting = this.#waiting;
    this.#waiting = [];
    if (waiting.length > 0) this.handler?.onMessages(waiting);
  }
}
