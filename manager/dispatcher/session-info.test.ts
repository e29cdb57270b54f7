import assert from "node:assert/strict";
import { test } from "node:test";
import { ModelCluster } from "../testing/model-cluster.ts";
import { HEARTBEAT_MIN_MS, NODE_DOWN_MS } from "./limits.ts";
import { commonInfo } from "./session-info.ts";

test("nodes beat more rarely the more there are, and never so rarely that one late beat makes them silent", async () => {
  const cluster = new ModelCluster();
  const periods = [1, 1_000, 2_000, 5_000, 10_000, 1_000_000].map(
    (count) => commonInfo(cluster.store.view(), count).heartbeatMs,
  );
  assert.equal(periods[0], HEARTBEAT_MIN_MS);
  assert.ok((periods[2] ?? 0) > HEARTBEAT_MIN_MS);
  assert.deepEqual(
    periods,
    periods.toSorted((a, b) => a - b),
  );
  for (const period of periods) assert.ok(2 * period <= NODE_DOWN_MS, `${period} ms`);
  await cluster.stop();
});
