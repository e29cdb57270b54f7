/**
 * The figures of the daemon's parts for /shoal/v1/metrics: process, Raft, store with its tasks and nodes, containers. They
 * are read when asked for and cost nothing in between, but for the event loop's delay once somebody has asked. The API counts
 * its requests itself, in the same registry.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import type { MetricsRegistry } from "../common/metrics.ts";
import type { LeaderFigures, RaftFigures } from "../manager/manager.ts";
import type { ClusterControl } from "../model/cluster-control.ts";
import type { ContainerEngine } from "../model/engine.ts";
import { NodeState, type TableTypes, type Task } from "../model/objects.ts";
import { TaskState, taskStateName } from "../model/task-state.ts";

/** What is measured; the parts may come and go as the node changes its place in the cluster. */
export interface MeasuredParts {
  readonly engine: { readonly containers: Pick<ContainerEngine, "summaries"> };
  readonly swarm: {
    control(): Pick<ClusterControl, "staleView" | "managers"> | undefined;
    raftFigures(): RaftFigures | undefined;
    leaderFigures(): LeaderFigures | undefined;
    isAgentConnected(): boolean | undefined;
  };
}

const TABLES: readonly (keyof TableTypes)[] = ["node", "service", "task", "network", "secret", "config"];
const LOOP_RESOLUTION_MS = 20;
const NANOS_PER_SECOND = 1e9;
const MICROS_PER_SECOND = 1e6;
const MILLIS_PER_SECOND = 1e3;

function countBy(names: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
}

/** Of the time between two turns of the histogram's timer, in nanoseconds, what is more than the timer's own period. */
export function lateSeconds(periodNanos: number): number {
  return Math.max(0, periodNanos / NANOS_PER_SECOND - LOOP_RESOLUTION_MS / MILLIS_PER_SECOND);
}

function registerProcess(registry: MetricsRegistry): void {
  const memory = registry.gauge("process_resident_memory_bytes", "Memory of the daemon in RAM");
  const heap = registry.gauge("shoal_heap_used_bytes", "JavaScript heap in use");
  const cpu = registry.counter("process_cpu_seconds_total", "CPU time of the daemon, user and system");
  let cpuSeconds = 0;
  const delay = registry.gauge(
    "shoal_event_loop_delay_seconds",
    "How late the event loop was since the last reading, by quantile",
  );
  const histogram = monitorEventLoopDelay({ resolution: LOOP_RESOLUTION_MS });
  registry.onCollect(() => {
    const { rss, heapUsed } = process.memoryUsage();
    memory.set(rss);
    heap.set(heapUsed);
    const { user, system } = process.cpuUsage();
    const seconds = (user + system) / MICROS_PER_SECOND;
    cpu.add(seconds - cpuSeconds);
    cpuSeconds = seconds;
    // True the first time: nothing is known yet. Its timer wakes the process for as long as it is enabled.
    if (histogram.enable()) return;
    for (const percentile of [50, 99, 100])
      delay.set(lateSeconds(histogram.percentile(percentile)), { quantile: String(percentile / 100) });
    histogram.reset();
  });
}

function registerRaft(registry: MetricsRegistry, { swarm }: MeasuredParts): void {
  const figures: readonly (readonly [string, string, (raft: RaftFigures) => number])[] = [
    ["shoal_raft_term_number", "Current term", (raft) => raft.term],
    ["shoal_raft_commit_index_number", "Newest entry known to be on a quorum", (raft) => raft.commitIndex],
    ["shoal_raft_applied_index_number", "Newest entry applied to the store", (raft) => raft.appliedIndex],
    ["shoal_raft_members_count", "Members of the group", (raft) => raft.memberCount],
    ["shoal_raft_log_bytes", "Write-ahead log on disk", (raft) => raft.walBytes],
    ["shoal_raft_leader_bool", "1 on the leader", (raft) => (raft.isLeader ? 1 : 0)],
  ];
  const gauges = figures.map(([name, help, read]) => ({ gauge: registry.gauge(name, help), read }));
  registry.onCollect(() => {
    const raft = swarm.raftFigures();
    for (const { gauge, read } of gauges) {
      gauge.clear();
      if (raft !== undefined) gauge.set(read(raft));
    }
  });
}

