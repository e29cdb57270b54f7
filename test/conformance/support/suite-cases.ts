/**
 * The lifecycle, process and Linux claims of the OCI runtime specification, one function a claim, under the names that
 * the public validation suite gives them. Each throws where the runtime of the lab does not hold it.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { until } from "../../../dev/until.ts";
import {
  cgroupMount,
  namespacesOf,
  resourcesOf,
  usualConfig,
  type OciLab,
  type OciConfig,
  WAIT,
} from "./oci-lab.ts";

type Case = (lab: OciLab) => Promise<void>;

const NAMESPACE_FILES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
const TYPE_OF_FILE: Readonly<Record<string, string>> = { mnt: "mount", net: "network" };

async function created(lab: OciLab, config: OciConfig): Promise<{ id: string; pid: number }> {
  const id = lab.id();
  await lab.ok("create", "--bundle", await lab.bundle(config), id);
  return { id, pid: (await lab.state(id)).pid };
}

function namespaceOf(pid: number | "self", name: string): string {
  return readlinkSync(`/proc/${pid}/ns/${name}`);
}

/** Runs the script in a container and expects these lines. */
async function prints(
  lab: OciLab,
  script: string,
  lines: string,
  change?: (config: OciConfig) => void,
): Promise<void> {
  assert.equal(await lab.sh(script, change), lines);
}

async function lifecycle(lab: OciLab): Promise<void> {
  const config = usualConfig("true");
  const bundle = await lab.bundle(config);
  const id = lab.id();
  assert.notEqual((await lab.verb("create", "--bundle", bundle)).status, 0, "an id is needed");
  await lab.ok("create", "--bundle", bundle, id);
  const state = await lab.state(id);
  assert.deepEqual([state.id, state.status], [id, "created"]);
  assert.notEqual((await lab.verb("create", "--bundle", bundle, id)).status, 0, "an id is unique");
  await lab.ok("start", id);
  await lab.until(id, "stopped");
  await lab.ok("delete", id);
}

async function configUpdates(lab: OciLab): Promise<void> {
  const config = usualConfig(
    "sh",
    "-c",
    "cat /proc/self/oom_score_adj > /place/out; ulimit -n >> /place/out",
  );
  config.process["oomScoreAdj"] = 100;
  const bundle = await lab.bundle(config, { ownRoot: true });
  const id = lab.id();
  await lab.ok("create", "--bundle", bundle, id);
  await lab.rewrite(bundle, { ...usualConfig("false"), ociVersion: "1.0.0" });
  await lab.ok("start", id);
  await lab.until(id, "stopped");
  await lab.ok("delete", id);
  assert.equal(await fs.readFile(path.join(bundle, "rootfs/place/out"), "utf8"), "100\n1024\n");
}

async function deleteOnlyOwn(lab: OciLab): Promise<void> {
  const point = await cgroupMount("pids");
  assert.ok(point !== undefined);
  const other = path.join(point, `${lab.name}-other`);
  await fs.mkdir(other);
  try {
    const { id, pid } = await created(lab, usualConfig("true"));
    await fs.writeFile(path.join(other, "cgroup.procs"), String(pid));
    await lab.ok("start", id);
    await lab.until(id, "stopped");
    await lab.ok("delete", id);
    assert.ok(existsSync(other), "what the container did not make stays");
  } finally {
    await until("the group is left", WAIT, () =>
      fs.rmdir(other).then(
        () => true,
        () => false,
      ),
    );
  }
}

async function deleteOwn(lab: OciLab): Promise<void> {
  const point = await cgroupMount("pids");
  const config = usualConfig("true");
  config.linux["cgroupsPath"] = `/${lab.name}-delete`;
  resourcesOf(config)["pids"] = { limit: 1000 };
  const { id } = await created(lab, config);
  const folder = path.join(point ?? "", `${lab.name}-delete`);
  assert.equal(await fs.readFile(path.join(folder, "pids.max"), "utf8"), "1000\n");
  await lab.ok("start", id);
  await lab.until(id, "stopped");
  await lab.ok("delete", id);
  assert.ok(!existsSync(folder));
}

