/** A new manager's way into Raft: asks the leader, through any manager that knows it, to be made a member. */
import { ClusterError } from "../common/errors.ts";
import type { Clock, Timers } from "../common/env.ts";
import { callUnary, connect, dial } from "../proto/rpc-client.ts";
import type { LiveIdentity } from "../proto/rpc-identity.ts";
import { controlService } from "../proto/services.ts";
import { JOIN_REACH_MS, JOIN_WAIT_MS, LEADER_RETRY_MS } from "./limits.ts";
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
  const client = dial(addr, identity, { manager: true, nodeId });
  try {
    await connect(client, JOIN_REACH_MS);
  } finally {
    client.close();
  }
}

/** The members, this one among them as a learner. */
export async function joinRaft(options: JoinRaftOptions): Promise<readonly Member[]> {
  const deadlineMs = options.clock.monotonicMs() + JOIN_WAIT_MS;
  let last: ClusterError | undefined;
  while (options.clock.monotonicMs() < deadlineMs) {
    let candidates = [...options.remoteAddrs];
    for (let address = candidates.shift(); address !== undefined; address = candidates.shift()) {
      try {
        return await askOne(options, address);
      } catch (caught) {
        last = ClusterError.from(caught);
        if (
          last.notLeader === undefined &&
          last.code !== "unavailable" &&
          last.code !== "deadline_exceeded"
        ) {
          throw last;
        }
        const leader = last.notLeader?.leaderAddress ?? "";
        if (leader !== "" && leader !== address)
          candidates = [leader, ...candidates.filter((each) => each !== leader)].slice(0, 16);
      }
    }
    await new Promise<void>((resolve) => options.timers.after(LEADER_RETRY_MS * 4, resolve));
  }
  throw new ClusterError(
    "deadline_exceeded",
    `No leader took this manager in, asked ${options.remoteAddrs.join(", ")}: ${last?.message ?? "no address is known"}`,
  );
}

async function askOne(options: JoinRaftOptions, address: string): Promise<readonly Member[]> {
  const client = dial(address, options.identity, { manager: true });
  try {
    const { addr, raftId } = options;
    const answer = await callUnary(client, controlService.joinRaft, { addr, raftId }, { deadlineMs: 10_000 });
    return (answer.members ?? []).map((member) => ({
      raftId: member.raftId ?? 0,
      nodeId: member.nodeId ?? "",
      addr: member.addr ?? "",
      isLearner: member.isLearner ?? false,
    }));
  } finally {
    client.close();
  }
}
