import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Task } from "../model/objects.ts";
import type { ServiceSpec } from "../model/specs.ts";
import { TaskState } from "../model/task-state.ts";
import { ADDRESS_QUARANTINE_MS } from "./limits.ts";
import { ModelCluster } from "./testing/model-cluster.ts";

const SECOND = 1e9;

function spec(name: string, replicas: number, more: Partial<ServiceSpec> = {}, image = "ok"): ServiceSpec {
  return {
    Name: name,
    TaskTemplate: { ContainerSpec: { Image: image } },
    Mode: { Replicated: { Replicas: replicas } },
    ...more,
  };
}

async function withCluster(nodeCount: number, run: (cluster: ModelCluster) => Promise<void>): Promise<void> {
  const cluster = new ModelCluster();
  cluster.start();
  for (let index = 0; index < nodeCount; index += 1) await cluster.addNode();
  await run(cluster);
  await cluster.stop();
}

// Virtual time costs real time on a busy machine; how much is no matter of correctness.
describe("LeaderLoops", { timeout: 300_000 }, () => {
  it("bring 100 replicas up without waiting for anything but the workers", async () => {
    await withCluster(3, async (cluster) => {
      const id = await cluster.createService(spec("web", 100));
      const tookMs = await cluster.until("100 running", () => cluster.running(id).length === 100);
      assert(tookMs < 250, `took ${tookMs} ms of virtual time`);
      const perNode = new Map<string, number>();
      for (const task of cluster.tasks(id)) perNode.set(task.nodeId, (perNode.get(task.nodeId) ?? 0) + 1);
      assert.deepEqual(
        [...perNode.values()].sort((left, right) => left - right),
        [33, 33, 34],
      );
      assert.deepEqual(new Set(cluster.tasks(id).map((task) => task.slot)).size, 100);
    });
  });

  it("scale up and down keeps what runs and removes the rest entirely", async () => {
    await withCluster(3, async (cluster) => {
      const id = await cluster.createService(spec("web", 5));
      await cluster.until("5 running", () => cluster.running(id).length === 5);
      const before = new Set(cluster.tasks(id).map((task) => task.id));
      await cluster.updateService(id, (old) => ({ ...old, Mode: { Replicated: { Replicas: 8 } } }));
      await cluster.until("8 running", () => cluster.running(id).length === 8);
      assert([...before].every((taskId) => cluster.running(id).some((task) => task.id === taskId)));
      await cluster.updateService(id, (old) => ({ ...old, Mode: { Replicated: { Replicas: 3 } } }));
      await cluster.until("3 left", () => cluster.tasks(id).length === 3 && cluster.running(id).length === 3);
      assert.equal(new Set(cluster.running(id).map((task) => task.nodeId)).size, 3, "one on each node");
      assert.equal(cluster.service(id).updateStatus, undefined, "scaling is no update");
      await cluster.removeService(id);
      await cluster.until("none left", () => cluster.tasks(id).length === 0);
    });
  });

  it("scaled down and up again, prepare a slot's new task at once and start it when the old container has stopped", async () => {
    const cluster = new ModelCluster({ stopMsMax: 20_000 });
    cluster.start();
    await cluster.addNode();
    const scale = (replicas: number): Promise<void> =>
      cluster.updateService(id, (old) => ({ ...old, Mode: { Replicated: { Replicas: replicas } } }));
    const id = await cluster.createService(spec("web", 1));
    await cluster.until("1 running", () => cluster.running(id).length === 1);
    const [old] = cluster.running(id);
    assert(old !== undefined);
    await scale(0);
    await cluster.until("told to stop", () => cluster.tasks(id)[0]?.desiredState === TaskState.remove);
    await scale(1);
    const isReady = (): boolean => cluster.tasks(id).some((task) => task.status.state === TaskState.ready);
    await cluster.until("a new one is prepared", isReady, 1_000);
    assert(cluster.containers.has(old.id), "the old one still stops");
    await cluster.until("a new one runs", () => cluster.running(id).some((task) => task.id !== old.id));
    assert(!cluster.containers.has(old.id), "never two containers in a slot");
    assert.deepEqual(new Set(cluster.tasks(id).map((task) => task.slot)), new Set([old.slot]));
    await cluster.stop();
  });

  it("restart a crashed task after the delay of its policy, and only as often as that allows", async () => {
    await withCluster(2, async (cluster) => {
      const template = {
        ContainerSpec: { Image: "crash:100" },
        RestartPolicy: { Condition: "any", Delay: 2 * SECOND, MaxAttempts: 2 },
      } as const;
      const id = await cluster.createService({ ...spec("web", 1), TaskTemplate: template });
      await cluster.until("first crash", () =>
        cluster.tasks(id).some((task) => task.status.state === TaskState.failed),
      );
      const tookMs = await cluster.until("restarted", () => cluster.running(id).length === 1);
      assert(tookMs >= 1_900 && tookMs < 2_300, `restart took ${tookMs} ms`);
      await cluster.advance(30_000);
      assert.equal(cluster.tasks(id).length, 3);
      assert(cluster.tasks(id).every((task) => task.status.state === TaskState.failed));
    });
  });

  it("keep to a restart delay under the next leader, whatever was written to the slot's other tasks meanwhile", async () => {
    await withCluster(1, async (cluster) => {
      const template = {
        ContainerSpec: { Image: "crash:100" },
        RestartPolicy: { Condition: "any", Delay: 2 * SECOND },
      } as const;
      const id = await cluster.createService({ ...spec("web", 1), TaskTemplate: template });
      const dead = (): Task | undefined =>
        cluster.tasks(id).find((task) => task.desiredState === TaskState.shutdown);
      await cluster.until("a crash that was answered", () => dead() !== undefined);
      const startMs = cluster.clock.monotonicMs();
      await cluster.write((tx) => {
        const task = dead();
        assert(task !== undefined);
        const { version: _version, createdAt: _created, updatedAt: _updated, ...rest } = task;
        // What an update tried beside it, and then its node saying again how the first one ended.
        tx.create("task", {
          ...rest,
          id: "tried",
          specVersion: 99,
          spec: { ContainerSpec: { Image: "tried" } },
        });
        tx.update("task", { ...task, status: { ...task.status, message: "said again" } });
      });
      await cluster.failOver();
      await cluster.until("restarted", () => cluster.running(id).length === 1);
      const tookMs = cluster.clock.monotonicMs() - startMs;
      assert(tookMs >= 1_900 && tookMs < 2_300, `restart took ${tookMs} ms`);
    });
  });

  it("do not restart what the policy does not want back", async () => {
    await withCluster(1, async (cluster) => {
      for (const [condition, image] of [
        ["none", "crash:50"],
        ["on-failure", "exit:50"],
      ] as const) {
        const template = { ContainerSpec: { Image: image }, RestartPolicy: { Condition: condition } };
        const id = await cluster.createService({ ...spec(condition, 2), TaskTemplate: template });
        await cluster.advance(20_000);
        assert.equal(cluster.tasks(id).length, 2, condition);
      }
    });
  });

  it("do not make a task that can't be prepared anew without its delay", async () => {
    await withCluster(1, async (cluster) => {
      const id = await cluster.createService(spec("web", 1, {}, "reject"));
      const made = new Set<string>();
      cluster.onEvent((event) => {
        if (event.table === "task" && event.object.serviceId === id) made.add(event.object.id);
      });
      await cluster.advance(24_000);
      assert(made.size >= 5 && made.size <= 6, `made ${made.size} tasks in 24 s`);
    });
  });

  it("replace the tasks of a node that is down or drained at once", async () => {
    await withCluster(3, async (cluster) => {
      const id = await cluster.createService(spec("web", 6));
      await cluster.until("6 running", () => cluster.running(id).length === 6);
      await cluster.killNode("node0001");
      const tookMs = await cluster.until(
        "6 elsewhere",
        () => cluster.running(id).filter((task) => task.nodeId !== "node0001").length === 6,
      );
      assert(tookMs < 250, `took ${tookMs} ms`);
      await cluster.changeNode("node0002", (node) => ({
        ...node,
        spec: { ...node.spec, Availability: "drain" },
      }));
      await cluster.until(
        "6 on the last node",
        () => cluster.running(id).filter((task) => task.nodeId === "node0003").length === 6,
      );
      await cluster.until("drained", () =>
        [...cluster.containers.values()].every((task) => task.nodeId === "node0003"),
      );
    });
  });

  it("roll an update slot by slot, stop-first, and say so", async () => {
    await withCluster(3, async (cluster) => {
      const more = {
        UpdateConfig: { Parallelism: 1, Order: "stop-first", Monitor: SECOND, FailureAction: "pause" },
      } as const;
      const id = await cluster.createService(spec("web", 4, more));
      await cluster.until("4 running", () => cluster.running(id).length === 4);
      let fewest = 4;
      cluster.onEvent(() => {
        fewest = Math.min(fewest, cluster.running(id).length);
      });
      await cluster.updateImage(id, "ok2");
      await cluster.until("update in progress", () => cluster.service(id).updateStatus?.state === "updating");
      const tookMs = await cluster.until(
        "completed",
        () => cluster.service(id).updateStatus?.state === "completed",
      );
      assert.equal(fewest, 3);
      assert(tookMs < 2_500, `took ${tookMs} ms, ${1000} of which is monitoring`);
      assert.equal(cluster.service(id).updateStatus?.message, "update completed");
      assert(cluster.running(id).every((task) => task.spec.ContainerSpec.Image === "ok2"));
      assert.equal(cluster.running(id).length, 4);
    });
  });

  it("start-first never has fewer running than wanted", async () => {
    await withCluster(3, async (cluster) => {
      const more = { UpdateConfig: { Parallelism: 2, Order: "start-first", Monitor: SECOND } } as const;
      const id = await cluster.createService(spec("web", 6, more));
      await cluster.until("6 running", () => cluster.running(id).length === 6);
      let fewest = 6;
      cluster.onEvent(() => {
        fewest = Math.min(fewest, cluster.running(id).length);
      });
      await cluster.updateImage(id, "ok2");
      await cluster.until("completed", () => cluster.service(id).updateStatus?.state === "completed");
      assert(fewest >= 6, `fewest ${fewest}`);
      await cluster.until("6 running", () => cluster.containers.size === 6);
    });
  });

  it("pause an update whose first task fails, and go on with the next spec", async () => {
    await withCluster(2, async (cluster) => {
      const more = {
        UpdateConfig: { Parallelism: 1, FailureAction: "pause", Order: "stop-first", Monitor: SECOND },
      } as const;
      const id = await cluster.createService(spec("web", 3, more));
      await cluster.until("3 running", () => cluster.running(id).length === 3);
      await cluster.updateImage(id, "reject");
      await cluster.until("paused", () => cluster.service(id).updateStatus?.state === "paused");
      assert.match(
        cluster.service(id).updateStatus?.message ?? "",
        /^update paused due to failure or early termination of task [a-z0-9]{25}$/,
      );
      await cluster.advance(20_000);
      assert.equal(cluster.running(id).filter((task) => task.spec.ContainerSpec.Image === "ok").length, 2);
      await cluster.updateImage(id, "ok3");
      await cluster.until("completed", () => cluster.service(id).updateStatus?.state === "completed");
      assert.equal(cluster.running(id).filter((task) => task.spec.ContainerSpec.Image === "ok3").length, 3);
    });
  });

  it("a paused start-first update leaves no slot with two tasks", async () => {
    await withCluster(2, async (cluster) => {
      const more = {
        UpdateConfig: { Parallelism: 2, FailureAction: "pause", Order: "start-first", Monitor: SECOND },
      } as const;
      const id = await cluster.createService(spec("web", 2, more));
      await cluster.until("2 running", () => cluster.running(id).length === 2);
      await cluster.updateImage(id, "never");
      await cluster.until("both begun", () => cluster.tasks(id).length === 4);
      await cluster.write((tx) => {
        const service = tx.get("service", id);
        assert(service?.updateStatus !== undefined);
        tx.update("service", { ...service, updateStatus: { ...service.updateStatus, state: "paused" } });
      });
      const fresh = cluster.tasks(id).filter((task) => task.spec.ContainerSpec.Image === "never");
      for (const task of fresh) cluster.report(task.id, TaskState.running);
      const images = (): string[] => cluster.running(id).map((task) => task.spec.ContainerSpec.Image);
      await cluster.until("the new ones alone", () => images().join() === "never,never");
    });
  });

  it("roll back an update that fails, once", async () => {
    await withCluster(2, async (cluster) => {
      const more = {
        UpdateConfig: { Parallelism: 2, FailureAction: "rollback", Order: "start-first", Monitor: SECOND },
      } as const;
      const id = await cluster.createService(spec("web", 4, more));
      await cluster.until("4 running", () => cluster.running(id).length === 4);
      await cluster.updateImage(id, "reject");
      await cluster.until(
        "rolled back",
        () => cluster.service(id).updateStatus?.state === "rollback_completed",
      );
      assert.equal(cluster.service(id).spec.TaskTemplate.ContainerSpec.Image, "ok");
      assert.equal(cluster.service(id).previousSpec, undefined);
      await cluster.until("4 old ones run", () => cluster.running(id).length === 4);
      assert(cluster.running(id).every((task) => task.spec.ContainerSpec.Image === "ok"));
    });
  });

  it("an update whose task never runs fails at the progress deadline instead of waiting for ever", async () => {
    await withCluster(2, async (cluster) => {
      const more = {
        UpdateConfig: { Parallelism: 1, FailureAction: "pause", Order: "start-first" },
      } as const;
      const id = await cluster.createService(spec("web", 2, more));
      await cluster.until("2 running", () => cluster.running(id).length === 2);
      await cluster.updateImage(id, "never");
      await cluster.advance(599_000);
      assert.equal(cluster.service(id).updateStatus?.state, "updating");
      await cluster.until("paused", () => cluster.service(id).updateStatus?.state === "paused", 5_000);
      assert.match(cluster.service(id).updateStatus?.message ?? "", /not running after 600 s/);
      assert.equal(cluster.running(id).length, 2);
    });
  });

  it("global services have one task on each fit node, also on nodes that come later", async () => {
    await withCluster(2, async (cluster) => {
      const id = await cluster.createService({ ...spec("agent", 0), Mode: { Global: {} } });
      await cluster.until("2 running", () => cluster.running(id).length === 2);
      await cluster.addNode();
      await cluster.until("3 running", () => cluster.running(id).length === 3);
      await cluster.changeNode("node0001", (node) => ({
        ...node,
        spec: { ...node.spec, Availability: "drain" },
      }));
      await cluster.until("2 running", () => cluster.containers.size === 2);
      await cluster.changeNode("node0001", (node) => ({
        ...node,
        spec: { ...node.spec, Availability: "active" },
      }));
      await cluster.until("3 running", () => cluster.running(id).length === 3);
      assert.equal(new Set(cluster.running(id).map((task) => task.nodeId)).size, 3);
    });
  });

  it("an update of a global service leaves out a node that is down until it is back", async () => {
    await withCluster(3, async (cluster) => {
      const update = { Parallelism: 1, Order: "stop-first", Monitor: SECOND } as const;
      const mode = { Mode: { Global: {} }, UpdateConfig: update };
      const id = await cluster.createService({ ...spec("agent", 0), ...mode });
      await cluster.until("3 running", () => cluster.running(id).length === 3);
      await cluster.killNode("node0001");
      await cluster.updateImage(id, "other");
      await cluster.until("completed", () => cluster.service(id).updateStatus?.state === "completed");
      const isNew = (nodeId: string): boolean =>
        cluster
          .running(id)
          .some((task) => task.nodeId === nodeId && task.spec.ContainerSpec.Image === "other");
      assert(isNew("node0002") && isNew("node0003"));
      await cluster.reviveNode("node0001");
      await cluster.until("the third", () => isNew("node0001"));
    });
  });

  it("a spec that is changed in the middle of an update keeps to its parallelism", async () => {
    await withCluster(3, async (cluster) => {
      const update = { Parallelism: 1, Order: "stop-first", Monitor: SECOND } as const;
      const id = await cluster.createService({ ...spec("web", 4), UpdateConfig: update });
      await cluster.until("4 running", () => cluster.running(id).length === 4);
      const template = { ContainerSpec: { Image: "never" } };
      await cluster.updateService(id, (old) => ({ ...old, TaskTemplate: template }));
      await cluster.until("one replaced", () => cluster.running(id).length === 3);
      await cluster.updateService(id, (old) => ({ ...old, Labels: { changed: "yes" } }));
      await cluster.advance(5_000);
      assert.equal(cluster.running(id).length, 3, "the slot under way counts");
    });
  });

  it("replicated and global jobs run to completion and no further", async () => {
    await withCluster(3, async (cluster) => {
      // What has completed is not run again, also where "any" end is to be followed by another try.
      const template = { ContainerSpec: { Image: "exit:100" }, RestartPolicy: { Condition: "any" as const } };
      const job = await cluster.createService({
        Name: "job",
        TaskTemplate: template,
        Mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 5 } },
      });
      const all = await cluster.createService({
        Name: "all",
        TaskTemplate: template,
        Mode: { GlobalJob: {} },
      });
      let most = 0;
      cluster.onEvent(() => {
        most = Math.max(
          most,
          [...cluster.containers.values()].filter((task) => task.serviceId === job).length,
        );
      });
      const done = (id: string): number =>
        cluster.tasks(id).filter((task) => task.status.state === TaskState.complete).length;
      await cluster.until("5 and 3 complete", () => done(job) === 5 && done(all) === 3);
      assert.equal(most, 2);
      await cluster.advance(20_000);
      assert.equal(cluster.tasks(job).length, 5);
      assert.deepEqual(
        cluster
          .tasks(job)
          .map((task) => task.slot)
          .sort((left, right) => left - right),
        [0, 1, 2, 3, 4],
      );
      assert.equal(cluster.tasks(all).length, 3);
    });
  });

  it("a job's slot that was given up keeps none of the others from being tried", async () => {
    await withCluster(1, async (cluster) => {
      const job = await cluster.createService({
        Name: "job",
        TaskTemplate: {
          ContainerSpec: { Image: "crash:100" },
          RestartPolicy: { Condition: "on-failure", Delay: 0, MaxAttempts: 1 },
        },
        Mode: { ReplicatedJob: { MaxConcurrent: 1, TotalCompletions: 3 } },
      });
      let most = 0;
      cluster.onEvent(() => (most = Math.max(most, cluster.containers.size)));
      await cluster.advance(30_000);
      const tried = cluster.tasks(job).map((task) => task.slot);
      assert.deepEqual(
        tried.sort((left, right) => left - right),
        [0, 0, 1, 1, 2, 2],
      );
      assert.equal(most, 1);
    });
  });

  it("say why a task can't be placed, and place it when that changes", async () => {
    await withCluster(2, async (cluster) => {
      const placed = { ...spec("web", 1).TaskTemplate, Placement: { Constraints: ["node.labels.zone==b"] } };
      const id = await cluster.createService({ ...spec("web", 1), TaskTemplate: placed });
      await cluster.until("explained", () => cluster.tasks(id)[0]?.status.err !== "");
      assert.equal(
        cluster.tasks(id)[0]?.status.err,
        "no suitable node (scheduling constraints not satisfied on 2 nodes)",
      );
      assert.equal(cluster.tasks(id)[0]?.status.message, "2 nodes: constraint node.labels.zone==b");
      await cluster.changeNode("node0002", (node) => ({
        ...node,
        spec: { ...node.spec, Labels: { zone: "b" } },
      }));
      await cluster.until("running", () => cluster.running(id).length === 1);
      assert.equal(cluster.running(id)[0]?.status.err, "");
      await cluster.changeNode("node0001", (node) => ({
        ...node,
        spec: { ...node.spec, Labels: { zone: "b" } },
      }));
      await cluster.changeNode("node0002", (node) => ({ ...node, spec: { ...node.spec, Labels: {} } }));
      await cluster.until("moved", () => cluster.running(id)[0]?.nodeId === "node0001");
    });
  });

  it("addresses, VIPs and ports are unique; what is missing is said and got later", async () => {
    await withCluster(2, async (cluster) => {
      const network = await cluster.addNetwork({
        Name: "small",
        Driver: "overlay",
        IPAM: { Config: [{ Subnet: "10.9.0.0/29" }] },
      });
      const on = (name: string, replicas: number, port: number): ServiceSpec => ({
        ...spec(name, replicas),
        TaskTemplate: { ContainerSpec: { Image: "ok" }, Networks: [{ Target: network, Aliases: [name] }] },
        EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: port }] },
      });
      const web = await cluster.createService(on("web", 3, 8080));
      await cluster.until("3 running", () => cluster.running(web).length === 3);
      assert.deepEqual(cluster.service(web).endpoint?.ports, [
        { Protocol: "tcp", TargetPort: 80, PublishMode: "ingress", PublishedPort: 8080 },
      ]);
      const held = [
        ...cluster.tasks(web).map((task) => task.networks[0]?.addresses[0]),
        `${cluster.service(web).endpoint?.virtualIps[0]?.addr}/29`,
      ];
      assert.deepEqual(
        held.sort((left, right) => ((left ?? "") < (right ?? "") ? -1 : 1)),
        ["10.9.0.2/29", "10.9.0.3/29", "10.9.0.4/29", "10.9.0.5/29"],
      );
      const clash = await cluster.createService(on("clash", 1, 8080));
      await cluster.until("told", () => cluster.tasks(clash)[0]?.status.err !== "");
      assert.match(
        cluster.tasks(clash)[0]?.status.err ?? "",
        /^port '8080' is already in use by service 'web'/,
      );
      const more = await cluster.createService(on("more", 2, 0));
      await cluster.until("told", () => cluster.tasks(more).some((task) => task.status.err !== ""));
      assert(
        cluster
          .tasks(more)
          .some((task) => task.status.err === "no free address in network small (10.9.0.0/29)"),
      );
      await cluster.removeService(web);
      await cluster.until("clash got its port", () => cluster.running(clash).length === 1, 30_000);
      await cluster.until("more got addresses", () => cluster.running(more).length === 2, 30_000);
      assert.equal(cluster.service(more).endpoint?.ports[0]?.PublishedPort, 30000);
    });
  });

  it("rest while a service waits for a port, however long others' addresses have been free", async () => {
    await withCluster(1, async (cluster) => {
      const network = await cluster.addNetwork({ Name: "net", Driver: "overlay" });
      const template = { ContainerSpec: { Image: "ok" }, Networks: [{ Target: network }] };
      const web = await cluster.createService({
        ...spec("web", 2, { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
        TaskTemplate: template,
      });
      await cluster.until("2 running", () => cluster.running(web).length === 2);
      const clash = await cluster.createService(
        spec("clash", 1, { EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080 }] } }),
      );
      await cluster.until("told", () => cluster.tasks(clash)[0]?.status.err !== "");
      await cluster.updateService(web, (old) => ({ ...old, Mode: { Replicated: { Replicas: 1 } } }));
      await cluster.until("1 left", () => cluster.tasks(web).length === 1);
      await cluster.advance(2 * ADDRESS_QUARANTINE_MS);
      const runCount = (): number | undefined => cluster.tally.byLoop.get("allocator")?.runCount;
      const before = runCount();
      await cluster.advance(10_000);
      assert.equal(runCount(), before);
    });
  });

  it("the same seed gives the same history", async () => {
    const runs: string[][] = [];
    for (let run = 0; run < 2; run += 1) {
      await withCluster(3, async (cluster) => {
        const id = await cluster.createService(spec("web", 10, {}, "crash:3000"));
        await cluster.advance(10_000);
        await cluster.updateImage(id, "ok");
        await cluster.advance(20_000);
        runs.push(cluster.history);
      });
    }
    assert(runs[0] !== undefined && runs[0].length > 100);
    assert.deepEqual(runs[0], runs[1]);
  });

  it("cut subnets from the cluster's pool, also if they started before there was a cluster", async () => {
    const cluster = new ModelCluster();
    cluster.start();
    await cluster.advance(10);
    await cluster.write((tx) => {
      tx.create("cluster", {
        id: "cluster1",
        spec: { Name: "default" },
        rootCa: { certificate: "", key: "", digest: "", joinTokens: { worker: "", manager: "" } },
        tlsInfo: { TrustRoot: "", CertIssuerSubject: "", CertIssuerPublicKey: "" },
        defaultAddressPool: ["10.77.0.0/16"],
        subnetSize: 26,
        dataPathPort: 4789,
        meshPool: "100.64.0.0/10",
        unlockKey: "",
      });
      tx.create("network", { id: "ingress", spec: { Name: "ingress", Driver: "overlay", Ingress: true } });
    });
    const subnet = (id: string): string | undefined =>
      cluster.store.view().get("network", id)?.allocation?.subnets[0]?.subnet;
    await cluster.until("ingress has a subnet", () => subnet("ingress") === "10.77.0.0/26");
    const next = await cluster.addNetwork({ Name: "next", Driver: "overlay" });
    await cluster.until("so has the next", () => subnet(next) === "10.77.0.64/26");
    await cluster.stop();
  });

  it("give containers outside of services addresses: any, the one asked for, and none that another has", async () => {
    await withCluster(2, async (cluster) => {
      const net = await cluster.addNetwork({ Name: "net", Driver: "overlay", Attachable: true });
      const closed = await cluster.addNetwork({ Name: "closed", Driver: "overlay" });
      const report = (nodeId: string, ...wishes: readonly (readonly [string, string, string])[]) =>
        cluster.changeNode(nodeId, (node) => ({
          ...node,
          guests: wishes.map(([containerId, networkId, wanted]) => {
            const former = node.guests?.find((each) => each.containerId === containerId);
            const keeps = former?.wanted === wanted ? former.address : "";
            return { containerId, networkId, names: [containerId], wanted, address: keeps };
          }),
        }));
      const address = (nodeId: string, containerId: string): string | undefined =>
        cluster.store
          .view()
          .get("node", nodeId)
          ?.guests?.find((guest) => guest.containerId === containerId)?.address;
      const first = "node0001";
      const second = "node0002";
      await report(first, ["a", net, ""], ["b", net, "10.0.0.77"], ["c", closed, ""]);
      await cluster.until("b has what it asked for", () => address(first, "b") === "10.0.0.77/24");
      assert.match(address(first, "a") ?? "", /^10\.0\.0\.\d+\/24$/);
      await report(
        second,
        ["d", net, "10.0.0.77"],
        ["e", net, "10.9.9.9"],
        ["f", net, "10.0.0.255"],
        ["g", net, ""],
      );
      await cluster.until("g has one", () => address(second, "g") !== "");
      assert.notEqual(address(second, "g"), address(first, "a"));
      for (const id of ["d", "e", "f"]) assert.equal(address(second, id), "", id);
      assert.equal(address(first, "c"), "", "a closed network takes no guests");

      await cluster.failOver();
      const kept = address(first, "a");
      await report(first, ["a", net, ""], ["b2", net, ""]);
      await cluster.until("d has what b gave back", () => address(second, "d") === "10.0.0.77/24");
      assert.equal(address(first, "a"), kept, "kept by the next leader");
      await cluster.write((tx) => tx.remove("node", second));
      await report(first, ["a", net, ""], ["h", net, "10.0.0.77"]);
      await cluster.until(
        "h has what the removed node's d had",
        () => address(first, "h") === "10.0.0.77/24",
      );
    });
  });
});
