/**
 * Images that live in the cluster only, on five hosts without any registry: built on one, put into the cluster, run on all;
 * copies that survive hosts; sources that die in the middle of a transfer. One cluster for the whole file.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { ask } from "../../bench/docker-http.ts";
import type { DevHost } from "../../dev/cluster.ts";
import { requestOverSocket } from "../../dev/socket-request.ts";
import { TestCluster } from "./support/test-cluster.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const MIB = 1024 * 1024;

interface ClusterImage {
  readonly ID: string;
  readonly Name: string;
  readonly Digest: string;
  readonly Copies: readonly { readonly NodeID: string; readonly Node: string; readonly State: string }[];
}

describe("images that the cluster keeps", () => {
  let cluster: TestCluster;
  let folder = "";

  before(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "shoal-e2e-sharing-"));
    cluster = await TestCluster.start("e2eshare", { managers: 3, workers: 2 });
  });

  after(async () => {
    await cluster.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  async function shoal(host: string, ...argv: readonly string[]): Promise<string> {
    const result = await cluster.dev.shoal(host, argv, { timeoutMs: WAIT_MS });
    assert.equal(result.status, 0, `shoal ${argv.join(" ")}\n${result.stdout}${result.stderr}`);
    return result.stdout;
  }

  /** Builds `name` on the host: the web server, and as many random bytes as asked for in a layer of their own. */
  async function build(host: DevHost, name: string, files: Readonly<Record<string, Buffer>>): Promise<void> {
    const context = mkdtempSync(path.join(folder, "build-"));
    const copies = Object.keys(files).map((file) => `COPY ${file} /data/${file}`);
    for (const [file, bytes] of Object.entries(files)) writeFileSync(path.join(context, file), bytes);
    writeFileSync(path.join(context, "Dockerfile"), ["FROM web:1", ...copies].join("\n"));
    await shoal(host.name, "build", "-t", name, context);
  }

  async function kept(name: string, host = cluster.first): Promise<ClusterImage | undefined> {
    const images = (await ask(host.socketPath, "GET", "/shoal/v1/images")) as readonly ClusterImage[];
    return images.find((image) => image.Name === name);
  }

  function complete(image: ClusterImage | undefined): readonly string[] {
    return (image?.Copies ?? []).filter((copy) => copy.State === "complete").map((copy) => copy.Node);
  }

  async function hasImage(host: DevHost, reference: string): Promise<boolean> {
    const result = await cluster.dev.docker(host.name, ["image", "inspect", reference]);
    return result.status === 0;
  }

  async function receivedBytes(host: DevHost): Promise<number> {
    const devices = await cluster.on(host.name, "cat", "/proc/net/dev");
    const [, bytes] = /eth0:\s*(\d+)/.exec(devices) ?? [];
    assert.ok(bytes !== undefined);
    return Number(bytes);
  }

  test("built on one host, pushed, deployed as a stack on all five without a registry", async () => {
    await build(cluster.first, "shop/api:1", { a: randomBytes(MIB) });
    const output = await shoal(cluster.first.name, "image", "push", "shop/api:1");
    assert.match(output, /The cluster knows shop\/api:1 as sha256:[0-9a-f]{64}/);
    assert.equal(output.match(/Copy complete/g)?.length, 3);
    const image = await kept("shop/api:1");
    assert.equal(complete(image).length, 3, "three copies by the time a push ends");
    const file = path.join(folder, "stack.yml");
    const deploy = "deploy: { replicas: 5, placement: { max_replicas_per_node: 1 } }";
    writeFileSync(file, `services:\n  api:\n    image: shop/api:1\n    ${deploy}\n`);
    // From another manager, that need not have the image.
    const [, second] = cluster.dev.managers;
    assert.ok(second);
    await shoal(second.name, "stack", "deploy", "-c", file, "shop");
    const tasks = await cluster.untilRunning("shop_api", 5, WAIT_MS);
    assert.equal(new Set(tasks.map((task) => task.NodeID)).size, 5);
    for (const task of tasks) {
      assert.equal(task.Spec.ContainerSpec.Image, `shop/api:1@${image?.Digest}`, "pinned to the digest");
    }
    const list = await shoal(second.name, "image", "ls", "--cluster");
    assert.match(list, /shop\/api\s+1\s+[0-9a-f]{12}\s+.*3\/3/);
  });

  test("the docker CLI pins the digest of a name in the cluster, and nodes say what they have", async () => {
    const [, second] = cluster.dev.managers;
    assert.ok(second);
    await cluster.dockerOn(second.name, "service", "create", "-q", "--name", "pinned", "shop/api:1");
    const [task] = await cluster.untilRunning("pinned", 1);
    const image = await kept("shop/api:1");
    assert.equal(task?.Spec.ContainerSpec.Image, `shop/api:1@${image?.Digest}`);
    const nodes = await cluster.nodeNames();
    for (const [id, name] of nodes)
      await until(`${name} has said so`, WAIT_MS, async () => {
        const answer = (await ask(second.socketPath, "GET", `/shoal/v1/nodes/${id}/images`)) as {
          readonly Reported: boolean;
          readonly Images: readonly string[];
        };
        return answer.Reported && answer.Images.includes(image?.Digest ?? "no image");
      });
    await cluster.docker("service", "rm", "pinned");
  });

  test("bad names, unknown parameters, workers and images that are not there are refused in words", async () => {
    const failure = async (host: string, ...argv: readonly string[]): Promise<string> => {
      const result = await cluster.dev.shoal(host, argv);
      assert.notEqual(result.status, 0, argv.join(" "));
      return result.stderr;
    };
    const { name } = cluster.first;
    assert.match(
      await failure(name, "image", "push", "Bad:1"),
      /repository name \(.*Bad\) must be lowercase/,
    );
    assert.match(await failure(name, "image", "push", "no/such:1"), /No such image: .*no\/such:1/);
    assert.match(await failure(name, "image", "push", "--node", "nobody", "web:1"), /node nobody not found/);
    assert.match(
      await failure(name, "image", "rm", "--cluster", "no/such:1"),
      /No such image in the cluster/,
    );
    const [worker] = cluster.dev.workers;
    assert.match(await failure(worker?.name ?? "", "image", "push", "web:1"), /not a swarm manager/);
    const bad = await requestOverSocket(cluster.first.socketPath, {
      method: "GET",
      path: "/shoal/v1/images?nmae=x",
    });
    assert.equal(bad.status, 400);
    assert.match(String(bad.body), /unknown parameter \\"nmae\\"/);
  });

  test("an image of a worker is put in by name of the node, and of the next version only new layers travel", async () => {
    const [worker] = cluster.dev.workers;
    assert.ok(worker);
    await until("the worker has the base", WAIT_MS, async () => {
      const result = await cluster.dev.docker(worker.name, [
        "tag",
        `shop/api:1@${(await kept("shop/api:1"))?.Digest}`,
        "web:1",
      ]);
      return result.status === 0;
    });
    const base = randomBytes(24 * MIB);
    await build(worker, "shop/job:1", { base });
    await shoal(cluster.first.name, "image", "push", "--node", worker.name, "shop/job:1");
    const holders = complete(await kept("shop/job:1"));
    assert.equal(holders.length, 3);
    assert.ok(holders.includes(worker.name));
    await build(worker, "shop/job:2", { base, small: randomBytes(100_000) });
    const others = cluster.dev.hosts.filter(
      (host) => holders.includes(host.name) && host.name !== worker.name,
    );
    const beforeBytes = await Promise.all(others.map(receivedBytes));
    await shoal(cluster.first.name, "image", "push", "--node", worker.name, "shop/job:2");
    assert.deepEqual(
      [...complete(await kept("shop/job:2"))].sort(),
      [...holders].sort(),
      "where its layers are",
    );
    for (const [index, host] of others.entries()) {
      const bytes = (await receivedBytes(host)) - (beforeBytes[index] ?? 0);
      assert.ok(bytes > 100_000 && bytes < 8 * MIB, `${host.name} received ${bytes} bytes`);
    }
  });

  test("what is kept survives prune and rmi on its holders, and goes when its record is removed", async () => {
    const image = await kept("shop/job:1");
    const reference = `shop/job@${image?.Digest}`;
    const [worker] = cluster.dev.workers;
    const holders = cluster.dev.hosts.filter((host) => complete(image).includes(host.name));
    for (const host of holders) {
      await cluster.dockerOn(host.name, "image", "prune", "-af");
      assert.ok(await hasImage(host, reference), `${host.name} spared it`);
    }
    const fetched = holders.find((host) => host.name !== worker?.name);
    assert.ok(fetched);
    const { Id: id = "" } = (await ask(fetched.socketPath, "GET", `/images/${reference}/json`)) as {
      readonly Id?: string;
    };
    const refused = await cluster.dev.docker(fetched.name, ["rmi", "-f", id]);
    assert.match(refused.stderr, /image is kept for the cluster on this node/);
    assert.match(
      (await cluster.dev.shoal(cluster.first.name, ["image", "rm", "--cluster", "shop/api:1"])).stderr,
      /image 'shop\/api:1' is in use by the following service: shop_api/,
    );
    await shoal(cluster.first.name, "image", "rm", "--cluster", "shop/job:1", "shop/job:2");
    assert.equal(await kept("shop/job:1"), undefined);
    await until(
      "it is gone where it was only kept",
      WAIT_MS,
      async () => !(await hasImage(fetched, reference)),
    );
    assert.ok(worker !== undefined && (await hasImage(worker, "shop/job:1")), "it stays where it was built");
  });

  test("a holder that is lost is replaced, and its copy let go when it is back", async () => {
    await shoal(cluster.first.name, "stack", "rm", "shop");
    const image = await kept("shop/api:1");
    const lost = cluster.dev.hosts.find(
      (host) => complete(image).includes(host.name) && host.name !== cluster.first.name,
    );
    assert.ok(lost);
    await cluster.dev.killHost(lost.name);
    const now = await until("three copies without the lost host", WAIT_MS, async () => {
      const holders = complete(await kept("shop/api:1"));
      return holders.length === 3 && !holders.includes(lost.name) ? holders : undefined;
    });
    await cluster.dev.startHost(lost.name);
    await cluster.docker("node", "update", "--availability", "drain", now[2] ?? "");
    await until("the drained host is replaced", WAIT_MS, async () => {
      const holders = complete(await kept("shop/api:1"));
      return holders.length === 3 && !holders.includes(now[2] ?? "");
    });
    await cluster.docker("node", "update", "--availability", "active", now[2] ?? "");
  });

  test("an image arrives though one source dies and another is cut off in the middle", async () => {
    await cluster.importImages();
    await build(cluster.first, "shop/big:1", { big: randomBytes(96 * MIB) });
    await shoal(cluster.first.name, "image", "push", "shop/big:1");
    const image = await kept("shop/big:1");
    const holders = cluster.dev.hosts.filter((host) => complete(image).includes(host.name));
    const target = cluster.dev.hosts.find((host) => !complete(image).includes(host.name));
    const [, dying, cut] = holders;
    assert.ok(target !== undefined && dying !== undefined && cut !== undefined);
    // Slow enough to be caught in the middle, whatever else the machine does.
    const limit = async (verb: "add" | "change", rate: string): Promise<void> => {
      const shape = `tc qdisc ${verb} dev eth0 root tbf rate ${rate} burst 256k latency 400ms`;
      for (const { name } of holders) await cluster.on(name, ...shape.split(" "));
    };
    await limit("add", "12mbit");
    const constraint = `node.hostname==${target.name}`;
    await cluster.docker(
      "service",
      "create",
      "-q",
      "-d",
      "--name",
      "big",
      "--constraint",
      constraint,
      "shop/big:1",
    );
    await until("it is arriving", WAIT_MS, () => arrivingBytes(target) > 4 * MIB);
    await cluster.dev.killDaemon(dying.name);
    await cluster.dev.partition([[cut.name]]);
    await limit("change", "200mbit");
    // Asked of the target alone: those that are gone may be managers.
    await until("it has arrived", WAIT_MS, () => hasImage(target, `shop/big@${image?.Digest}`));
    await cluster.dev.heal();
    await cluster.dev.startDaemon(dying.name);
    await cluster.untilRunning("big", 1, WAIT_MS);
    for (const { name } of holders) await cluster.on(name, ..."tc qdisc del dev eth0 root".split(" "));
    await cluster.docker("service", "rm", "big");
  });

  function arrivingBytes(host: DevHost): number {
    const unfinished = path.join(host.folder, "data", "images", "unfinished");
    return readdirSync(unfinished).reduce((sum, name) => {
      try {
        return sum + statSync(path.join(unfinished, name)).size;
      } catch {
        // It was whole in this very moment.
        return sum;
      }
    }, 0);
  }
});
