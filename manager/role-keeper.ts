/**
 * Keeps Raft membership, the role that node specs ask for, and what node objects say of membership in line. Runs on the
 * leader only; looks again at every change and twice a second, so that running it twice changes nothing.
 *
 * Promotion: the node gets a manager's certificate and asks to join (membership.ts of Raft makes it a learner, then a
 * voter). Demotion: the member leaves Raft here first, and only then gets a worker's certificate. A learner that is silent
 * for long is taken out: its machine is gone, or holds nothing that it ever promised. Should it come back, it is told so,
 * begins with an empty state, and asks to join again.
 */
import type { Cancel, Clock, Component, Timers } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { Logger } from "../common/log.ts";
import type { Node } from "../model/objects.ts";
import { LEARNER_WAIT_MS, ROLE_CHECK_MS } from "./limits.ts";
import type { Member, ReplicatedLog } from "./raft/replicated-log.ts";
import type { Store } from "./store/store.ts";

export interface RoleKeeperDeps {
  readonly store: Store;
  readonly raft: ReplicatedLog;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly timers: Timers;
  readonly log: Logger;
}

export class RoleKeeper implements Component {
  readonly #deps: RoleKeeperDeps;
  readonly #cancels: Cancel[] = [];
  /** Since when learners are silent, by Raft id: monotonic time. */
  readonly #silentMs = new Map<number, number>();
  #isRunning = false;
  #isStopped = false;
  #lastProblem = "";

  constructor(deps: RoleKeeperDeps) {
    this.#deps = deps;
  }

  start(): void {
    const { store, timers } = this.#deps;
    const { watch } = store.viewAndWatch({ tables: ["node"] }, () => this.#check());
    this.#cancels.push(
      watch.cancel,
      timers.every(ROLE_CHECK_MS, () => this.#check()),
    );
    this.#check();
  }

  stop(): void {
    this.#isStopped = true;
    for (const cancel of this.#cancels) cancel();
  }

  #check(): void {
    if (this.#isRunning || this.#isStopped) return;
    this.#isRunning = true;
    this.#reconcile()
      .then(() => {
        this.#lastProblem = "";
      })
      .catch((caught: unknown) => this.#report(ClusterError.from(caught)))
      .finally(() => {
        this.#isRunning = false;
      });
  }

  #report(error: ClusterError): void {
    if (this.#isStopped || error.message === this.#lastProblem) return;
    this.#lastProblem = error.message;
    this.#deps.log.warn("roles are not as wanted yet", { error });
  }

  async #reconcile(): Promise<void> {
    await this.#recordMembership();
    const { raft, store } = this.#deps;
    let problem: unknown;
    for (const member of raft.members) {
      if (this.#isStopped || !raft.isLeader) return;
      const node = store.view().get("node", member.nodeId);
      if (node?.spec.Role === "manager") continue;
      // One that can't leave yet, for the sake of the quorum, keeps no other from leaving.
      await this.#expel(member).catch((caught: unknown) => {
        problem ??= caught;
      });
    }
    await this.#giveUpLearners().catch((caught: unknown) => {
      problem ??= caught;
    });
    if (problem !== undefined) throw problem;
  }

  /** Voters stay, however long they are silent: the quorum is of all of them, and who goes is the operator's to say. */
  async #giveUpLearners(): Promise<void> {
    const { clock, log, raft } = this.#deps;
    const nowMs = clock.monotonicMs();
    const silent = raft.members.filter(({ isLearner, raftId }) => isLearner && !raft.reachable.has(raftId));
    for (const raftId of this.#silentMs.keys()) {
      if (!silent.some((member) => member.raftId === raftId)) this.#silentMs.delete(raftId);
    }
    for (const { nodeId, raftId } of silent) {
      const sinceMs = this.#silentMs.get(raftId) ?? nowMs;
      this.#silentMs.set(raftId, sinceMs);
      if (nowMs - sinceMs < LEARNER_WAIT_MS || this.#isStopped || !raft.isLeader) continue;
      await raft.removeMember(raftId, { force: false, onlyLearner: true });
      log.warn("manager that never became a voter is given up", { nodeId, raftId });
      await this.#recordMembership();
    }
  }

  /** Writes into node objects who is a member. */
  async #recordMembership(): Promise<void> {
    const { raft, store } = this.#deps;
    const wrong = (node: Node): boolean => !isSame(node.manager, memberOf(raft.members, node.id));
    if (!store.view().list("node").some(wrong)) return;
    await store.update((tx) => {
      for (const node of tx.list("node").filter(wrong)) {
        const { manager: _old, ...rest } = node;
        const member = memberOf(raft.members, node.id);
        tx.update("node", member === undefined ? rest : { ...rest, manager: member });
      }
    });
  }

  /** The node shall be no manager any more. A leader that is demoted hands over first; the next one removes it. */
  async #expel(member: Member): Promise<void> {
    const { raft, log } = this.#deps;
    if (member.raftId === raft.raftId) {
      if (raft.members.filter((each) => !each.isLearner).length > 1) await raft.transferLeadership();
      return;
    }
    await raft.removeMember(member.raftId, { force: false });
    log.info("manager removed from Raft", { nodeId: member.nodeId, raftId: member.raftId });
    await this.#recordMembership();
  }
}

function memberOf(members: readonly Member[], nodeId: string): Node["manager"] {
  const member = members.find((each) => each.nodeId === nodeId);
  return member === undefined ? undefined : { raftId: member.raftId, addr: member.addr };
}

function isSame(left: Node["manager"], right: Node["manager"]): boolean {
  return left?.raftId === right?.raftId && left?.addr === right?.addr;
}
