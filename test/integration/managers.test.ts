import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { ClusterError, hasCode } from "../../common/errors.ts";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { restoreCluster } from "../../manager/backup.ts";
import { grpcConnector } from "../../daemon/dispatcher-connector.ts";
import { joinCluster, renewCertificate } from "../../manager/ca/ca-client.ts";
import { createCluster } from "../../manager/ca/new-cluster.ts";
import { PLAIN_CLUSTER } from "../../manager/testing/plain-cluster.ts";
import { Manager, type ManagerMode } from "../../manager/manager.ts";
import type { ClusterControl } from "../../model/cluster-control.ts";
import type { NodeRole, ServiceSpec } from "../../model/specs.ts";
import type { Cluster } from "../../model/objects.ts";
import { callUnary, dial } from "../../proto/rpc-client.ts";
import { mustForgetRoot } from "../../model/node-role.ts";
import { caService } from "../../proto/services.ts";
import { until as poll, type UntilOptions } from "../../dev/until.ts";
import { LiveIdentity } from "../../proto/rpc-identity.ts";
import { RpcServer } from "../../proto/rpc-server.ts";
import type { NodeIdentity } from "../../proto/rpc.ts";

const WAIT: UntilOptions = { timeoutMs: 120_000, pollMs: 10 };

/** One machine's manager half, with a real port on loopback and a real folder. */
class Machine {
  readonly live: LiveIdentity;
  readonly server: RpcServer;
  readonly folder: string;
  #port = 0;
  /** What it tells the others; default: where it listens. */
  advertised = "";
  manager: Manager | undefined;

  constructor(identity: NodeIdentity, folder: string) {
    this.live = new LiveIdentity(identity);
    this.folder = folder;
    this.server = new RpcServer({ identity, log: silentLogger });
  }

  get addr(): string {
    return `127.0.0.1:${this.#port}`;
  }

  get nodeId(): string {
    return this.live.current.nodeId;
  }

  get running(): Manager {
    assert.ok(this.manager);
    return this.manager;
  }

  async listen(port = 0): Promise<void> {
    ({ port: this.#port } = await this.server.listen("127.0.0.1", port));
  }

  async start(mode: ManagerMode, more: { readonly unlockKey?: string } = {}): Promise<Manager> {
    this.manager = new Manager({
      env: realEnv,
      log: silentLogger,
      identity: this.live,
      folder: this.folder,
      server: this.server,
      advertiseAddr: this.advertised || this.addr,
      mode,
      onFatal: (error) => {
        throw error;
      },
      ...more,
    });
    await this.manager.start();
    return this.manager;
  }

  async stop(): Promise<void> {
    await this.manager?.stop();
    await this.server.stop();
  }

  take(identity: NodeIdentity): void {
    this.live.set(identity);
    this.server.setIdentity(identity);
  }
}

class Fleet {
  readonly machines: Machine[] = [];
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  static async of(context: TestContext, count: number): Promise<Fleet> {
    const fleet = new Fleet(await mkdtemp(path.join(tmpdir(), "shoal-managers-")));
    context.after(async () => {
      await Promise.all(fleet.machines.map((machine) => machine.stop()));
      await rm(fleet.folder, { recursive: true, force: true });
    });
    await fleet.#init();
    while (fleet.machines.length < count) await fleet.join("manager");
    return fleet;
  }

  at(index: number): Machine {
    const machine = this.machines[index];
    assert.ok(machine);
    return machine;
  }

  get leader(): Machine {
    const leader = this.machines.find((machine) => machine.manager?.isLeader === true);
    assert.ok(leader, "someone leads");
    return leader;
  }

  get followers(): readonly Machine[] {
    return this.machines.filter((machine) => machine.manager?.isLeader === false);
  }

  async add(identity: NodeIdentity, port = 0): Promise<Machine> {
    const machine = new Machine(identity, path.join(this.folder, identity.nodeId));
    this.machines.push(machine);
    await machine.listen(port);
    return machine;
  }

  async token(role: "worker" | "manager"): Promise<string> {
    const view = await this.at(0).running.control.view();
    const cluster = view.list("cluster")[0];
    assert.ok(cluster);
    return cluster.rootCa.joinTokens[role];
  }

  async join(role: "worker" | "manager", via = this.at(0).addr): Promise<Machine> {
    const identity = await joinCluster({
      remoteAddrs: [via],
      token: await this.token(role),
      availability: "active",
      addr: "127.0.0.1",
    });
    const machine = await this.add(identity);
    if (role === "manager") await machine.start({ kind: "join", remoteAddrs: [via] });
    return machine;
  }

  async #init(): Promise<void> {
    const { identity, newCluster } = await createCluster({ ...PLAIN_CLUSTER, env: realEnv });
    const machine = await this.add(identity);
    await machine.start({ kind: "bootstrap", newCluster });
  }
}

async function until(claim: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  await poll(claim, WAIT, async () => isSo());
}

/** Node objects change by themselves too (a session ends), so a stale version is read anew. */
async function setRole(control: ClusterControl, nodeId: string, role: NodeRole): Promise<void> {
  await until(`node ${nodeId} has role ${role}`, async () => {
    const node = (await control.view()).get("node", nodeId);
    assert.ok(node);
    try {
      await control.updateNode(node.id, node.version, { ...node.spec, Role: role });
      return true;
    } catch (error) {
      if (hasCode(error, "out_of_sequence")) return false;
      throw error;
    }
  });
}

function service(name: string, replicas = 1): ServiceSpec {
  return {
    Name: name,
    TaskTemplate: { ContainerSpec: { Image: "busybox" } },
    Mode: { Replicated: { Replicas: replicas } },
  };
}

test("Manager bootstraps a cluster with its first node, ingress network and tokens", async (t) => {
  const fleet = await Fleet.of(t, 1);
  const view = await fleet.at(0).running.control.view();
  assert.deepEqual(
    [view.list("node").map((node) => node.id), view.list("network").map((network) => network.spec.Name)],
    [[fleet.at(0).nodeId], ["ingress"]],
  );
  const cluster = view.list("cluster")[0];
  assert.match(cluster?.rootCa.joinTokens.worker ?? "", /^SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}$/);
  assert.equal(cluster?.spec.Name, "default");
  await until("the node object says that it is a member", () => {
    return (
      view.version < fleet.at(0).running.control.staleView().version &&
      fleet.at(0).running.control.staleView().list("node")[0]?.manager?.addr === fleet.at(0).addr
    );
  });
});

