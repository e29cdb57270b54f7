import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  defaultUpdateOrder,
  modeOf,
  networksOf,
  restartPolicyOf,
  rollbackConfigOf,
  updateConfigOf,
} from "./defaults.ts";
import type { Node, Service, Task } from "./objects.ts";
import type { ServiceSpec } from "./specs.ts";
import { deepEqual, isTaskUpToDate } from "./up-to-date.ts";

const base: ServiceSpec = { Name: "web", TaskTemplate: { ContainerSpec: { Image: "a", Env: ["A=1"] } } };

function service(spec: ServiceSpec, specVersion: number): Service {
  return { id: "s", version: 9, createdAt: "", updatedAt: "", spec, specVersion };
}

function task(spec: ServiceSpec, specVersion: number, ports: Task["ports"] = []): Task {
  return {
    id: "t",
    version: 1,
    createdAt: "",
    updatedAt: "",
    serviceId: "s",
    slot: 1,
    nodeId: "n",
    name: "",
    serviceLabels: {},
    serviceName: "web",
    spec: structuredClone(spec.TaskTemplate),
    specVersion,
    desiredState: 512,
    status: { state: 512, timestamp: "", message: "", err: "" },
    networks: [],
    ports,
  };
}

describe("isTaskUpToDate()", () => {
  it("takes equal templates for the same whatever the version says", () => {
    assert.equal(isTaskUpToDate(service({ ...base, Labels: { a: "b" } }, 5), task(base, 3), undefined), true);
    const forced = { ...base, TaskTemplate: { ...base.TaskTemplate, ForceUpdate: 1 } };
    assert.equal(isTaskUpToDate(service(forced, 5), task(base, 3), undefined), false);
  });

  it("takes a template that went through a client for the same", () => {
    const read = {
      ...base.TaskTemplate,
      ForceUpdate: 0,
      Runtime: "container",
      Placement: {},
      Resources: { Limits: {} },
      Networks: [],
    };
    assert.equal(isTaskUpToDate(service({ ...base, TaskTemplate: read }, 5), task(base, 3), undefined), true);
    const delayed = { ...base.TaskTemplate, RestartPolicy: { Delay: 0 } };
    assert.equal(
      isTaskUpToDate(service({ ...base, TaskTemplate: delayed }, 5), task(base, 3), undefined),
      false,
    );
  });

  it("sees a changed host port but not a changed ingress port", () => {
    const host = (port: number): ServiceSpec => ({
      ...base,
      EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: port, PublishMode: "host" }] },
    });
    const bound = [{ Protocol: "tcp", TargetPort: 80, PublishedPort: 8080, PublishMode: "host" }] as const;
    assert.equal(isTaskUpToDate(service(host(8080), 5), task(base, 3, bound), undefined), true);
    assert.equal(isTaskUpToDate(service(host(8081), 5), task(base, 3, bound), undefined), false);
    const ingress = { ...base, EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 81 }] } };
    assert.equal(isTaskUpToDate(service(ingress, 5), task(base, 3), undefined), true);
  });

  it("lets a task stay whose node meets constraints that alone have changed", () => {
    const bound = {
      ...base,
      TaskTemplate: { ...base.TaskTemplate, Placement: { Constraints: ["node.labels.z==a"] } },
    };
    const node = (zone: string): Node => ({ id: "n", spec: { Labels: { z: zone } } }) as unknown as Node;
    assert.equal(isTaskUpToDate(service(bound, 5), task(base, 3), node("a")), true);
    assert.equal(isTaskUpToDate(service(bound, 5), task(base, 3), node("b")), false);
    assert.equal(isTaskUpToDate(service(bound, 5), task(base, 3), undefined), false);
  });

  it("deepEqual() ignores the order of keys and undefined fields, not the order of lists", () => {
    assert.equal(deepEqual({ a: 1, b: [1, { c: 2 }] }, { b: [1, { c: 2, d: undefined }], a: 1 }), true);
    assert.equal(deepEqual({ a: [1, 2] }, { a: [2, 1] }), false);
    assert.equal(deepEqual({ a: null }, { a: undefined }), false);
    assert.equal(deepEqual([], {}), false);
  });
});

