import assert from "node:assert/strict";
import { test } from "node:test";
import type { Service } from "../../model/objects.ts";
import type { ServiceSpec } from "../../model/specs.ts";
import { TaskState } from "../../model/task-state.ts";
import { FakeSwarm } from "../testing/fake-swarm.ts";
import { clusterInfoJson, swarmJson } from "./cluster.ts";
import { toEngineEvent } from "./events.ts";
import { networkJson } from "./network.ts";
import { type Defaults, serviceCounts, serviceJson } from "./service.ts";
import { taskJson } from "./task.ts";

async function swarmWithService(
  extra: Partial<Service> = {},
): Promise<{ swarm: FakeSwarm; service: Service }> {
  const swarm = new FakeSwarm();
  await swarm.init();
  const spec = { Name: "web", TaskTemplate: { ContainerSpec: { Image: "x:1" } }, Mode: { Replicated: {} } };
  const service = swarm.store.put("service", { id: swarm.store.newId(), spec, specVersion: 5, ...extra });
  return { swarm, service };
}

test("serviceJson() gives what clients dereference without looking", async () => {
  const { swarm, service } = await swarmWithService();
  const json = serviceJson(service, { view: swarm.store, insertDefaults: "none" }) as {
    Spec: Record<string, unknown>;
    Endpoint: object;
  };
  assert.deepEqual(json.Spec["Mode"], { Replicated: { Replicas: 1 } });
  assert.deepEqual(json.Spec["Labels"], {});
  assert.equal(json.Spec["UpdateConfig"], undefined);
  assert.equal(typeof json.Endpoint, "object");
});

test("serviceJson() inserts what is in force where the spec is silent, and nothing over what it says", async () => {
  const { swarm, service } = await swarmWithService();
  const inserted = (spec: ServiceSpec, defaults: Defaults = "effective"): ServiceSpec =>
    (
      serviceJson({ ...service, spec }, { view: swarm.store, insertDefaults: defaults }) as {
        Spec: ServiceSpec;
      }
    ).Spec;
  const silent = inserted({
    Name: "a",
    TaskTemplate: { ContainerSpec: { Image: "x" } },
    EndpointSpec: { Ports: [{ TargetPort: 80 }] },
  });
  assert.deepEqual(silent.UpdateConfig, {
    Parallelism: 1,
    Delay: 0,
    FailureAction: "rollback",
    Monitor: 5_000_000_000,
    MaxFailureRatio: 0,
    Order: "start-first",
  });
  assert.equal(silent.RollbackConfig?.FailureAction, "pause");
  const asDocker = inserted({ Name: "a", TaskTemplate: { ContainerSpec: { Image: "x" } } }, "docker");
  assert.deepEqual(
    [asDocker.UpdateConfig?.FailureAction, asDocker.UpdateConfig?.Order],
    ["pause", "stop-first"],
    "Docker's clients get Docker's",
  );
  assert.deepEqual(silent.TaskTemplate.RestartPolicy, {
    Condition: "any",
    Delay: 5_000_000_000,
    MaxAttempts: 0,
    Window: 0,
  });
  const said = inserted({
    Name: "a",
    TaskTemplate: { ContainerSpec: { Image: "x", StopGracePeriod: 0 }, RestartPolicy: { Delay: 0 } },
    UpdateConfig: { FailureAction: "continue", Order: "stop-first", Parallelism: 0 },
  });
  assert.deepEqual([said.UpdateConfig?.FailureAction, said.UpdateConfig?.Parallelism], ["continue", 0]);
  assert.equal(said.TaskTemplate.RestartPolicy?.Delay, 0);
  assert.equal(said.TaskTemplate.ContainerSpec.StopGracePeriod, 0);
});

test("serviceCounts() counts running of wanted, and completions of a job", async () => {
  const { swarm, service } = await swarmWithService({
    spec: {
      Name: "job",
      TaskTemplate: { ContainerSpec: { Image: "x" } },
      Mode: { ReplicatedJob: { MaxConcurrent: 2, TotalCompletions: 3 } },
    },
    jobStatus: { jobIteration: 1, lastExecution: "2026-01-01T00:00:00Z" },
  });
  const done = { state: TaskState.complete, timestamp: "", message: "", err: "" };
  const tasks = [0, 1, 2].map((slot) =>
    swarm.putTask(service, { slot, jobIteration: 1, status: done, desiredState: TaskState.complete }),
  );
  tasks.push(
    swarm.putTask(service, { slot: 0, jobIteration: 0, status: done, desiredState: TaskState.complete }),
  );
  assert.deepEqual(serviceCounts(service, tasks), { RunningTasks: 0, DesiredTasks: 2, CompletedTasks: 3 });
});

