/**
 * Which configuration is in force. As the thesis (4.1) has it, a member uses the newest configuration in its log,
 * committed or not; when the entry is removed it falls back to the one before. A snapshot carries the one that was in
 * force at its index, never a later one.
 */
import { assert } from "../../../common/assert.ts";
import type { Configuration, ConfigMember, Entry } from "./messages.ts";
import { EntryKind } from "./messages.ts";

interface Step {
  readonly index: number;
  readonly config: Configuration;
}

export function isMember(value: unknown): value is ConfigMember {
  if (typeof value !== "object" || value === null) return false;
  return (
    "raftId" in value &&
    Number.isSafeInteger(value.raftId) &&
    "nodeId" in value &&
    typeof value.nodeId === "string" &&
    "addr" in value &&
    typeof value.addr === "string" &&
    "isLearner" in value &&
    typeof value.isLearner === "boolean"
  );
}

export function encodeConfiguration(config: Configuration): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(config));
}

export function decodeConfiguration(bytes: Uint8Array): Configuration {
  const parsed: unknown = JSON.parse(new TextDecoder().decode(bytes));
  assert(Array.isArray(parsed) && parsed.every(isMember), "a configuration is a list of members");
  return parsed;
}

export function sortedMembers(members: Iterable<ConfigMember>): Configuration {
  return [...members].sort((a, b) => a.raftId - b.raftId);
}

function voterIds(config: Configuration): readonly number[] {
  return config.filter((member) => !member.isLearner).map((member) => member.raftId);
}

/** How many members vote in one of the two configurations but not in the other. */
export function voterDifference(a: Configuration, b: Configuration): number {
  const votersA = voterIds(a);
  const votersB = voterIds(b);
  const onlyA = votersA.filter((raftId) => !votersB.includes(raftId)).length;
  const onlyB = votersB.filter((raftId) => !votersA.includes(raftId)).length;
  return onlyA + onlyB;
}

export class Configurations {
  #steps: Step[];
  #voters: readonly number[] = [];
  #byId = new Map<number, ConfigMember>();

  constructor(config: Configuration, index: number) {
    this.#steps = [{ index, config }];
    this.#refresh();
  }

  get current(): Configuration {
    return this.#last().config;
  }

  /** Index of the entry that made the current one. */
  get currentIndex(): number {
    return this.#last().index;
  }

  /** Raft ids, ascending. */
  get voters(): readonly number[] {
    return this.#voters;
  }

  member(raftId: number): ConfigMember | undefined {
    return this.#byId.get(raftId);
  }

  /** True if one of the configurations that are held has it, an older or uncommitted one too. */
  knows(raftId: number): boolean {
    return this.#steps.some(({ config }) => config.some((member) => member.raftId === raftId));
  }

  isVoter(raftId: number): boolean {
    return this.#byId.get(raftId)?.isLearner === false;
  }

  /**
   * Votes, or did until a change that isn't committed yet: the one that holds the entry of its own removal may be the
   * only one whose log is long enough to win and commit it (thesis 4.2.2).
   */
  mayCampaign(raftId: number, commitIndex: number): boolean {
    if (this.isVoter(raftId) || this.currentIndex <= commitIndex) return this.isVoter(raftId);
    return this.at(commitIndex).config.some((member) => member.raftId === raftId && !member.isLearner);
  }

  /** The one in force at `index`. */
  at(index: number): Step {
    const found = this.#steps.findLast((step) => step.index <= index);
    assert(found !== undefined, "the configuration at a held index is known");
    return found;
  }

  /** New entries were appended; true if the configuration changed. */
  appended(entries: readonly Entry[]): boolean {
    let changed = false;
    for (const entry of entries) {
      if (entry.kind !== EntryKind.config || entry.index <= this.currentIndex) continue;
      this.#steps.push({ index: entry.index, config: decodeConfiguration(entry.payload) });
      changed = true;
    }
    if (changed) this.#refresh();
    return changed;
  }

  /** Entries from `index` on were removed; true if the configuration changed. */
  removedFrom(index: number): boolean {
    const before = this.#steps.length;
    this.#steps = this.#steps.filter((step, position) => position === 0 || step.index < index);
    if (this.#steps.length === before) return false;
    this.#refresh();
    return true;
  }

  /** Entries up to `index` are compacted: one configuration at or below it is enough. */
  compacted(index: number): void {
    const keepFrom = this.#steps.findLastIndex((step) => step.index <= index);
    if (keepFrom > 0) this.#steps.splice(0, keepFrom);
  }

  reset(config: Configuration, index: number): void {
    this.#steps = [{ index, config }];
    this.#refresh();
  }

  #last(): Step {
    const last = this.#steps.at(-1);
    assert(last !== undefined, "there is always a configuration");
    return last;
  }

  #refresh(): void {
    this.#byId = new Map(this.current.map((member) => [member.raftId, member]));
    this.#voters = voterIds(this.current);
  }
}
