/**
 * Model clients: each does one operation after the other on random keys through random members, follows redirections,
 * tries again with the same number where that is safe, and writes down what it saw for the linearizability check.
 */
import { hasCode } from "../../common/errors.ts";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import { INITIAL_VALUE, type KvState, type Request } from "./kv.ts";
import { checkRegister, type Operation, type RegisterCall } from "./linearizable.ts";
import type { Machine } from "./machine.ts";
import { Violation, type World } from "./world.ts";

/** How long a client waits for one answer, and for an operation with all its tries. */
const ANSWER_MS = 2_000;
const OPERATION_MS = 8_000;

interface Recorded {
  readonly request: Request | undefined;
  readonly key: string;
  readonly call: RegisterCall;
  readonly callMs: number;
  returnMs: number;
  outcome: string | undefined;
}

type Answer = { readonly kind: "done"; readonly outcome: string } | { readonly kind: "notDone" | "unknown" };

export interface ClientsOptions {
  readonly world: World;
  readonly machines: () => readonly Machine[];
  readonly clientCount: number;
  readonly keyCount: number;
  /** Mean pause between two operations of a client. */
  readonly thinkMs: number;
}

export class Clients {
  readonly #options: ClientsOptions;
  readonly #random: SeededRandom;
  readonly #history: Recorded[] = [];
  /** When a request first took effect anywhere, and how: settles operations whose answer was lost. */
  readonly #effects = new Map<string, { readonly atMs: number; readonly outcome: string }>();
  readonly #seen = new Map<string, string>();
  #isStopped = false;
  #isPaused = false;
  #doneCount = 0;
  #active = 0;

  constructor(options: ClientsOptions) {
    this.#options = options;
    this.#random = options.world.random.fork();
  }

  /** Operations with a known outcome. */
  get doneCount(): number {
    return this.#doneCount;
  }

  get isIdle(): boolean {
    return this.#active === 0;
  }

  start(): void {
    for (let client = 1; client <= this.#options.clientCount; client += 1) {
      this.#live(client).catch((caught: unknown) => this.#options.world.fail(caught));
    }
  }

  stop(): void {
    this.#isStopped = true;
  }

  /** While paused they give up what is under way and begin nothing. */
  setPaused(isPaused: boolean): void {
    this.#isPaused = isPaused;
  }

  /** Called for each request that took effect on any member; only the first matters. */
  effect(request: Request, outcome: string): void {
    const id = `${request.client}/${request.sequence}`;
    const known = this.#effects.get(id);
    if (known === undefined) this.#effects.set(id, { atMs: this.#options.world.nowMs, outcome });
    else if (known.outcome !== outcome) throw new Violation("O4", `request ${id} has two outcomes`);
  }

  /** O5, O6, O7: every key's history is that of one register. */
  check(): { readonly operations: number; readonly undecided: number } {
    const byKey = new Map<string, Operation[]>();
    for (const each of this.#history) {
      const operation = this.#settle(each);
      if (operation === undefined) continue;
      const list = byKey.get(each.key) ?? [];
      list.push(operation);
      byKey.set(each.key, list);
    }
    let undecided = 0;
    for (const [key, operations] of byKey) {
      const verdict = checkRegister(operations, INITIAL_VALUE);
      if (verdict === "undecided") undecided += 1;
      if (verdict === "not linearizable") {
        throw new Violation(
          "O5",
          `the history of key "${key}" (${operations.length} operations) is not linearizable`,
        );
      }
    }
    return { operations: this.#history.length, undecided };
  }

  #settle(each: Recorded): Operation | undefined {
    const { call, callMs, outcome, request, returnMs } = each;
    if (outcome !== undefined) return { call, callMs, returnMs, outcome };
    if (request === undefined) return undefined;
    const effect = this.#effects.get(`${request.client}/${request.sequence}`);
    return effect === undefined
      ? undefined
      : { call, callMs, returnMs: effect.atMs, outcome: effect.outcome };
  }

  async #live(client: number): Promise<void> {
    let sequence = 0;
    while (!this.#isStopped) {
      await this.#sleep(-Math.log(1 - this.#random.float()) * this.#options.thinkMs);
      if (this.#isStopped) return;
      if (this.#isPaused) continue;
      sequence += 1;
      this.#active += 1;
      await this.#operate(client, sequence);
      this.#active -= 1;
    }
  }

  async #operate(client: number, sequence: number): Promise<void> {
    const { world, keyCount } = this.#options;
    const key = `k${this.#random.below(keyCount)}`;
    const dice = this.#random.float();
    const value = `${client}.${sequence}`;
    const expected = this.#seen.get(key) ?? INITIAL_VALUE;
    const request: Request | undefined =
      dice < 0.35 ? undefined : { client, sequence, key, value, ...(dice < 0.65 ? { expected } : {}) };
    const call: RegisterCall =
      request === undefined
        ? { kind: "read" }
        : request.expected === undefined
          ? { kind: "write", value }
          : { kind: "cas", expected, value };
    const recorded: Recorded = {
      request,
      key,
      call,
      callMs: world.nowMs,
      returnMs: Infinity,
      outcome: undefined,
    };
    this.#history.push(recorded);
    const deadlineMs = world.nowMs + OPERATION_MS;
    let hint = 0;
    while (world.nowMs < deadlineMs && !this.#isStopped && !this.#isPaused) {
      const machine = this.#choose(hint);
      const answer = machine === undefined ? undefined : await this.#ask(machine, key, request);
      if (answer?.kind === "done") {
        recorded.outcome = answer.outcome;
        recorded.returnMs = world.nowMs;
        this.#doneCount += 1;
        if (call.kind === "read") this.#seen.set(key, answer.outcome);
        else if (answer.outcome === "true") this.#seen.set(key, value);
        return;
      }
      // Half of the clients don't try again when they don't know: both ways must be safe.
      if (answer?.kind === "unknown" && request !== undefined && this.#random.float() < 0.3) return;
      hint = this.#random.float() < 0.7 ? (machine?.node?.leader ?? 0) : 0;
      await this.#sleep(20 + this.#random.float() * 100);
    }
  }

  #choose(hint: number): Machine | undefined {
    const running = this.#options.machines().filter((machine) => machine.node !== undefined);
    return running.find((machine) => machine.raftId === hint) ?? running[this.#random.below(running.length)];
  }

  async #ask(machine: Machine, key: string, request: Request | undefined): Promise<Answer> {
    const { node } = machine;
    const state = machine.state as KvState | undefined;
    if (node === undefined || state === undefined || machine.isPaused) return { kind: "notDone" };
    const asked =
      request === undefined
        ? node.readBarrier().then(() => state.get(key))
        : node.propose(Buffer.from(JSON.stringify(request))).then(String);
    const answered = asked.then(
      (outcome): Answer => ({ kind: "done", outcome }),
      (caught: unknown): Answer => {
        if (!hasCode(caught, "unavailable", "resource_exhausted", "cancelled")) throw caught;
        const isRefused = caught.notLeader !== undefined || caught.code === "resource_exhausted";
        return { kind: isRefused ? "notDone" : "unknown" };
      },
    );
    const late = this.#sleep(ANSWER_MS).then((): Answer => ({ kind: "unknown" }));
    return Promise.race([answered, late]);
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.world.after(ms, resolve);
    });
  }
}
