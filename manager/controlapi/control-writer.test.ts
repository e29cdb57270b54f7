import assert from "node:assert/strict";
import { test } from "node:test";
import { ClusterError, hasCode, type ErrorCode } from "../../common/errors.ts";
import { newObjectId } from "../../common/ids.ts";
import { silentLogger } from "../../common/log.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { rfc3339 } from "../../common/time.ts";
import { NodeState, type Node, type Service } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { MemoryStore } from "../store/memory-store.ts";
import { SingleMemberLog } from "../store/testing/single-member-log.ts";
import { ControlWriter } from "./control-writer.ts";

const data = (text: string): string => Buffer.from(text).toString("base64");

class Fixture {
  readonly clock = new FakeClock();
  readonly random = new SeededRandom(3);
  readonly store: MemoryStore;
  readonly writer: ControlWriter;

  constructor() {
    this.store = new MemoryStore({ clock: this.clock, timers: { soon: soon }, log: silentLogger });
    const raft = new SingleMemberLog({ machine: this.store, nodeId: "m1" });
    this.store.attach(raft);
    const { store, clock, random } = this;
    this.writer = new ControlWriter({ store, raft, clock, random, log: silentLogger });
  }

  id(): string {
    return newObjectId(this.random);
  }

  async service(spec: unknown): Promise<Service> {
    const { id } = await this.writer.createService({ id: this.id(), spec });
    return this.get(id);
  }

  get(id: string): Service {
    const service = this.store.view().get("service", id);
    assert.ok(service);
    return service;
  }

  async node(id: string, more: Partial<Node> = {}): Promise<void> {
    await this.store.update((tx) =>
      tx.create("node", {
        id,
        spec: { Role: "worker", Availability: "active" },
        status: { state: NodeState.ready, message: "", addr: "" },
        rpcAddress: "",
        dataPathAddress: "",
        certificateRole: "worker",
        ...more,
      }),
    );
  }
}

function soon(run: () => void): () => void {
  queueMicrotask(run);
  return () => {};
}

function web(more: Record<string, unknown> = {}, container: Record<string, unknown> = {}): unknown {
  return { Name: "web", TaskTemplate: { ContainerSpec: { Image: "busybox:1", ...container } }, ...more };
}

function template(more: Record<string, unknown>): unknown {
  return web({ TaskTemplate: { ContainerSpec: { Image: "busybox" }, ...more } });
}

