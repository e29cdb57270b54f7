/**
 * Registers kept in a real cluster, the clients that use them through every manager, and what may be said of the history
 * in the end. A register is a config object whose label holds the ids of all writes so far; a write is a compare-and-set
 * on the object's version that appends its own id. So every read shows the whole past of its register, and a write whose
 * answer was lost is settled by whether its id is there in the end.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";
import { checkRegister, type Operation } from "../sim/linearizable.ts";
import { requestOnce } from "./requests.ts";

const LABEL = "writes";
/** Then a client's register is given up for a new one: the search for an order grows with the length of a history. */
const WRITES_PER_REGISTER = 40;
/** Registers that are in use at the same time: few, so that clients meet. */
const OPEN_REGISTERS = 4;
const READ_SHARE = 0.5;
/** Mean pause of a client between two operations, and after one that reached nobody, ms. */
const THINK_MS = 20;
const REFUSED_MS = 100;
/** Managers try a write that they could not place for 15 s (manager/limits.ts): after that nothing happens late any more. */
const LATE_MS = 16_000;
const STALE = /out of sequence/;

export interface Door {
  readonly name: string;
  readonly socketPath: string;
}

interface Seen {
  readonly id: string;
  readonly version: number;
  readonly writes: readonly string[];
}

interface Recorded {
  readonly kind: "create" | "append" | "read";
  readonly door: string;
  readonly callMs: number;
  returnMs: number;
  /** Id of the write; "" for reads. */
  readonly write: string;
  /** append: the list it was made for. read: the list it saw. */
  list: readonly string[] | undefined;
  outcome: "done" | "stale" | "refused" | "unknown";
  why: string;
}

interface Register {
  readonly name: string;
  readonly history: Recorded[];
  seen: Seen | undefined;
  appendCount: number;
}

export interface HistoryReport {
  readonly registers: number;
  readonly ok: number;
  readonly reads: number;
  readonly writes: number;
  /** Compare-and-sets that lost to another client: an answer like any other. */
  readonly stale: number;
  readonly refused: number;
  readonly unknown: number;
  /** Unknown ones that turned out to have taken effect. */
  readonly unknownApplied: number;
  readonly lost: readonly string[];
  readonly notLinearizable: readonly string[];
  readonly undecided: readonly string[];
  /** What happened to the registers that are in one of the three lists, one line for each operation. */
  readonly stories: readonly string[];
  readonly reasons: ReadonlyMap<string, number>;
  readonly slowestMs: number;
}

interface ConfigAnswer {
  readonly ID: string;
  readonly Version: { readonly Index: number };
  readonly Spec: { readonly Labels?: Readonly<Record<string, string>> | null };
}

function writesOf(config: ConfigAnswer): readonly string[] {
  const text = config.Spec.Labels?.[LABEL] ?? "";
  return text === "" ? [] : text.split(" ");
}

function isConfig(body: unknown): body is ConfigAnswer {
  return typeof body === "object" && body !== null && "ID" in body && "Version" in body && "Spec" in body;
}

function spec(name: string, writes: readonly string[]): object {
  return { Name: name, Data: Buffer.from(name).toString("base64"), Labels: { [LABEL]: writes.join(" ") } };
}

export class Registers {
  readonly #doors: readonly Door[];
  readonly #random: SeededRandom;
  readonly #registers: Register[] = [];
  readonly #open: (Register | undefined)[];
  readonly #epoch: number;
  readonly #reasons = new Map<string, number>();
  #clients: Promise<void>[] = [];
  #isStopping = false;
  #okCount = 0;
  #created = 0;

  constructor(doors: readonly Door[], random: SeededRandom) {
    this.#doors = doors;
    this.#random = random;
    this.#open = Array.from({ length: OPEN_REGISTERS }, () => undefined);
    this.#epoch = performance.now();
  }

  /** Until when a write whose answer is unknown may still take effect, in time of performance.now(). */
  get settledAtMs(): number {
    const unknown = this.#registers
      .flatMap((register) => register.history)
      .filter((each) => each.outcome === "unknown" && each.kind !== "read");
    return this.#epoch + Math.max(0, ...unknown.map((each) => each.callMs + LATE_MS));
  }

  /** Operations answered so far. */
  get okCount(): number {
    return this.#okCount;
  }

  start(clientCount: number): void {
    this.#clients = Array.from({ length: clientCount }, (_, index) => this.#live(index + 1));
  }

