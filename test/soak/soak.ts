/**
 * The soak: containers are made, run, stopped and removed, several at a time, while the daemon is killed again and
 * again. Each container writes numbered lines and ends with a code that is known before; afterwards every line and
 * every code must have been told, and nothing of any container may be left on the machine.
 */
import * as fs from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { busyboxTar } from "../../bench/test-image.ts";
import { leftovers, snapshot } from "./leftovers.ts";
import { type Answer, SoakDaemon } from "./soak-daemon.ts";

const POLL_MS = 50;
const LINE_COUNT = 60;
/** A container that has not ended by then is lost. */
const END_TIMEOUT_MS = 120_000;

export interface SoakOptions {
  readonly root: string;
  readonly cycles: number;
  readonly parallel: number;
  /** Pause between two kills of the daemon. */
  readonly killEveryMs: number;
  /** Ends the soak early with fewer cycles. */
  readonly isStopped: () => boolean;
  readonly say: (text: string) => void;
}

export interface SoakResult {
  readonly cycles: number;
  readonly kills: number;
  readonly lines: number;
  /** Requests that were sent again because the daemon was away. */
  readonly retries: number;
  /** What was lost, by cycle. */
  readonly losses: readonly string[];
  /** What is on the machine and was not before. */
  readonly left: readonly string[];
}

/** A number below `count` that the cycle's number decides. */
function spread(cycle: number, count: number): number {
  return (Math.imul(cycle + 1, 2_654_435_761) >>> 0) % count;
}

interface ContainerState {
  readonly Status: string;
  readonly ExitCode: number;
  readonly Error: string;
  readonly StartedAt: string;
}

type Kind = "short" | "stopped" | "networked" | "again";
const KINDS: readonly Kind[] = ["short", "stopped", "networked", "short", "stopped", "again"];

class Cycle {
  readonly #daemon: SoakDaemon;
  readonly #number: number;
  readonly #kind: Kind;
  readonly #name: string;
  readonly #exitCode: number;
  retries = 0;
  lines = 0;

  constructor(daemon: SoakDaemon, number: number) {
    this.#daemon = daemon;
    this.#number = number;
    this.#kind = KINDS[number % KINDS.length] ?? "short";
    this.#name = `soak-${number}`;
    this.#exitCode = 1 + (number % 100);
  }