const REFUSED: readonly (readonly [claim: string, spec: unknown, text: string | RegExp])[] = [
  ["no name", web({ Name: "" }), "meta: name must be provided"],
  ["bad name", web({ Name: "a b" }), "name must be valid as a DNS name component"],
  // Of a length that people choose; reading it in every possible way would not end while anyone waits.
  [
    "long bad name",
    web({ Name: `${"frontend".repeat(7)}.eu` }),
    "name must be valid as a DNS name component",
  ],
  ["long name", web({ Name: "a".repeat(64) }), "name must be 63 characters or fewer"],
  ["no image", web({}, { Image: "" }), "ContainerSpec: image reference must be provided"],
  [
    "bad image",
    web({}, { Image: "upper/CASE" }),
    'ContainerSpec: "upper/CASE" is not a valid repository/tag',
  ],
  ["no template", { Name: "web" }, "TaskTemplate: missing in service spec"],
  [
    "wrong type",
    web({ Mode: { Replicated: { Replicas: "3" } } }),
    /spec\.Mode\.Replicated\.Replicas must be an integer, got "3"/,
  ],
  ["a list as spec", [], /spec must be an object/],
  [
    "negative replicas",
    web({ Mode: { Replicated: { Replicas: -1 } } }),
    "Number of replicas must be non-negative",
  ],
  ["two modes", web({ Mode: { Global: {}, Replicated: {} } }), "must specify only one service mode"],
  [
    "little cpu",
    template({ Resources: { Limits: { NanoCPUs: 1 } } }),
    "invalid cpu value 1e-9: Must be at least 0.001",
  ],
  [
    "little memory",
    template({ Resources: { Reservations: { MemoryBytes: 1000 } } }),
    "invalid memory value 1000: Must be at least 4MiB",
  ],
  [
    "negative delay",
    template({ RestartPolicy: { Delay: -1 } }),
    "TaskSpec: restart-delay cannot be negative",
  ],
  [
    "unknown condition",
    template({ RestartPolicy: { Condition: "never" } }),
    /invalid RestartPolicy.Condition: "never"/,
  ],
  [
    "bad constraint",
    template({ Placement: { Constraints: ["node.rolle==x"] } }),
    /invalid placement constraint/,
  ],
  [
    "bad preference",
    template({ Placement: { Preferences: [{ Spread: { SpreadDescriptor: "zone" } }] } }),
    /invalid placement preference/,
  ],
  [
    "failure ratio",
    web({ UpdateConfig: { MaxFailureRatio: 2 } }),
    "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
  ],
  [
    "rollback of rollback",
    web({ RollbackConfig: { FailureAction: "rollback" } }),
    /invalid RollbackConfig.FailureAction/,
  ],
  [
    "update of a job",
    web({ Mode: { ReplicatedJob: {} }, UpdateConfig: {} }),
    "UpdateConfig cannot be set on a job",
  ],
  [
    "max replicas of a global",
    web({
      Mode: { Global: {} },
      TaskTemplate: { ContainerSpec: { Image: "x" }, Placement: { MaxReplicas: 1 } },
    }),
    /replicas-max-per-node can only be used/,
  ],
  [
    "dnsrr with ingress",
    web({ EndpointSpec: { Mode: "dnsrr", Ports: [{ TargetPort: 80 }] } }),
    "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
  ],
  [
    "a port twice",
    web({
      EndpointSpec: {
        Ports: [
          { TargetPort: 80, PublishedPort: 8080 },
          { TargetPort: 81, PublishedPort: 8080 },
        ],
      },
    }),
    "EndpointSpec: duplicate published ports provided",
  ],
  [
    "a port on every node and on the task's own",
    web({
      EndpointSpec: {
        Ports: [
          { TargetPort: 80, PublishedPort: 8080 },
          { TargetPort: 80, PublishedPort: 8080, PublishMode: "host" },
        ],
      },
    }),
    "EndpointSpec: duplicate published ports provided",
  ],
  [
    "port out of range",
    web({ EndpointSpec: { Ports: [{ TargetPort: 70000 }] } }),
    /invalid target port 70000/,
  ],
  [
    "a mount point twice",
    web({}, { Mounts: [{ Target: "/a" }, { Target: "/a/" }] }),
    "ContainerSpec: duplicate mount point: /a",
  ],
  [
    "bind without source",
    web({}, { Mounts: [{ Type: "bind", Target: "/a" }] }),
    'invalid mount config for type "bind": field Source must not be empty',
  ],
  ["relative target", web({}, { Mounts: [{ Target: "a" }] }), /mount path must be absolute/],
  ["bad template", web({}, { Env: ["A={{.Nope}}"] }), /invalid template in environment/],
  [
    "template of a label that the service has not",
    web({ Labels: { tier: "front" } }, { Env: ["A={{.Service.Labels.tie}}"] }),
    /invalid template in environment: .*there is no field "tie"; fields: tier/,
  ],
  [
    "short interval",
    web({}, { Healthcheck: { Interval: 5 } }),
    "ContainerSpec: Interval in HealthConfig cannot be less than one millisecond",
  ],
  [
    "unknown secret",
    web({}, { Secrets: [{ SecretID: "none", SecretName: "key", File: { Name: "key" } }] }),
    "secret not found: key",
  ],
  [
    "secret without file",
    web({}, { Secrets: [{ SecretID: "none", SecretName: "key" }] }),
    /malformed secret reference/,
  ],
  [
    "escaping target",
    web({}, { Configs: [{ ConfigID: "c", ConfigName: "c", File: { Name: "../etc/passwd" } }] }),
    /invalid config target/,
  ],
  ["plugin runtime", template({ Runtime: "plugin" }), /invalid TaskTemplate.Runtime/],
  ["too deep", web({ Labels: deep(40) }), /at most 32 levels/],
];

function deep(levels: number): unknown {
  return levels === 0 ? {} : { a: deep(levels - 1) };
}

