/** A daemon that dies at the worst moment: what it was making or removing is cleared by the next, what ran goes on. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync } from "node:fs";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { packageRoot } from "../../common/package-root.ts";
import { encodeCreateJob } from "../../runtime/containers/native-job.ts";
import { NativeLauncher } from "../../runtime/containers/native-launcher.ts";
import { runSoak } from "../soak/soak.ts";
import { plainSpec } from "./support/native-job.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

describe("after a daemon's death", () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  const folderOf = (id: string): string => path.join(lab.root, "data/containers", id);
  const volumes = async (): Promise<number> => (await lab.engine.volumes.list(new Map())).Volumes.length;
  const writables = async (): Promise<readonly string[]> => {
    const names = await fs.readdir(path.join(lab.root, "data"), { recursive: true });
    return names
      .filter((name) => path.basename(path.dirname(name)) === "writable")
      .map((name) => path.basename(name));
  };
  const withVolume = { config: { Volumes: { "/vol": {} } } };

  test("a container whose making was cut short leaves no layer and no volume", async () => {
    const id = await lab.create(["true"], {}, withVolume);
    assert.deepEqual([await volumes(), (await writables()).includes(id)], [1, true]);
    await lab.restart(() => fs.rm(path.join(folderOf(id), "container.json")));
    assert.deepEqual(
      [await volumes(), (await writables()).includes(id), existsSync(folderOf(id))],
      [0, false, false],
    );
  });

  test("a removal that was cut short is finished, and takes volumes only if it was to", async () => {
    for (const [suffix, count] of [
      [".removed", 1],
      [".removed-v", 0],
    ] as const) {
      const id = await lab.create(["true"], {}, withVolume);
      await lab.restart(() => fs.rename(folderOf(id), `${folderOf(id)}${suffix}`));
      assert.equal(await volumes(), count, suffix);
      assert.deepEqual(await fs.readdir(path.join(lab.root, "data/containers")), []);
      await lab.engine.volumes.prune(new Map());
    }
  });

  test("a container whose start was cut short has no network", async () => {
    const id = await lab.create(["true"]);
    const network = {
      endpoints: { mesh: { IPAddress: "10.9.8.7" } },
      nameservers: [],
      searchDomains: [],
      dnsOptions: [],
      ports: {},
      hosts: [],
      sandboxId: "",
    };
    const change = JSON.stringify({ network, isNetworkOfTask: true });
    await lab.restart(() => fs.appendFile(path.join(folderOf(id), "container.json"), `\n${change}`));
    const { NetworkSettings } = await lab.engine.containers.inspect(id, { size: false });
    assert.ok(!JSON.stringify(NetworkSettings).includes("10.9.8.7"));
    await lab.engine.containers.remove(id, { force: false, volumes: true, link: false });
  });

  test("a write that was cut short leaves no file", async () => {
    const folder = path.join(lab.root, "data/network");
    const torn = path.join(folder, "networks.json.4711.tmp");
    await lab.restart(() => fs.writeFile(torn, "{"));
    assert.deepEqual(
      (await fs.readdir(folder)).filter((name) => name.endsWith(".tmp")),
      [],
    );
  });

  test("a process that was made but never started ends with whoever asked for it", async () => {
    const execRoot = path.join(lab.root, "run");
    const launcher = new NativeLauncher({
      execRoot,
      nativeBinary: path.join(packageRoot(import.meta.dirname), "runtime/native/build/shoal-runtime"),
      log: silentLogger,
    });
    await launcher.start();
    const stateDir = path.join(execRoot, "c/orphan");
    await fs.mkdir(stateDir);
    const rootFolder = path.join(lab.root, "tree");
    const job = encodeCreateJob(plainSpec("orphan", { rootFolder, stateDir, args: ["/bin/sleep", "60"] }));
    const first = await launcher.run("create", job);
    const second = launcher.run("create", job);
    first.connection.close();
    // The next attempt waits for the former one's clean-up and has the place for itself then.
    const { connection, pid } = await second;
    assert.ok(!existsSync(`/proc/${first.pid}`), "the first has gone");
    assert.ok(existsSync(`/proc/${pid}`) && existsSync(path.join(execRoot, "m/orphan.sock")));
    connection.close();
    await until(
      "nothing is left",
      WAIT_MS,
      () => !existsSync(`/proc/${pid}`) && !existsSync(path.join(execRoot, "m/orphan.sock")),
    );
    launcher.stop();
  });
});

test("a short soak: containers come and go while the daemon is killed, and nothing is lost or left", async () => {
  const root = mkdtempSync(path.join(tmpdir(), "shoal-soak-test-"));
  const said: string[] = [];
  const result = await runSoak({
    root,
    cycles: 120,
    parallel: 6,
    killEveryMs: 3500,
    isStopped: () => false,
    say: (text) => said.push(text),
  });
  assert.deepEqual(result.losses, []);
  assert.deepEqual(result.left, []);
  assert.equal(result.cycles, 120);
  assert.ok(result.kills >= 1, "the daemon was killed at least once");
  await fs.rm(root, { recursive: true, force: true });
});