describe("defaults", () => {
  it("a silent spec gets a roll-back on failure and the order that loses no request", () => {
    assert.deepEqual(updateConfigOf(base), {
      parallelism: 1,
      delayMs: 0,
      failureAction: "rollback",
      monitorMs: 5000,
      maxFailureRatio: 0,
      order: "stop-first",
    });
    const published = { ...base, EndpointSpec: { Ports: [{ TargetPort: 80 }] } };
    assert.equal(defaultUpdateOrder(published), "start-first");
    const mounts = [{ Type: "volume", Source: "data", Target: "/data" }] as const;
    const stateful = { ...published, TaskTemplate: { ContainerSpec: { Image: "a", Mounts: mounts } } };
    assert.equal(defaultUpdateOrder(stateful), "stop-first");
    const hostPort = { ...base, EndpointSpec: { Ports: [{ TargetPort: 80, PublishMode: "host" }] } } as const;
    assert.equal(defaultUpdateOrder(hostPort), "stop-first");
    const networked = { ...base, TaskTemplate: { ...base.TaskTemplate, Networks: [{ Target: "n" }] } };
    assert.equal(defaultUpdateOrder(networked), "start-first");
    assert.equal(defaultUpdateOrder({ ...networked, EndpointSpec: { Mode: "dnsrr" } }), "stop-first");
  });

  it("networks beside the task's template count where it names none", () => {
    const [old, now] = [[{ Target: "old" }], [{ Target: "now" }]];
    const template = { ...base.TaskTemplate, Networks: now };
    assert.deepEqual(networksOf(base), []);
    assert.deepEqual(networksOf({ ...base, Networks: old }), old);
    assert.deepEqual(networksOf({ ...base, Networks: old, TaskTemplate: template }), now);
  });

  it("explicit values hold exactly, and a rollback never rolls back", () => {
    const config = {
      Parallelism: 0,
      Delay: 2e9,
      FailureAction: "continue",
      Monitor: 1e6,
      Order: "stop-first",
    } as const;
    const published = { ...base, UpdateConfig: config, EndpointSpec: { Ports: [{ TargetPort: 80 }] } };
    assert.deepEqual(updateConfigOf(published), {
      parallelism: 0,
      delayMs: 2000,
      failureAction: "continue",
      monitorMs: 1,
      maxFailureRatio: 0,
      order: "stop-first",
    });
    assert.equal(
      rollbackConfigOf({ ...base, RollbackConfig: { FailureAction: "rollback" } }).failureAction,
      "pause",
    );
    assert.deepEqual(restartPolicyOf(base.TaskTemplate), {
      condition: "any",
      delayMs: 5000,
      maxAttempts: 0,
      windowMs: 0,
    });
    assert.deepEqual(modeOf(base), { kind: "replicated", replicas: 1 });
    assert.deepEqual(modeOf({ ...base, Mode: { ReplicatedJob: { MaxConcurrent: 3 } } }), {
      kind: "replicated-job",
      maxConcurrent: 3,
      totalCompletions: 3,
    });
  });
});

describe("isTaskUpToDate() of specs that Go clients wrote back", () => {
  const written: ServiceSpec = {
    Name: "web",
    TaskTemplate: {
      ContainerSpec: { Image: "a", Env: ["A=1"], Init: false, Labels: {}, Isolation: "" },
      Resources: { Limits: {}, Reservations: {} },
      Placement: {},
      ForceUpdate: 0,
      Runtime: "container",
    },
  };

  it("sees through zeros, empty values and the default runtime", () => {
    assert.equal(isTaskUpToDate(service(written, 9), task(base, 3), undefined), true);
  });

  it("takes a zero for a wish where an absent value is a default", () => {
    const template = written.TaskTemplate;
    const impatient = {
      ...written,
      TaskTemplate: { ...template, ContainerSpec: { ...template.ContainerSpec, StopGracePeriod: 0 } },
    };
    assert.equal(isTaskUpToDate(service(impatient, 9), task(base, 3), undefined), false);
  });
});