  async #call(method: string, target: string, allowed: readonly number[], body?: object): Promise<Answer> {
    const answer = await this.#daemon.call(method, target, body);
    this.retries += answer.retries;
    if (!allowed.includes(answer.status))
      throw new Error(`${method} ${target}: ${answer.status} ${answer.body.toString().trim()}`);
    return answer;
  }

  get #script(): string {
    const count = `i=0; while [ $i -lt ${LINE_COUNT} ]; do echo "${this.#name} $i"; i=$((i+1)); done`;
    if (this.#kind !== "stopped") return `${count}; exit ${this.#exitCode}`;
    // Goes on until it is asked to end, and says then how far it came.
    return `trap 'echo "${this.#name} end $i"; exit ${this.#exitCode}' TERM; i=0; while :; do echo "${this.#name} $i"; i=$((i+1)); sleep 0.02; done`;
  }

  /** Rejects with what was lost. */
  async run(): Promise<void> {
    const isNetworked = this.#kind === "networked";
    await this.#call("POST", `/containers/create?name=${this.#name}`, [201, 409], {
      Image: "soak:1",
      Cmd: ["sh", "-c", this.#script],
      Volumes: isNetworked ? { "/vol": {} } : {},
      HostConfig: { NetworkMode: isNetworked ? "bridge" : "none" },
    });
    const runs = this.#kind === "again" ? 2 : 1;
    for (let run = 0; run < runs; run++) {
      await this.#start(run);
      if (this.#kind === "stopped") {
        await sleep(50 + spread(this.#number, 2500));
        await this.#call("POST", `/containers/${this.#name}/stop?t=60`, [204, 304]);
      }
      await this.#ended();
    }
    await this.#checkLogs(runs);
    await this.#call("DELETE", `/containers/${this.#name}?v=1&force=1`, [204, 404, 409]);
    await this.#gone();
  }

  /** A start that was lost on its way is asked for again; one that had come through must not run twice. */
  async #start(run: number): Promise<void> {
    const before = await this.#state();
    const answer = await this.#daemon.call("POST", `/containers/${this.#name}/start`);
    this.retries += answer.retries;
    if (answer.status !== 204 && answer.status !== 304)
      throw new Error(`start: ${answer.status} ${answer.body.toString().trim()}`);
    // The first attempt may have run to its end while the answer was lost, and the second have started it again.
    const after = await this.#state();
    if (answer.retries > 0 && after.StartedAt === before.StartedAt)
      throw new Error(`run ${run}: started, but the start is not on record`);
    if (answer.retries > 0) this.#mayHaveRunTwice = true;
  }
  #mayHaveRunTwice = false;

  async #state(): Promise<ContainerState> {
    const answer = await this.#call("GET", `/containers/${this.#name}/json`, [200]);
    return (JSON.parse(answer.body.toString()) as { readonly State: ContainerState }).State;
  }

  async #ended(): Promise<void> {
    const deadline = performance.now() + END_TIMEOUT_MS;
    for (;;) {
      const state = await this.#state();
      if (state.Status === "exited") {
        if (state.ExitCode !== this.#exitCode)
          throw new Error(`exit code ${state.ExitCode} instead of ${this.#exitCode}; error "${state.Error}"`);
        return;
      }
      if (performance.now() > deadline) throw new Error(`still ${state.Status} after ${END_TIMEOUT_MS} ms`);
      await sleep(POLL_MS);
    }
  }

  async #checkLogs(runs: number): Promise<void> {
    const answer = await this.#call("GET", `/containers/${this.#name}/logs?stdout=1&stderr=1`, [200]);
    const lines = frames(answer.body).toString().split("\n").slice(0, -1);
    this.lines = lines.length;
    const bodies = lines.map((line) => line.replace(`${this.#name} `, ""));
    if (this.#kind === "stopped") {
      const end = Number(/^end (\d+)$/.exec(bodies.at(-1) ?? "")?.[1] ?? "-1");
      // The trap may come between the echo and the count.
      const written = bodies.slice(0, -1);
      const isWhole = written.every((text, index) => text === String(index));
      if (!isWhole || written.length < end || written.length > end + 1)
        throw new Error(
          `log has ${written.length} lines, the end says ${end}: ${bodies.slice(-3).join(", ")}`,
        );
      return;
    }
    const isNumbered = bodies.every((text, index) => text === String(index % LINE_COUNT));
    const counts = [runs * LINE_COUNT, ...(this.#mayHaveRunTwice ? [(runs + 1) * LINE_COUNT] : [])];
    if (!isNumbered || !counts.includes(bodies.length))
      throw new Error(`log has ${bodies.length} lines of ${runs * LINE_COUNT}`);
  }

  async #gone(): Promise<void> {
    const deadline = performance.now() + END_TIMEOUT_MS;
    while ((await this.#call("GET", `/containers/${this.#name}/json`, [200, 404])).status !== 404) {
      if (performance.now() > deadline) throw new Error("still there after its removal");
      await sleep(POLL_MS);
      await this.#call("DELETE", `/containers/${this.#name}?v=1&force=1`, [204, 404, 409]);
    }
  }
}

/** Output without the eight bytes before each frame. */
function frames(body: Buffer): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; at + 8 <= body.length;) {
    const length = body.readUInt32BE(at + 4);
    pieces.push(body.subarray(at + 8, at + 8 + length));
    at += 8 + length;
  }
  return Buffer.concat(pieces);
}

export async function runSoak(options: SoakOptions): Promise<SoakResult> {
  const { root, cycles, parallel, killEveryMs, isStopped, say } = options;
  await fs.mkdir(root, { recursive: true });
  const daemon = await SoakDaemon.open(root);
  const losses: string[] = [];
  const total = { cycles: 0, kills: 0, lines: 0, retries: 0 };
  try {
    daemon.start();
    await daemon.call("POST", "/images/create?fromSrc=-&repo=soak&tag=1", busyboxTar());
    // One of each kind first: what the daemon makes once and keeps is there before the count.
    for (let kind = 0; kind < KINDS.length; kind++) await new Cycle(daemon, kind).run();
    const before = await snapshot(daemon);
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < cycles && !isStopped()) {
        const number = KINDS.length + next++;
        const cycle = new Cycle(daemon, number);
        await cycle.run().catch((caught: unknown) => {
          const text = `cycle ${number}: ${caught instanceof Error ? caught.message : String(caught)}`;
          losses.push(text);
          say(text);
        });
        total.cycles++;
        total.lines += cycle.lines;
        total.retries += cycle.retries;
        if (total.cycles % 250 === 0)
          say(`${total.cycles} cycles, ${total.kills} kills, ${losses.length} losses`);
      }
    };
    const lanes = Promise.all(Array.from({ length: parallel }, lane)).then(() => true);
    while (!(await Promise.race([lanes, sleep(killEveryMs, false, { ref: false })]))) {
      await daemon.kill();
      daemon.start();
      total.kills++;
      // The time to the next one begins when it is up: where that takes longer nothing would ever be done.
      await daemon.call("GET", "/_ping");
    }
    return { ...total, losses, left: await leftovers(daemon, before) };
  } finally {
    await daemon.stop();
    daemon.close();
  }
}
