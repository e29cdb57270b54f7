import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { NodeState, type Task, type TaskStatus } from "../../model/objects.ts";
import { TaskState } from "../../model/task-state.ts";
import { AssignmentState } from "../../worker/agent/assignment-state.ts";
import { NodeImages } from "../../manager/node-images.ts";
import { MemoryStore } from "../../manager/store/memory-store.ts";
import type { Draft } from "../../manager/store/store.ts";
import { SingleMemberLog } from "../../manager/store/testing/single-member-log.ts";
import { type AgentStream, Dispatcher, type ToAgent } from "../../manager/dispatcher/dispatcher.ts";
import { DRAIN_BARRIER_MS, NEW_LEADER_GRACE_MS, NODE_DOWN_MS } from "../../manager/dispatcher/limits.ts";

const NETWORK = "network1";
const SERVICE = "service1";

class ModelAgent implements AgentStream {
  readonly messages: ToAgent[] = [];
  readonly state = new AssignmentState();
  backlogCount = 0;
  isEnded = false;
  autoAck = true;
  receive: (message: object) => void = () => {};
  ended: () => void = () => {};

  send(message: ToAgent): void {
    this.messages.push(message);
    if (!message.assignments) return;
    this.state.apply(message.assignments);
    if (this.autoAck) this.ack();
  }

  ack(): void {
    this.receive({ ack: { sequence: this.state.sequence } });
  }

  end(): void {
    this.isEnded = true;
  }

  endpoints(): readonly string[] {
    const network = this.state.current().networks.get(NETWORK);
    return (network?.endpoints ?? []).map((each) => `${each.taskId} ${each.state}`);
  }

  desired(taskId: string): number | undefined {
    return this.state.current().tasks.get(taskId)?.desiredState;
  }
}

class Fixture {
  readonly clock = new FakeClock();
  readonly store: MemoryStore;
  readonly images = new NodeImages();
  readonly warnings: [text: string, fields: unknown][] = [];
  readonly dispatcher: Dispatcher;

  constructor() {
    const store = new MemoryStore({ clock: this.clock, timers: this.clock, log: silentLogger });
    store.attach(new SingleMemberLog({ machine: store }));
    this.store = store;
    this.dispatcher = new Dispatcher({
      store,
      images: this.images,
      clock: this.clock,
      timers: this.clock,
      random: new SeededRandom(1),
      log: { ...silentLogger, warn: (text, fields) => this.warnings.push([text, fields]) },
      failed: (error) => assert.fail(error),
    });
  }

  async start(...nodeIds: readonly string[]): Promise<void> {
    await this.store.update((tx) => {
      for (const [index, id] of nodeIds.entries()) {
        tx.create("node", {
          id,
          spec: { Role: "worker", Availability: "active" },
          status: { state: NodeState.unknown, message: "", addr: "" },
          rpcAddress: "",
          dataPathAddress: "",
          certificateRole: "worker",
          meshSubnet: `100.64.${index * 2}.0/23`,
        });
      }
      tx.create("network", {
        id: NETWORK,
        spec: { Name: "back", Driver: "overlay", Attachable: true },
        allocation: { vni: 4096, subnets: [{ subnet: "10.0.1.0/24", gateway: "10.0.1.1" }] },
      });
    });
    this.dispatcher.start();
    await this.run(1);
  }

  async run(ms = 20): Promise<void> {
    await this.clock.advanceAsync(ms);
  }

  async agent(nodeId: string): Promise<ModelAgent> {
    const agent = new ModelAgent();
    const { receive, ended } = this.dispatcher.open(nodeId, agent, "192.0.2.1");
    agent.receive = receive;
    agent.ended = ended;
    receive({ hello: { rpcAddress: `${nodeId}:2377`, dataPathAddress: "192.0.2.1", addr: "" } });
    await this.run();
    return agent;
  }

