/**
 * Seeded errors: each is a change of the source text that is made while the module is loaded, so nothing of it exists in
 * the code that is built. The numbers are those of the checklist of known Raft errors in docs/simulator.md; 100 and above
 * are our own, 200 and above (mutants-above.ts) concern what rests on Raft. A mutant whose text is not found exactly once
 * is an error itself: the table must not rot.
 */
import { mutant, type Mutant } from "./mutant.ts";
import { MUTANTS_ABOVE } from "./mutants-above.ts";

const CORE = "manager/raft/core/core.ts";
const LEADER = "manager/raft/core/leader.ts";
const LOG = "manager/raft/core/log.ts";
const QUORUM = "manager/raft/core/quorum.ts";
const PROGRESS = "manager/raft/core/progress.ts";
const WAL = "manager/raft/wal.ts";
const FORMAT = "manager/raft/wal-format.ts";
const OPEN = "manager/raft/open-state.ts";
const RECOVERY = "manager/raft/wal-recovery.ts";
const NODE = "manager/raft/node.ts";
const READS = "manager/raft/read-barriers.ts";
const MEMBERSHIP = "manager/raft/membership.ts";

export const MUTANTS: readonly Mutant[] = [
  mutant(1, "vote not durable before the reply", "safety", {
    profile: "crash",
    patches: [
      [
        CORE,
        "    this.#sendDurable(reply);\n  }\n\n  #onVoteReply",
        "    this.#send(reply);\n  }\n\n  #onVoteReply",
      ],
    ],
  }),
  mutant(3, "logs compared by index before term", "safety", {
    profile: "seesaw",
    patches: [
      [
        LOG,
        "return lastTerm > this.lastTerm || (lastTerm === this.lastTerm && lastIndex >= this.lastIndex);",
        "return lastTerm >= 0 && lastIndex >= this.lastIndex;",
      ],
    ],
  }),
  mutant(5, "PreVote raises the term", "liveness", {
    profile: "quiet",
    patches: [
      [
        CORE,
        'if (kind === "preVote") {\n',
        'if (kind === "preVote") {\n      this.#term += 1;\n      this.#vote = 0;\n',
      ],
    ],
  }),
  mutant(7, "leader id kept on becoming a pre-candidate", "liveness", {
    patches: [[CORE, "    this.#leaderId = 0;\n    this.#tally", "    this.#tally"]],
  }),
  mutant(8, "messages of an old term ignored without a word", "liveness", {
    profile: "network",
    patches: [[CORE, 'this.#sendDurable({ type: "termNotice", ...this.#envelope(message.from) });\n', "\n"]],
  }),
  mutant(9, "no CheckQuorum", "liveness", {
    profile: "stuck",
    patches: [[CORE, "&& !leader.hasReachableQuorum();", "&& leader.reachable().size > 99;"]],
  }),
  mutant(10, "no loyalty to a leader that is heard", "liveness", {
    profile: "quiet",
    patches: [[CORE, "if (!message.isTransfer && this.#hearsLeader()) return false;", ""]],
  }),
  mutant(11, "an entry of an older term is committed by counting", "safety", {
    profile: "figure8",
    patches: [
      [
        LEADER,
        "if (index <= log.commitIndex || log.termAt(index) !== this.#term) return;",
        "if (index <= log.commitIndex) return;",
      ],
    ],
  }),
  mutant(12, "a refusal commits", "safety", {
    profile: "cutoff",
    patches: [
      [
        LEADER,
        "    progress.reject(message.rejectedIndex, agree);",
        "    progress.match = Math.max(progress.match, Math.min(message.rejectedIndex, this.#host.log.lastIndex));\n    progress.next = Math.max(progress.next, progress.match + 1);\n    this.maybeCommit();\n    progress.reject(message.rejectedIndex, agree);",
      ],
    ],
  }),
  mutant(14, "an old message cuts what a newer one brought", "safety", {
    profile: "cutoff",
    patches: [[LOG, "      if (held === entry.term) continue;\n", ""]],
  }),
  mutant(15, "commit not limited to what the message proved", "safety", {
    profile: "seesaw",
    patches: [
      [CORE, "Math.min(message.commit, accepted.lastIndex)", "Math.min(message.commit, this.#log.lastIndex)"],
      // Our leader steps back exactly to where logs meet, and there the bound can't be told from none. One that steps
      // back too far is as right, and shows it.
      [
        LEADER,
        "progress.reject(message.rejectedIndex, agree);",
        "progress.reject(message.rejectedIndex, Math.max(this.#host.log.firstIndex, agree - 4));",
      ],
    ],
  }),
  mutant(17, "a repeated vote counts again", "safety", {
    profile: "shatter",
    patches: [
      [
        QUORUM,
        "if (!this.#answers.has(voter)) this.#answers.set(voter, granted);",
        "this.#answers.set(this.#answers.has(voter) ? -1 - this.#answers.size : voter, granted);",
      ],
      [
        QUORUM,
        "for (const voter of voters) {\n      const answer = this.#answers.get(voter);",
        "for (const answer of this.#answers.values()) {",
      ],
    ],
  }),
  mutant(19, "a leader counts itself before its own sync", "safety", {
    profile: "crash",
    patches: [
      [LEADER, "voter === options.raftId ? log.durableIndex :", "voter === options.raftId ? log.lastIndex :"],
    ],
  }),
  mutant(20, "a follower acknowledges before its sync", "safety", {
    profile: "crash",
    patches: [[CORE, 'this.#sendDurable({ type: "appendOk",', 'this.#send({ type: "appendOk",']],
  }),
  mutant(22, "replay keeps what was overwritten", "safety", {
    profile: "seesaw",
    patches: [
      [RECOVERY, "this.entries.length = Math.max(0, keep);", "if (keep < this.entries.length) return;"],
    ],
  }),
  mutant(23, "replay cuts one entry too few", "safety", {
    profile: "seesaw",
    patches: [
      [
        RECOVERY,
        "this.entries.length = Math.max(0, keep);",
        "this.entries.length = Math.min(this.entries.length, keep + 1);",
      ],
    ],
  }),
  mutant(25, "a torn record is accepted", "safety", {
    profile: "crash",
    patches: [
      [FORMAT, "if (recordCrc(segment.subarray(offset), bodyBytes, seed) !== crc) return undefined;", ""],
    ],
  }),
  mutant(26, "corruption is repaired by truncation", "safety", {
    profile: "disk",
    patches: [
      [
        RECOVERY,
        "          replay.corruption ??= `segment ${name} is damaged at byte ${offset} and goes on at ${next}`;\n          offset = next;\n          continue;",
        "          break;",
      ],
    ],
  }),
  mutant(27, "the folder of the log is not synced", "safety", {
    profile: "crash",
    patches: [
      [
        WAL,
        "    await disk.rename(spare, path);\n    await disk.syncFolder(folder);",
        "    await disk.rename(spare, path);",
      ],
    ],
  }),
  mutant(28, "segments go before the checkpoint is durable", "safety", {
    profile: "crash",
    patches: [
      [
        NODE,
        "    const changes = this.#options.stateMachine.takeCheckpoint();",
        "    const changes = this.#options.stateMachine.takeCheckpoint();\n    await this.#wal.compact(index);",
      ],
    ],
  }),
  mutant(29, "applied index not of the same moment as the state", "safety", {
    profile: "crash",
    patches: [
      [
        NODE,
        "    const changes = this.#options.stateMachine.takeCheckpoint();",
        "    await this.#pauses.wait(60);\n    const changes = this.#options.stateMachine.takeCheckpoint();",
      ],
    ],
  }),
  mutant(32, "a snapshot carries a later configuration", "safety", {
    profile: "membership",
    patches: [
      [
        NODE,
        "snapshot: { index, term: snapshotTerm, ...this.#core.configAt(index) },",
        "snapshot: { index, term: snapshotTerm, config: this.#core.status.config, configIndex: this.#core.status.configIndex },",
      ],
    ],
  }),
  mutant(33, "the old configuration stays after a snapshot", "safety", {
    profile: "membership",
    patches: [[CORE, "    this.#configs.reset(snapshot.config, snapshot.configIndex);\n", ""]],
  }),
  mutant(35, "a follower beyond the log never gets a snapshot", "liveness", {
    profile: "crash",
    patches: [[LEADER, "      this.#host.snapshotNeeded(progress.raftId);\n", ""]],
  }),
  mutant(36, "a second configuration before the first is committed", "safety", {
    profile: "membership",
    patches: [
      [
        LEADER,
        "if (!this.isEstablished || configs.currentIndex > log.commitIndex)",
        "if (!this.isEstablished)",
      ],
      [
        MEMBERSHIP,
        "if (core.leadership.isEstablished && core.status.configIndex <= core.log.commitIndex) return;",
        "if (core.leadership.isEstablished) return;",
      ],
      [MEMBERSHIP, "const result = this.#queue.then(run);", "const result = run();"],
    ],
  }),
  mutant(38, "a learner refuses to vote", "liveness", {
    profile: "promotion",
    patches: [
      [
        CORE,
        "mayVote && !this.#isRecovering &&",
        "mayVote && this.#configs.isVoter(this.#options.raftId) && !this.#isRecovering &&",
      ],
    ],
  }),
  mutant(42, "a read index before the first commit of the term", "safety", {
    patches: [
      [
        LEADER,
        "if (!this.isEstablished) this.#earlyReads.push({ readId, from });\n    else this.#addRead",
        "this.#addRead",
      ],
    ],
  }),
  mutant(43, "a read answered before the round of heartbeats", "safety", {
    profile: "refusal",
    patches: [
      [
        LEADER,
        "index: this.#host.log.commitIndex, round: this.#round + 1 });",
        "index: this.#host.log.commitIndex, round: 0 });",
      ],
    ],
  }),
  mutant(45, "a read served before its index is applied", "safety", {
    patches: [
      [
        READS,
        "else this.#confirmed.push({ index, callers: question.callers });",
        "else this.#confirmed.push({ index: 0, callers: question.callers });",
      ],
    ],
  }),
  mutant(48, "heartbeats go on while the disk hangs", "liveness", {
    profile: "stuck",
    patches: [
      [CORE, "const isStuck = this.#writeElapsed >= this.#options.electionTicks;", "const isStuck = false;"],
    ],
  }),
  mutant(53, "no bound to what is sent ahead", "liveness", {
    patches: [
      [
        PROGRESS,
        "return this.#lastIndexes.length >= this.#limits.countMax || this.#bytesTotal >= this.#limits.bytesMax;",
        "return this.#lastIndexes.length >= 1e9;",
      ],
    ],
  }),
  mutant(101, "a member that lost entries votes", "safety", {
    profile: "witness",
    patches: [
      [CORE, "mayVote && !this.#isRecovering &&", "mayVote &&"],
      [CORE, "      !this.#isRecovering &&\n", ""],
    ],
  }),
  mutant(102, "a heartbeat commits beyond what matches", "safety", {
    profile: "cutoff",
    patches: [[LEADER, "commit: Math.min(progress.match, log.commitIndex),", "commit: log.commitIndex,"]],
  }),
  mutant(103, "a snapshot acknowledged before it is installed", "safety", {
    profile: "crash",
    patches: [
      [
        CORE,
        "    this.#isInstalling = true;\n    this.#acknowledge(message.from, snapshot.index);",
        '    this.#isInstalling = true;\n    this.#send({ type: "appendOk", ...this.#envelope(message.from), matchIndex: snapshot.index });',
      ],
    ],
  }),
  mutant(104, "a proposal answered by another one's entry", "safety", {
    profile: "cutoff",
    patches: [
      [
        NODE,
        'if (waiter.term === entry.term) waiter.resolve(outcome);\n      else waiter.reject(lost("another leader\'s entry took its place"));',
        "waiter.resolve(outcome);",
      ],
      [NODE, 'if (!leads && this.#waiters.size > 0) this.#failWaiters("leadership was lost");', ""],
    ],
  }),
  mutant(105, "a quorum is half", "safety", {
    patches: [
      [QUORUM, "return Math.floor(voterCount / 2) + 1;", "return Math.max(1, Math.ceil(voterCount / 2));"],
    ],
  }),
  mutant(106, "two votes in one term", "safety", {
    profile: "cutoff",
    patches: [
      [
        CORE,
        "      this.#vote = request.from;\n      this.#electionElapsed = 0;",
        "      this.#electionElapsed = 0;",
      ],
    ],
  }),
  mutant(107, "record checksums seeded alike in all segments", "safety", {
    profile: "calm",
    patches: [
      [
        FORMAT,
        "crc32(encodeSegmentHeader(header).subarray(0, SEGMENT_HEADER_BYTES - 4));",
        "crc32(encodeSegmentHeader(header));",
      ],
    ],
  }),
  mutant(108, "a successor's term on a snapshot", "safety", {
    profile: "comeback",
    patches: [
      [CORE, "    this.#snapshotsTo = [];\n    this.#resetElection();", "    this.#resetElection();"],
    ],
  }),
  mutant(109, "the own vote counted before it is durable", "safety", {
    profile: "crash",
    patches: [
      [
        CORE,
        '    this.#sendDurable({ type: "voteReply", ...this.#envelope(raftId), granted: true });',
        '    this.#onVoteReply({ type: "voteReply", ...this.#envelope(raftId), granted: true });',
      ],
      [
        CORE,
        'if (kind === "vote") this.#sendDurable(request);\n      else this.#send(request);',
        "this.#send(request);",
      ],
      [CORE, '    assert(this.#durableTerm === this.#term, "the own vote is durable");\n', ""],
    ],
  }),
  mutant(110, "a full disk is no reason to step down", "liveness", {
    profile: "stuck",
    patches: [
      [CORE, "    if (isFull && this.#leader !== undefined) this.#becomeFollower(this.#term, 0);\n", ""],
      [CORE, "const isStuck = this.#writeElapsed >= this.#options.electionTicks;", "const isStuck = false;"],
    ],
  }),
  mutant(111, "recovery ends before everything is back", "safety", {
    profile: "witness",
    patches: [
      [
        CORE,
        "    if (this.#isInstalling || this.#log.durableIndex < this.#recoverIndex) return;\n    if (this.#log.commitIndex < this.#recoverIndex) return;\n",
        "",
      ],
    ],
  }),
  mutant(112, "lost answers are never asked for again", "liveness", {
    profile: "network",
    patches: [
      [LEADER, "if (progress.match < this.#host.log.lastIndex) this.#sendAppend(progress, true);", ""],
    ],
  }),
  mutant(113, "a heartbeat from before a restart says what was lost", "safety", {
    profile: "witness",
    patches: [
      [CORE, "const isOfThisLife = message.incarnation === this.#incarnation;", "const isOfThisLife = true;"],
    ],
  }),
  mutant(114, "what is left of a damaged log is taken for what its leader has", "safety", {
    profile: "relapse",
    patches: [
      [
        CORE,
        "return this.#isRecovering ? Math.max(this.#matchedIndex, this.#log.commitIndex) : this.#log.lastIndex;",
        "return this.#log.lastIndex;",
      ],
    ],
  }),
  mutant(115, "a damaged member starts with the commit index of before", "safety", {
    profile: "relapse",
    patches: [
      [
        OPEN,
        "const commit = isRecovering ? meta.index : recovered.hardState.commit;",
        "const { commit } = recovered.hardState;",
      ],
    ],
  }),
  mutant(116, "a damaged log's vote is not looked for beside it", "safety", {
    profile: "disk",
    patches: [
      [
        RECOVERY,
        "const noted = await readVote(disk, folder, options.identity.raftId);",
        "const noted = undefined;",
      ],
    ],
  }),
  ...MUTANTS_ABOVE,
];
