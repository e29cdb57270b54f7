/**
 * What must hold at every moment, whatever fails. Each check has a name (O1 and so on) that reports and the table of
 * mutants use. Fed by the harness with what members send, apply and say; throws Violation.
 */
import type { RaftCore } from "../../manager/raft/core/core.ts";
import { EntryKind, type Message } from "../../manager/raft/core/messages.ts";
import { quorumOf } from "../../manager/raft/core/quorum.ts";
import type { CommittedEntry } from "../../manager/raft/replicated-log.ts";
import { Violation } from "./world.ts";

interface Fact {
  readonly term: number;
  readonly chain: string;
}

/** What a member promised to others; it must know it after a restart. */
interface Promised {
  term: number;
  /** Candidate of its last granted vote in `term`. */
  vote: number;
  /** Highest index acknowledged to the leader of `term`. */
  matchIndex: number;
}

export interface MemberView {
  readonly raftId: number;
  readonly core: RaftCore;
}

export interface Bounds {
  readonly inflightCountMax: number;
  readonly logCountMax: number;
  readonly walBytesMax: number;
}

export class Checks {
  readonly #leaders = new Map<number, number>();
  /** Everything ever applied anywhere, by index. */
  readonly #ledger = new Map<number, Fact>();
  readonly #votes = new Map<string, number>();
  readonly #promised = new Map<number, Promised>();
  /** Members whose disk was damaged on purpose: what they promised may be gone until they recovered. */
  readonly #damaged = new Set<number>();
  #maxApplied = 0;

  get maxApplied(): number {
    return this.#maxApplied;
  }

  damaged(raftId: number): void {
    this.#damaged.add(raftId);
  }

  isDamaged(raftId: number): boolean {
    return this.#damaged.has(raftId);
  }

  /** Its peers gave back what it lost. */
  recovered(raftId: number): void {
    this.#damaged.delete(raftId);
  }

