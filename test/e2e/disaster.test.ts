/** What is done when managers are lost, on a real cluster: keys, new managers, a new cluster of what is left, a backup. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { must } from "../../common/assert.ts";
import { realEnv } from "../../common/real-env.ts";
import type { DevHost } from "../../dev/cluster.ts";
import {
  createRequest,
  createRoot,
  issueCertificate,
  type NodeSubject,
  openIssuer,
} from "../../manager/ca/certificates.ts";
import { TestCluster } from "./support/test-cluster.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const SERVICE = "web";
const REPLICAS = 3;
const WHOLE = [
  "manager1 Ready Leader",
  "manager2 Ready Reachable",
  "manager3 Ready Reachable",
  "worker1 Ready",
];

describe("disasters", () => {
  let cluster: TestCluster;
  let folder: string;
  let m1: DevHost;
  let m2: DevHost;
  let m3: DevHost;
  let worker: DevHost;
  let present: string;

  before(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "shoal-e2e-disaster-"));
    cluster = await TestCluster.start("e2edis", { managers: 3, workers: 1 });
    const hosts = [...cluster.dev.managers, ...cluster.dev.workers];
    [m1, m2, m3, worker] = [0, 1, 2, 3].map((index) => must(hosts[index], "four hosts")) as [
      DevHost,
      DevHost,
      DevHost,
      DevHost,
    ];
    await cluster.docker("service", "create", "-d", "--name", SERVICE, "--replicas", `${REPLICAS}`, "web:1");
    await cluster.untilRunning(SERVICE, REPLICAS);
  });

  after(async () => {
    await cluster.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  async function fails(host: DevHost, ...argv: readonly string[]): Promise<string> {
    const result = await cluster.dev.docker(host.name, argv, { timeoutMs: WAIT_MS });
    assert.notEqual(result.status, 0, `docker ${argv.join(" ")} on ${host.name} worked`);
    return result.stderr;
  }

  /** "name status manager-status" of each node as `host` sees them, sorted. */
  async function nodes(host: DevHost): Promise<readonly string[]> {
    const format = "{{.Hostname}} {{.Status}} {{.ManagerStatus}}";
    const { status, stdout } = await cluster.dev.docker(host.name, ["node", "ls", "--format", format]);
    return status === 0
      ? stdout
          .trim()
          .split("\n")
          .map((line) => line.trim())
          .toSorted()
      : [];
  }

  async function untilNodes(host: DevHost, wanted: readonly string[]): Promise<void> {
    let seen: readonly string[] = [];
    await until("the nodes are as wanted", WAIT_MS, async () => {
      seen = await nodes(host);
      return seen.join() === wanted.join();
    }).catch(() => assert.deepEqual(seen, wanted));
  }

  /** `docker swarm unlock` asks on a terminal, and reads a pipe as well. */
  function unlock(
    host: DevHost,
    key: string,
  ): Promise<{ readonly status: number | null; readonly stderr: string }> {
    return cluster.dev.exec(
      host.name,
      ["sh", "-c", `echo '${key}' | docker -H unix://${host.socketPath} swarm unlock`],
      {
        timeoutMs: WAIT_MS,
      },
    );
  }

  async function keyOf(...argv: readonly string[]): Promise<string> {
    return must(/SWMKEY-\S+/.exec(await cluster.docker(...argv))?.[0], "the key is shown");
  }

  test("a manager that was away while the unlock key changed opens with its own one, then with the new one", async () => {
    const former = await keyOf("swarm", "update", "--autolock=true");
    const memberFile = path.join(m3.folder, "data/swarm/manager/member.json");
    await until("it is locked", WAIT_MS, () => readFileSync(memberFile, "utf8").includes('"sealed"'));
    await cluster.dev.killDaemon(m3.name);
    const sealed = readFileSync(memberFile, "utf8");
    present = await keyOf("swarm", "unlock-key", "--rotate");
    await cluster.dev.startDaemon(m3.name);
    assert.match(await fails(m3, "node", "ls"), /Swarm is encrypted and needs to be unlocked/);
    assert.match((await unlock(m3, present)).stderr, /invalid key provided/);
    assert.equal((await unlock(m3, former)).status, 0);
    await until("it is locked anew", WAIT_MS, () => readFileSync(memberFile, "utf8") !== sealed);
    await cluster.dev.stopDaemon(m3.name);
    await cluster.dev.startDaemon(m3.name);
    assert.match((await unlock(m3, former)).stderr, /invalid key provided/);
    assert.equal((await unlock(m3, present)).status, 0);
    await untilNodes(m1, WHOLE);
  });

  test("a manager that is gone is demoted and removed, one command right after the other, and another takes its place", async () => {
    await cluster.dev.killDaemon(m3.name);
    for (const argv of [
      ["demote", m3.name],
      ["rm", "--force", m3.name],
    ]) {
      const { status, stderr } = await cluster.dev.shoal(m1.name, ["node", ...argv], { timeoutMs: WAIT_MS });
      assert.equal(status, 0, `node ${argv.join(" ")}: ${stderr}`);
    }
    await untilNodes(m1, ["manager1 Ready Leader", "manager2 Ready Reachable", "worker1 Ready"]);
    await cluster.dev.startDaemon(m3.name);
    await cluster.dockerOn(m3.name, "swarm", "leave", "--force");
    const token = (await cluster.docker("swarm", "join-token", "-q", "manager")).trim();
    const join = ["swarm", "join", "--advertise-addr", m3.address, "--token", token];
    await cluster.dockerOn(m3.name, ...join, `${m1.address}:2377`);
    await untilNodes(m1, WHOLE);
  });

  test("of one manager of three a new cluster is forced; the others, should they come back, have no part in it", async () => {
    const secret = path.join(folder, "secret");
    const backup = path.join(folder, "backup");
    await cluster.on(m1.name, "sh", "-c", `echo hush > ${secret}`);
    await cluster.docker("secret", "create", "token", secret);
    assert.equal((await cluster.dev.shoal(m1.name, ["swarm", "backup", backup])).status, 0);
    const again = await cluster.dev.shoal(m1.name, ["swarm", "backup", backup]);
    assert.match(again.stderr, /Cannot write the backup to ".*": it exists, and no file is overwritten/);
    for (const host of [m2, m3]) await cluster.dev.killDaemon(host.name);
    await until("there is no quorum", WAIT_MS, async () => (await nodes(m1)).length === 0);
    await cluster.docker("swarm", "init", "--force-new-cluster", "--advertise-addr", m1.address);
    await untilNodes(m1, ["manager1 Ready Leader", "manager2 Down", "manager3 Down", "worker1 Ready"]);
    await cluster.untilRunning(SERVICE, REPLICAS);

    // Also of one that was locked all the while, which no restart has asked for the key.
    await cluster.docker("swarm", "update", "--autolock=false");
    for (const host of [m2, m3]) {
      await cluster.dev.startDaemon(host.name);
      assert.equal((await unlock(host, present)).status, 0);
    }
    await until("the old cluster has a leader", WAIT_MS, async () =>
      (await nodes(m2)).some((line) => line.endsWith("Leader")),
    );
    assert.ok((await nodes(m1)).includes("manager1 Ready Leader"));
    await cluster.docker("service", "update", "-d", "--env-add", "AFTER=1", SERVICE);
    const token = (await cluster.docker("swarm", "join-token", "-q", "manager")).trim();
    for (const host of [m2, m3]) {
      await cluster.dockerOn(host.name, "swarm", "leave", "--force");
      const join = ["swarm", "join", "--advertise-addr", host.address, "--token", token];
      await cluster.dockerOn(host.name, ...join, `${m1.address}:2377`);
    }
    const gone = await until("those that joined are managers, two others are not", WAIT_MS, async () => {
      const ids = await cluster.docker("node", "ls", "--format", "{{.ID}} {{.ManagerStatus}} {{.Hostname}}");
      const lines = ids.split("\n").filter((line) => /^\S+ {2}manager/.test(line));
      return lines.length === 2 && lines;
    });
    for (const line of gone) await cluster.docker("node", "rm", "--force", line.split(" ")[0] ?? "");
    await untilNodes(m1, WHOLE);
    await cluster.untilRunning(SERVICE, REPLICAS);
  });

  test("nodes that were all off until their certificates had expired renew them by themselves", async () => {
    const hosts = [m1, m2, m3, worker];
    const { random } = realEnv;
    const root = await createRoot({ random, nowMs: Date.now() });
    const [certificateFile, keyFile] = [path.join(folder, "root.crt"), path.join(folder, "root.key")];
    writeFileSync(certificateFile, root.certificate);
    writeFileSync(keyFile, root.key);
    await cluster.docker("swarm", "ca", "--rotate", "-q", "--ca-cert", certificateFile, "--ca-key", keyFile);
    for (const host of hosts) await cluster.dev.stopDaemon(host.name);
    const issuer = await openIssuer(root);
    for (const host of hosts) {
      const file = (name: string): string => path.join(host.folder, "data/swarm", name);
      const { csr, key } = await createRequest();
      const subject = JSON.parse(readFileSync(file("node.json"), "utf8")) as NodeSubject;
      const when = { nowMs: Date.now(), lifeMs: -1000 };
      const { certificate } = await issueCertificate({ random, issuer, csr, subject, ...when });
      writeFileSync(file("node.crt"), certificate);
      writeFileSync(file("node.key"), key);
    }
    for (const host of hosts) await cluster.dev.startDaemon(host.name);
    await until("all are back", WAIT_MS, async () => {
      const seen = await nodes(m1);
      return seen.length === hosts.length && seen.every((line) => line.includes(" Ready"));
    });
    await cluster.untilRunning(SERVICE, REPLICAS);
  });

  test("a backup brings services and secrets back on another machine, and bad files change nothing", async () => {
    for (const host of [worker, m3, m2, m1]) await cluster.dockerOn(host.name, "swarm", "leave", "--force");
    const restore = (file: string): ReturnType<TestCluster["dev"]["shoal"]> =>
      cluster.dev.shoal(m2.name, ["swarm", "init", "--restore", file, "--advertise-addr", m2.address]);
    assert.notEqual((await restore(path.join(folder, "missing"))).status, 0);
    assert.notEqual((await restore(path.join(folder, "secret"))).status, 0);
    assert.match(await fails(m2, "node", "ls"), /not a swarm manager/);
    const backup = path.join(folder, "backup");
    const locking = await cluster.dev.shoal(m2.name, ["swarm", "init", "--restore", backup, "--autolock"]);
    assert.match(locking.stderr, /Cannot restore with --autolock: the backup brings/);
    const { status, stderr } = await restore(backup);
    assert.equal(status, 0, stderr);
    assert.equal((await cluster.dockerOn(m2.name, "secret", "ls", "--format", "{{.Name}}")).trim(), "token");
    const token = (await cluster.dockerOn(m2.name, "swarm", "join-token", "-q", "worker")).trim();
    await cluster.dockerOn(worker.name, "swarm", "join", "--token", token, `${m2.address}:2377`);
    await cluster.untilRunning(SERVICE, REPLICAS, WAIT_MS, m2);
  });
});
