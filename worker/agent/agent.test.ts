import assert from "node:assert/strict";
import { test } from "node:test";
import { type Logger, silentLogger } from "../../common/log.ts";
import { FakeClock, settle } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import type { NodeDescription, TaskStatus } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import type { shoal } from "../../proto/messages.ts";
import { Agent, type DispatcherStreamHandlers } from "./agent.ts";

type ToManager = shoal.v1.AgentMessage.$Properties;

interface ModelStream {
  readonly addr: string;
  readonly sent: ToManager[];
  readonly handlers: DispatcherStreamHandlers;
  isClosed: boolean;
}

const description: NodeDescription = {
  Hostname: "host",
  Platform: {},
  Resources: { NanoCPUs: 1, MemoryBytes: 1 },
  Engine: { EngineVersion: "1" },
};

function status(state: TaskState): TaskStatus {
  return { state, timestamp: "", message: "", err: "" };
}

class Fixture {
  readonly clock = new FakeClock();
  readonly streams: ModelStream[] = [];
  readonly applied: string[][] = [];
  readonly committed: string[] = [];
  readonly events: string[] = [];
  networkErrors: readonly string[] = [];
  /** By how much timers are late: the process stood still. */
  lateMs = 0;
  networkGate: Promise<void> = Promise.resolve();
  readonly agent: Agent;
  /** Warnings, as "manager: reason" where they say so. */
  readonly warnings: string[] = [];
  readonly #log: Logger = {
    ...silentLogger,
    warn: (_text, fields) =>
      this.warnings.push(`${String(fields?.["manager"])}: ${String(fields?.["reason"])}`),
  };

  constructor(managers: readonly string[] = ["m1:2377", "m2:2377"]) {
    this.agent = new Agent(
      {
        clock: this.clock,
        timers: {
          after: (ms, run) => this.clock.after(ms + this.lateMs, run),
          every: (ms, run) => this.clock.every(ms, run),
          soon: (run) => this.clock.soon(run),
        },
        random: new SeededRandom(7),
        log: this.#log,
        connect: (addr, handlers) => {
          const stream: ModelStream = { addr, sent: [], handlers, isClosed: false };
          this.streams.push(stream);
          return {
            send: (message) => stream.sent.push(message),
            close: () => {
              if (stream.isClosed) return;
              stream.isClosed = true;
              queueMicrotask(() => handlers.ended("closed"));
            },
          };
        },
        applyNetwork: async () => {
          await this.networkGate;
          return this.networkErrors;
        },
        applyTasks: (set) => this.applied.push([...set.tasks.keys()]),
        statusCommitted: (taskId, each) => this.committed.push(`${taskId} ${each.state}`),
      },
      {
        description: () => description,
        rpcAddress: "10.0.0.9:2377",
        dataPathAddress: "10.0.0.9",
        addr: "10.0.0.9",
        availability: "active",
        managers,
        managersChanged: (list) => this.events.push(`managers ${list.map((each) => each.addr).join()}`),
        roleWanted: (role) => this.events.push(`role ${role}`),
        removed: () => this.events.push("removed"),
      },
    );
    this.agent.start();
  }

  get stream(): ModelStream {
    const last = this.streams.at(-1);
    assert.ok(last, "a stream was opened");
    return last;
  }

  open(): void {
    this.stream.handlers.message({ opened: { sessionId: "s", info: { heartbeatMs: 1000 } } });
  }

  assign(sequence: number, full: boolean, ...ids: readonly string[]): void {
    const tasks = ids.map((id) => ({ id, json: new TextEncoder().encode(JSON.stringify({ id })) }));
    this.stream.handlers.message({ assignments: { sequence, full, tasks } });
  }

  acks(): readonly number[] {
    return this.stream.sent.flatMap((each) => (each.ack ? [each.ack.sequence ?? 0] : []));
  }
}

test("Agent says hello first and beats at the manager's period", async () => {
  const fixture = new Fixture();
  assert.equal(fixture.stream.sent[0]?.hello?.rpcAddress, "10.0.0.9:2377");
  fixture.open();
  for (let second = 0; second < 3; second += 1) {
    fixture.stream.handlers.message({ heartbeat: {} });
    await fixture.clock.advanceAsync(1000);
  }
  assert.equal(fixture.stream.sent.filter((each) => each.heartbeat).length, 4);
});

