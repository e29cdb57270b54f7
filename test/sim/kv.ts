/**
 * The replicated state of the consensus layer's simulation: registers with compare-and-set, and for each client the
 * outcome of its last request, so that a request that is tried again is applied once. Keeps a chain of hashes of all it
 * applied, which members must agree on.
 */
import { createHash } from "node:crypto";
import type { StateEntry } from "../../manager/raft/checkpoint-store.ts";
import type {
  Checkpoint,
  CommittedEntry,
  StateMachine,
  StateSnapshot,
} from "../../manager/raft/replicated-log.ts";

export interface Request {
  readonly client: number;
  readonly sequence: number;
  readonly key: string;
  readonly value: string;
  /** Compare-and-set if given, else a plain write. */
  readonly expected?: string;
}

export const INITIAL_VALUE = "";
const CHAIN_KEY = "chain";

export class KvState implements StateMachine {
  readonly #onApply: (entry: CommittedEntry, chain: string) => void;
  readonly #onRequest: (request: Request, outcome: string) => void;
  #state = new Map<string, string>();
  #changed = new Set<string>();

  constructor(
    onApply: (entry: CommittedEntry, chain: string) => void,
    onRequest: (request: Request, outcome: string) => void,
  ) {
    this.#onApply = onApply;
    this.#onRequest = onRequest;
  }

  get(key: string): string {
    return this.#state.get(`key/${key}`) ?? INITIAL_VALUE;
  }

  get chain(): string {
    return this.#state.get(CHAIN_KEY) ?? "";
  }

  apply(entry: CommittedEntry): string {
    const request = JSON.parse(Buffer.from(entry.payload).toString()) as Request;
    const hash = createHash("md5")
      .update(`${this.chain}|${entry.index}|${entry.term}|`)
      .update(entry.payload);
    this.#put(CHAIN_KEY, hash.digest("base64"));
    this.#onApply(entry, this.chain);
    return this.#applyOnce(request);
  }

  applied(): void {}

  takeCheckpoint(): Checkpoint {
    const puts = [...this.#changed].map((key) => [key, Buffer.from(this.#state.get(key) ?? "")] as const);
    this.#changed = new Set();
    return { puts, removes: [] };
  }

  snapshot(): StateSnapshot {
    const entries = [...this.#state].map(([key, value]): StateEntry => [key, Buffer.from(value)]);
    return { entries: () => entries };
  }

  restore(_index: number, entries: Iterable<StateEntry>): void {
    this.#state = new Map();
    for (const [key, value] of entries) this.#state.set(key, Buffer.from(value).toString());
    this.#changed = new Set();
  }

  /** The whole state as text, the same for equal states. */
  digest(): string {
    const lines = [...this.#state].map(([key, value]) => `${key}=${value}`).sort();
    return createHash("md5").update(lines.join("\n")).digest("base64");
  }

  #applyOnce(request: Request): string {
    const session = this.#state.get(`client/${request.client}`)?.split(" ");
    const last = Number(session?.[0] ?? 0);
    if (last === request.sequence) return session?.[1] ?? "";
    // Its client gave it up and went on: it must not take effect after what followed.
    if (last > request.sequence) return "given up";
    const name = `key/${request.key}`;
    const holds = request.expected === undefined || this.get(request.key) === request.expected;
    if (holds) this.#put(name, request.value);
    const outcome = String(holds);
    this.#put(`client/${request.client}`, `${request.sequence} ${outcome}`);
    this.#onRequest(request, outcome);
    return outcome;
  }

  #put(key: string, value: string): void {
    this.#state.set(key, value);
    this.#changed.add(key);
  }
}