function registerLoops(registry: MetricsRegistry, { swarm }: MeasuredParts): void {
  const runs = registry.total("shoal_loop_runs_total", "Runs of the leader's loops on this manager");
  const failures = registry.total("shoal_loop_failures_total", "Runs that ended in an error");
  const busy = registry.total(
    "shoal_loop_busy_seconds_total",
    "Time in runs, waiting for their writes included",
  );
  const sessions = registry.gauge("shoal_dispatcher_sessions_count", "Nodes with a session at this leader");
  const silent = registry.gauge(
    "shoal_dispatcher_silent_nodes_count",
    "Nodes without a session that are not taken for lost yet",
  );
  const connected = registry.gauge(
    "shoal_agent_connected_bool",
    "1 if this node has a session with the leader",
  );
  registry.onCollect(() => {
    for (const gauge of [runs, failures, busy, sessions, silent, connected]) gauge.clear();
    const isConnected = swarm.isAgentConnected();
    if (isConnected !== undefined) connected.set(isConnected ? 1 : 0);
    const figures = swarm.leaderFigures();
    if (figures === undefined) return;
    sessions.set(figures.sessionCount);
    silent.set(figures.silentNodeCount);
    for (const [loop, { runCount, failureCount, busySeconds }] of figures.loops) {
      runs.set(runCount, { loop });
      failures.set(failureCount, { loop });
      busy.set(busySeconds, { loop });
    }
  });
}

function registerStore(registry: MetricsRegistry, { swarm }: MeasuredParts): void {
  const objects = registry.gauge("shoal_store_objects_count", "Objects in the store by kind");
  const tasks = registry.gauge(
    "shoal_tasks_count",
    "Tasks by observed state; those wanted running as state=wanted",
  );
  const missing = registry.gauge(
    "shoal_tasks_missing_count",
    "Tasks wanted running that do not run, or whose node is not ready",
  );
  const nodes = registry.gauge("shoal_nodes_count", "Nodes by state");
  const reachable = registry.gauge(
    "shoal_managers_reachable_count",
    "Managers that answer, this one included",
  );
  registry.onCollect(() => {
    for (const gauge of [objects, tasks, missing, nodes, reachable]) gauge.clear();
    const control = swarm.control();
    if (control === undefined) return;
    const view = control.staleView();
    for (const table of TABLES) objects.set(view.list(table).length, { kind: table });
    const all = view.list("task");
    // What an alarm compares must be there when it is none, too: Prometheus compares nothing with what is absent.
    tasks.set(0, { state: "running" });
    for (const [state, count] of countBy(all.map((task) => taskStateName(task.status.state)))) {
      tasks.set(count, { state });
    }
    const wanted = all.filter((task) => task.desiredState === TaskState.running);
    tasks.set(wanted.length, { state: "wanted" });
    const listed = view.list("node");
    const ready = new Set(
      listed.filter(({ status }) => status.state === NodeState.ready).map((node) => node.id),
    );
    const doesRun = (task: Task): boolean =>
      task.status.state === TaskState.running && ready.has(task.nodeId);
    missing.set(wanted.filter((task) => !doesRun(task)).length);
    nodes.set(ready.size, { state: "ready" });
    nodes.set(listed.length - ready.size, { state: "not_ready" });
    reachable.set(control.managers().filter((manager) => manager.isReachable).length);
  });
}

function registerContainers(registry: MetricsRegistry, { engine }: MeasuredParts): void {
  const containers = registry.gauge("shoal_containers_count", "Containers of this machine by state");
  registry.onCollect(() => {
    containers.clear();
    const states = engine.containers.summaries({}).map((container) => container.state.status);
    for (const [state, count] of countBy(states)) containers.set(count, { state });
  });
}

/** Call once for a registry. */
export function registerDaemonMetrics(registry: MetricsRegistry, parts: MeasuredParts): void {
  registerProcess(registry);
  registerRaft(registry, parts);
  registerLoops(registry, parts);
  registerStore(registry, parts);
  registerContainers(registry, parts);
}