test("Manager of three: any of them takes writes, and a reader of any other sees them at once", async (t) => {
  const fleet = await Fleet.of(t, 3);
  assert.equal(fleet.leader, fleet.at(0));
  const [left, right] = fleet.followers;
  assert.ok(left && right);
  const { id } = await left.running.control.createService(service("web"), { registryAuth: "secret" });
  assert.equal(left.running.control.staleView().get("service", id)?.spec.Name, "web", "read your own write");
  for (const machine of [right, fleet.leader]) {
    assert.equal((await machine.running.control.view()).get("service", id)?.registryAuth, "secret");
  }
});

test("Manager gives back the leader's errors as they were thrown there", async (t) => {
  const fleet = await Fleet.of(t, 2);
  const follower = fleet.followers[0];
  assert.ok(follower);
  const { control } = follower.running;
  const { id } = await control.createService(service("web"), {});
  await assert.rejects(control.createService(service("web"), {}), (error) => {
    assert.ok(hasCode(error, "already_exists"));
    return error.message === "name conflicts with an existing object: service web already exists";
  });
  const version = (await control.view()).get("service", id)?.version ?? 0;
  await control.updateService(id, { version, spec: service("web", 2) });
  await assert.rejects(control.updateService(id, { version, spec: service("web", 3) }), (error) => {
    return hasCode(error, "out_of_sequence") && error.message === "update out of sequence";
  });
});

test("Manager that leads is stopped: the others go on, and it comes back from its folder", async (t) => {
  const fleet = await Fleet.of(t, 3);
  // Of two voters and a learner none can be missed.
  await until("all three vote", () => {
    const voters = fleet.leader.running.control.managers().filter((manager) => manager.isVoter);
    return voters.length === 3;
  });
  const { id } = await fleet.at(1).running.control.createService(service("web"), {});
  const former = fleet.leader;
  const port = Number(former.addr.split(":")[1]);
  await former.stop();
  fleet.machines.splice(fleet.machines.indexOf(former), 1);
  const survivor = fleet.at(0);
  // Also one that was on its way to the former leader: it is asked again of the next one.
  const version = (await survivor.running.control.view()).get("service", id)?.version ?? 0;
  await survivor.running.control.updateService(id, { version, spec: service("web", 5) });
  const again = await fleet.add(former.live.current, port);
  await again.start({ kind: "restart" });
  await until("the restarted member has the write", async () => {
    const view = await again.running.control.view().catch(() => undefined);
    return view?.get("service", id)?.spec.Mode?.Replicated?.Replicas === 5;
  });
});