  async task(id: string, nodeId: string, state: TaskState = TaskState.assigned): Promise<void> {
    const status: TaskStatus = { state, timestamp: "", message: "", err: "" };
    const draft: Draft<"task"> = {
      id,
      serviceId: SERVICE,
      serviceName: "web",
      serviceLabels: {},
      slot: 1,
      nodeId,
      name: `web.1.${id}`,
      spec: { ContainerSpec: { Image: "whoami:1" } },
      specVersion: 1,
      desiredState: TaskState.running,
      status,
      networks: [{ networkId: NETWORK, addresses: [`10.0.1.${id.length + 1}/24`], aliases: [] }],
      ports: [],
    };
    await this.store.update((tx) => tx.create("task", draft));
    await this.run();
  }

  async change(id: string, change: (task: Task) => Task): Promise<void> {
    await this.store.update((tx) => {
      const task = tx.get("task", id);
      assert.ok(task);
      tx.update("task", change(task));
    });
    await this.run();
  }

  async report(agent: ModelAgent, taskId: string, state: TaskState): Promise<void> {
    const timestamp = `2026-01-01T00:00:00.${String(state).padStart(9, "0")}Z`;
    const status: TaskStatus = { state, timestamp, message: "", err: "" };
    const statusJson = new TextEncoder().encode(JSON.stringify(status));
    agent.receive({ statuses: { batchId: state, updates: [{ taskId, statusJson }] } });
    await this.run();
  }

  observed(taskId: string): number | undefined {
    return this.store.view().get("task", taskId)?.status.state;
  }
}

test("Dispatcher.open() registers the node and sends a full set first", async () => {
  const fixture = new Fixture();
  await fixture.start("a");
  await fixture.task("t", "a");
  const agent = await fixture.agent("a");
  assert.ok(agent.messages[0]?.opened);
  assert.equal(agent.messages[1]?.assignments?.full, true);
  assert.deepEqual([...agent.state.current().tasks.keys()], ["t"]);
  const node = fixture.store.view().get("node", "a");
  assert.equal(node?.status.state, NodeState.ready);
  assert.equal(node?.rpcAddress, "a:2377");
});

test("Dispatcher commits statuses forwards only, acknowledges them, and ignores other nodes' tasks", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  await fixture.task("t", "a");
  const [a, b] = [await fixture.agent("a"), await fixture.agent("b")];
  await fixture.report(a, "t", TaskState.running);
  assert.equal(fixture.observed("t"), TaskState.running);
  assert.ok(a.messages.some((each) => each.statusAck?.batchId === TaskState.running));
  await fixture.report(a, "t", TaskState.preparing);
  await fixture.report(b, "t", TaskState.failed);
  assert.equal(fixture.observed("t"), TaskState.running);
});

test("Dispatcher does not take what a former session says late for news", async () => {
  const fixture = new Fixture();
  await fixture.start("a");
  await fixture.task("t", "a");
  const say = async (agent: ModelAgent, message: string): Promise<void> => {
    const status: TaskStatus = { state: TaskState.running, timestamp: "", message, err: "" };
    const statusJson = new TextEncoder().encode(JSON.stringify(status));
    agent.receive({ statuses: { batchId: 1, updates: [{ taskId: "t", statusJson }] } });
    await fixture.run();
  };
  const former = await fixture.agent("a");
  const present = await fixture.agent("a");
  await say(present, "newest");
  await say(former, "older");
  assert.equal(fixture.store.view().get("task", "t")?.status.message, "newest");
  assert.equal(
    former.messages.some((each) => each.statusAck),
    false,
  );
});

test("Dispatcher tells the nodes of a network about an endpoint, and no other node", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b", "c");
  await fixture.task("t", "a");
  await fixture.task("tt", "b");
  const [a, b, c] = [await fixture.agent("a"), await fixture.agent("b"), await fixture.agent("c")];
  await fixture.report(a, "t", TaskState.running);
  assert.deepEqual(b.endpoints(), ["t ready", "tt starting"]);
  assert.equal(c.state.current().networks.size, 0);
});