test("Agent acknowledges after the network is in effect, once for what came meanwhile", async () => {
  const fixture = new Fixture();
  fixture.open();
  let release = (): void => {};
  fixture.networkGate = new Promise((resolve) => {
    release = resolve;
  });
  fixture.assign(1, true, "a");
  await settle();
  assert.deepEqual(fixture.acks(), []);
  assert.deepEqual(fixture.applied, []);
  fixture.assign(2, false, "b");
  fixture.assign(3, false, "c");
  release();
  await settle();
  assert.deepEqual(fixture.acks(), [1, 3]);
  assert.deepEqual(fixture.applied, [["a"], ["a", "b", "c"]]);
});

test("Agent reports network errors with the acknowledgement", async () => {
  const fixture = new Fixture();
  fixture.networkErrors = ["no VXLAN"];
  fixture.open();
  fixture.assign(1, true, "a");
  await settle();
  assert.deepEqual(fixture.stream.sent.find((each) => each.ack)?.ack?.errors, ["no VXLAN"]);
});

test("Agent opens a new session when a message is missing", async () => {
  const fixture = new Fixture();
  fixture.open();
  fixture.assign(1, true, "a");
  fixture.assign(3, false, "b");
  await fixture.clock.advanceAsync(5000);
  assert.ok(fixture.streams.length > 1);
});

test("Agent goes on to the next manager, and to the leader at once when it is named", async () => {
  const fixture = new Fixture();
  fixture.stream.handlers.ended("refused");
  await fixture.clock.advanceAsync(100);
  assert.equal(fixture.stream.addr, "m2:2377");
  fixture.stream.handlers.message({ disconnect: { reason: "not the leader", leaderAddr: "m3:2377" } });
  await settle();
  assert.equal(fixture.stream.addr, "m3:2377");
});

test("Agent gives up a manager that doesn't open the session, and one that falls silent", async () => {
  const fixture = new Fixture();
  await fixture.clock.advanceAsync(5_100);
  assert.equal(fixture.streams[0]?.isClosed, true);
  await fixture.clock.advanceAsync(2_000);
  fixture.open();
  const opened = fixture.stream;
  await fixture.clock.advanceAsync(6_000);
  assert.equal(opened.isClosed, true);
});

test("Agent says why it has no session, of each manager once a minute or when it changes, until it has one", async () => {
  const fixture = new Fixture();
  const { agent, clock, warnings } = fixture;
  const [refused, leaderless] = ["connect ECONNREFUSED", "this manager knows no leader"];
  const tryBoth = async (): Promise<void> => {
    for (let count = 0; count < 2; count += 1) {
      const { stream } = fixture;
      if (stream.addr === "m1:2377") stream.handlers.ended(refused);
      else stream.handlers.message({ disconnect: { reason: leaderless, leaderAddr: "" } });
      while (fixture.stream === stream) await clock.advanceAsync(100);
    }
  };
  assert.equal(agent.trouble, "");
  for (let round = 0; round < 5; round += 1) await tryBoth();
  const both = [`m1:2377: ${refused}`, `m2:2377: ${leaderless}`];
  assert.deepEqual(warnings, both);
  assert.equal(agent.trouble, `no session with a manager (${both.join("; ")})`);
  while (clock.monotonicMs() < 61_000) await tryBoth();
  await tryBoth();
  assert.deepEqual(warnings, [...both, ...both]);
  fixture.open();
  assert.equal(agent.trouble, "");
  agent.stop();
});

test("Agent gives managers longer once none of them has opened a session in time, until one does", async () => {
  const fixture = new Fixture();
  /** Milliseconds, in steps of 100, that each stream was left open. */
  const openMs: number[] = [];
  const watch = async (streamCount: number): Promise<void> => {
    while (openMs.length < streamCount || fixture.streams[streamCount - 1]?.isClosed !== true) {
      await fixture.clock.advanceAsync(100);
      const [index, stream] = [fixture.streams.length - 1, fixture.stream];
      if (!stream.isClosed) openMs[index] = (openMs[index] ?? 0) + 100;
    }
  };
  await watch(10);
  const seconds = openMs.map((ms) => Math.round(ms / 500) / 2);
  assert.deepEqual(seconds, [1.5, 1.5, 3, 3, 6, 6, 12, 12, 12, 12]);
  while (fixture.stream.isClosed) await fixture.clock.advanceAsync(100);
  fixture.open();
  fixture.stream.handlers.ended("gone");
  openMs.length = 0;
  openMs.length = fixture.streams.length - 1;
  await watch(fixture.streams.length);
  assert.equal(Math.round((openMs.at(-1) ?? 0) / 500) / 2, 1.5);
});

