/**
 * Managers of a real cluster are killed, cut off and restarted while clients write and read: nothing acknowledged is
 * lost.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { runManagerChaos, verdictOf } from "../chaos/run-managers.ts";
import { TestCluster } from "./support/test-cluster.ts";

const CYCLES = 6;
const CLIENTS = 8;

describe("three managers under faults", () => {
  let cluster: TestCluster;

  before(async () => {
    cluster = await TestCluster.start("e2echaos", { managers: 3, workers: 0 });
  });

  after(async () => {
    await cluster.stop();
  });

  test("no acknowledged write is lost and what clients saw is linearizable", async (context) => {
    const seed = Math.floor(performance.timeOrigin) % 1_000_000;
    context.diagnostic(`seed ${seed}; longer: node dist/test/chaos/main.js --cycles 200 --seed ${seed}`);
    const report = await runManagerChaos({ cluster: cluster.dev, cycles: CYCLES, seed, clients: CLIENTS });
    context.diagnostic(`${report.ok} operations answered, ${report.unknown} unknown`);
    assert.equal(verdictOf(report), undefined, report.stories.join("\n"));
    assert.ok(report.reads > 0 && report.writes > 0, "clients read and wrote");
  });
});
