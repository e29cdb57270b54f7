/** Members over real gRPC on loopback: what the simulator's network can't show. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import * as grpc from "@grpc/grpc-js";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { StateEntry } from "./checkpoint-store.ts";
import { EntryEncoder } from "./entry-codec.ts";
import { GrpcTransport } from "./grpc-transport.ts";
import { LevelCheckpoints } from "./level-checkpoints.ts";
import { createRaftNode, type RaftNode } from "./node.ts";
import type { StartMode } from "./open-state.ts";
import type { Checkpoint, CommittedEntry, Member, StateMachine, StateSnapshot } from "./replicated-log.ts";

const CLUSTER_ID = "test";

/** A list of all payloads by key. */
class ListState implements StateMachine {
  readonly values = new Map<string, string>();
  /** What the payloads are views of: held by the log as long as they are. */
  readonly memory = new Set<ArrayBufferLike>();
  #changed = new Set<string>();

  apply(entry: CommittedEntry): string {
    const key = `k${entry.index}`;
    this.memory.add(entry.payload.buffer);
    this.values.set(key, Buffer.from(entry.payload).toString("latin1"));
    this.#changed.add(key);
    return key;
  }

  applied(): void {}

  takeCheckpoint(): Checkpoint {
    const puts = [...this.#changed].map((key): StateEntry => [
      key,
      Buffer.from(this.values.get(key) ?? "", "latin1"),
    ]);
    this.#changed = new Set();
    return { puts, removes: [] };
  }

  snapshot(): StateSnapshot {
    const entries = [...this.values].map(([key, value]): StateEntry => [key, Buffer.from(value, "latin1")]);
    return { entries: () => entries };
  }

  restore(_index: number, entries: Iterable<StateEntry>): void {
    this.values.clear();
    for (const [key, value] of entries) this.values.set(key, Buffer.from(value).toString("latin1"));
  }
}

interface Running {
  readonly node: RaftNode;
  readonly state: ListState;
  readonly member: Member;
  readonly stop: () => Promise<void>;
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const endMs = performance.now() + 60_000;
  while (!holds()) {
    assert.ok(performance.now() < endMs, what);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function start(
  folder: string,
  raftId: number,
  mode: (self: Member) => StartMode,
  options: { readonly port?: number; readonly nodeOf?: number } = {},
): Promise<Running> {
  const { port = 0, nodeOf = raftId } = options;
  const { disk: _disk, ...env } = realEnv;
  const encoder = new EntryEncoder();
  const transport = new GrpcTransport({
    raftId,
    clusterId: CLUSTER_ID,
    timers: realEnv.timers,
    random: realEnv.random,
    log: silentLogger,
    encoder,
    connect: (addr, purpose) =>
      new grpc.Client(addr, grpc.credentials.createInsecure(), {
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 200,
        "grpc.use_local_subchannel_pool": purpose === "snapshot" ? 1 : 0,
      }),
  });
  const server = new grpc.Server();
  server.addService(GrpcTransport.definition as unknown as grpc.ServiceDefinition, transport.service);
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, grpc.ServerCredentials.createInsecure(), (error, got) =>
      error === null ? resolve(got) : reject(error),
    );
  });
  const member = { raftId, nodeId: `n${nodeOf}`, addr: `127.0.0.1:${bound}`, isLearner: false };
  const checkpoints = await LevelCheckpoints.open({
    folder: `${folder}/${nodeOf}-state`,
    encryptionKey: undefined,
    random: realEnv.random,
  });
  const state = new ListState();
  const node = await createRaftNode({
    env: { ...env, disk: realEnv.disk },
    log: silentLogger,
    raftId,
    nodeId: member.nodeId,
    clusterId: CLUSTER_ID,
    folder: `${folder}/${nodeOf}`,
    checkpoints,
    transport,
    stateMachine: state,
    mode: mode(member),
    encoder,
    limits: { tailCountMax: 20, compactCountMin: 10, checkpointMs: 100, segmentBytes: 256 * 1024 },
    onFatal: (error) => assert.fail(String(error)),
  });
  node.start();
  const stop = async (): Promise<void> => {
    await node.stop();
    server.forceShutdown();
    await checkpoints.close();
  };
  return { node, state, member, stop };
}

/** Members 1 to 3, added to `all`; gives the first, which leads. */
async function startThree(folder: string, all: Running[]): Promise<Running> {
  const first = await start(folder, 1, (self) => ({ kind: "bootstrap", members: [self] }));
  all.push(first);
  await until("a sole member leads", () => first.node.isLeader);
  for (const raftId of [2, 3]) {
    const joined = await start(folder, raftId, () => ({ kind: "join", peers: [first.member] }));
    all.push(joined);
    await first.node.addMember(joined.member, AbortSignal.timeout(60_000));
  }
  return first;
}

