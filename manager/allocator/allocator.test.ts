/** What an allocator that starts over must know of the grants that are still in flight. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { TaskState } from "../../model/task-state.ts";
import { ADDRESS_QUARANTINE_MS } from "../limits.ts";
import { newTask } from "../orchestrator/actions.ts";
import type { Store, WatchItem } from "../store/store.ts";
import { ModelCluster } from "../testing/model-cluster.ts";
import { Allocator } from "./allocator.ts";

/** Long enough to do something while a write is in flight. */
const COMMIT_MS = 15;

class Bench {
  readonly cluster: ModelCluster = new ModelCluster({ commitDelayMs: COMMIT_MS });
  #tell: ((items: readonly WatchItem[]) => void) | undefined;

  /** A network with room for five tasks, and a service on it that has none yet. */
  async begin(): Promise<void> {
    const IPAM = { Config: [{ Subnet: "10.9.0.0/29" }] };
    await this.cluster.write((tx) => tx.create("network", { id: "net", spec: { Name: "net", IPAM } }));
    await this.cluster.write((tx) =>
      tx.create("service", {
        id: "s",
        spec: {
          Name: "web",
          TaskTemplate: { ContainerSpec: { Image: "web" }, Networks: [{ Target: "net" }] },
          EndpointSpec: { Mode: "dnsrr" },
        },
        specVersion: 1,
      }),
    );
  }

  start(): Allocator {
    const { clock, random, store } = this.cluster;
    const watched = new Proxy<Store>(store, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (name !== "viewAndWatch") return typeof value === "function" ? value.bind(target) : value;
        return (...[options, listener]: Parameters<Store["viewAndWatch"]>) => {
          this.#tell = listener;
          return target.viewAndWatch(options, listener);
        };
      },
    });
    const allocator = new Allocator({ store: watched, clock, timers: clock, random, log: silentLogger });
    allocator.start();
    return allocator;
  }

  /** As if more had happened than the watch holds. */
  loseWatch(): void {
    this.#tell?.([{ kind: "resync", version: this.cluster.store.view().version }]);
  }

  /** Resolves as soon as they are there: what they are granted is in flight then. */
  async makeTasks(...ids: readonly string[]): Promise<void> {
    await this.cluster.write((tx) => {
      const service = tx.get("service", "s");
      assert.ok(service !== undefined);
      const context = { random: this.cluster.random, now: () => "", desiredState: TaskState.running };
      for (const [at, id] of ids.entries())
        tx.create("task", { ...newTask(tx, service, { slot: at + 1, nodeId: "" }, context), id });
    });
    await this.cluster.advance(1);
    for (const id of ids) assert.deepEqual(this.addresses(id), [], "its grant is in flight");
  }

  addresses(id: string): readonly string[] {
    const task = this.cluster.store.view().get("task", id);
    return task?.networks.flatMap((each) => each.addresses) ?? [];
  }

  async granted(...ids: readonly string[]): Promise<void> {
    await this.cluster.until("they have addresses", () => ids.every((id) => this.addresses(id).length > 0));
    await this.cluster.advance(10 * COMMIT_MS);
  }

  assertUnique(...ids: readonly string[]): void {
    const held = ids.flatMap((id) => this.addresses(id));
    assert.equal(new Set(held).size, ids.length, held.join());
  }
}

test("an allocator whose watch is lost while a grant is in flight doesn't give that away again", async () => {
  const bench = new Bench();
  await bench.begin();
  const allocator = bench.start();
  await bench.cluster.advance(10 * COMMIT_MS);
  await bench.makeTasks("a");
  bench.loseWatch();
  await bench.granted("a");
  await bench.makeTasks("b");
  await bench.granted("b");
  bench.assertUnique("a", "b");
  await allocator.stop();
});

test("an allocator that begins in the same term knows what the one before it had in flight", async () => {
  const bench = new Bench();
  await bench.begin();
  const former = bench.start();
  await bench.cluster.advance(10 * COMMIT_MS);
  // In another order than that of their ids, in which a view lists them.
  await bench.makeTasks("b", "a");
  void former.stop();
  const allocator = bench.start();
  await bench.granted("a", "b");
  await bench.cluster.write((tx) => {
    const task = tx.get("task", "a");
    assert.ok(task !== undefined);
    tx.update("task", { ...task, status: { ...task.status, state: TaskState.failed } });
  });
  await bench.cluster.advance(ADDRESS_QUARANTINE_MS + 10 * COMMIT_MS);
  await bench.makeTasks("c", "d", "e", "f");
  await bench.granted("c", "d", "e", "f");
  bench.assertUnique("b", "c", "d", "e", "f");
  await allocator.stop();
});