for (const [claim, spec, text] of REFUSED) {
  test(`createService() refuses ${claim}`, async () => {
    const fixture = new Fixture();
    await assert.rejects(fixture.service(spec), (error) => {
      assert.ok(error instanceof ClusterError, String(error));
      assert.equal(error.code, "invalid_argument", error.message);
      if (typeof text === "string") assert.equal(error.message, text);
      else assert.match(error.message, text);
      return true;
    });
    assert.equal(fixture.store.view().list("service").length, 0, "nothing was changed");
  });
}

test("createService() keeps the spec as given, unknown keys and empty modes too, without nulls", async () => {
  const fixture = new Fixture();
  const spec = web({ Mode: { Replicated: {} }, Future: { x: 1 }, Networks: null, EndpointSpec: {} });
  const service = await fixture.service(spec);
  const kept = JSON.parse(JSON.stringify(service.spec)) as unknown;
  assert.deepEqual(kept, web({ Mode: { Replicated: {} }, Future: { x: 1 }, EndpointSpec: {} }));
  assert.equal(service.jobStatus, undefined);
});

test("createService() with the same id again creates nothing twice", async () => {
  const fixture = new Fixture();
  const id = fixture.id();
  await fixture.writer.createService({ id, spec: web() });
  assert.equal((await fixture.writer.createService({ id, spec: web() })).id, id);
  assert.equal(fixture.store.view().list("service").length, 1);
});

test("createService() resolves networks by name, refuses missing ones and the ingress network", async () => {
  const fixture = new Fixture();
  const { writer } = fixture;
  const network = await writer.createNetwork({ id: fixture.id(), spec: { Name: "net" } });
  await writer.createNetwork({ id: fixture.id(), spec: { Name: "ingress", Ingress: true } });
  const service = await fixture.service(template({ Networks: [{ Target: "net", Aliases: ["a"] }] }));
  assert.deepEqual(service.spec.TaskTemplate.Networks, [{ Target: network.id, Aliases: ["a"] }]);
  const other = (target: string): Promise<unknown> =>
    fixture.service({ ...(template({ Networks: [{ Target: target }] }) as object), Name: "other" });
  await assert.rejects(
    other("nope"),
    (error) => hasCode(error, "not_found") && error.message === "network nope not found",
  );
  await assert.rejects(other("ingress"), /cannot be explicitly attached to the ingress network/);
  await other("host");
});

test("createService() refuses names and published ports that are taken", async () => {
  const fixture = new Fixture();
  const ports = (mode: string): Record<string, unknown> => ({
    EndpointSpec: { Ports: [{ TargetPort: 80, PublishedPort: 8080, PublishMode: mode }] },
  });
  const first = await fixture.service(web(ports("ingress")));
  await assert.rejects(fixture.service(web()), (error) => hasCode(error, "already_exists"));
  await assert.rejects(
    fixture.service(web({ Name: "two", ...ports("host") })),
    new RegExp(`port '8080' is already in use by service 'web' \\(${first.id}\\) as an ingress port`),
  );
  await fixture.writer.removeService(first.id);
  await fixture.service(web({ Name: "two", ...ports("host") }));
  await fixture.service(web({ Name: "three", ...ports("host") }));
});

async function update(fixture: Fixture, service: Service, spec: unknown): Promise<Service> {
  await fixture.writer.updateService(service.id, { version: service.version, spec });
  return fixture.get(service.id);
}

test("updateService() writes spec, previous spec and cleared status at once, under a growing spec version", async () => {
  const fixture = new Fixture();
  const first = await fixture.service(web());
  await fixture.store.update((tx) =>
    tx.update("service", { ...first, updateStatus: { state: "completed", startedAt: "", message: "" } }),
  );
  const second = await update(fixture, fixture.get(first.id), web({}, { Image: "busybox:2" }));
  assert.equal(second.updateStatus, undefined);
  assert.equal(second.previousSpec?.TaskTemplate.ContainerSpec.Image, "busybox:1");
  assert.ok(second.specVersion > first.specVersion);
  assert.equal(second.previousSpecVersion, first.specVersion);
});