test("Manager refuses wrong tokens and tokens of other clusters", async (t) => {
  const fleet = await Fleet.of(t, 1);
  const token = await fleet.token("worker");
  const ask = (text: string): Promise<NodeIdentity> =>
    joinCluster({
      remoteAddrs: [fleet.at(0).addr],
      token: text,
      availability: "active",
      addr: "127.0.0.1",
    });
  await assert.rejects(ask("SWMTKN-1-abc"), (error) => hasCode(error, "invalid_argument"));
  const wrongSecret = `${token.slice(0, -25)}${"0".repeat(25)}`;
  await assert.rejects(ask(wrongSecret), (error) => hasCode(error, "permission_denied"));
  const otherCluster = `SWMTKN-1-${"0".repeat(50)}-${token.slice(-25)}`;
  await assert.rejects(ask(otherCluster), (error) => {
    return hasCode(error, "invalid_argument") && error.message.includes("another cluster");
  });
  assert.equal((await fleet.at(0).running.control.view()).list("node").length, 1, "nothing was created");
});

test("Manager makes a promoted worker a member and a demoted one a worker again", async (t) => {
  const fleet = await Fleet.of(t, 2);
  const { control } = fleet.at(0).running;
  const machine = await fleet.join("worker", fleet.at(1).addr);
  assert.equal(machine.live.current.role, "worker");
  await setRole(control, machine.nodeId, "manager");
  const managers = [fleet.at(0).addr, fleet.at(1).addr];
  machine.take(await renewCertificate({ identity: machine.live.current, managers }));
  assert.equal(machine.live.current.role, "manager");
  const manager = await machine.start({ kind: "join", remoteAddrs: managers });
  await until("three voters", () => manager.control.managers().length === 3);
  await until("its node object says so", () => {
    return control.staleView().get("node", machine.nodeId)?.manager?.addr === machine.addr;
  });

  let isRemoved = false;
  manager.onRemoved(() => (isRemoved = true));
  await setRole(control, machine.nodeId, "worker");
  await until("it heard of its removal", () => isRemoved);
  await until("the node is no member any more", () => {
    return control.staleView().get("node", machine.nodeId)?.manager === undefined;
  });
  assert.equal(control.managers().length, 2);
  await manager.stop();
  machine.take(await renewCertificate({ identity: machine.live.current, managers }));
  assert.equal(machine.live.current.role, "worker");
});

test("Manager demotes even the leader, after it handed over", async (t) => {
  const fleet = await Fleet.of(t, 3);
  const former = fleet.leader;
  const { control } = fleet.followers[0]?.running ?? assert.fail("a follower");
  await until(
    "it is known as a member",
    () => control.staleView().get("node", former.nodeId)?.manager !== undefined,
  );
  let isRemoved = false;
  former.running.onRemoved(() => (isRemoved = true));
  await setRole(control, former.nodeId, "worker");
  await until("the former leader was removed", () => isRemoved);
  assert.equal(control.managers().length, 2);
  await control.createService(service("after"), {});
});

test("Manager keeps the last manager, and removes no member and no live node", async (t) => {
  const fleet = await Fleet.of(t, 1);
  const { control } = fleet.at(0).running;
  await until("it is known as a member", () => control.staleView().list("node")[0]?.manager !== undefined);
  const node = control.staleView().list("node")[0];
  assert.ok(node);
  await assert.rejects(
    control.updateNode(node.id, node.version, { ...node.spec, Role: "worker" }),
    (error) => {
      return (
        hasCode(error, "failed_precondition") &&
        error.message === "attempting to demote the last manager of the swarm"
      );
    },
  );
  await assert.rejects(control.removeNode(node.id, true), (error) => {
    return (
      hasCode(error, "failed_precondition") &&
      error.message.includes("must be demoted to worker before removal")
    );
  });
});

