/**
 * The replicated state of the bench's members: a map of etcd's puts. An entry is a PutRequest, or a TxnRequest whose
 * operations are puts, in the bytes that the client sent. Read by hand, as wire.ts writes them.
 */
import type {
  Checkpoint,
  CommittedEntry,
  StateMachine,
  StateSnapshot,
} from "../../manager/raft/replicated-log.ts";

/** Tags of length-delimited fields: PutRequest.key and value; RequestOp.request_put; TxnRequest.success. */
const KEY_TAG = 0x0a;
const VALUE_TAG = 0x12;
const PUT_TAG = 0x12;
const SUCCESS_TAG = 0x12;

const NOTHING = new Uint8Array(0);

export class KvMap implements StateMachine {
  readonly map: Map<string, Uint8Array> = new Map();
  #changed = new Set<string>();
  /** Where the next byte of the message is read. */
  #at = 0;

  apply(entry: CommittedEntry): number {
    const { buffer, byteLength, byteOffset } = entry.payload;
    const message = Buffer.from(buffer, byteOffset, byteLength);
    this.#at = 0;
    if (message[0] === KEY_TAG) this.#put(message, byteLength);
    else this.#transaction(message);
    return entry.index;
  }

  applied(): void {}

  takeCheckpoint(): Checkpoint {
    const puts = [...this.#changed].map((key) => [key, this.map.get(key) ?? NOTHING] as const);
    this.#changed = new Set();
    return { puts, removes: [] };
  }

  snapshot(): StateSnapshot {
    const copy = [...this.map];
    return { entries: () => copy };
  }

  restore(_index: number, entries: Iterable<readonly [key: string, value: Uint8Array]>): void {
    this.map.clear();
    for (const [key, value] of entries) this.map.set(key, value);
  }

  #transaction(message: Buffer): void {
    while (this.#at < message.byteLength && message[this.#at] === SUCCESS_TAG) {
      this.#at += 1;
      this.#varint(message);
      if (message[this.#at] !== PUT_TAG) return;
      this.#at += 1;
      const length = this.#varint(message);
      this.#put(message, this.#at + length);
    }
  }

  #put(message: Buffer, end: number): void {
    let key = "";
    let value: Uint8Array = NOTHING;
    while (this.#at < end) {
      const tag = message[this.#at];
      this.#at += 1;
      const length = this.#varint(message);
      const start = this.#at;
      this.#at += length;
      if (tag === KEY_TAG) key = message.toString("latin1", start, this.#at);
      else if (tag === VALUE_TAG) value = message.subarray(start, this.#at);
    }
    this.map.set(key, value);
    this.#changed.add(key);
  }

  #varint(message: Buffer): number {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = message[this.#at] ?? 0;
      this.#at += 1;
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  }
}
