/** What a scheduler that starts over must know of the placements that are still in flight. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { TaskState } from "../../model/task-state.ts";
import { NodeImages } from "../node-images.ts";
import { newTask } from "../orchestrator/actions.ts";
import type { Draft } from "../store/store.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { Scheduler } from "./scheduler.ts";

/** Long enough to do something while a write is in flight. */
const COMMIT_MS = 15;

class Bench {
  readonly cluster: ModelCluster = new ModelCluster({ commitDelayMs: COMMIT_MS });

  /** A node with room for one task of the service. */
  async begin(): Promise<void> {
    const Resources = { Reservations: { NanoCPUs: 1_000_000_000 } };
    await this.cluster.write((tx) =>
      tx.create("service", {
        id: "s",
        spec: { Name: "web", TaskTemplate: { ContainerSpec: { Image: "web" }, Resources } },
        specVersion: 1,
      }),
    );
    await this.cluster.addNode({ nanoCpus: 1_000_000_000 });
  }

  start(): Scheduler {
    const { clock, random, store } = this.cluster;
    const scheduler = new Scheduler(
      { store, clock, timers: clock, random, log: silentLogger },
      new NodeImages(),
    );
    scheduler.start();
    return scheduler;
  }

  /** In the state that the allocator leaves them in. */
  async makeTasks(...ids: readonly string[]): Promise<void> {
    await this.cluster.write((tx) => {
      const service = tx.get("service", "s");
      assert.ok(service !== undefined);
      const context = { random: this.cluster.random, now: () => "", desiredState: TaskState.running };
      for (const [at, id] of ids.entries()) {
        const made = newTask(tx, service, { slot: at + 1, nodeId: "" }, context);
        const task: Draft<"task"> = { ...made, id, status: { ...made.status, state: TaskState.pending } };
        tx.create("task", task);
      }
    });
  }

  placed(): readonly string[] {
    const tasks = this.cluster.store.view().list("task");
    return tasks.filter((task) => task.status.state >= TaskState.assigned).map((task) => task.id);
  }
}

test("a scheduler that begins in the same term gives away no room that the one before it had given", async () => {
  const bench = new Bench();
  await bench.begin();
  const former = bench.start();
  await bench.cluster.advance(10 * COMMIT_MS);
  // In another order than that of their ids, in which a view lists them.
  await bench.makeTasks("b", "a");
  await bench.cluster.advance(5);
  assert.deepEqual(bench.placed(), [], "the placement of one is in flight");
  void former.stop();
  const scheduler = bench.start();
  await bench.cluster.advance(20 * COMMIT_MS);
  assert.deepEqual(bench.placed(), ["b"]);
  await scheduler.stop();
});
