import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import type { Disk } from "../common/env.ts";
import { silentLogger } from "../common/log.ts";
import { realDisk, realEnv } from "../common/real-env.ts";
import { type NodeState, NodeStateStore } from "./node-state.ts";
import { SwarmNode, type SwarmNodeOptions } from "./swarm-node.ts";

const STATE: NodeState = {
  nodeId: "n",
  clusterId: "c",
  role: "manager",
  listenAddr: "0.0.0.0:2377",
  advertiseAddr: "127.0.0.1:2377",
  dataPathAddr: "127.0.0.1",
  availability: "active",
  managers: ["127.0.0.1:2377"],
};
const IDENTITY = {
  nodeId: "n",
  clusterId: "c",
  role: "manager",
  certificate: "cert",
  key: "key",
  rootCa: "root",
} as const;

function dataRoot(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), "shoal-node-state-"));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

test("SwarmNode keeps nothing of a cluster whose making, or restoring, was cut off by a kill", async (t) => {
  const root = dataRoot(t);
  const store = new NodeStateStore(realDisk, root);
  await store.saveIdentity(IDENTITY);
  await store.save({ ...STATE, isFounding: true });
  mkdirSync(path.join(store.managerFolder, "raft"), { recursive: true });
  writeFileSync(path.join(store.managerFolder, "raft", "CURRENT"), "{}");
  assert.equal(await store.hasManagerState(), true);
  const options: Partial<SwarmNodeOptions> = { env: realEnv, log: silentLogger, store };
  const node = new SwarmNode(options as SwarmNodeOptions);
  await node.start();
  assert.equal(node.state().localNodeState, "inactive");
  assert.equal(existsSync(path.join(root, "swarm")), false);
});

test("NodeStateStore.clear() that is cut off leaves a machine that is in no cluster, and can enter one", async (t) => {
  const root = dataRoot(t);
  const killed: Disk = {
    ...realDisk,
    removeTree: () => Promise.reject(new Error("killed")),
  };
  await new NodeStateStore(realDisk, root).saveIdentity(IDENTITY);
  await new NodeStateStore(realDisk, root).save(STATE);
  await assert.rejects(new NodeStateStore(killed, root).clear(), /killed/);
  const store = new NodeStateStore(realDisk, root);
  assert.equal(await store.load(), undefined);
  assert.equal(existsSync(path.join(root, "swarm", "node.key")), true);
  await store.clearLeftovers();
  assert.equal(existsSync(path.join(root, "swarm")), false);
  await store.clear();
});

test("NodeStateStore.clearLeftovers() leaves a node that is in a cluster alone", async (t) => {
  const store = new NodeStateStore(realDisk, dataRoot(t));
  await store.saveIdentity(IDENTITY);
  await store.save(STATE);
  await store.clearLeftovers();
  assert.deepEqual((await store.load())?.state, STATE);
  assert.equal(await store.hasManagerState(), false);
});

test("NodeStateStore.save() takes saves that overlap one by one: none fails, and the last one stays", async (t) => {
  const root = dataRoot(t);
  const store = new NodeStateStore(realDisk, root);
  await store.saveIdentity(IDENTITY);
  const roles = Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? "manager" : "worker"));
  await Promise.all(
    roles.map((role, at) => store.save({ ...STATE, role, managers: [`127.0.0.1:${1000 + at}`] })),
  );
  assert.deepEqual((await store.load())?.state.managers, ["127.0.0.1:1019"]);
  await Promise.all([store.save(STATE), store.clear()]);
  assert.equal(await store.load(), undefined);
});