/** Every entry of what a container starts with. */
async function defaults(lab: OciLab): Promise<void> {
  const out = await lab.sh(
    `for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo "no $d"; done
     for p in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
       test "$(readlink /dev/\${p%%:*})" = "\${p#*:}" || echo "link $p"; done
     for m in "proc /proc proc" "tmpfs /dev tmpfs" "devpts /dev/pts devpts" "shm /dev/shm tmpfs" "mqueue /dev/mqueue mqueue" "sysfs /sys sysfs"; do
       grep -q "^$m " /proc/mounts || echo "mount $m"; done
     id -u; id -g; pwd; hostname; echo $TERM; ulimit -n; ulimit -Hn
     touch /place/writable && rm /place/writable && echo writable
     grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status | tr "\\t" " "`,
  );
  const lines = out.split("\n");
  assert.deepEqual(lines.slice(0, 8), ["0", "0", "/", "lab", "xterm", "1024", "1024", "writable"]);
  const sets = Object.fromEntries(lines.slice(8).map((line) => line.split(": ") as [string, string]));
  assert.equal(sets["CapInh"], "0000000000000000");
  assert.equal(sets["CapEff"], sets["CapBnd"]);
  assert.equal(sets["CapPrm"], sets["CapBnd"]);
  assert.equal(sets["CapBnd"], `00000000${capabilityMask()}`);
  assert.equal(sets["CapAmb"], "0000000000000000");
  assert.equal(sets["NoNewPrivs"], "0");
}

/**
 * CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD SETFCAP by
 * their numbers.
 */
function capabilityMask(): string {
  const bits = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 31];
  return bits
    .reduce((sum, bit) => sum + 2 ** bit, 0)
    .toString(16)
    .padStart(8, "0");
}

async function kill(lab: OciLab): Promise<void> {
  const id = await lab.start(usualConfig("sh", "-c", "trap 'exit 3' TERM; sleep 1000 & wait"));
  // A first process ignores what it has no handler for yet.
  await until("it ends", WAIT, async () => {
    await lab.verb("kill", id, "TERM");
    return (await lab.state(id)).status === "stopped";
  });
  await lab.ok("delete", id);
  const other = await created(lab, usualConfig("true"));
  await lab.ok("kill", other.id, "KILL");
  await lab.until(other.id, "stopped");
  await lab.ok("delete", other.id);
}

async function killNoEffect(lab: OciLab): Promise<void> {
  const id = await lab.start(usualConfig("true"));
  const before = await lab.until(id, "stopped");
  await lab.verb("kill", id, "KILL");
  assert.deepEqual(await lab.state(id), before);
  await lab.ok("delete", id);
}

function cpuCase(isRelative: boolean): Case {
  return async (lab) => {
    const config = usualConfig("true");
    config.linux["cgroupsPath"] = `${isRelative ? "" : "/"}${lab.name}-cpus`;
    resourcesOf(config)["cpu"] = { shares: 1024, quota: 200_000, period: 100_000, cpus: "0", mems: "0" };
    const { id, pid } = await created(lab, config);
    assert.equal(await groupFile(pid, "cpu", "cpu.shares"), "1024");
    assert.equal(await groupFile(pid, "cpu", "cpu.cfs_quota_us"), "200000");
    assert.equal(await groupFile(pid, "cpu", "cpu.cfs_period_us"), "100000");
    assert.equal(await groupFile(pid, "cpuset", "cpuset.cpus"), "0");
    assert.equal(await groupFile(pid, "cpuset", "cpuset.mems"), "0");
    await lab.remove(id);
  };
}

function pidsCase(isRelative: boolean): Case {
  return async (lab) => {
    const config = usualConfig("true");
    config.linux["cgroupsPath"] = `${isRelative ? "" : "/"}${lab.name}-pids`;
    resourcesOf(config)["pids"] = { limit: 1000 };
    const { id, pid } = await created(lab, config);
    assert.equal(await groupFile(pid, "pids", "pids.max"), "1000");
    await lab.remove(id);
  };
}

