import assert from "node:assert/strict";
import { test } from "node:test";
import { checkClusterSpec } from "./other-specs.ts";

test("checkClusterSpec() takes a negative task history limit, which keeps all tasks, as Swarm does", () => {
  const Orchestration = { TaskHistoryRetentionLimit: -1 };
  const spec = checkClusterSpec({ Name: "default", Orchestration }, { Name: "default" });
  assert.deepEqual(spec.Orchestration, Orchestration);
});