test("updateService() accepts a version that only the system has moved on from, and no older one", async () => {
  const fixture = new Fixture();
  const first = await fixture.service(web());
  await fixture.store.update((tx) =>
    tx.update("service", { ...first, endpoint: { spec: { Mode: "vip" }, ports: [], virtualIps: [] } }),
  );
  const second = await update(fixture, first, web({}, { Image: "busybox:2" }));
  assert.equal(second.spec.TaskTemplate.ContainerSpec.Image, "busybox:2");
  for (const version of [first.version, first.version + 1, second.version + 1, 0]) {
    await assert.rejects(
      fixture.writer.updateService(first.id, { version, spec: web() }),
      (error) => hasCode(error, "out_of_sequence") && error.message === "update out of sequence",
      String(version),
    );
  }
});

test("updateService() refuses another mode and another name", async () => {
  const fixture = new Fixture();
  const service = await fixture.service(web());
  await assert.rejects(
    update(fixture, service, web({ Mode: { Global: {} } })),
    /service mode change is not allowed/,
  );
  await assert.rejects(
    update(fixture, service, web({ Name: "other" })),
    /renaming services is not supported/,
  );
});

test("updateService() rolls back to the previous spec, and again to the one before", async () => {
  const fixture = new Fixture();
  const first = await fixture.service(web());
  await assert.rejects(
    fixture.writer.updateService(first.id, { version: first.version, spec: first.spec, rollback: true }),
    (error) => hasCode(error, "failed_precondition") && /does not have a previous spec/.test(error.message),
  );
  const second = await update(fixture, first, web({}, { Image: "busybox:2" }));
  await fixture.writer.updateService(first.id, {
    version: second.version,
    spec: second.spec,
    rollback: true,
  });
  const back = fixture.get(first.id);
  assert.equal(back.spec.TaskTemplate.ContainerSpec.Image, "busybox:1");
  assert.equal(back.specVersion, first.specVersion, "the old tasks count as current again");
  assert.equal(back.updateStatus?.state, "rollback_started");
  assert.equal(back.updateStatus?.message, "manually requested rollback");
  const third = await update(fixture, back, web({}, { Image: "busybox:3" }));
  assert.ok(third.specVersion > second.specVersion, "never the version of the failed spec again");
});

test("updateService() keeps, replaces and restores registry credentials", async () => {
  const fixture = new Fixture();
  const { id } = await fixture.writer.createService({ id: fixture.id(), spec: web(), registryAuth: "one" });
  let service = fixture.get(id);
  service = await update(fixture, service, web({ Labels: { a: "1" } }));
  assert.equal(service.registryAuth, "one");
  await fixture.writer.updateService(id, { version: service.version, spec: web(), registryAuth: "two" });
  service = fixture.get(id);
  assert.deepEqual([service.registryAuth, service.previousRegistryAuth], ["two", "one"]);
  await fixture.writer.updateService(id, {
    version: service.version,
    spec: web({ Labels: { b: "1" } }),
    registryAuthFrom: "previous-spec",
  });
  assert.equal(fixture.get(id).registryAuth, "one");
});

test("updateService() refuses credentials of a previous spec that there is not, unless it is given others", async () => {
  const fixture = new Fixture();
  const { id } = await fixture.writer.createService({ id: fixture.id(), spec: web(), registryAuth: "one" });
  const ask = (version: number, registryAuth = ""): Promise<unknown> =>
    fixture.writer.updateService(id, {
      version,
      spec: web({ Labels: { a: "1" } }),
      registryAuth,
      registryAuthFrom: "previous-spec",
    });
  for (const version of [fixture.get(id).version, 99_999]) {
    await assert.rejects(
      ask(version),
      (error) => hasCode(error, "internal") && error.message === "service does not have a previous spec",
    );
  }
  assert.equal(fixture.get(id).registryAuth, "one");
  await ask(fixture.get(id).version, "two");
  assert.equal(fixture.get(id).registryAuth, "two");
  await ask(fixture.get(id).version);
  assert.equal(fixture.get(id).registryAuth, "one");
});

test("createService() takes a job with any restart condition, as Swarm does: its loops run none that completed", async () => {
  const fixture = new Fixture();
  for (const Condition of ["none", "on-failure", "any"]) {
    const { TaskTemplate } = template({ RestartPolicy: { Condition } }) as { TaskTemplate: object };
    const { spec } = await fixture.service({ Name: Condition, Mode: { GlobalJob: {} }, TaskTemplate });
    assert.equal(spec.TaskTemplate.RestartPolicy?.Condition, Condition);
  }
});