test("serviceCounts() counts a global job's complete tasks apart from those still to come", async () => {
  const { swarm, service } = await swarmWithService({
    spec: { Name: "job", TaskTemplate: { ContainerSpec: { Image: "x" } }, Mode: { GlobalJob: {} } },
    jobStatus: { jobIteration: 0, lastExecution: "2026-01-01T00:00:00Z" },
  });
  const states = [TaskState.complete, TaskState.running, TaskState.failed];
  const tasks = states.map((state) =>
    swarm.putTask(service, {
      jobIteration: 0,
      status: { state, timestamp: "", message: "", err: "" },
      desiredState: state === TaskState.failed ? TaskState.shutdown : TaskState.complete,
    }),
  );
  assert.deepEqual(serviceCounts(service, tasks), { RunningTasks: 1, DesiredTasks: 1, CompletedTasks: 1 });
});

test("taskJson() leaves slot 0 out and shows container, error and iteration", async () => {
  const { swarm, service } = await swarmWithService();
  const task = swarm.putTask(service, {
    slot: 0,
    jobIteration: 0,
    status: {
      state: TaskState.failed,
      timestamp: "2026-01-01T00:00:00Z",
      message: "started",
      err: "task: non-zero exit (1)",
      container: { containerId: "abc", pid: 7, exitCode: 1 },
    },
  });
  const json = taskJson(task, swarm.store) as Record<string, unknown> & { Status: Record<string, unknown> };
  assert.ok(!("Slot" in json));
  assert.equal(json.Status["Err"], "task: non-zero exit (1)");
  assert.deepEqual(json.Status["ContainerStatus"], { ContainerID: "abc", PID: 7, ExitCode: 1 });
  assert.deepEqual(json["JobIteration"], { Index: 0 });
});

test("clusterInfoJson() hides tokens and keys and fills in what info prints", async () => {
  const { swarm } = await swarmWithService();
  const [cluster] = swarm.store.list("cluster");
  assert.ok(cluster !== undefined);
  const withKey = { ...cluster, spec: { ...cluster.spec, CAConfig: { SigningCAKey: "private" } } };
  const text = JSON.stringify(clusterInfoJson(withKey));
  assert.doesNotMatch(text, /private|SWMTKN/);
  assert.match(text, /"TaskHistoryRetentionLimit":5/);
  assert.match(JSON.stringify(swarmJson(withKey)), /"Worker":"SWMTKN-1-w"/);
});

test("networkJson() shows the allocated subnet and VNI", async () => {
  const { swarm } = await swarmWithService();
  const network = swarm.store.put("network", {
    id: swarm.store.newId(),
    spec: { Name: "n", Options: { encrypted: "" } },
    allocation: { vni: 4097, subnets: [{ subnet: "10.0.1.0/24", gateway: "10.0.1.1" }] },
  });
  const json = networkJson(network);
  assert.deepEqual(json["IPAM"], {
    Driver: "default",
    Options: null,
    Config: [{ Subnet: "10.0.1.0/24", Gateway: "10.0.1.1" }],
  });
  assert.deepEqual(json["Options"], {
    "com.docker.network.driver.overlay.vxlanid_list": "4097",
    encrypted: "",
  });
  assert.equal(json.Scope, "swarm");
});

test("toEngineEvent() tells what changed, and nothing of a mere status write", async () => {
  const { service } = await swarmWithService();
  const scaled = { ...service, spec: { ...service.spec, Mode: { Replicated: { Replicas: 3 } } } };
  const change = { table: "service", action: "update", version: 9 } as const;
  const event = toEngineEvent({ ...change, object: scaled, previous: service }, 1_700_000_000_123);
  assert.deepEqual(event?.Actor.Attributes, { name: "web", "replicas.new": "3", "replicas.old": "1" });
  assert.equal(event?.timeNano, 1_700_000_000_123_000_000n);
  assert.equal(
    toEngineEvent({ ...change, object: { ...service, version: 9 }, previous: service }, 0),
    undefined,
  );
});
