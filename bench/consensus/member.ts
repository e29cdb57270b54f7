/**
 * One of our three processes: the production raft member with a map as its state (or, for what the leader's loops do,
 * the production store), and a door that speaks gRPC over cleartext HTTP/2 (node:http2), to which h2load sends the same
 * bytes as to etcd. Started by main.ts with JSON as its only argument; takes orders over IPC.
 */
import { writeFileSync } from "node:fs";
import * as http2 from "node:http2";
import { Session } from "node:inspector/promises";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import { createLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { EntryEncoder } from "../../manager/raft/entry-codec.ts";
import { GrpcTransport } from "../../manager/raft/grpc-transport.ts";
import { LevelCheckpoints } from "../../manager/raft/level-checkpoints.ts";
import { createRaftNode, type RaftNode } from "../../manager/raft/node.ts";
import type {
  Checkpoint,
  CommittedEntry,
  StateMachine,
  StateSnapshot,
} from "../../manager/raft/replicated-log.ts";
import { MemoryStore } from "../../manager/store/memory-store.ts";
import { loadStore, type StoreLoad } from "./store-load.ts";
import { fieldsOf, frame } from "./wire.ts";

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
  | {
      readonly kind: "inside";
      readonly inflight: number;
      readonly seconds: number;
      readonly valueBytes: number;
    }
  | ({ readonly kind: "store" } & StoreLoad)
  | { readonly kind: "fill"; readonly count: number; readonly valueBytes: number }
  /** Samples the processor for so long and writes what it saw to `file`, for Chrome's tools. */
  | { readonly kind: "profile"; readonly seconds: number; readonly file: string }
  | { readonly kind: "leave" };

class KvMap implements StateMachine {
  readonly map = new Map<string, Uint8Array>();
  #changed = new Set<string>();

  apply(entry: CommittedEntry): number {
    for (const { body, number } of fieldsOf(
      Buffer.from(entry.payload.buffer, entry.payload.byteOffset, entry.payload.byteLength),
    )) {
      // A transaction's puts are nested, a single put is flat.
      if (number === 2 && body[0] === 0x12) for (const { body: put } of fieldsOf(body)) this.#put(put);
      else if (number === 1) {
        this.#put(entry.payload as Buffer);
        break;
      }
    }
    return entry.index;
  }

  applied(): void {}

  takeCheckpoint(): Checkpoint {
    const puts = [...this.#changed].map((key) => [key, this.map.get(key) ?? new Uint8Array(0)] as const);
    this.#changed = new Set();
    return { puts, removes: [] };
  }

  snapshot(): StateSnapshot {
    const copy = [...this.map];
    return { entries: () => copy };
  }

  restore(_index: number, entries: Iterable<readonly [key: string, value: Uint8Array]>): void {
    this.map.clear();
    for (const [key, value] of entries) this.map.set(key, value);
  }

  #put(message: Buffer): void {
    let key = "";
    for (const { body, number } of fieldsOf(message)) {
      if (number === 1) key = body.toString("latin1");
      else if (number === 2) this.map.set(key, body);
    }
    this.#changed.add(key);
  }
}

const EMPTY = frame(Buffer.alloc(0));

function serveClients(node: RaftNode, state: KvMap, port: number): void {
  const server = http2.createServer();
  const answer = (stream: http2.ServerHttp2Stream, status: string, body: Buffer): void => {
    if (stream.destroyed) return;
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status }));
    stream.end(body);
  };
  server.on("stream", (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
    const chunks: Buffer[] = [];
    const isRead = headers[":path"] === "/etcdserverpb.KV/Range";
    stream.on("error", () => undefined);
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      const first = chunks[0] ?? Buffer.alloc(5);
      const message = (chunks.length === 1 ? first : Buffer.concat(chunks)).subarray(5);
      const done = isRead
        ? node.readBarrier().then(() => {
            for (const { body, number } of fieldsOf(message)) {
              if (number === 1) return frame(Buffer.from(state.map.get(body.toString("latin1")) ?? []));
            }
            return EMPTY;
          })
        : node.propose(message).then(() => EMPTY);
      done.then(
        (body) => answer(stream, "0", body),
        () => answer(stream, "14", EMPTY),
      );
    });
  });
  server.listen(port, "127.0.0.1");
}

/** Keeps `inflight` proposals open for a while; what the leader's own loops can reach. */
async function proposeInside(node: RaftNode, order: Extract<Order, { kind: "inside" }>): Promise<unknown> {
  const value = Buffer.alloc(order.valueBytes, 7);
  const latencies: number[] = [];
  const endMs = performance.now() + order.seconds * 1000;
  const cpu = process.cpuUsage();
  const loop = async (lane: number): Promise<void> => {
    for (let count = 0; performance.now() < endMs; count += 1) {
      const beganMs = performance.now();
      const key = Buffer.from(`k${lane}.${count % 100}`);
      await node.propose(
        Buffer.concat([Buffer.from([10, key.byteLength]), key, Buffer.from([18, 128, 2]), value]),
      );
      latencies.push(performance.now() - beganMs);
    }
  };
  await Promise.all(Array.from({ length: order.inflight }, (_, lane) => loop(lane)));
  latencies.sort((a, b) => a - b);
  const at = (share: number): number => latencies[Math.floor(latencies.length * share)] ?? 0;
  const { system, user } = process.cpuUsage(cpu);
  return {
    rate: latencies.length / order.seconds,
    p50: at(0.5),
    p99: at(0.99),
    cpuSeconds: (system + user) / 1e6,
  };
}