test("Dispatcher lets a task stop only after every node has taken its endpoint out of service", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  await fixture.task("t", "a");
  await fixture.task("tt", "b");
  const [a, b] = [await fixture.agent("a"), await fixture.agent("b")];
  await fixture.report(a, "t", TaskState.running);
  b.autoAck = false;
  await fixture.change("t", (task) => ({ ...task, desiredState: TaskState.shutdown }));
  assert.deepEqual(b.endpoints(), ["t draining", "tt starting"]);
  assert.equal(a.desired("t"), TaskState.running);
  b.ack();
  await fixture.run();
  assert.equal(a.desired("t"), TaskState.shutdown);
});

test("Dispatcher does not wait for ever for a node that doesn't acknowledge, nor for one that is gone", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  await fixture.task("t", "a");
  await fixture.task("tt", "a");
  await fixture.task("ttt", "b");
  const [a, b] = [await fixture.agent("a"), await fixture.agent("b")];
  await fixture.report(a, "t", TaskState.running);
  await fixture.report(a, "tt", TaskState.running);
  b.autoAck = false;
  await fixture.change("t", (task) => ({ ...task, desiredState: TaskState.shutdown }));
  await fixture.run(DRAIN_BARRIER_MS);
  assert.equal(a.desired("t"), TaskState.shutdown);
  await fixture.change("tt", (task) => ({ ...task, desiredState: TaskState.shutdown }));
  assert.equal(a.desired("tt"), TaskState.running);
  b.ended();
  await fixture.run();
  assert.equal(a.desired("tt"), TaskState.shutdown);
});

test("Dispatcher marks a silent node down and drops its endpoints, and takes it back with a new session", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  await fixture.task("t", "a");
  await fixture.task("tt", "b");
  const [a, b] = [await fixture.agent("a"), await fixture.agent("b")];
  await fixture.report(a, "t", TaskState.running);
  for (let passedMs = 0; passedMs <= NODE_DOWN_MS; passedMs += 500) {
    b.receive({ heartbeat: {} });
    await fixture.run(500);
  }
  assert.equal(fixture.store.view().get("node", "a")?.status.state, NodeState.down);
  assert.equal(fixture.store.view().get("node", "b")?.status.state, NodeState.ready);
  assert.equal(a.isEnded, true);
  assert.deepEqual(b.endpoints(), ["tt starting"]);
  await fixture.agent("a");
  assert.equal(fixture.store.view().get("node", "a")?.status.state, NodeState.ready);
  assert.deepEqual(b.endpoints(), ["t ready", "tt starting"]);
});

test("Dispatcher gives nodes time to find a new leader, and marks those down that don't come", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  // Half of all came, so that it is the other's silence and not the manager's own trouble.
  const b = await fixture.agent("b");
  const pass = async (ms: number): Promise<void> => {
    for (let passedMs = 0; passedMs < ms; passedMs += 500) {
      b.receive({ heartbeat: {} });
      await fixture.run(500);
    }
  };
  await pass(NEW_LEADER_GRACE_MS - 500);
  assert.equal(fixture.store.view().get("node", "a")?.status.state, NodeState.unknown);
  await pass(1000);
  assert.equal(fixture.store.view().get("node", "a")?.status.state, NodeState.down);
  assert.equal(fixture.store.view().get("node", "b")?.status.state, NodeState.ready);
});

test("Dispatcher refuses a node that is not in the store, and says so", async () => {
  const fixture = new Fixture();
  await fixture.start("a");
  const stranger = await fixture.agent("z");
  assert.equal(stranger.messages[0]?.disconnect?.removed, true);
  assert.equal(stranger.isEnded, true);
});

test("Dispatcher ends the session of an agent that sends nonsense", async () => {
  const fixture = new Fixture();
  await fixture.start("a");
  const agent = await fixture.agent("a");
  agent.receive({ statuses: { batchId: 1, updates: [{ taskId: "t", statusJson: new Uint8Array([123]) }] } });
  assert.equal(agent.isEnded, true);
});