test("Agent that stood still doesn't take it for the manager's silence", async () => {
  const fixture = new Fixture();
  fixture.agent.reconnect();
  await fixture.clock.advanceAsync(0);
  fixture.lateMs = 20_000;
  await fixture.clock.advanceAsync(100);
  const opening = fixture.stream;
  fixture.lateMs = 0;
  await fixture.clock.advanceAsync(22_000);
  assert.equal(opening.isClosed, false);
  fixture.lateMs = 20_000;
  fixture.open();
  fixture.lateMs = 0;
  await fixture.clock.advanceAsync(22_000);
  assert.equal(opening.isClosed, false, "the first beat is 20 s late");
  await fixture.clock.advanceAsync(3_000);
  assert.equal(opening.isClosed, true);
});

test("Agent sends the newest status of each task and repeats what was not acknowledged on the next session", async () => {
  const fixture = new Fixture();
  fixture.agent.report("a", status(TaskState.accepted));
  fixture.open();
  fixture.agent.report("a", status(TaskState.running));
  await fixture.clock.advanceAsync(10);
  const [batch] = fixture.stream.sent.flatMap((each) => (each.statuses ? [each.statuses] : []));
  assert.equal(batch?.updates?.length, 1);
  fixture.stream.handlers.ended("cut");
  await fixture.clock.advanceAsync(3_000);
  fixture.open();
  await fixture.clock.advanceAsync(10);
  const again = fixture.stream.sent.flatMap((each) => (each.statuses ? [each.statuses] : []))[0];
  assert.equal(again?.updates?.[0]?.taskId, "a");
  fixture.stream.handlers.message({ statusAck: { batchId: again?.batchId ?? 0 } });
  assert.deepEqual(fixture.committed, [`a ${TaskState.running}`]);
});

test("Agent looks for another manager at once when the one it had is gone, and not at the same one first", async () => {
  const fixture = new Fixture();
  fixture.open();
  fixture.stream.handlers.ended("reset");
  assert.equal(fixture.streams.length, 2);
  assert.equal(fixture.stream.addr, "m2:2377");
  await fixture.clock.advanceAsync(1_600);
  assert.equal(fixture.streams[1]?.isClosed, true);
});

test("Agent comes by each manager in turn, the one that it lost last, so that the only one left is found", async () => {
  const managers = ["m1:2377", "m2:2377", "m3:2377"];
  for (const [index, lost] of managers.entries()) {
    const fixture = new Fixture(managers);
    if (fixture.stream.addr !== lost)
      fixture.stream.handlers.message({ disconnect: { reason: "not the leader", leaderAddr: lost } });
    await settle();
    fixture.open();
    const before = fixture.streams.length;
    fixture.stream.handlers.ended("no longer leads");
    // Nobody answers.
    await fixture.clock.advanceAsync(120_000);
    const tried = fixture.streams.slice(before, before + 6).map((each) => each.addr);
    const round = [...managers.slice(index + 1), ...managers.slice(0, index + 1)];
    assert.deepEqual(tried, [...round, ...round]);
  }
});

test("Agent passes on role and managers, and stops when the node was removed", async () => {
  const fixture = new Fixture();
  fixture.open();
  fixture.stream.handlers.message({
    update: { role: "manager", managers: [{ nodeId: "n", addr: "m9:2377" }] },
  });
  fixture.stream.handlers.message({ disconnect: { reason: "removed", removed: true } });
  await fixture.clock.advanceAsync(10_000);
  assert.deepEqual(fixture.events, ["managers m9:2377", "role manager", "removed"]);
  assert.equal(fixture.streams.length, 1);
});