test("updateService() runs a job anew only when its spec changed", async () => {
  const fixture = new Fixture();
  const job = (image: string): unknown =>
    web({ Mode: { ReplicatedJob: { TotalCompletions: 2 } } }, { Image: image });
  const first = await fixture.service(job("busybox:1"));
  assert.equal(first.jobStatus?.jobIteration, 0);
  const same = await update(fixture, first, job("busybox:1"));
  assert.deepEqual([same.jobStatus?.jobIteration, same.specVersion], [0, first.specVersion]);
  const changed = await update(fixture, same, job("busybox:2"));
  assert.equal(changed.jobStatus?.jobIteration, 1);
});

test("secrets and configs: only labels change, names are unique, none is removed in use", async () => {
  const fixture = new Fixture();
  const { writer, store } = fixture;
  const spec = { Name: "key", Labels: { a: "1" }, Data: data("hunter2") };
  const { id } = await writer.createBlob("secret", { id: fixture.id(), spec });
  const blob = (): { readonly version: number } => store.view().get("secret", id) ?? assert.fail();
  await assert.rejects(
    writer.createBlob("secret", { id: fixture.id(), spec }),
    (error) => hasCode(error, "already_exists") && error.message === "secret key already exists",
  );
  const relabel = (changed: object): Promise<unknown> =>
    writer.updateBlob("secret", { id, version: blob().version, spec: { ...spec, ...changed } });
  await relabel({ Labels: { b: "2" } });
  await relabel({ Labels: { b: "3" }, Data: undefined });
  assert.deepEqual(store.view().get("secret", id)?.spec, { ...spec, Labels: { b: "3" } });
  await assert.rejects(relabel({ Data: data("other") }), /only updates to Labels are allowed/);
  await assert.rejects(relabel({ Name: "other" }), /only updates to Labels are allowed/);
  const reference = { SecretID: id, SecretName: "key", File: { Name: "key", UID: "0", GID: "0", Mode: 292 } };
  const service = await fixture.service(web({}, { Secrets: [reference] }));
  await assert.rejects(
    writer.removeBlob("secret", id),
    (error) =>
      hasCode(error, "invalid_argument") &&
      error.message === "secret 'key' is in use by the following service: web",
  );
  await writer.removeService(service.id);
  await writer.removeBlob("secret", id);
});

test("createBlob() holds Docker's bounds on names and sizes", async () => {
  const { writer, random } = new Fixture();
  const create = (table: "secret" | "config", name: string, bytes: number): Promise<unknown> =>
    writer.createBlob(table, {
      id: newObjectId(random),
      spec: { Name: name, Data: Buffer.alloc(bytes).toString("base64") },
    });
  await create("secret", "most", 500 * 1024);
  await create("config", "most", 1000 * 1024);
  const bad: readonly Promise<unknown>[] = [
    create("secret", "more", 500 * 1024 + 1),
    create("config", "more", 1000 * 1024 + 1),
    create("secret", "none", 0),
    create("secret", "bad name", 1),
    create("secret", "a".repeat(65), 1),
  ];
  for (const attempt of bad) await assert.rejects(attempt, (error) => hasCode(error, "invalid_argument"));
});

test("createNetwork() refuses overlaps, foreign drivers, predefined names and a second ingress network", async () => {
  const fixture = new Fixture();
  const create = (spec: object): Promise<{ readonly id: string }> =>
    fixture.writer.createNetwork({ id: fixture.id(), spec });
  await create({ Name: "one", IPAM: { Config: [{ Subnet: "10.5.0.0/16" }] } });
  await create({ Name: "ingress", Ingress: true });
  const bad: readonly (readonly [object, ErrorCode, RegExp])[] = [
    [{ Name: "one" }, "already_exists", /network with name one already exists/],
    [{ Name: "two", IPAM: { Config: [{ Subnet: "10.5.7.0/24" }] } }, "permission_denied", /Pool overlaps/],
    [
      { Name: "two", IPAM: { Config: [{ Subnet: "10.6.0.0/16", Gateway: "10.7.0.1" }] } },
      "invalid_argument",
      /gateway/,
    ],
    [{ Name: "two", IPAM: { Config: [{ Subnet: "10.6.0.0" }] } }, "invalid_argument", /invalid subnet/],
    [{ Name: "two", Driver: "weave" }, "invalid_argument", /driver "weave"/],
    [{ Name: "bridge" }, "permission_denied", /predefined bridge network/],
    [{ Name: "two", Ingress: true }, "already_exists", /ingress network .* is already present/],
    [{ Name: "" }, "invalid_argument", /blank or empty/],
  ];
  for (const [spec, code, text] of bad) {
    await assert.rejects(
      create(spec),
      (error) => hasCode(error, code) && text.test(error.message),
      JSON.stringify(spec),
    );
  }
});