test("a node that was taken over costs itself its session, and the leader and the others nothing", async () => {
  const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
  const status = (statusJson: Uint8Array): object => ({
    statuses: { updates: [{ taskId: "t", statusJson }] },
  });
  const wide = encode({ state: 512, timestamp: "", message: "", err: "x".repeat(4_000_000) });
  const hostile: readonly object[] = [
    status(encode(null)),
    status(encode({ state: {}, timestamp: "", message: "", err: "" })),
    status(wide),
    { description: { descriptionJson: encode({ Resources: null }) } },
    { description: { descriptionJson: encode([]) } },
    { guestNetworks: { guests: [{ containerId: "../t", networkId: NETWORK }] } },
    { hello: { rpcAddress: "a:1; rm -rf /", dataPathAddress: "192.0.2.1" } },
  ];
  const fixture = new Fixture();
  await fixture.start("a", "b");
  await fixture.task("t", "a", TaskState.starting);
  const b = await fixture.agent("b");
  const before = fixture.store.view().get("task", "t");
  for (const message of hostile) {
    const agent = await fixture.agent("a");
    agent.receive(message);
    await fixture.run();
    assert.equal(agent.isEnded, true, Object.keys(message).join());
    agent.ended();
  }
  assert.deepEqual(fixture.store.view().get("task", "t"), before);
  assert.equal(b.isEnded, false);
  await fixture.report(await fixture.agent("a"), "t", TaskState.running);
  assert.equal(fixture.observed("t"), TaskState.running, "who comes back in its senses is heard");
});

test("what a session may leave unanswered is bounded: no second hello, no flood of statuses, no reader that never reads", async () => {
  const fixture = new Fixture();
  await fixture.start("a");
  const twice = await fixture.agent("a");
  twice.receive({ hello: { rpcAddress: "a:2377" } });
  assert.equal(twice.isEnded, true, "a second hello");
  const flood = await fixture.agent("a");
  const statusJson = new Uint8Array(200_000).fill(0x20);
  statusJson.set(new TextEncoder().encode('{"state":512,"timestamp":"","message":"","err":""}'));
  for (let count = 0; count < 100 && !flood.isEnded; count += 1)
    flood.receive({ statuses: { updates: [{ taskId: "t", statusJson }] } });
  assert.equal(flood.isEnded, true, "20 MB of statuses at once");
  const loud = await fixture.agent("a");
  loud.receive({ ack: { sequence: 1, errors: Array.from({ length: 1_000 }, () => "e".repeat(100_000)) } });
  const logged = fixture.warnings.filter(([text]) => text === "node could not apply its assignments");
  assert.ok(logged.length <= 16 && JSON.stringify(logged).length < 100_000, "the log is no place to fill");
  const deaf = await fixture.agent("a");
  deaf.backlogCount = 100_000;
  deaf.receive({ heartbeat: {} });
  assert.equal(deaf.isEnded, true, "answers that nobody reads");
});

test("a node draws no traffic by an address that is not on its block of the mesh", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  await fixture.task("t", "a");
  const agent = await fixture.agent("a");
  const tell = async (meshIp: string, state: TaskState): Promise<string | undefined> => {
    const status = { state, timestamp: "2026-01-01T00:00:00Z", message: "", err: "", meshIp };
    const statusJson = new TextEncoder().encode(JSON.stringify(status));
    agent.receive({ statuses: { updates: [{ taskId: "t", statusJson }] } });
    await fixture.run();
    return fixture.store.view().get("task", "t")?.status.meshIp;
  };
  assert.equal(await tell("100.64.0.9", TaskState.starting), "100.64.0.9");
  assert.equal(await tell("100.64.2.9", TaskState.running), "", "an address of node b");
});

