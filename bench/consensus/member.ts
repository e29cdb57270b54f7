/**
 * One of our three processes: the production raft member with a map as its state (or, for what the leader's loops do,
 * the production store) and a door for clients. Started by systems.ts with JSON as its only argument; takes orders over IPC.
 */
import { writeFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import type { Disk, DiskFile } from "../../common/env.ts";
import { createLogger, type Logger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { EntryEncoder } from "../../manager/raft/entry-codec.ts";
import { GrpcTransport } from "../../manager/raft/grpc-transport.ts";
import { LevelCheckpoints } from "../../manager/raft/level-checkpoints.ts";
import { createRaftNode, type RaftNode } from "../../manager/raft/node.ts";
import { MemoryStore } from "../../manager/store/memory-store.ts";
import { serveClients } from "./door.ts";
import { fill, type InsideLoad, proposeInside } from "./inside-load.ts";
import { KvMap } from "./kv-map.ts";
import { loadStore, type StoreLoad } from "./store-load.ts";

export interface MemberOrders {
  readonly raftId: number;
  readonly folder: string;
  readonly raftPort: number;
  readonly clientPort: number;
  readonly members: readonly { readonly raftId: number; readonly addr: string }[];
  readonly isRestart: boolean;
  /** Added to each synced write. */
  readonly diskDelayMs: number;
  readonly state: "map" | "store";
}

export type Order =
  | { readonly kind: "status" }
  | ({ readonly kind: "inside" } & InsideLoad)
  | ({ readonly kind: "store" } & StoreLoad)
  | { readonly kind: "fill"; readonly count: number; readonly valueBytes: number }
  /** Samples the processor for so long and writes what it saw to `file`, for Chrome's tools. */
  | { readonly kind: "profile"; readonly seconds: number; readonly file: string }
  | { readonly kind: "leave" };

const CLUSTER_ID = "bench";
const PROFILE_INTERVAL_US = 200;

interface OpenMember {
  readonly node: RaftNode;
  readonly state: KvMap;
  readonly store: MemoryStore;
  readonly bootMs: number;
  elections: number;
}

async function profile(order: Extract<Order, { kind: "profile" }>): Promise<void> {
  const session = new Session();
  session.connect();
  await session.post("Profiler.enable");
  await session.post("Profiler.setSamplingInterval", { interval: PROFILE_INTERVAL_US });
  await session.post("Profiler.start");
  await sleep(order.seconds * 1000);
  const { profile: found } = await session.post("Profiler.stop");
  session.disconnect();
  writeFileSync(order.file, JSON.stringify(found));
}

/** The transport, served at the member's raft port. */
async function openTransport(
  orders: MemberOrders,
  shared: { readonly log: Logger; readonly encoder: EntryEncoder },
): Promise<GrpcTransport> {
  const { random, timers } = realEnv;
  const transport = new GrpcTransport({
    raftId: orders.raftId,
    clusterId: CLUSTER_ID,
    timers,
    random,
    ...shared,
    connect: (addr, purpose) =>
      new grpc.Client(addr, grpc.credentials.createInsecure(), {
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 500,
        "grpc.use_local_subchannel_pool": purpose === "snapshot" ? 1 : 0,
        "grpc.max_receive_message_length": -1,
      }),
  });
  const server = new grpc.Server({ "grpc.max_receive_message_length": -1 });
  server.addService(GrpcTransport.definition as unknown as grpc.ServiceDefinition, transport.service);
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${orders.raftPort}`, grpc.ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
  return transport;
}

function delayed(file: DiskFile, delayMs: number): DiskFile {
  return {
    read: (offset, length) => file.read(offset, length),
    write: async (offset, bytes) => {
      await file.write(offset, bytes);
      await sleep(delayMs);
    },
    sync: () => file.sync(),
    truncate: (length) => file.truncate(length),
    length: () => file.length(),
    close: () => file.close(),
  };
}

/** The real disk, with `delayMs` added to each synced write. */
function diskWith(delayMs: number): Disk {
  const { disk } = realEnv;
  if (delayMs === 0) return disk;
  return {
    ...disk,
    open: async (path, options) => {
      const file = await disk.open(path, options);
      return options?.synced === true ? delayed(file, delayMs) : file;
    },
  };
}

async function openMember(orders: MemberOrders): Promise<OpenMember> {
  const { folder, isRestart, members, raftId } = orders;
  const beganMs = performance.now();
  const log = createLogger({
    level: "warn",
    format: "text",
    wallMs: () => Date.now(),
    write: (line) => console.error(`${raftId} ${line}`),
  });
  const encoder = new EntryEncoder();
  const transport = await openTransport(orders, { log, encoder });
  const state = new KvMap();
  const store = new MemoryStore({ clock: realEnv.clock, timers: realEnv.timers, log });
  const { random } = realEnv;
  const checkpoints = await LevelCheckpoints.open({
    folder: `${folder}/state`,
    encryptionKey: undefined,
    random,
  });
  const voters = members.map((each) => ({ ...each, nodeId: `n${each.raftId}`, isLearner: false }));
  const node = await createRaftNode({
    env: { ...realEnv, disk: diskWith(orders.diskDelayMs) },
    log,
    raftId,
    nodeId: `n${raftId}`,
    clusterId: CLUSTER_ID,
    folder: `${folder}/raft`,
    checkpoints,
    transport,
    stateMachine: orders.state === "map" ? state : store,
    encoder,
    mode: isRestart ? { kind: "restart" } : { kind: "bootstrap", members: voters },
    onFatal: (error) => {
      console.error(error);
      process.exit(1);
    },
  });
  store.attach(node);
  node.start();
  serveClients(node, state, orders.clientPort);
  return { node, state, store, bootMs: performance.now() - beganMs, elections: 0 };
}

async function obey(member: OpenMember, order: Order): Promise<unknown> {
  const { bootMs, elections, node, state, store } = member;
  switch (order.kind) {
    case "status": {
      const { appliedIndex, isLeader, leader, term } = node;
      const rssBytes = process.memoryUsage.rss();
      return { isLeader, leader, term, appliedIndex, rssBytes, keys: state.map.size, bootMs, elections };
    }
    case "inside":
      return proposeInside(node, order);
    case "store":
      return loadStore(store, order);
    case "fill":
      return fill(node, order);
    case "profile":
      return profile(order);
    case "leave":
      if (node.isLeader) await node.transferLeadership();
      setImmediate(() => process.exit(0));
      return {};
  }
}

async function main(): Promise<void> {
  const member = await openMember(JSON.parse(process.argv[2] ?? "{}") as MemberOrders);
  member.node.onLeadership((change) => {
    if (change.leader !== 0) member.elections += 1;
  });
  process.on("message", (message: { readonly id: number; readonly order: Order }) => {
    obey(member, message.order).then(
      (result) => process.send?.({ id: message.id, result }),
      (error: unknown) => process.send?.({ id: message.id, error: String(error) }),
    );
  });
  process.on("disconnect", () => process.exit(0));
  process.send?.({ id: 0, result: "ready" });
}

await main();