test("removeNetwork() counts services and not the tasks that still stop", async () => {
  const fixture = new Fixture();
  const { id } = await fixture.writer.createNetwork({ id: fixture.id(), spec: { Name: "net" } });
  const service = await fixture.service(template({ Networks: [{ Target: "net" }] }));
  await assert.rejects(
    fixture.writer.removeNetwork(id),
    (error) =>
      hasCode(error, "failed_precondition") &&
      error.message === `network ${id} is in use by service ${service.id}`,
  );
  await fixture.store.update((tx) =>
    tx.create("task", {
      id: "t1",
      serviceId: service.id,
      slot: 1,
      nodeId: "n1",
      name: "web.1.t1",
      serviceLabels: {},
      serviceName: "web",
      spec: service.spec.TaskTemplate,
      specVersion: 1,
      desiredState: TaskState.remove,
      status: { state: TaskState.running, timestamp: "", message: "", err: "" },
      networks: [{ networkId: id, addresses: ["10.0.1.3/24"], aliases: [] }],
      ports: [],
    }),
  );
  await fixture.writer.removeService(service.id);
  await fixture.writer.removeNetwork(id);
});

test("removeNetwork() refuses while a task of an earlier spec works on it", async () => {
  const fixture = new Fixture();
  const { id } = await fixture.writer.createNetwork({ id: fixture.id(), spec: { Name: "net" } });
  const service = await fixture.service(template({ Networks: [{ Target: "net" }] }));
  const { spec } = await fixture.store
    .update((tx) => {
      const found = tx.get("service", service.id);
      assert.ok(found !== undefined);
      tx.create("task", {
        id: "t1",
        serviceId: service.id,
        slot: 1,
        nodeId: "n1",
        name: "web.1.t1",
        serviceLabels: {},
        serviceName: "web",
        spec: found.spec.TaskTemplate,
        specVersion: 1,
        desiredState: TaskState.running,
        status: { state: TaskState.running, timestamp: "", message: "", err: "" },
        networks: [{ networkId: id, addresses: ["10.0.1.3/24"], aliases: [] }],
        ports: [],
      });
      return found;
    })
    .then(({ result }) => result);
  const { TaskTemplate, ...rest } = spec;
  const { Networks: _left, ...moved } = TaskTemplate;
  await fixture.store.update((tx) => {
    const found = tx.get("service", service.id);
    assert.ok(found !== undefined);
    tx.update("service", { ...found, spec: { ...rest, TaskTemplate: moved } });
  });
  await assert.rejects(
    fixture.writer.removeNetwork(id),
    (error) =>
      hasCode(error, "failed_precondition") && error.message === `network ${id} is in use by task t1`,
  );
  // What it leaves behind is on its way out, whether or not it was told so yet.
  await fixture.writer.removeService(service.id);
  await fixture.writer.removeNetwork(id);
});

test("removeNetwork() refuses while a container outside of services is on it, unless its node is down", async () => {
  const fixture = new Fixture();
  const { id } = await fixture.writer.createNetwork({ id: fixture.id(), spec: { Name: "net" } });
  const guest = { containerId: "0123456789abcdef", networkId: id, names: [], wanted: "", address: "" };
  const change = (state: NodeState): Promise<unknown> =>
    fixture.store.update((tx) => {
      const node = tx.get("node", "n9");
      if (node !== undefined) tx.update("node", { ...node, status: { ...node.status, state } });
      else
        tx.create("node", {
          id: "n9",
          spec: { Role: "worker", Availability: "active" },
          status: { state, message: "", addr: "" },
          rpcAddress: "",
          dataPathAddress: "",
          certificateRole: "worker",
          guests: [guest],
        });
    });
  await change(NodeState.ready);
  await assert.rejects(
    fixture.writer.removeNetwork(id),
    (error) =>
      hasCode(error, "failed_precondition") &&
      error.message === `network ${id} is in use by container 0123456789ab on node n9`,
  );
  await change(NodeState.down);
  await fixture.writer.removeNetwork(id);
});