test("what a node calls its guest takes no endpoint of others", async () => {
  const fixture = new Fixture();
  await fixture.start("node1", "node2");
  const [thief, victim] = [await fixture.agent("node1"), await fixture.agent("node2")];
  await fixture.task("t1", "node2", TaskState.running);
  const guests = [{ containerId: "t1", networkId: NETWORK, names: ["web"], address: "" }];
  const give = async (): Promise<void> => {
    await fixture.store.update((tx) => {
      const node = tx.get("node", "node1");
      assert.ok(node);
      const address = "10.0.1.99/24";
      tx.update("node", { ...node, guests: (node.guests ?? []).map((each) => ({ ...each, address })) });
    });
    await fixture.run();
  };
  const ip = (): string | undefined => victim.state.current().networks.get(NETWORK)?.endpoints[0]?.ip;
  const before = ip();
  thief.receive({ guestNetworks: { references: [], guests } });
  await fixture.run();
  await give();
  assert.equal(ip(), before);
  thief.receive({ guestNetworks: { references: [], guests: [] } });
  await fixture.run();
  assert.deepEqual([ip(), victim.endpoints()], [before, ["t1 ready"]]);
});

test("Dispatcher takes in what nodes say of their images, and tells holders what to keep", async () => {
  const fixture = new Fixture();
  await fixture.start("a", "b");
  const [a, b] = [await fixture.agent("a"), await fixture.agent("b")];
  a.receive({ images: { full: true, added: ["docker.io/library/web:1"] } });
  assert.deepEqual([...fixture.images.nodesWith("web:1")], ["a"]);
  const Digest = `sha256:${"a".repeat(64)}`;
  const spec = { Name: "docker.io/library/web:1", Digest, MediaType: "", ManifestBytes: 1, SizeBytes: 1 };
  await fixture.store.update((tx) =>
    tx.create("image", {
      id: "image1",
      spec: { ...spec, ImageID: Digest },
      holders: [{ nodeId: "a", isComplete: true }],
    }),
  );
  await fixture.run();
  assert.deepEqual([...a.state.current().images], [["image1", { name: spec.Name, digest: Digest }]]);
  assert.equal(b.state.current().images.size, 0);
  const sentCount = b.messages.length;
  await fixture.store.update((tx) => {
    const image = tx.get("image", "image1");
    assert.ok(image);
    tx.update("image", { ...image, holders: [{ nodeId: "b", isComplete: false }] });
  });
  await fixture.run();
  assert.equal(a.state.current().images.size, 0);
  assert.deepEqual([...b.state.current().images.keys()], ["image1"]);
  assert.equal(b.messages.length, sentCount + 1);
  const again = await fixture.agent("b");
  assert.deepEqual([...again.state.current().images.keys()], ["image1"], "a new session is told again");
  again.receive({ images: { full: true, added: [] } });
  b.receive({ images: { added: ["docker.io/library/web:1"] } });
  assert.deepEqual(fixture.images.of("b"), [], "what a former session still had to say counts no more");
  await fixture.store.update((tx) => tx.remove("image", "image1"));
  await fixture.run();
  assert.equal(again.state.current().images.size, 0);
  a.receive({ images: { added: Array.from({ length: 5_000 }, (_each, index) => `i${index}`) } });
  assert.equal(a.isEnded, true, "too many names cost the session");
  await fixture.store.update((tx) => tx.remove("node", "a"));
  await fixture.run();
  assert.equal(fixture.images.of("a"), undefined);
});

