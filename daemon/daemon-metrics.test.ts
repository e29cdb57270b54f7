/** What /shoal/v1/metrics says of a node outside of a cluster and of a manager. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeSwarm } from "../api/testing/fake-swarm.ts";
import { MetricsRegistry } from "../common/metrics.ts";
import { registerDaemonMetrics } from "./daemon-metrics.ts";

const raft = { term: 3, commitIndex: 12, appliedIndex: 11, memberCount: 1, walBytes: 4096, isLeader: true };

test("registerDaemonMetrics() shows a manager's parts while it is one, and each name ends in a unit", async () => {
  const swarm = new FakeSwarm();
  const registry = new MetricsRegistry();
  let figures: typeof raft | undefined;
  registerDaemonMetrics(registry, {
    engine: { containers: { summaries: () => [] } },
    swarm: {
      control: () =>
        figures === undefined ? undefined : { staleView: () => swarm.store, managers: () => [] },
      raftFigures: () => figures,
    },
  });
  assert.doesNotMatch(registry.text(), /^shoal_raft_term_number /m);
  figures = raft;
  await swarm.init();
  swarm.store.put("service", {
    id: swarm.store.newId(),
    spec: { Name: "web", TaskTemplate: { ContainerSpec: { Image: "x" } } },
    specVersion: 1,
  });
  const text = registry.text();
  assert.match(text, /^shoal_raft_applied_index_number 11$/m);
  assert.match(text, /^shoal_store_objects_count\{kind="service"\} 1$/m);
  assert.match(text, /^process_resident_memory_bytes \d+$/m);
  for (const [, name] of text.matchAll(/^# TYPE (\S+)/gm)) {
    assert.match(name ?? "", /_(total|seconds|bytes|count|number|bool)$/);
  }
  figures = undefined;
  assert.doesNotMatch(registry.text(), /^shoal_raft_term_number /m);
});
