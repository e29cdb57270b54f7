/** What /shoal/v1/metrics says of a node outside of a cluster and of a manager. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeSwarm } from "../api/testing/fake-swarm.ts";
import { MetricsRegistry } from "../common/metrics.ts";
import { NodeState, type Task } from "../model/objects.ts";
import { TaskState } from "../model/task-state.ts";
import { LoopTally } from "../manager/loop-tally.ts";
import { lateSeconds, registerDaemonMetrics } from "./daemon-metrics.ts";

const raft = { term: 3, commitIndex: 12, appliedIndex: 11, memberCount: 1, walBytes: 4096, isLeader: true };

test("registerDaemonMetrics() shows a manager's parts while it is one, and each name ends in a unit", async () => {
  const swarm = new FakeSwarm();
  const registry = new MetricsRegistry();
  let figures: typeof raft | undefined;
  const tally = new LoopTally();
  tally.ran("scheduler", 250, false);
  tally.ran("scheduler", 500, true);
  registerDaemonMetrics(registry, {
    engine: { containers: { summaries: () => [] } },
    swarm: {
      control: () =>
        figures === undefined ? undefined : { staleView: () => swarm.store, managers: () => [] },
      raftFigures: () => figures,
      leaderFigures: () =>
        figures === undefined ? undefined : { loops: tally.byLoop, sessionCount: 4, silentNodeCount: 1 },
      isAgentConnected: () => (figures === undefined ? undefined : true),
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
  assert.match(text, /^# TYPE shoal_loop_runs_total counter$/m);
  assert.match(text, /^shoal_loop_runs_total\{loop="scheduler"\} 2$/m);
  assert.match(text, /^shoal_loop_failures_total\{loop="scheduler"\} 1$/m);
  assert.match(text, /^shoal_loop_busy_seconds_total\{loop="scheduler"\} 0.75$/m);
  assert.match(text, /^shoal_dispatcher_sessions_count 4$/m);
  assert.match(text, /^shoal_dispatcher_silent_nodes_count 1$/m);
  assert.match(text, /^shoal_agent_connected_bool 1$/m);
  assert.match(text, /^process_resident_memory_bytes \d+$/m);
  for (const [, name] of text.matchAll(/^# TYPE (\S+)/gm)) {
    assert.match(name ?? "", /_(total|seconds|bytes|count|number|bool)$/);
  }
  figures = undefined;
  assert.doesNotMatch(registry.text(), /^shoal_raft_term_number /m);
});

test("registerDaemonMetrics() counts tasks that are missing, and says of states that are compared also that they are none", async () => {
  const swarm = new FakeSwarm();
  const registry = new MetricsRegistry();
  registerDaemonMetrics(registry, {
    engine: { containers: { summaries: () => [] } },
    swarm: {
      control: () => ({ staleView: () => swarm.store, managers: () => [] }),
      raftFigures: () => undefined,
      leaderFigures: () => undefined,
      isAgentConnected: () => undefined,
    },
  });
  await swarm.init();
  const none = registry.text();
  assert.match(none, /^shoal_tasks_count\{state="running"\} 0$/m);
  assert.match(none, /^shoal_tasks_missing_count 0$/m);
  assert.match(none, /^shoal_nodes_count\{state="not_ready"\} 0$/m);
  const lost = swarm.putNode("lost", { status: { state: NodeState.down, message: "", addr: "" } });
  const service = swarm.store.put("service", {
    id: swarm.store.newId(),
    spec: { Name: "web", TaskTemplate: { ContainerSpec: { Image: "x" } } },
    specVersion: 1,
  });
  const status = (state: TaskState): Task["status"] => ({ timestamp: "", state, message: "", err: "" });
  const running = status(TaskState.running);
  swarm.putTask(service, { desiredState: TaskState.running, status: running });
  swarm.putTask(service, { desiredState: TaskState.running, status: status(TaskState.pending), nodeId: "" });
  // It was told to go, and the node that it runs on will not say when it has.
  swarm.putTask(service, { desiredState: TaskState.shutdown, status: running, nodeId: lost.id });
  swarm.putTask(service, { desiredState: TaskState.running, status: running, nodeId: lost.id });
  const text = registry.text();
  assert.match(text, /^shoal_tasks_count\{state="wanted"\} 3$/m);
  assert.match(text, /^shoal_tasks_missing_count 2$/m);
  assert.match(text, /^shoal_nodes_count\{state="not_ready"\} 1$/m);
});

test("the event loop's delay is known from the second reading on, and is what its timer came late", () => {
  const registry = new MetricsRegistry();
  registerDaemonMetrics(registry, {
    engine: { containers: { summaries: () => [] } },
    swarm: {
      control: () => undefined,
      raftFigures: () => undefined,
      leaderFigures: () => undefined,
      isAgentConnected: () => undefined,
    },
  });
  assert.doesNotMatch(registry.text(), /^shoal_event_loop_delay_seconds\{/m);
  assert.match(registry.text(), /^shoal_event_loop_delay_seconds\{quantile="0.99"\} 0$/m);
  assert.equal(lateSeconds(35_000_000).toFixed(3), "0.015");
  assert.equal(lateSeconds(20_000_000), 0);
});
