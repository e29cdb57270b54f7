/** How machines become nodes and change roles, also while daemons die in the middle, on a real cluster. */
import assert from "node:assert/strict";
import { cpSync, existsSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { must } from "../../common/assert.ts";
import type { DevHost } from "../../dev/cluster.ts";
import { TestCluster } from "./support/test-cluster.ts";
import { until, WAIT_MS } from "./support/wait.ts";

describe("membership", () => {
  let cluster: TestCluster;
  let worker: DevHost;

  before(async () => {
    cluster = await TestCluster.start("e2ememb", { managers: 1, workers: 1 });
    worker = must(cluster.dev.workers[0], "one worker");
  });

  after(() => cluster.stop());

  async function standing(): Promise<string> {
    const format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
    const lines = (await cluster.docker("node", "ls", "--format", format)).split("\n");
    return must(
      lines.find((line) => line.startsWith(`${worker.name} `)),
      "it is listed",
    ).trim();
  }

  /** Of two managers either may lead after one was away. */
  async function isManager(): Promise<boolean> {
    return /Ready (?:Reachable|Leader)$/.test(await standing());
  }

  /** Killed after its certificate said worker, and before its state was gone: what was there is put back. */
  async function cutOffDemotion(): Promise<string> {
    const state = path.join(worker.folder, "data/swarm/manager");
    const kept = path.join(worker.folder, "kept");
    await cluster.docker("node", "promote", worker.name);
    await until("it is a manager", WAIT_MS, isManager);
    await cluster.dev.stopDaemon(worker.name);
    cpSync(state, kept, { recursive: true });
    await cluster.dev.startDaemon(worker.name);
    await until("it is back", WAIT_MS, isManager);
    await cluster.docker("node", "demote", worker.name);
    await until("its state is gone", WAIT_MS, () => !existsSync(state));
    await cluster.dev.killDaemon(worker.name);
    cpSync(kept, state, { recursive: true });
    return state;
  }

  test("a worker keeps nothing of a manager whose demotion was cut off, and becomes one again", async () => {
    const state = await cutOffDemotion();
    await cluster.dev.startDaemon(worker.name);
    await until("the state with all secrets is gone", WAIT_MS, () => !existsSync(state));
    await until("it is a worker", WAIT_MS, async () => (await standing()) === `${worker.name} Ready`);
    await cluster.docker("node", "promote", worker.name);
    await until("it is a manager", WAIT_MS, isManager);
    await until("it answers as one", WAIT_MS, async () => cluster.dockerOn(worker.name, "node", "ls"));
  });

  test("swarm init takes what swarm update takes: a year's certificates, and none of a minute", async () => {
    await cluster.docker("node", "demote", worker.name);
    await until("it is a worker", WAIT_MS, async () => (await standing()) === `${worker.name} Ready`);
    await cluster.dockerOn(worker.name, "swarm", "leave");
    const init = ["swarm", "init", "--advertise-addr", worker.address];
    const refused = await cluster.dev.docker(worker.name, [...init, "--cert-expiry", "1m"], {
      timeoutMs: WAIT_MS,
    });
    assert.match(refused.stderr, /minimum certificate expiry time must be 1h0m0s/);
    await cluster.dockerOn(worker.name, ...init, "--cert-expiry", "8760h");
    await cluster.dockerOn(worker.name, "swarm", "update", "--task-history-limit", "3");
    assert.match(await cluster.dockerOn(worker.name, "info"), /Expiry Duration: 12 months/);
    await cluster.dockerOn(worker.name, "swarm", "leave", "--force");
  });
});