  /** O1: at most one leader in a term. O17: it has all that was committed before. */
  led(leader: MemberView): void {
    const { core, raftId } = leader;
    const known = this.#leaders.get(core.term);
    if (known === raftId) return;
    if (known !== undefined) {
      throw new Violation("O1", `members ${known} and ${raftId} both lead in term ${core.term}`);
    }
    this.#leaders.set(core.term, raftId);
    const last = this.#ledger.get(this.#maxApplied);
    if (last === undefined || last.term > core.term || this.#maxApplied <= core.log.baseIndex) return;
    const held = core.log.termAt(this.#maxApplied);
    if (held !== last.term) {
      const has = `has ${held === undefined ? "nothing" : `one of term ${held}`}`;
      throw new Violation("O17", `leader ${raftId} lacks committed entry ${this.#maxApplied}, ${has}`);
    }
  }

  /** O3, O4: one sequence of committed entries and one state at each index, for everyone and for ever. */
  applied(raftId: number, entry: CommittedEntry, chain: string): void {
    const known = this.#ledger.get(entry.index);
    if (known === undefined) {
      this.#ledger.set(entry.index, { term: entry.term, chain });
      this.#maxApplied = Math.max(this.#maxApplied, entry.index);
      return;
    }
    if (known.term !== entry.term) {
      throw new Violation(
        "O3",
        `member ${raftId} applies ${entry.index} of term ${entry.term}, others ${known.term}`,
      );
    }
    if (known.chain !== chain) {
      throw new Violation("O4", `member ${raftId} has another state after ${entry.index}`);
    }
  }

  /** O12: a member votes for one candidate in a term, also over restarts. */
  sent(message: Message): void {
    if (message.type === "voteReply" && message.granted) {
      const slot = `${message.term}/${message.from}`;
      const known = this.#votes.get(slot);
      if (known !== undefined && known !== message.to) {
        throw new Violation(
          "O12",
          `member ${message.from} votes for ${known} and ${message.to} in ${message.term}`,
        );
      }
      this.#votes.set(slot, message.to);
      this.#promise(message.from, message.term).vote = message.to;
    } else if (message.type === "vote") {
      this.#promise(message.from, message.term).vote = message.from;
    } else if (message.type === "appendOk") {
      const promised = this.#promise(message.from, message.term);
      promised.matchIndex = Math.max(promised.matchIndex, message.matchIndex);
    }
  }

  /** O13: what a member promised before it died, it knows when it is back. */
  restarted(member: MemberView): void {
    const promised = this.#promised.get(member.raftId);
    const { status } = member.core;
    // Damage takes entries, which their leader gives back, but never the term: a vote can't be asked back.
    if (promised !== undefined && status.term < promised.term) {
      throw new Violation(
        "O13",
        `member ${member.raftId} spoke in term ${promised.term}, knows ${status.term}`,
      );
    }
    // It knows that it lost something. Damage that it doesn't notice must have hit nothing that it promised.
    if (status.isRecovering) {
      this.#damaged.add(member.raftId);
      this.#promised.delete(member.raftId);
      return;
    }
    if (promised === undefined) return;
    if (status.term === promised.term && status.lastIndex < promised.matchIndex) {
      const has = `has ${status.lastIndex}`;
      throw new Violation("O13", `member ${member.raftId} acknowledged ${promised.matchIndex}, ${has}`);
    }
  }

  /** O2: where two logs have an entry of the same index and term, everything up to there is equal. */
  logsMatch(members: readonly MemberView[]): void {
    for (const [position, a] of members.entries()) {
      for (const b of members.slice(position + 1)) this.#pairMatches(a, b);
    }
  }

  /** O11: no more than one configuration is open, and neighbouring ones share a majority. */
  configs(members: readonly MemberView[]): void {
    for (const { raftId, core } of members) {
      const { log } = core;
      // With a part of its log it lost what it knew to be committed.
      if (core.isRecovering) continue;
      let open = 0;
      for (let index = log.commitIndex + 1; index <= log.lastIndex; index += 1) {
        if (log.at(index)?.kind === EntryKind.config) open += 1;
      }
      if (open > 1) throw new Violation("O11", `member ${raftId} has ${open} uncommitted configurations`);
    }
  }

  /** O15: windows, log and disk stay within what they may take. */
  bounds(member: MemberView & { readonly walBytes: number }, bounds: Bounds): void {
    const { core, raftId } = member;
    const { leadership, log } = core;
    if (log.lastIndex - log.baseIndex > bounds.logCountMax) {
      throw new Violation("O15", `member ${raftId} holds ${log.lastIndex - log.baseIndex} entries in memory`);
    }
    if (member.walBytes > bounds.walBytesMax) {
      throw new Violation("O15", `member ${raftId} has ${member.walBytes} bytes of log on disk`);
    }
    if (leadership === undefined) return;
    if (leadership.uncommittedBytes < 0) throw new Violation("O15", "uncommitted bytes below zero");
    for (const each of core.status.config) {
      const progress = leadership.progressOf(each.raftId);
      if (progress === undefined) continue;
      if (progress.inflights.count > bounds.inflightCountMax || progress.next <= progress.match) {
        throw new Violation("O15", `member ${raftId} sends ahead too much to ${each.raftId}`);
      }
    }
  }

  /** O7: what a leader counts as committed is on disk on a quorum. */
  committedIsDurable(leader: MemberView, members: readonly MemberView[], down: ReadonlySet<number>): void {
    const { core, raftId } = leader;
    const index = core.log.commitIndex;
    // Either the configuration that was in force there or the newest one: their majorities meet.
    const configs = [core.status.config, core.configAt(index).config];
    const counts = configs.map((config) => {
      const voters = config.filter((each) => !each.isLearner).map((each) => each.raftId);
      const holders = voters.filter((voter) => this.#holds(voter, index, leader, { members, down })).length;
      return { holders, voters: voters.length, isEnough: holders >= quorumOf(voters.length) };
    });
    if (counts.some((count) => count.isEnough)) return;
    const held = counts.map((count) => `${count.holders} of ${count.voters}`).join(" or ");
    throw new Violation("O7", `member ${raftId} committed ${index}, which only ${held} hold`);
  }

  /** A dead or damaged one's disk is not looked into: it counts as holding it. */
  #holds(
    voter: number,
    index: number,
    leader: MemberView,
    others: { readonly members: readonly MemberView[]; readonly down: ReadonlySet<number> },
  ): boolean {
    const member = others.members.find((each) => each.raftId === voter);
    if (member === undefined) return others.down.has(voter);
    const { log } = member.core;
    if (this.#damaged.has(voter) || index <= log.baseIndex) return true;
    return log.durableIndex >= index && log.termAt(index) === leader.core.log.termAt(index);
  }

  #promise(raftId: number, term: number): Promised {
    let promised = this.#promised.get(raftId);
    if (promised === undefined || promised.term < term) {
      promised = { term, vote: 0, matchIndex: 0 };
      this.#promised.set(raftId, promised);
    }
    return promised;
  }

  #pairMatches(a: MemberView, b: MemberView): void {
    const from = Math.max(a.core.log.firstIndex, b.core.log.firstIndex);
    const to = Math.min(a.core.log.lastIndex, b.core.log.lastIndex);
    let isEqual = false;
    for (let index = to; index >= from; index -= 1) {
      const entryA = a.core.log.at(index);
      const entryB = b.core.log.at(index);
      const sameTerm = entryA?.term === entryB?.term;
      const samePayload =
        entryA !== undefined &&
        entryB !== undefined &&
        // Members are sent entries as they are: most have the very same bytes.
        (entryA.payload === entryB.payload || Buffer.compare(entryA.payload, entryB.payload) === 0);
      if ((sameTerm && !samePayload) || (isEqual && !sameTerm)) {
        throw new Violation("O2", `logs of ${a.raftId} and ${b.raftId} differ at ${index}`);
      }
      if (sameTerm) isEqual = true;
    }
  }
}