test("removeNode() takes only a node that is down or forced, orphans its tasks and remembers its id", async () => {
  const fixture = new Fixture();
  await fixture.store.update((tx) =>
    tx.create("cluster", {
      id: "c1",
      spec: { Name: "default" },
      rootCa: { certificate: "", key: "", digest: "", joinTokens: { worker: "", manager: "" } },
      tlsInfo: { TrustRoot: "", CertIssuerSubject: "", CertIssuerPublicKey: "" },
      defaultAddressPool: [],
      subnetSize: 24,
      dataPathPort: 4789,
      meshPool: "",
      unlockKey: "",
    }),
  );
  await fixture.node("n1");
  await assert.rejects(
    fixture.writer.removeNode("n1", false),
    (error) =>
      hasCode(error, "failed_precondition") && error.message === "node n1 is not down and can't be removed",
  );
  await fixture.writer.removeNode("n1", true);
  const until = fixture.store.view().get("cluster", "c1")?.removedNodes?.["n1"] ?? "";
  assert.equal(
    Date.parse(until) - fixture.clock.wallMs(),
    90 * 24 * 3_600_000,
    "as long as its certificate lives",
  );
  const dayMs = 24 * 3_600_000;
  const certificateUntil = rfc3339(fixture.clock.wallMs() + 400 * dayMs);
  await fixture.node("n2", { status: { state: NodeState.down, message: "", addr: "" }, certificateUntil });
  await fixture.writer.removeNode("n2", false);
  const banned = fixture.store.view().get("cluster", "c1")?.removedNodes?.["n2"];
  assert.equal(banned, certificateUntil, "one that was issued for longer than is asked for now");
  await assert.rejects(fixture.writer.removeNode("n2", true), (error) => hasCode(error, "not_found"));
  const manager = { raftId: 7, addr: "10.0.0.3:2377" };
  for (const [id, Role, wanted] of [
    ["n3", "manager", "must be demoted to worker before removal"],
    ["n4", "worker", "is being demoted"],
  ] as const) {
    await fixture.node(id, { spec: { Role, Availability: "active" }, manager });
    await assert.rejects(
      fixture.writer.removeNode(id, true),
      (error) => hasCode(error, "failed_precondition") && error.message.includes(wanted),
    );
  }
});

test("updateNode() checks roles and availability", async () => {
  const fixture = new Fixture();
  await fixture.node("n1");
  const version = fixture.store.view().get("node", "n1")?.version ?? 0;
  for (const spec of [
    { Role: "boss", Availability: "active" },
    { Role: "worker" },
    { Role: "worker", Availability: "off" },
  ]) {
    await assert.rejects(fixture.writer.updateNode("n1", version, spec), (error) =>
      hasCode(error, "invalid_argument"),
    );
  }
  await fixture.writer.updateNode("n1", version, {
    Role: "worker",
    Availability: "drain",
    Labels: { a: "b" },
  });
  assert.equal(fixture.store.view().get("node", "n1")?.spec.Availability, "drain");
});

const IMAGE = {
  Name: "docker.io/library/web:1",
  Digest: `sha256:${"a".repeat(64)}`,
  MediaType: "application/vnd.oci.image.manifest.v1+json",
  ManifestBytes: 500,
  SizeBytes: 5_000,
  ImageID: `sha256:${"b".repeat(64)}`,
};