/** A file of the v1 group that a process is in. */
export async function groupFile(pid: number, controller: string, file: string): Promise<string> {
  const point = (await cgroupMount(controller)) ?? "";
  const lines = readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n");
  const own = lines
    .map((line) => line.split(":"))
    .find(([, names]) => names?.split(",").includes(controller));
  return (await fs.readFile(path.join(point, own?.[2] ?? "", file), "utf8")).trim();
}

async function devices(lab: OciLab): Promise<void> {
  await prints(
    lab,
    "stat -c '%F %t:%T %a %u:%g' /dev/test1 /dev/test2 /dev/test3",
    "character special file a:e5 666 0:0\nblock special file 8:9 640 1000:1000\nfifo 0:0 600 0:7",
    (config) => {
      config.linux["devices"] = [
        { path: "/dev/test1", type: "c", major: 10, minor: 229, fileMode: 0o666, uid: 0, gid: 0 },
        { path: "/dev/test2", type: "b", major: 8, minor: 9, fileMode: 0o640, uid: 1000, gid: 1000 },
        { path: "/dev/test3", type: "p", fileMode: 0o600, uid: 0, gid: 7 },
      ];
    },
  );
}

async function maskedPaths(lab: OciLab): Promise<void> {
  await prints(
    lab,
    "wc -c < /place/masked/file; cat /place/masked/file; ls /place/folder | wc -l; echo x > /place/folder/new 2>/dev/null || echo refused",
    "0\n0\nrefused",
    (config) => {
      config.mounts.push(
        { destination: "/place/masked", type: "tmpfs", source: "tmpfs" },
        { destination: "/place/folder", type: "bind", source: "/etc", options: ["rbind", "ro"] },
        { destination: "/place/masked/file", type: "bind", source: "/etc/passwd", options: ["bind"] },
      );
      config.linux["maskedPaths"] = ["/place/masked/file", "/place/folder", "/not/there"];
    },
  );
}

async function readonlyPaths(lab: OciLab): Promise<void> {
  await prints(
    lab,
    "for p in /place/a /proc/fs; do touch $p/x 2>/dev/null || echo refused; done; touch /place/c && echo free",
    "refused\nrefused\nfree",
    (config) => {
      config.mounts.push(
        { destination: "/place", type: "tmpfs", source: "tmpfs" },
        { destination: "/place/a", type: "tmpfs", source: "tmpfs" },
      );
      config.linux["readonlyPaths"] = ["/place/a", "/proc/fs", "/not/there"];
    },
  );
}

async function namespacesInherited(lab: OciLab): Promise<void> {
  const config = usualConfig("/bin/true");
  config.linux["namespaces"] = [];
  delete config.hostname;
  const { id, pid } = await created(lab, config);
  for (const name of NAMESPACE_FILES) assert.equal(namespaceOf(pid, name), namespaceOf("self", name), name);
  await lab.remove(id);
}

async function namespacesMade(lab: OciLab): Promise<void> {
  const config = usualConfig("true");
  namespacesOf(config).push({ type: "cgroup" }, { type: "user" });
  config.linux["uidMappings"] = [{ containerID: 0, hostID: 1000, size: 1000 }];
  config.linux["gidMappings"] = [{ containerID: 0, hostID: 1000, size: 1000 }];
  const { id, pid } = await created(lab, config);
  for (const name of NAMESPACE_FILES)
    assert.notEqual(namespaceOf(pid, name), namespaceOf("self", name), name);
  await lab.remove(id);
}