  /** Resolves when the last operation under way has ended. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#clients);
  }

  /** Reads every register once more through every manager, and judges. The cluster must be whole. */
  async check(): Promise<HistoryReport> {
    const lost: string[] = [];
    const notLinearizable: string[] = [];
    const undecided: string[] = [];
    const stories: string[] = [];
    let unknownApplied = 0;
    for (const register of this.#registers) {
      const before = lost.length + notLinearizable.length + undecided.length;
      const finals = await Promise.all(this.#doors.map((door) => this.#final(register, door)));
      const last = finals[0];
      if (last === undefined) {
        if (register.history.some((each) => each.kind === "create" && each.outcome === "done"))
          lost.push(`${register.name}: the register itself is gone`);
        continue;
      }
      if (finals.some((each) => each?.join() !== last.join()))
        notLinearizable.push(`${register.name}: managers differ in the end`);
      const applied = new Set(last);
      for (const each of register.history) {
        if (each.kind === "append" && each.outcome === "done" && !applied.has(each.write))
          lost.push(`${register.name}: ${each.write} through ${each.door}`);
        if (each.outcome === "unknown" && applied.has(each.write)) unknownApplied += 1;
      }
      const problem = this.#judge(register, last);
      if (problem === "undecided") undecided.push(register.name);
      else if (problem !== undefined) notLinearizable.push(`${register.name}: ${problem}`);
      if (lost.length + notLinearizable.length + undecided.length > before)
        stories.push(`${register.name}, in the end: ${last.join(" ")}`, ...register.history.map(storyOf));
    }
    const all = this.#registers.flatMap((register) => register.history);
    const count = (test: (each: Recorded) => boolean): number => all.filter(test).length;
    return {
      registers: this.#registers.length,
      ok: count((each) => each.outcome === "done" || each.outcome === "stale"),
      reads: count((each) => each.kind === "read" && each.outcome === "done"),
      writes: count((each) => each.kind !== "read" && each.outcome === "done"),
      stale: count((each) => each.outcome === "stale"),
      refused: count((each) => each.outcome === "refused"),
      unknown: count((each) => each.outcome === "unknown"),
      unknownApplied,
      lost,
      notLinearizable,
      undecided,
      stories,
      reasons: this.#reasons,
      slowestMs: Math.max(0, ...all.map((each) => each.returnMs - each.callMs)),
    };
  }

  /** Undefined if the register's history is that of one register. `final`: what it holds in the end. */
  #judge(register: Register, final: readonly string[]): string | undefined {
    const operations: Operation[] = [];
    const position = new Map(final.map((write, index) => [write, index]));
    if (position.size !== final.length) return "a write took effect twice";
    // The value of the register is the last write in it, which tells all the others.
    const valueAt = (list: readonly string[]): string => list.at(-1) ?? "";
    for (const each of register.history) {
      const { callMs, returnMs, write } = each;
      const isKnown = each.outcome === "done";
      if (each.kind === "read") {
        if (!isKnown || each.list === undefined) continue;
        if (each.list.some((id, index) => final[index] !== id)) return `a read saw ${each.list.join(" ")}`;
        operations.push({ call: { kind: "read" }, callMs, returnMs, outcome: valueAt(each.list) });
        continue;
      }
      if (each.kind === "create" || each.list === undefined) continue;
      const isApplied = position.has(write);
      const call = { kind: "cas", expected: valueAt(each.list), value: write } as const;
      if (each.outcome === "stale") {
        if (isApplied) return `${write} was refused as stale and took effect`;
        operations.push({ call, callMs, returnMs, outcome: "false" });
      } else if (isApplied) {
        operations.push({ call, callMs, returnMs: isKnown ? returnMs : Infinity, outcome: "true" });
      } else if (each.outcome === "refused" || each.outcome === "unknown") continue;
      else return `${write} was acknowledged and is not there`;
    }
    const verdict = checkRegister(operations, "");
    return verdict === "linearizable" ? undefined : verdict;
  }

