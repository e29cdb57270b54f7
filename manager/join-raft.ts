/** A new manager's way into Raft: asks the leader, through any manager that knows it, to be made a member. */
import { ClusterError } from "../common/errors.ts";
import type { Clock, Timers } from "../common/env.ts";
import { callUnary, connect, mayAnotherAnswer, withManager } from "../proto/rpc-client.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import { controlService } from "../proto/services.ts";
import { JOIN_REACH_MS, JOIN_WAIT_MS, LEADER_RETRY_MS, WITHDRAW_WAIT_MS } from "./limits.ts";
import type { Member } from "./raft/replicated-log.ts";

export interface JoinRaftOptions {
  readonly identity: LiveIdentity;
  /** "host:port" of managers. */
  readonly remoteAddrs: readonly string[];
  /** Where this member's Raft is reached. */
  readonly addr: string;
  readonly raftId: number;
  readonly clock: Pick<Clock, "monotonicMs">;
  readonly timers: Pick<Timers, "after">;
}

/** The leader's side: resolves once manager `nodeId` answers at `addr`. */
export async function reachManager(identity: LiveIdentity, addr: string, nodeId: string): Promise<void> {
  await withManager(addr, identity, (client) => connect(client, JOIN_REACH_MS), { nodeId });
}

/** The members, this one among them as a learner. */
export async function joinRaft(options: JoinRaftOptions): Promise<readonly Member[]> {
  const { addr, raftId, identity } = options;
  const answer = await askLeader(options, JOIN_WAIT_MS, (address) =>
    withManager(address, identity, (client) =>
      callUnary(client, controlService.joinRaft, { addr, raftId }, { deadlineMs: 10_000 }),
    ),
  );
  return (answer.members ?? []).map((member) => ({
    raftId: member.raftId ?? 0,
    nodeId: member.nodeId ?? "",
    addr: member.addr ?? "",
    isLearner: member.isLearner ?? false,
  }));
}

/** Takes this node out of Raft again: a join that didn't work out must not leave a member that the others count on. */
export async function withdrawFromRaft(
  options: Pick<JoinRaftOptions, "identity" | "remoteAddrs" | "clock" | "timers">,
): Promise<void> {
  await askLeader(options, WITHDRAW_WAIT_MS, (address) =>
    withManager(address, options.identity, (client) =>
      callUnary(client, controlService.leaveRaft, { force: false }, { deadlineMs: WITHDRAW_WAIT_MS }),
    ),
  );
}

/** Asks managers, on to the leader that they name, until one answers; rejects with what none of them would do. */
export async function askLeader<T>(
  options: Pick<JoinRaftOptions, "remoteAddrs" | "clock" | "timers">,
  waitMs: number,
  ask: (address: string) => Promise<T>,
): Promise<T> {
  const deadlineMs = options.clock.monotonicMs() + waitMs;
  let last: ClusterError | undefined;
  while (options.clock.monotonicMs() < deadlineMs) {
    // Each once: two that take each other for the leader must not be asked without a pause.
    const asked = new Set<string>();
    const candidates = [...options.remoteAddrs];
    for (let address = candidates.shift(); address !== undefined; address = candidates.shift()) {
      if (asked.has(address)) continue;
      asked.add(address);
      try {
        return await ask(address);
      } catch (caught) {
        last = ClusterError.from(caught);
        if (last.notLeader === undefined && !mayAnotherAnswer(last)) throw last;
        const leader = last.notLeader?.leaderAddress ?? "";
        if (leader !== "") candidates.unshift(leader);
      }
    }
    await new Promise<void>((resolve) => options.timers.after(LEADER_RETRY_MS * 4, resolve));
  }
  throw new ClusterError(
    "deadline_exceeded",
    `No leader answered this manager, asked ${options.remoteAddrs.join(", ")}: ${last?.message ?? "no address is known"}`,
  );
}