async function namespacesJoined(lab: OciLab): Promise<void> {
  for (const [name, option] of [
    ["ipc", "--ipc"],
    ["mnt", "--mount"],
    ["net", "--net"],
    ["pid", "--pid"],
    ["uts", "--uts"],
  ] as const) {
    const holder = spawn("unshare", [option, "--fork", "sleep", "1000"], { stdio: "ignore", detached: true });
    try {
      const file = name === "pid" ? "pid_for_children" : name;
      const other = holder.pid ?? 0;
      await until("the namespace is made", WAIT, () =>
        Promise.resolve(namespaceAt(other, file) !== namespaceOf("self", name)),
      );
      const config = usualConfig("true");
      const wanted = namespacesOf(config).find((each) => each.type === (TYPE_OF_FILE[name] ?? name));
      assert.ok(wanted !== undefined);
      wanted.path = `/proc/${other}/ns/${file}`;
      const { id, pid } = await created(lab, config);
      assert.equal(namespaceOf(pid, name), namespaceAt(other, file), name);
      await lab.remove(id);
    } finally {
      process.kill(-(holder.pid ?? 0), "SIGKILL");
    }
  }
}

function namespaceAt(pid: number, file: string): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/${file}`);
  } catch {
    // A namespace without a first process has no name yet.
    return readlinkSync(`/proc/self/ns/${file.replace("_for_children", "")}`);
  }
}

async function sysctl(lab: OciLab): Promise<void> {
  await prints(lab, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "1\n16384", (config) => {
    config.linux["sysctl"] = { "net.ipv4.ip_forward": "1", "kernel.msgmax": "16384" };
  });
}

async function mappings(lab: OciLab): Promise<void> {
  await prints(
    lab,
    "id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '",
    "0\n 0 1000 2000\n 0 1000 3000",
    (config) => {
      namespacesOf(config).push({ type: "user" });
      config.linux["uidMappings"] = [{ containerID: 0, hostID: 1000, size: 2000 }];
      config.linux["gidMappings"] = [{ containerID: 0, hostID: 1000, size: 3000 }];
    },
  );
}

async function mounts(lab: OciLab): Promise<void> {
  await prints(
    lab,
    "grep ' /tmp ' /proc/mounts",
    "tmpfs /tmp tmpfs rw,nosuid,size=4k,mode=755 0 0",
    (config) => {
      config.mounts.push({
        destination: "/tmp",
        type: "tmpfs",
        source: "tmpfs",
        options: ["nosuid", "strictatime", "mode=755", "size=1k"],
      });
    },
  );
}

async function process_(lab: OciLab): Promise<void> {
  await prints(lab, "pwd; echo $testa $testb", "/test/new\nvaluea 123", (config) => {
    config.process["cwd"] = "/test/new";
    (config.process["env"] as string[]).push("testa=valuea", "testb=123");
  });
}

async function user(lab: OciLab): Promise<void> {
  await prints(lab, "id -u; id -g; id -G; umask", "10\n10\n10 5 99\n0027", (config) => {
    config.process["user"] = { uid: 10, gid: 10, additionalGids: [5, 99], umask: 0o27 };
  });
}

async function oomScore(lab: OciLab): Promise<void> {
  await prints(lab, "cat /proc/self/oom_score_adj", "500", (config) => {
    config.process["oomScoreAdj"] = 500;
  });
}

async function readonlyRoot(lab: OciLab): Promise<void> {
  await prints(
    lab,
    "touch /new 2>/dev/null || echo refused; touch /dev/shm/new && echo free",
    "refused\nfree",
    (config) => {
      config.root.readonly = true;
    },
  );
}

async function hostname(lab: OciLab): Promise<void> {
  await prints(lab, "hostname", "hostname-specific", (config) => {
    config.hostname = "hostname-specific";
  });
}

async function state(lab: OciLab): Promise<void> {
  await lab.refused(/does not exist/, "state", lab.id());
  const config = usualConfig("sleep", "100");
  config.annotations = { "org.example.key": "value" };
  const { id, pid } = await created(lab, config);
  const found = await lab.state(id);
  assert.match(found.ociVersion, /^1\.\d+\.\d+/);
  assert.deepEqual(found.annotations, config.annotations);
  assert.ok(pid > 0 && path.isAbsolute(found.bundle));
  await lab.ok("start", id);
  assert.equal((await lab.state(id)).status, "running");
  await lab.remove(id);
}

async function rootPropagation(lab: OciLab): Promise<void> {
  const script = "awk '$5 == \"/\" { print $7 }' /proc/self/mountinfo | tail -1 | cut -d: -f1";
  const wanted = { shared: "shared", slave: "master", private: "-", unbindable: "unbindable" };
  for (const [mode, shown] of Object.entries(wanted)) {
    const out = await lab.sh(script, (config) => {
      config.linux["rootfsPropagation"] = mode;
    });
    // A slave of nothing shared is private.
    assert.ok(out === shown || (mode === "slave" && out === "-"), `${mode}: ${out}`);
  }
}

/** getcwd forbidden: whatever the runtime itself does with it must be over. */
async function seccomp(lab: OciLab): Promise<void> {
  await prints(lab, "/bin/pwd 2>&1 | grep -c 'Operation not permitted'", "1", (config) => {
    config.linux["seccomp"] = {
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [{ names: ["getcwd"], action: "SCMP_ACT_ERRNO" }],
    };
  });
}

/** The order of all hooks, their state on stdin, and that each sees the namespaces it should. */
async function hooks(lab: OciLab): Promise<void> {
  const log = path.join(lab.folder, `hooks-${Math.random()}`);
  await fs.writeFile(log, "");
  const config = usualConfig("true");
  const kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
  config.hooks = Object.fromEntries(
    kinds.map((kind) => [
      kind,
      [
        {
          path: "/bin/sh",
          args: ["sh", "-c", `echo "${kind} $(cat)" >> ${log}`],
          env: ["PATH=/bin:/usr/bin"],
        },
      ],
    ]),
  );
  config.annotations = { key: "value" };
  const { id, pid } = await created(lab, config);
  await lab.ok("start", id);
  await lab.until(id, "stopped");
  await lab.ok("delete", id);
  const lines = (await fs.readFile(log, "utf8")).trim().split("\n");
  assert.deepEqual(
    lines.map((line) => line.split(" ")[0]),
    kinds,
  );
  const expected = ["creating", "creating", "creating", "running", "stopped"];
  lines.forEach((line, index) => {
    const given = JSON.parse(line.slice(line.indexOf(" ") + 1)) as Record<string, unknown>;
    assert.equal(given["id"], id);
    assert.equal(given["status"], expected[index], line);
    assert.deepEqual(given["annotations"], { key: "value" });
    if (index === 0 || index === 1 || index === 3) assert.equal(given["pid"], pid);
  });
}

/** Named as in the validation suite of opencontainers/runtime-tools. */
export const SUITE_CASES: ReadonlyMap<string, Case> = new Map([
  ["config_updates_without_affect", configUpdates],
  ["create", lifecycle],
  ["default", defaults],
  ["delete_only_create_resources", deleteOnlyOwn],
  ["delete_resources", deleteOwn],
  ["hooks", hooks],
  ["hostname", hostname],
  ["kill", kill],
  ["kill_no_effect", killNoEffect],
  ["linux_cgroups_cpus", cpuCase(false)],
  ["linux_cgroups_relative_cpus", cpuCase(true)],
  ["linux_cgroups_pids", pidsCase(false)],
  ["linux_cgroups_relative_pids", pidsCase(true)],
  ["linux_devices", devices],
  ["linux_masked_paths", maskedPaths],
  ["linux_ns_itype", namespacesInherited],
  ["linux_ns_nopath", namespacesMade],
  ["linux_ns_path", namespacesJoined],
  ["linux_readonly_paths", readonlyPaths],
  ["linux_rootfs_propagation", rootPropagation],
  ["linux_seccomp", seccomp],
  ["linux_sysctl", sysctl],
  ["linux_uid_mappings", mappings],
  ["mounts", mounts],
  ["process", process_],
  ["process_oom_score_adj", oomScore],
  ["process_user", user],
  ["root_readonly_true", readonlyRoot],
  ["state", state],
]);
