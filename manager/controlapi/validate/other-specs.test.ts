import assert from "node:assert/strict";
import { test } from "node:test";
import { checkClusterSpec } from "./other-specs.ts";

test("checkClusterSpec() takes a negative task history limit, which keeps all tasks, as Swarm does", () => {
  const Orchestration = { TaskHistoryRetentionLimit: -1 };
  const spec = checkClusterSpec({ Name: "default", Orchestration }, { Name: "default" });
  assert.deepEqual(spec.Orchestration, Orchestration);
});

test("checkClusterSpec() takes certificates for an hour, a year and centuries, and for no time that has no date", () => {
  const hourNs = 3_600e9;
  const stored = { Name: "default" };
  for (const NodeCertExpiry of [hourNs, 365 * 24 * hourNs, 200 * 365 * 24 * hourNs])
    assert.deepEqual(checkClusterSpec({ CAConfig: { NodeCertExpiry } }, stored).CAConfig, { NodeCertExpiry });
  for (const NodeCertExpiry of [1, -hourNs, 1e300, "1h"])
    assert.throws(() => checkClusterSpec({ CAConfig: { NodeCertExpiry } }, stored), {
      code: "invalid_argument",
    });
});