test("Manager with autolock starts again only with the unlock key, also after the key was rotated", async (t) => {
  const fleet = await Fleet.of(t, 1);
  const machine = fleet.at(0);
  const { control } = machine.running;
  const lock = async (rotateManagerUnlockKey: boolean): Promise<string> => {
    const before = (await control.view()).list("cluster")[0];
    assert.ok(before);
    const spec = { ...before.spec, EncryptionConfig: { AutoLockManagers: true } };
    const rotate = { rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey };
    await control.updateCluster({ version: before.version, spec, ...rotate });
    return control.staleView().list("cluster")[0]?.unlockKey ?? "";
  };
  const first = await lock(false);
  assert.match(first, /^SWMKEY-1-/);
  await until("the state is locked", () => Manager.isLocked(realEnv, machine.folder));
  const second = await lock(true);
  assert.notEqual(second, first);
  await control.createService(service("web"), {});
  const port = Number(machine.addr.split(":")[1]);
  await machine.stop();
  fleet.machines.length = 0;
  const again = await fleet.add(machine.live.current, port);
  const locked = (error: unknown): boolean =>
    hasCode(error, "failed_precondition") && error.details["locked"] === true;
  await assert.rejects(again.start({ kind: "restart" }), locked);
  const former = again.start({ kind: "restart" }, { unlockKey: first });
  await assert.rejects(former, (error) => hasCode(error, "permission_denied"));
  const manager = await again.start({ kind: "restart" }, { unlockKey: second });
  await until("it serves what it had", async () => {
    const view = await manager.control.view().catch(() => undefined);
    return view?.list("service").length === 1;
  });
});

test("Manager changes the root while every pair of nodes keeps trusting each other", async (t) => {
  const fleet = await Fleet.of(t, 2);
  await fleet.join("worker");
  const { control } = fleet.at(0).running;
  const cluster = (): Cluster => control.staleView().list("cluster")[0] ?? assert.fail();
  const before = (await control.view()).list("cluster")[0] ?? assert.fail();
  const spec = { ...before.spec, CAConfig: { ForceRotate: 1 } };
  const rotate = { rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey: false };
  await control.updateCluster({ version: before.version, spec, ...rotate });
  assert.equal(cluster().rootCa.rotationInProgress, true);
  assert.notEqual(cluster().rootCa.digest, before.rootCa.digest);
  const again = { ...cluster().spec, CAConfig: { ForceRotate: 2 } };
  await assert.rejects(
    control.updateCluster({ version: cluster().version, spec: again, ...rotate }),
    (error) =>
      hasCode(error, "failed_precondition") &&
      error.message.includes("3 of 3 nodes must renew") &&
      fleet.machines.every(({ nodeId }) => error.message.includes(nodeId)),
  );
  const managers = [fleet.at(0).addr, fleet.at(1).addr];
  const reaches = async (from: Machine, to: Machine): Promise<void> => {
    const client = dial(to.addr, from.live.current, { nodeId: to.nodeId });
    await callUnary(client, caService.getRootCertificate, {}).finally(() => client.close());
  };
  for (const machine of fleet.machines) {
    assert.equal(cluster().rootCa.rotationInProgress, true, "until the last node has renewed");
    machine.take(await renewCertificate({ identity: machine.live.current, managers }));
    for (const from of fleet.machines) for (const to of [fleet.at(0), fleet.at(1)]) await reaches(from, to);
  }
  await until("the rotation ends", () => cluster().rootCa.rotationInProgress === undefined);
  assert.ok(!cluster().rootCa.certificate.includes(before.rootCa.certificate));
  const mustForget = (machine: Machine): boolean =>
    mustForgetRoot(cluster(), control.staleView().get("node", machine.nodeId) ?? assert.fail());
  for (const machine of fleet.machines) {
    assert.ok(mustForget(machine), "it still trusts the former root");
    machine.take(await renewCertificate({ identity: machine.live.current, managers }));
    await until("it is known not to", () => !mustForget(machine));
    assert.equal(machine.live.current.rootCa, cluster().rootCa.certificate);
    for (const from of fleet.machines) for (const to of [fleet.at(0), fleet.at(1)]) await reaches(from, to);
  }
  await fleet.join("worker");
});