async function fill(node: RaftNode, order: Extract<Order, { kind: "fill" }>): Promise<unknown> {
  const value = Buffer.alloc(order.valueBytes, 7);
  for (let done = 0; done < order.count; done += 500) {
    const batch = Array.from({ length: Math.min(500, order.count - done) }, (_, at) => {
      const key = Buffer.from(`object-${done + at}`);
      return node.propose(
        Buffer.concat([Buffer.from([10, key.byteLength]), key, Buffer.from([18, 128, 2]), value]),
      );
    });
    await Promise.all(batch);
  }
  return {};
}

async function profile(order: Extract<Order, { kind: "profile" }>): Promise<unknown> {
  const session = new Session();
  session.connect();
  await session.post("Profiler.enable");
  await session.post("Profiler.setSamplingInterval", { interval: 200 });
  await session.post("Profiler.start");
  await sleep(order.seconds * 1000);
  const { profile: found } = await session.post("Profiler.stop");
  session.disconnect();
  writeFileSync(order.file, JSON.stringify(found));
  return {};
}

async function main(): Promise<void> {
  const orders = JSON.parse(process.argv[2] ?? "{}") as MemberOrders;
  const { raftId, members } = orders;
  const began = performance.now();
  const log = createLogger({
    level: "warn",
    format: "text",
    wallMs: () => Date.now(),
    write: (line) => console.error(`${raftId} ${line}`),
  });
  const encoder = new EntryEncoder();
  const transport = new GrpcTransport({
    raftId,
    clusterId: "bench",
    timers: realEnv.timers,
    random: realEnv.random,
    log,
    encoder,
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
  const state = new KvMap();
  const store = new MemoryStore({ clock: realEnv.clock, timers: realEnv.timers, log });
  const checkpoints = await LevelCheckpoints.open({
    folder: `${orders.folder}/state`,
    encryptionKey: undefined,
    random: realEnv.random,
  });
  const { disk } = realEnv;
  const slowDisk: typeof disk = {
    ...disk,
    open: async (path, options) => {
      const file = await disk.open(path, options);
      if (orders.diskDelayMs === 0) return file;
      const write = file.write.bind(file);
      const delayed = async (offset: number, bytes: Uint8Array): Promise<void> => {
        await write(offset, bytes);
        if (options?.synced === true) await new Promise((resolve) => setTimeout(resolve, orders.diskDelayMs));
      };
      return Object.assign(Object.create(file) as typeof file, {
        write: delayed,
        read: file.read.bind(file),
        sync: file.sync.bind(file),
        truncate: file.truncate.bind(file),
        length: file.length.bind(file),
        close: file.close.bind(file),
      });
    },
  };
  const node = await createRaftNode({
    env: { ...realEnv, disk: slowDisk },
    log,
    raftId,
    nodeId: `n${raftId}`,
    clusterId: "bench",
    folder: `${orders.folder}/raft`,
    checkpoints,
    transport,
    stateMachine: orders.state === "map" ? state : store,
    encoder,
    mode: orders.isRestart
      ? { kind: "restart" }
      : {
          kind: "bootstrap",
          members: members.map((member) => ({ ...member, nodeId: `n${member.raftId}`, isLearner: false })),
        },
    onFatal: (error) => {
      console.error(error);
      process.exit(1);
    },
  });
  store.attach(node);
  node.start();
  serveClients(node, state, orders.clientPort);
  const bootMs = performance.now() - began;
  let elections = 0;
  node.onLeadership((change) => {
    if (change.leader !== 0) elections += 1;
  });

  const obey = async (order: Order): Promise<unknown> => {
    switch (order.kind) {
      case "status":
        return {
          isLeader: node.isLeader,
          leader: node.leader,
          term: node.term,
          appliedIndex: node.appliedIndex,
          rssBytes: process.memoryUsage.rss(),
          keys: state.map.size,
          bootMs,
          elections,
        };
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
  };
  process.on("message", (message: { readonly id: number; readonly order: Order }) => {
    obey(message.order).then(
      (result) => process.send?.({ id: message.id, result }),
      (error: unknown) => process.send?.({ id: message.id, error: String(error) }),
    );
  });
  process.on("disconnect", () => process.exit(0));
  process.send?.({ id: 0, result: "ready" });
}

await main();