test("RaftNode over gRPC: join by snapshot, follow, fail over, restart, remove", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await start(folder, 1, (self) => ({ kind: "bootstrap", members: [self] }));
    all.push(first);
    await until("a sole member leads", () => first.node.isLeader);
    // Large enough for a snapshot of several pieces, and compacted away.
    const large = "x".repeat(20_000);
    for (let count = 0; count < 60; count += 1) await first.node.propose(Buffer.from(`${count} ${large}`));
    await until("the log is compacted", () => first.node.core.log.firstIndex > 20);

    for (const raftId of [2, 3]) {
      const joined = await start(folder, raftId, () => ({ kind: "join", peers: [first.member] }));
      all.push(joined);
      await first.node.addMember(joined.member, AbortSignal.timeout(60_000));
      await until("the state arrived", () => joined.state.values.size === first.state.values.size);
    }
    assert.deepEqual(
      first.node.members.map((member) => [member.raftId, member.isLearner]),
      [
        [1, false],
        [2, false],
        [3, false],
      ],
    );

    const key = await first.node.propose(Buffer.from("after"));
    const second = all[1];
    const third = all[2];
    assert.ok(second !== undefined && third !== undefined);
    await second.node.readBarrier();
    assert.equal(
      second.state.values.get(String(key)),
      "after",
      "a follower reads what was acknowledged before",
    );
    await assert.rejects(
      second.node.propose(Buffer.from("no")),
      (error: { notLeader?: { leaderAddress: string } }) => {
        assert.equal(error.notLeader?.leaderAddress, first.member.addr);
        return true;
      },
    );

    await first.stop();
    await until("another one leads", () => second.node.isLeader || third.node.isLeader);
    const leader = second.node.isLeader ? second : third;
    await leader.node.propose(Buffer.from("without the first"));

    const port = Number(first.member.addr.split(":")[1]);
    const back = await start(folder, 1, () => ({ kind: "restart" }), { port });
    all[0] = back;
    await until("the first is back", () => back.state.values.size === leader.state.values.size);
    let told = 0;
    back.node.onRemoved(() => {
      told += 1;
    });
    await leader.node.removeMember(1, { force: false });
    assert.equal(leader.node.members.length, 2);
    await until("it learns of its removal", () => told === 1);
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});

test("RaftNode's log keeps its entries in memory, not what they were cut out of", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await startThree(folder, all);
    for (const { state } of all) state.memory.clear();
    const count = 200;
    const bytes = 500;
    for (let written = 0; written < count; written += 1)
      await first.node.propose(Buffer.alloc(64 * 1024, written).subarray(1000, 1000 + bytes));
    const size = first.state.values.size;
    for (const { state } of all) {
      await until("all arrived", () => state.values.size === size);
      const held = [...state.memory].reduce((sum, buffer) => sum + buffer.byteLength, 0);
      assert.ok(held < 4 * count * bytes, `${held} bytes`);
    }
  } finally {
    for (const running of all) await running.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});

test("RaftNode.removeMember() refuses what would leave no quorum, unless forced", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await startThree(folder, all);
    await all[2]?.stop();
    await until("its death is noticed", () => !first.node.reachable.has(3));
    await assert.rejects(
      first.node.removeMember(2, { force: false }),
      /want 2 of the remaining 2 managers reachable and with a whole log, got 1/,
    );
    await assert.rejects(first.node.removeMember(9, { force: false }), /no member has raft id 9/);
    await first.node.removeMember(3, { force: false });
    assert.equal(first.node.members.length, 2);
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});

test("RaftNode that was away while another one joined and took the lead follows that one", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await startThree(folder, all);
    const third = all[2];
    assert.ok(third !== undefined);
    await third.stop();
    const fourth = await start(folder, 4, () => ({ kind: "join", peers: [first.member] }));
    all.push(fourth);
    await first.node.addMember(fourth.member, AbortSignal.timeout(60_000));
    await first.node.transferLeadership(4);
    await until("the fourth leads", () => fourth.node.isLeader);
    await fourth.node.propose(Buffer.from("meanwhile"));

    const back = await start(folder, 3, () => ({ kind: "restart" }), { port: portOf(third) });
    all[2] = back;
    assert.ok(back.node.members.every((member) => member.raftId !== 4));
    await until("it has all that the fourth has", () => back.state.values.size === fourth.state.values.size);
    assert.ok(fourth.node.isLeader);
    await back.node.readBarrier();
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});

test("RaftNode that was away while its leader got another address follows it", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await startThree(folder, all);
    const [, second, third] = all;
    assert.ok(second !== undefined && third !== undefined);
    await third.stop();
    await second.stop();
    const moved = await start(folder, 2, () => ({ kind: "restart" }));
    all[1] = moved;
    assert.notEqual(moved.member.addr, second.member.addr);
    await until("the first leads on", () => first.node.isLeader);
    await first.node.updateMember(moved.member);
    await first.node.transferLeadership(2);
    await until("the second leads", () => moved.node.isLeader);
    await moved.node.propose(Buffer.from("meanwhile"));

    const back = await start(folder, 3, () => ({ kind: "restart" }), { port: portOf(third) });
    all[2] = back;
    await until("it has all that its leader has", () => back.state.values.size === moved.state.values.size);
    assert.ok(moved.node.isLeader);
    await back.node.readBarrier();
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});

