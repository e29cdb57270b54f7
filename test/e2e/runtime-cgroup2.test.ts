/**
 * Machines that have cgroup v2 alone. Where this one keeps its controllers in v1, files of the limits are checked in a
 * folder that stands for the tree; what needs the kernel (device program, clone into a group, kill) is done in its real
 * v2 tree.
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { packageRoot } from "../../common/package-root.ts";
import { Cgroups, detectHierarchies } from "../../runtime/containers/cgroups.ts";
import { baseMounts } from "../../runtime/containers/container-defaults.ts";
import { compileDeviceProgram } from "../../runtime/containers/device-program.ts";
import type { LaunchSpec } from "../../runtime/containers/launch-spec.ts";
import {
  FrameType,
  type NativeConnection,
  type NativeExit,
  u32,
} from "../../runtime/containers/native-frames.ts";
import { encodeCreateJob, JobFlag } from "../../runtime/containers/native-job.ts";
import { NativeLauncher } from "../../runtime/containers/native-launcher.ts";
import { sampleStats } from "../../runtime/containers/stats.ts";
import { plainSpec } from "./support/native-job.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const CONTROLLERS = new Set(["cpuset", "cpu", "io", "memory", "pids"]);

describe("cgroup v2", () => {
  let lab: RuntimeLab;
  let launcher: NativeLauncher;
  let root = "";
  before(async () => {
    lab = await RuntimeLab.open();
    root = mkdtempSync(path.join(tmpdir(), "shoal-cgroup2-"));
    launcher = new NativeLauncher({
      execRoot: path.join(lab.root, "run"),
      nativeBinary: path.join(packageRoot(import.meta.dirname), "runtime/native/build/shoal-runtime"),
      log: silentLogger,
    });
    await launcher.start();
  });
  after(async () => {
    launcher.stop();
    await lab.close();
    await fs.rm(root, { recursive: true, force: true });
  });

  /** Cgroups of a machine whose whole tree is `folder`. */
  function pure(folder: string): Cgroups {
    return new Cgroups(
      { v1: new Map(), v1Options: new Map(), v2: folder, v2Controllers: CONTROLLERS },
      "/shoal",
    );
  }

  /** A folder with the files that the kernel would make in a group. */
  async function fakeGroup(folder: string): Promise<void> {
    await fs.mkdir(folder, { recursive: true });
    const files = [
      "cgroup.procs",
      "cgroup.kill",
      "cgroup.freeze",
      "memory.max",
      "memory.swap.max",
      "memory.low",
    ];
    for (const name of [
      ...files,
      "cpu.weight",
      "cpu.max",
      "cpuset.cpus",
      "pids.max",
      "cgroup.subtree_control",
    ])
      writeFileSync(path.join(folder, name), "");
    writeFileSync(path.join(folder, "memory.events"), "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n");
  }

  async function run(
    id: string,
    args: readonly string[],
    more: Partial<LaunchSpec>,
  ): Promise<{ connection: NativeConnection; pid: number; exit: Promise<NativeExit>; ooms: () => number }> {
    const stateDir = path.join(lab.root, "run/c", id);
    await fs.mkdir(stateDir, { recursive: true });
    const spec = plainSpec(id, { rootFolder: path.join(lab.root, "tree"), stateDir, args }, more);
    const { connection, pid } = await launcher.run("create", encodeCreateJob(spec));
    let ooms = 0;
    const exit = new Promise<NativeExit>((resolve) => {
      connection.handle({ exit: resolve, oom: () => (ooms += 1) });
    });
    await connection.ask(FrameType.start, u32(0));
    return { connection, pid, exit, ooms: () => ooms };
  }

  test("limits are written before a process is inside, each to its file", async () => {
    const cgroups = pure(path.join(root, "tree"));
    const folder = cgroups.v2Folder("limits") ?? "";
    await fakeGroup(folder);
    const limits = {
      memory: 64 << 20,
      memorySwap: 96 << 20,
      memoryReservation: 32 << 20,
      cpuShares: 1024,
      cpuQuota: 50_000,
      cpuPeriod: 100_000,
      cpusetCpus: "0",
      pidsLimit: 10,
    };
    const { exit } = await run("limits", ["/bin/true"], {
      cgroups: cgroups.groups("limits", { cpuset: true }),
      cgroupWrites: cgroups.limitWrites("limits", limits),
    });
    await exit;
    const text = (name: string): string => readFileSync(path.join(folder, name), "utf8");
    const names = [
      "memory.max",
      "memory.swap.max",
      "memory.low",
      "cpu.weight",
      "cpu.max",
      "cpuset.cpus",
      "pids.max",
    ];
    assert.deepEqual(names.map(text), [64 << 20, 32 << 20, 32 << 20, 100, "50000 100000", 0, 10].map(String));
    assert.match(text("cgroup.procs"), /^\d+$/);
    assert.equal(text("cgroup.kill"), "1", "at its end all that is left inside is killed");
  });

  test("running out of memory is told when it happens and at the end", async () => {
    const cgroups = pure(path.join(root, "tree"));
    const folder = cgroups.v2Folder("oom") ?? "";
    await fakeGroup(folder);
    const groups = cgroups.groups("oom", { cpuset: false });
    const { connection, exit, ooms } = await run("oom", ["/bin/sleep", "60"], { cgroups: groups });
    const events = path.join(folder, "memory.events");
    writeFileSync(events, "low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\n", { flag: "r+" });
    writeFileSync(events, "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n", { flag: "r+" });
    await until("the kill is told", WAIT_MS, () => ooms() > 0);
    assert.equal(ooms(), 1, "reaching a limit alone is no kill");
    await connection.ask(FrameType.signal, u32(9));
    const ended = await exit;
    assert.deepEqual([ended.exitCode, ended.oomKills], [137, 1]);
  });

  test("freeze waits until the kernel says so", async () => {
    const cgroups = pure(path.join(root, "tree"));
    const folder = cgroups.v2Folder("frozen") ?? "";
    await fakeGroup(folder);
    const events = path.join(folder, "cgroup.events");
    writeFileSync(events, "populated 1\nfrozen 0\n");
    const frozen = cgroups.freeze("frozen", true);
    await until(
      "it is asked for",
      WAIT_MS,
      () => readFileSync(path.join(folder, "cgroup.freeze"), "utf8") === "1",
    );
    writeFileSync(events, "populated 1\nfrozen 1\n");
    await frozen;
  });

  test("controllers are enabled down to the containers' parent, and stats are read from v2 files", async () => {
    const tree = path.join(root, "prepared");
    await fakeGroup(path.join(tree, "shoal"));
    await fakeGroup(tree);
    const cgroups = pure(tree);
    await cgroups.prepare();
    for (const folder of [tree, path.join(tree, "shoal")])
      assert.equal(readFileSync(path.join(folder, "cgroup.subtree_control"), "utf8"), "+pids", folder);
    const folder = cgroups.v2Folder("measured") ?? "";
    await fakeGroup(folder);
    const files = {
      "memory.current": "1048576",
      "memory.max": "2097152",
      "memory.stat": "anon 5\ninactive_file 4096\n",
      "cpu.stat":
        "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n",
      "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n",
      "pids.current": "3",
      "pids.max": "10",
    };
    for (const [name, content] of Object.entries(files)) writeFileSync(path.join(folder, name), content);
    const target = { id: "measured", name: "m", pid: process.pid, parent: undefined };
    const sample = await sampleStats(target, cgroups);
    const all = JSON.stringify(sample);
    for (const part of [
      '"usage":1048576',
      '"limit":2097152',
      '"total_usage":5000000',
      '"current":3',
      '"value":20',
    ])
      assert.ok(all.includes(part), `${part} in ${all}`);
  });

  test("the real tree: born in its group, devices by program, killed as a whole", async () => {
    const { v2 = "" } = detectHierarchies();
    assert.ok(existsSync(path.join(v2, "cgroup.procs")), "this machine has a v2 tree");
    const folder = path.join(v2, `shoal-cgroup2-test-${process.pid}`);
    const script =
      "cat /proc/self/cgroup; for d in null zero full; do (: < /dev/$d) && echo $d-yes || echo $d-no; done; (sleep 100 &); (sleep 100 &); exit 3";
    const log = path.join(root, "real.log");
    const mounts = baseMounts({ isPrivileged: false, shmBytes: 65_536, hasOwnIpc: true });
    const { exit } = await run("real", ["/bin/sh", "-c", script], {
      flags: JobFlag.newPid | JobFlag.newIpc | JobFlag.newNet | JobFlag.fillDev,
      mounts,
      cgroups: [{ version: 2, folder }],
      deviceProgram: compileDeviceProgram(["c *:* m", "c 1:3 rwm", "c 1:5 r"]),
      log: { kind: 1, path: log, bytesMax: 0, fileCountMax: 1, attributes: "", ringBytes: 0 },
    });
    assert.equal((await exit).exitCode, 3);
    const text = readFileSync(log, "utf8");
    assert.match(text, new RegExp(`0::/${path.basename(folder)}`));
    assert.match(text, /null-yes[\s\S]*zero-yes[\s\S]*full-no/);
    if (existsSync(folder)) rmdirSync(folder);
    assert.ok(!existsSync(folder), "no process is left in it");
  });
});