test("Manager starts a cluster from a backup of another, whose nodes it then knows as lost workers", async (t) => {
  const fleet = await Fleet.of(t, 2);
  const { control } = fleet.at(1).running;
  await control.createService(service("web", 3), { registryAuth: "auth" });
  const secret = { Name: "key", Data: Buffer.from("hunter2").toString("base64") };
  await control.createSecret(secret);
  const file = (await control.backup?.()) ?? assert.fail("backups are taken");
  const before = await control.view();
  await assert.rejects(
    restoreCluster({ env: realEnv, file: file.subarray(0, -20), availability: "active" }),
    (error) => hasCode(error, "invalid_argument"),
  );
  const { identity, restored } = await restoreCluster({ env: realEnv, file, availability: "active" });
  const machine = await fleet.add(identity);
  const manager = await machine.start({ kind: "restore", restored });
  const view = await manager.control.view();
  const plain = (list: readonly { readonly spec: unknown }[]): unknown => list.map((each) => each.spec);
  for (const table of ["service", "secret", "network"] as const) {
    assert.deepEqual(plain(view.list(table)), plain(before.list(table)), table);
  }
  assert.equal(view.list("service")[0]?.createdAt, before.list("service")[0]?.createdAt);
  assert.equal(view.list("service")[0]?.registryAuth, "auth");
  assert.deepEqual(
    view
      .list("node")
      .filter((node) => node.spec.Role === "manager")
      .map((node) => node.id),
    [machine.nodeId],
  );
  assert.equal(manager.control.managers().length, 1);
  await manager.control.createService(service("after"), {});
  const port = Number(machine.addr.split(":")[1]);
  await machine.stop();
  fleet.machines.pop();
  const again = await fleet.add(identity, port);
  const restarted = await again.start({ kind: "restart" });
  await until("it serves old and new after a restart", async () => {
    const now = await restarted.control.view().catch(() => undefined);
    return now?.list("service").length === 2;
  });
});

test("Manager of a cluster that lost its quorum goes on alone by forceNewCluster", async (t) => {
  const fleet = await Fleet.of(t, 3);
  const last = fleet.at(2);
  await last.running.control.createService(service("web"), {});
  const port = Number(last.addr.split(":")[1]);
  for (const machine of fleet.machines) await machine.stop();
  fleet.machines.length = 0;
  const alone = await fleet.add(last.live.current, port);
  const manager = await alone.start({ kind: "forceNewCluster" });
  await until("it leads", () => manager.isLeader);
  const view = await manager.control.view();
  assert.deepEqual(
    view.list("service").map((each) => each.spec.Name),
    ["web"],
  );
  assert.deepEqual(
    manager.control.managers().map((each) => each.nodeId),
    [last.nodeId],
  );
  await manager.control.createService(service("after"), {});
  const joined = await fleet.join("manager");
  assert.equal(joined.running.control.managers().length, 2);
});

test("Manager that nobody reaches where it says it is, is not taken in", async (t) => {
  const fleet = await Fleet.of(t, 1);
  const first = fleet.at(0);
  const joiner = async (): Promise<Machine> => {
    const token = await fleet.token("manager");
    const remoteAddrs = [first.addr];
    const found = await joinCluster({ remoteAddrs, token, availability: "active", addr: "127.0.0.1" });
    return fleet.add(found);
  };
  const lost = await joiner();
  // It leads to another manager.
  lost.advertised = first.addr;
  await assert.rejects(lost.start({ kind: "join", remoteAddrs: [first.addr] }), (error) => {
    assert.ok(error instanceof ClusterError);
    assert.match(error.message, /must be reached at its advertise-addr "127.0.0.1:\d+" from the leader/);
    return error.code === "failed_precondition";
  });
  assert.equal(first.running.control.managers().length, 1);
});

test("Manager whose join did not work out leaves Raft again, so that nobody counts on it", async (t) => {
  const fleet = await Fleet.of(t, 2);
  const [first, second] = [fleet.at(0), fleet.at(1)];
  await until("both vote", () => first.running.control.managers().every((each) => each.isVoter === true));
  await second.running.withdraw([first.addr]);
  await second.stop();
  assert.equal(first.running.control.managers().length, 1);
  await first.running.control.createService(service("alone"), {});
});

test("Manager refuses the certificate of a removed node", async (t) => {
  const fleet = await Fleet.of(t, 1);
  const worker = await fleet.join("worker");
  const { control } = fleet.at(0).running;
  const managers = [fleet.at(0).addr];
  await renewCertificate({ identity: worker.live.current, managers });
  await control.removeNode(worker.nodeId, false);
  await assert.rejects(renewCertificate({ identity: worker.live.current, managers }), (error) => {
    return (
      error instanceof ClusterError && error.code === "permission_denied" && error.details["removed"] === true
    );
  });
  // One that was away meanwhile learns that it is out, instead of asking for ever.
  const said = Promise.withResolvers<string>();
  const connect = grpcConnector((addr) => dial(addr, worker.live.current, { manager: true }));
  const stream = connect(fleet.at(0).addr, {
    message: ({ disconnect }) => said.resolve(`${disconnect?.removed} ${disconnect?.reason}`),
    ended: (reason) => said.resolve(`ended: ${reason}`),
  });
  assert.equal(await said.promise, `true Node "${worker.nodeId}" was removed from the cluster`);
  stream.close();
});