/** Every 500th byte of the tables and the log of a stopped member's checkpoint. */
function spoilCheckpoint(folder: string): void {
  for (const name of readdirSync(folder).filter((each) => /^\d+\.(log|ldb)$/.test(each))) {
    const bytes = readFileSync(path.join(folder, name));
    for (let at = 40; at < bytes.byteLength; at += 500) bytes.writeUInt8(bytes.readUInt8(at) ^ 0xff, at);
    writeFileSync(path.join(folder, name), bytes);
  }
}

test("RaftNode whose checkpoint is damaged, and whose log doesn't reach back, gets its state from its peers", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await startThree(folder, all);
    const second = all[1];
    assert.ok(second);
    const large = "x".repeat(8_000);
    for (let count = 0; count < 120; count += 1) await first.node.propose(Buffer.from(`${count} ${large}`));
    await until("its log is compacted", () => second.node.core.log.firstIndex > 80);
    await until("it has all", () => second.state.values.size === first.state.values.size);
    await second.stop();
    spoilCheckpoint(path.join(folder, "2-state"));

    const port = Number(second.member.addr.split(":")[1]);
    const back = await start(folder, 2, () => ({ kind: "restart" }), { port });
    all[1] = back;
    assert.equal(back.node.core.status.isRecovering, true, "it knows that it lost something");
    await until("it votes again", () => !back.node.core.status.isRecovering);
    await until("it has all again", () => back.state.values.size === first.state.values.size);
    assert.deepEqual([...back.state.values], [...first.state.values]);
    await all[2]?.stop();
    await first.node.propose(Buffer.from("with its vote"));
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});

test("RaftNode with forceNewCluster leads alone with all it had", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await start(folder, 1, (self) => ({ kind: "bootstrap", members: [self] }));
    all.push(first);
    await until("a sole member leads", () => first.node.isLeader);
    const other = await start(folder, 2, () => ({ kind: "join", peers: [first.member] }));
    all.push(other);
    await first.node.addMember(other.member, AbortSignal.timeout(60_000));
    await first.node.propose(Buffer.from("kept"));
    await other.node.readBarrier();
    const size = other.state.values.size;
    await Promise.all(all.splice(0).map((each) => each.stop()));

    const alone = await start(folder, 2, (self) => ({
      kind: "forceNewCluster",
      addr: self.addr,
      formerRaftId: 2,
    }));
    all.push(alone);
    await until("it leads alone", () => alone.node.isLeader);
    assert.equal(alone.state.values.size, size);
    assert.deepEqual(
      alone.node.members.map((member) => member.raftId),
      [2],
    );
    await alone.node.propose(Buffer.from("and goes on"));
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});

/** Where a member was reached; another start of it must be reached there. */
function portOf(running: Running): number {
  return Number(running.member.addr.split(":")[1]);
}

test("members of the old cluster that come back don't reach into one that was forced of a former peer", async () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), "shoal-raft-test-"));
  const all: Running[] = [];
  try {
    const first = await startThree(folder, all);
    await first.node.propose(Buffer.from("of both"));
    const ports = all.map(portOf);
    await Promise.all(all.splice(0).map((each) => each.stop()));

    const force = (self: Member): StartMode => ({
      kind: "forceNewCluster",
      addr: self.addr,
      formerRaftId: 1,
    });
    const forced = await start(folder, 11, force, { port: ports[0] ?? 0, nodeOf: 1 });
    all.push(forced);
    await until("it leads alone", () => forced.node.isLeader);
    const old: Running[] = [];
    for (const raftId of [2, 3]) {
      const port = ports[raftId - 1] ?? 0;
      old.push(await start(folder, raftId, () => ({ kind: "restart" }), { port }));
    }
    all.push(...old);
    for (let round = 0; round < 20; round += 1) {
      await until("the old ones have a leader", () => old.some((each) => each.node.isLeader));
      const leader = old.find((each) => each.node.isLeader);
      await leader?.node.propose(Buffer.from("of the old cluster"));
      // Their terms must pass the new cluster's.
      if (round < 5) await leader?.node.transferLeadership();
      await forced.node.propose(Buffer.from("of the new one"));
    }
    assert.deepEqual(
      forced.node.members.map((member) => member.raftId),
      [11],
    );
    assert.ok(forced.node.isLeader);
    assert.ok(![...forced.state.values.values()].includes("of the old cluster"));
    for (const each of old) assert.ok(![...each.state.values.values()].includes("of the new one"));

    // Nor after a restart, under the number that it has now.
    await forced.stop();
    const again = await start(folder, 11, () => ({ kind: "restart" }), { port: ports[0] ?? 0, nodeOf: 1 });
    all[0] = again;
    await until("it leads again", () => again.node.isLeader);
    await again.node.propose(Buffer.from("of the new one"));
    assert.ok(![...again.state.values.values()].includes("of the old cluster"));
  } finally {
    await Promise.all(all.map((each) => each.stop()));
    rmSync(folder, { recursive: true, force: true });
  }
});