test("putImage() gives a name one image: again changes nothing, another image replaces it, case counts", async () => {
  const fixture = new Fixture();
  await fixture.node("n1");
  await fixture.node("n2");
  const first = await fixture.writer.putImage({ id: fixture.id(), spec: IMAGE, nodeId: "n1" });
  const { version = 0 } = fixture.store.view().get("image", first.id) ?? {};
  const again = await fixture.writer.putImage({ id: fixture.id(), spec: IMAGE, nodeId: "n1" });
  assert.equal(again.id, first.id);
  assert.equal(fixture.store.view().get("image", first.id)?.version, version);
  await fixture.writer.putImage({ id: fixture.id(), spec: IMAGE, nodeId: "n2" });
  assert.deepEqual(
    fixture.store
      .view()
      .get("image", first.id)
      ?.holders.map((each) => each.nodeId),
    ["n2", "n1"],
  );
  const pushedAt = (): string | undefined => fixture.store.view().get("image", first.id)?.pushedAt;
  const firstAt = pushedAt();
  fixture.clock.advance(60_000);
  await fixture.writer.putImage({ id: fixture.id(), spec: IMAGE, nodeId: "n1" });
  assert.equal(pushedAt(), firstAt, "the same image has its name since then");
  const Digest = `sha256:${"c".repeat(64)}`;
  const other = await fixture.writer.putImage({
    id: fixture.id(),
    spec: { ...IMAGE, Digest },
    nodeId: "n2",
  });
  assert.equal(other.id, first.id);
  assert.equal(pushedAt(), rfc3339(fixture.clock.wallMs()));
  assert.deepEqual(fixture.store.view().get("image", first.id)?.holders, [
    { nodeId: "n2", isComplete: true },
    { nodeId: "n1", isComplete: false },
  ]);
  const lower = { ...IMAGE, Name: "docker.io/library/web:rc" };
  const upper = { ...IMAGE, Name: "docker.io/library/web:RC" };
  const [a, b] = [
    await fixture.writer.putImage({ id: fixture.id(), spec: lower, nodeId: "n1" }),
    await fixture.writer.putImage({ id: fixture.id(), spec: upper, nodeId: "n1" }),
  ];
  assert.notEqual(a.id, b.id, "tags differ by case");
  await fixture.writer.removeImage(a.id, false);
  assert.equal(fixture.store.view().get("image", a.id), undefined);
  await assert.rejects(fixture.writer.removeImage(a.id, false), (error) => hasCode(error, "not_found"));
});

test("removeImage() refuses what services name, by tag or digest, unless forced", async () => {
  const fixture = new Fixture();
  await fixture.node("n1");
  const { id } = await fixture.writer.putImage({ id: fixture.id(), spec: IMAGE, nodeId: "n1" });
  const byTag = await fixture.service(web({}, { Image: "web:1" }));
  const byDigest = await fixture.service(web({ Name: "api" }, { Image: `web:old@${IMAGE.Digest}` }));
  await fixture.service(web({ Name: "other" }, { Image: "web:2" }));
  await assert.rejects(
    fixture.writer.removeImage(id, false),
    (error) =>
      hasCode(error, "invalid_argument") &&
      /^image 'web:1' is in use by the following services: (web, api|api, web)$/.test(error.message),
  );
  await fixture.writer.removeService(byTag.id);
  await assert.rejects(fixture.writer.removeImage(id, false), /service: api$/);
  await fixture.writer.removeImage(id, true);
  assert.equal(fixture.store.view().get("image", id), undefined);
  await fixture.writer.removeService(byDigest.id);
});

test("putImage() refuses short names, bad digests and unknown nodes", async () => {
  const fixture = new Fixture();
  await fixture.node("n1");
  for (const [spec, text] of [
    [{ ...IMAGE, Name: "web:1" }, /Name must be a full name with a tag/],
    [{ ...IMAGE, Name: "docker.io/library/web" }, /Name must be a full name with a tag/],
    [{ ...IMAGE, Name: `docker.io/library/web:1@${IMAGE.Digest}` }, /Name must be a full name/],
    [{ ...IMAGE, Name: "A B" }, /invalid reference format/],
    [{ ...IMAGE, Digest: "sha256:00" }, /Digest must be a digest, got "sha256:00"/],
    [{ ...IMAGE, ImageID: "" }, /ImageID must be a digest/],
    [{ ...IMAGE, SizeBytes: -1 }, /SizeBytes must not be negative/],
    [{ ...IMAGE, SizeBytes: "1" }, /SizeBytes must be an integer/],
  ] as const) {
    await assert.rejects(
      fixture.writer.putImage({ id: fixture.id(), spec, nodeId: "n1" }),
      (error) => hasCode(error, "invalid_argument") && text.test(error.message),
    );
  }
  await assert.rejects(fixture.writer.putImage({ id: fixture.id(), spec: IMAGE, nodeId: "n9" }), (error) =>
    hasCode(error, "not_found"),
  );
});