test("a container outside of services is an endpoint for all nodes on its network from when it has an address", async () => {
  const fixture = new Fixture();
  await fixture.start("node1", "node2");
  const [first, second] = [await fixture.agent("node1"), await fixture.agent("node2")];
  await fixture.task("t1", "node2", TaskState.running);
  const guest = { containerId: "c1", networkId: NETWORK, names: ["db"], address: "" };
  const tell = async (guests: readonly object[]): Promise<void> => {
    first.receive({ guestNetworks: { references: ["back"], guests } });
    await fixture.run();
  };
  const give = async (address: string): Promise<void> => {
    await fixture.store.update((tx) => {
      const node = tx.get("node", "node1");
      assert.ok(node);
      tx.update("node", { ...node, guests: (node.guests ?? []).map((each) => ({ ...each, address })) });
    });
    await fixture.run();
  };
  await tell([guest]);
  assert.deepEqual(second.endpoints(), ["t1 ready"]);
  await give("10.0.1.9/24");
  for (const agent of [first, second]) assert.deepEqual(agent.endpoints(), ["c1 ready", "t1 ready"]);
  await tell([{ ...guest, names: ["db", "store"] }]);
  const endpoint = second.state.current().networks.get(NETWORK)?.endpoints[0];
  assert.deepEqual([endpoint?.ip, endpoint?.names], ["10.0.1.9", ["db", "store"]]);
  await tell([{ ...guest, address: "10.0.1.50" }]);
  assert.deepEqual(second.endpoints(), ["t1 ready"], "it asks for another address");
  await give("10.0.1.50/24");
  assert.deepEqual(second.endpoints(), ["c1 ready", "t1 ready"]);
  first.ended();
  for (let ms = 0; ms < NODE_DOWN_MS + 2_000; ms += 1_000) {
    await fixture.run(1_000);
    second.receive({ heartbeat: {} });
  }
  assert.deepEqual(second.endpoints(), ["t1 ready"], "its node is down");
  const again = await fixture.agent("node1");
  again.receive({ guestNetworks: { references: [], guests: [] } });
  await fixture.run();
  assert.deepEqual(second.endpoints(), ["t1 ready"]);
  assert.deepEqual(fixture.store.view().get("node", "node1")?.guests, []);
});

test("a node that was given the former root too renews once more when the rotation is over", async () => {
  const fixture = new Fixture();
  await fixture.start("node1");
  await fixture.store.update((tx) => {
    tx.create("cluster", {
      id: "cluster1",
      spec: { Name: "default" },
      rootCa: {
        certificate: "",
        key: "",
        digest: "new",
        joinTokens: { worker: "", manager: "" },
        rotationInProgress: true,
      },
      tlsInfo: { TrustRoot: "", CertIssuerSubject: "", CertIssuerPublicKey: "" },
      dataPathPort: 4789,
      defaultAddressPool: [],
      subnetSize: 24,
      meshPool: "100.64.0.0/10",
      unlockKey: "",
    });
    const node = tx.get("node", "node1");
    assert.ok(node);
    tx.update("node", { ...node, certificateIssuer: "new", trustsFormerRoot: true });
  });
  const agent = await fixture.agent("node1");
  const told = (): readonly (boolean | null | undefined)[] =>
    agent.messages
      .map((message) => message.update ?? message.opened?.info)
      .filter((info) => info !== undefined && info !== null)
      .map((info) => info.renewCertificate);
  const last = (): boolean | null | undefined => told().at(-1);
  assert.equal(last(), false, "it has one of the new root");
  await fixture.store.update((tx) => {
    const cluster = tx.get("cluster", "cluster1");
    assert.ok(cluster);
    const { rotationInProgress: _over, ...rootCa } = cluster.rootCa;
    tx.update("cluster", { ...cluster, rootCa });
  });
  await fixture.run();
  assert.equal(last(), true);

  const before = told().length;
  await fixture.store.update((tx) => {
    const cluster = tx.get("cluster", "cluster1");
    const node = tx.get("node", "node1");
    assert.ok(cluster && node);
    const { trustsFormerRoot: _former, ...rest } = node;
    tx.update("node", { ...rest, certificateSerial: "next" });
    const rootCa = { ...cluster.rootCa, digest: "newer", rotationInProgress: true };
    tx.update("cluster", { ...cluster, rootCa });
  });
  await fixture.run();
  assert.deepEqual(told().slice(before), [true], "the next rotation began as it renewed for the last one");
});
