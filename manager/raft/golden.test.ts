/**
 * Scenarios of the core as text: commands and what comes out, readable as documentation. `UPDATE_GOLDEN=1 node --test
 * manager/raft/golden.test.ts` writes the outcome into the files; look at the difference before keeping it.
 *
 * Commands, one per line after "> ": `cluster 1 2 3` (voters; `4l` a learner), `join 5 1 2 3` (whose log has that
 * configuration), `campaign 1`, `tick 1 20`, `propose 1 x`, `run` (deliver and write until nothing moves), `cut 1 2`,
 * `heal`, `write 1 off|on` (disk of 1 hangs), `config 1 1 2 3l`, `transfer 1 2`,
 * `hold 1 2` (what 1 sends to 2 in the next run stays under way until `release`), `read 2`, `refused 2 1`, `compact 1 5`, `lose 2` (2 restarts, its log lost),
 * `keep 2` and later `rot 2` (2 restarts with the log that it had then, the rest damaged), `healthy 1` (whom 1 counts on), `state`.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { RaftCore } from "./core/core.ts";
import { type Configuration, type Entry, EntryKind, type Message } from "./core/messages.ts";

const OPTIONS = {
  electionTicks: 10,
  electionSpreadTicks: 0,
  heartbeatTicks: 2,
  appendBytesMax: 1000,
  appendCountMax: 4,
  inflightCountMax: 2,
  pipelineCount: 2,
  gatherCountMax: 3,
  inflightBytesMax: 1000,
  uncommittedBytesMax: 1000,
  writeBytesMax: 1000,
  applyBytesMax: 1000,
  readCountMax: 10,
};

function parseMembers(words: readonly string[]): Configuration {
  return words.map((word) => {
    const raftId = Number.parseInt(word, 10);
    return { raftId, nodeId: `n${raftId}`, addr: `h${raftId}`, isLearner: word.endsWith("l") };
  });
}

function brief(message: Message): string {
  const { from, to, term, type, ...rest } = message;
  const said = Object.entries(rest).filter(([name, value]) => name !== "incarnation" || value !== 0);
  const fields = said.map(([name, value]) => {
    if (name === "entries" && Array.isArray(value)) return `entries=${value.length}`;
    if (name === "snapshot") return `snapshot=${JSON.stringify(value).slice(0, 22)}`;
    return `${name}=${String(value)}`;
  });
  return `  ${from}>${to} t${term} ${type} ${fields.join(" ")}`.trimEnd();
}

class Scene {
  readonly #cores = new Map<number, RaftCore>();
  readonly #cut = new Set<string>();
  readonly #stuck = new Set<number>();
  readonly #holds = new Set<string>();
  readonly #kept = new Map<number, readonly Entry[]>();
  #held: Message[] = [];
  #lives = 0;
  #out: string[] = [];
  #readId = 0;

  execute(line: string): string[] {
    this.#out = [];
    const [command = "", ...words] = line.split(" ");
    const ids = words.map((word) => Number.parseInt(word, 10));
    const [first = 0, second = 0] = ids;
    switch (command) {
      case "cluster":
        this.#found(parseMembers(words));
        break;
      case "join":
        this.#add(first, parseMembers(words.slice(1)));
        break;
      case "campaign":
        this.#core(first).campaign();
        break;
      case "tick":
        for (let count = 0; count < second; count += 1) this.#core(first).tick();
        break;
      case "propose":
        this.#say(`  ${JSON.stringify(this.#core(first).propose(Buffer.from(words[1] ?? "")))}`);
        break;
      case "config":
        this.#say(`  ${JSON.stringify(this.#core(first).proposeConfig(parseMembers(words.slice(1))))}`);
        break;
      case "transfer":
        this.#say(`  ${this.#core(first).transfer(second)}`);
        break;
      case "read":
        this.#readId += 1;
        this.#say(`  ${this.#core(first).read(this.#readId)}`);
        break;
      case "refused":
        this.#core(first).peerRefused(second);
        break;
      case "compact":
        this.#core(first).compact(second);
        break;
      case "lose":
        this.#add(first, this.#core(first).status.config, { isRecovering: true });
        break;
      case "keep": {
        const { log } = this.#core(first);
        this.#kept.set(first, log.slice(log.firstIndex, { bytesMax: Infinity, countMax: Infinity }));
        break;
      }
      case "rot": {
        const entries = this.#kept.get(first);
        assert.ok(entries !== undefined, `no log of ${first} was kept`);
        this.#add(first, this.#core(first).status.config, { isRecovering: true, entries });
        break;
      }
      case "healthy":
        this.#say(`  ${[...this.#core(first).healthy()].sort((a, b) => a - b).join(",")}`);
        break;
      case "cut":
        this.#cut.add(`${first}>${second}`).add(`${second}>${first}`);
        break;
      case "heal":
        this.#cut.clear();
        break;
      case "hold":
        this.#holds.add(`${first}>${second}`);
        break;
      case "release":
        for (const message of this.#held.splice(0)) {
          this.#say(brief(message));
          this.#core(message.to).step(message);
        }
        break;
      case "write":
        if (words[1] === "off") this.#stuck.add(first);
        else this.#stuck.delete(first);
        break;
      case "run":
        this.#run();
        this.#holds.clear();
        break;
      case "state":
        this.#describe();
        break;
      default:
        throw new Error(`no command "${command}"`);
    }
    return this.#out;
  }

  #found(config: Configuration): void {
    for (const { raftId } of config) this.#add(raftId, config);
  }

  #add(
    raftId: number,
    config: Configuration,
    left: { readonly isRecovering: boolean; readonly entries?: readonly Entry[] } = { isRecovering: false },
  ): void {
    const base = { index: 0, term: 0, config, configIndex: 0 };
    const hardState = { term: 0, vote: 0, commit: 0 };
    const { isRecovering, entries = [] } = left;
    const restored = { hardState, base, entries, applied: 0, isRecovering };
    this.#lives += 1;
    const life = this.#lives;
    // Only the number of an incarnation is drawn of so many.
    const random = (bound: number): number => (bound > 2 ** 32 ? life : 0);
    this.#cores.set(raftId, new RaftCore({ ...OPTIONS, random, raftId }, restored));
  }

  #core(raftId: number): RaftCore {
    const core = this.#cores.get(raftId);
    assert.ok(core !== undefined, `no member ${raftId}`);
    return core;
  }

  #say(text: string): void {
    this.#out.push(text);
  }

  /** Rounds of: everyone writes and sends, then everything sent arrives. */
  #run(): void {
    for (let round = 0; round < 50; round += 1) {
      const sent: Message[] = [];
      for (const [raftId, core] of this.#cores) sent.push(...this.#work(raftId, core));
      if (sent.length === 0) return;
      for (const message of sent) {
        if (this.#holds.has(`${message.from}>${message.to}`)) {
          this.#say(`${brief(message)}  (under way)`);
          this.#held.push(message);
          continue;
        }
        const isCut = this.#cut.has(`${message.from}>${message.to}`) || !this.#cores.has(message.to);
        this.#say(`${brief(message)}${isCut ? "  (lost)" : ""}`);
        if (!isCut) this.#cores.get(message.to)?.step(message);
      }
    }
    throw new Error("the scene never comes to rest");
  }

  #work(raftId: number, core: RaftCore): Message[] {
    const sent: Message[] = [];
    for (let again = true; again;) {
      const output = core.takeOutput();
      sent.push(...output.messages);
      for (const entry of output.committed) {
        const what =
          entry.kind === EntryKind.normal
            ? `"${Buffer.from(entry.payload).toString()}"`
            : ["", "a configuration", "nothing"][entry.kind];
        this.#say(`  ${raftId} applies ${entry.index} (t${entry.term}): ${what}`);
      }
      for (const read of output.reads)
        this.#say(`  ${raftId} read ${read.readId} at ${read.index ?? "nobody confirms"}`);
      for (const to of output.snapshotsTo) this.#sendSnapshot(raftId, core, { to, sent });
      const append = this.#stuck.has(raftId) ? undefined : core.takeAppend();
      if (append !== undefined) {
        sent.push(...append.messages);
        core.appended();
      }
      again = append !== undefined || output.committed.length > 0;
    }
    return sent;
  }

  #sendSnapshot(from: number, core: RaftCore, out: { readonly to: number; readonly sent: Message[] }): void {
    const index = core.log.appliedIndex;
    const snapshot = { index, term: core.log.termAt(index) ?? 0, ...core.configAt(index) };
    core.snapshotStarted(out.to, index);
    core.snapshotSent(out.to, true);
    out.sent.push({ type: "snapshot", from, to: out.to, term: core.status.term, snapshot });
  }

  #describe(): void {
    for (const [raftId, core] of this.#cores) {
      const { commitIndex, config, lastIndex, leader, role, term } = core.status;
      const members = config.map((member) => `${member.raftId}${member.isLearner ? "l" : ""}`).join(",");
      this.#say(
        `  ${raftId} ${role} t${term} leader ${leader} commit ${commitIndex} last ${lastIndex} [${members}]`,
      );
    }
  }
}

function play(text: string): string {
  const scene = new Scene();
  const lines: string[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("#") || line === "") lines.push(line);
    if (!line.startsWith("> ")) continue;
    lines.push(line, ...scene.execute(line.slice(2)));
  }
  return `${lines.join("\n").trimEnd()}\n`;
}

const folder = path.join(import.meta.dirname.replace(`${path.sep}dist${path.sep}`, path.sep), "golden");
for (const name of readdirSync(folder).sort()) {
  test(`RaftCore plays ${name} as written`, () => {
    const file = path.join(folder, name);
    const expected = readFileSync(file, "utf8");
    const got = play(expected);
    if (process.env["UPDATE_GOLDEN"] === "1") writeFileSync(file, got);
    else assert.equal(got, expected);
  });
}