  async #final(register: Register, door: Door): Promise<readonly string[] | undefined> {
    for (;;) {
      const reply = await requestOnce(door.socketPath, "GET", `/configs/${register.name}`);
      if (reply.kind === "answered" && reply.status === 404) return undefined;
      if (reply.kind === "answered" && isConfig(reply.body)) return writesOf(reply.body);
      await sleep(100);
    }
  }

  async #live(client: number): Promise<void> {
    for (let sequence = 1; !this.#isStopping; sequence += 1) {
      const place = this.#random.below(OPEN_REGISTERS);
      const register = this.#open[place];
      const door = this.#doors[this.#random.below(this.#doors.length)];
      if (door === undefined) return;
      const recorded = await this.#operate({ register, place, door, write: `${client}.${sequence}` });
      const isRefused = recorded.outcome === "refused";
      await sleep(this.#random.float() * 2 * (isRefused ? REFUSED_MS : THINK_MS));
    }
  }

  #operate(next: {
    readonly register: Register | undefined;
    readonly place: number;
    readonly door: Door;
    readonly write: string;
  }): Promise<Recorded> {
    const { register, place, door, write } = next;
    if (register === undefined || register.appendCount >= WRITES_PER_REGISTER)
      return this.#create(place, door);
    const { seen } = register;
    if (seen === undefined || this.#random.float() < READ_SHARE) return this.#read(register, door);
    return this.#append(register, seen, { door, write });
  }

  #begin(register: Register, kind: Recorded["kind"], door: Door, write: string): Recorded {
    const recorded: Recorded = {
      kind,
      door: door.name,
      callMs: performance.now() - this.#epoch,
      returnMs: Infinity,
      write,
      list: undefined,
      outcome: "unknown",
      why: "",
    };
    register.history.push(recorded);
    return recorded;
  }

  #end(recorded: Recorded, outcome: Recorded["outcome"], why = ""): Recorded {
    recorded.outcome = outcome;
    recorded.returnMs = performance.now() - this.#epoch;
    recorded.why = why;
    if (outcome === "done" || outcome === "stale") {
      this.#okCount += 1;
    } else {
      const reason = `${recorded.kind}: ${why}`;
      this.#reasons.set(reason, (this.#reasons.get(reason) ?? 0) + 1);
    }
    return recorded;
  }

  async #create(place: number, door: Door): Promise<Recorded> {
    this.#created += 1;
    const name = `register-${this.#created}`;
    const register: Register = { name, history: [], seen: undefined, appendCount: 0 };
    this.#open[place] = register;
    this.#registers.push(register);
    const recorded = this.#begin(register, "create", door, name);
    const reply = await requestOnce(door.socketPath, "POST", "/configs/create", spec(name, []));
    if (reply.kind !== "answered") return this.#end(recorded, reply.kind, reply.why);
    if (reply.status === 201) return this.#end(recorded, "done");
    return this.#end(recorded, "unknown", `${reply.status} ${messageOf(reply.body)}`);
  }

  async #read(register: Register, door: Door): Promise<Recorded> {
    const recorded = this.#begin(register, "read", door, "");
    const reply = await requestOnce(door.socketPath, "GET", `/configs/${register.name}`);
    if (reply.kind !== "answered") return this.#end(recorded, reply.kind, reply.why);
    if (reply.status === 200 && isConfig(reply.body)) {
      const writes = writesOf(reply.body);
      recorded.list = writes;
      register.seen = { id: reply.body.ID, version: reply.body.Version.Index, writes };
      return this.#end(recorded, "done");
    }
    // Its creation may not have taken effect: then there is no such register, and the next client makes another.
    if (reply.status === 404) {
      const isCreated = register.history.some(
        (each) => each.kind === "create" && each.outcome === "done" && each.returnMs < recorded.callMs,
      );
      if (isCreated) recorded.list = ["(not found)"];
      else register.appendCount = WRITES_PER_REGISTER;
      return this.#end(recorded, "done");
    }
    return this.#end(recorded, "unknown", `${reply.status} ${messageOf(reply.body)}`);
  }

  async #append(
    register: Register,
    seen: Seen,
    { door, write }: { readonly door: Door; readonly write: string },
  ): Promise<Recorded> {
    const recorded = this.#begin(register, "append", door, write);
    recorded.list = seen.writes;
    register.appendCount += 1;
    const reply = await requestOnce(
      door.socketPath,
      "POST",
      `/configs/${seen.id}/update?version=${seen.version}`,
      spec(register.name, [...seen.writes, write]),
    );
    if (reply.kind !== "answered") return this.#end(recorded, reply.kind, reply.why);
    if (reply.status === 200) return this.#end(recorded, "done");
    const message = messageOf(reply.body);
    return this.#end(recorded, STALE.test(message) ? "stale" : "unknown", `${reply.status} ${message}`);
  }
}

function storyOf(each: Recorded): string {
  const list = each.list === undefined ? "" : ` [${each.list.join(" ")}]`;
  const what = `${each.kind} ${each.write}${list} through ${each.door}`;
  return `  ${each.callMs.toFixed(1)} to ${each.returnMs.toFixed(1)} ms: ${what}: ${each.outcome} ${each.why}`;
}

function messageOf(body: unknown): string {
  const text =
    typeof body === "object" && body !== null && "message" in body ? String(body.message) : String(body);
  // Ids differ from one to the next; the sentence counts.
  return text.replaceAll(/[0-9a-z]{25}|register-\d+/g, "*").slice(0, 120);
}
