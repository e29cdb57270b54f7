/** What config.json can say beyond the suite's cases, and what hostile or mistaken bundles must not get. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { until } from "../../dev/until.ts";
import { namespacesOf, OciLab, resourcesOf, usualConfig, WAIT, type OciConfig } from "./support/oci-lab.ts";
import { groupFile } from "./support/suite-cases.ts";

let lab: OciLab;
before(async () => {
  lab = await OciLab.create();
});
after(async () => {
  await lab.close();
});

type Change = (config: OciConfig) => void;

/** create must fail with these words and leave neither state nor cgroup. */
async function refused(words: RegExp, change: Change): Promise<void> {
  const config = usualConfig("true");
  change(config);
  const id = lab.id();
  await lab.refused(words, "create", "--bundle", await lab.bundle(config), id);
  await lab.refused(/does not exist/, "state", id);
  assert.ok(!existsSync(path.join("/sys/fs/cgroup/pids", id)));
}

const hook = (script: string, extra: object = {}): object => ({
  path: "/bin/sh",
  args: ["sh", "-c", script],
  env: ["PATH=/bin:/usr/bin"],
  ...extra,
});

test("a mistake in the config is refused by the name of the field", async () => {
  await refused(/process.cwd: want an absolute path/, (config) => (config.process["cwd"] = "relative"));
  await refused(/process.args: want at least one/, (config) => (config.process["args"] = []));
  await refused(/invalid rootfs/, (config) => (config.root.path = "nosuch"));
  await refused(/want pid, network/, (config) => namespacesOf(config).push({ type: "moon" }));
  await refused(/pid.*is given twice/, (config) => namespacesOf(config).push({ type: "pid" }));
  await refused(
    /RLIMIT_NOFILE/,
    (config) => (config.process["rlimits"] = [{ type: "NOFILE", soft: 1, hard: 1 }]),
  );
  await refused(/is given twice/, (config) => {
    const limit = { type: "RLIMIT_CORE", soft: 1, hard: 1 };
    config.process["rlimits"] = [limit, limit];
  });
  await refused(
    /soft is above hard/,
    (config) => (config.process["rlimits"] = [{ type: "RLIMIT_CORE", soft: 2, hard: 1 }]),
  );
  await refused(
    /not in a separate namespace/,
    (config) => (config.linux["sysctl"] = { "vm.swappiness": "1" }),
  );
  await refused(
    /not in a separate namespace/,
    (config) => (config.linux["sysctl"] = { "net.../../vm.swappiness": "1" }),
  );
  await refused(
    /linux.cgroupsPath: want a path without/,
    (config) => (config.linux["cgroupsPath"] = "/a/../../b"),
  );
  // Two dots in a name come first, which lead nowhere.
  await refused(
    /linux.cgroupsPath: want a path without/,
    (config) => (config.linux["cgroupsPath"] = `/${lab.name}-a..b/../${lab.name}-c`),
  );
  await refused(/needs linux.uidMappings/, (config) => namespacesOf(config).push({ type: "user" }));
  await refused(/ociVersion: want 1.x/, (config) => (config.ociVersion = "2.0.0"));
  await refused(/private UTS namespace/, (config) => {
    config.linux["namespaces"] = namespacesOf(config).filter((each) => each.type !== "uts");
  });
  await refused(/action .*SCMP_ACT_NOSUCH.* is not supported/, (config) => {
    config.linux["seccomp"] = { defaultAction: "SCMP_ACT_NOSUCH" };
  });
  await refused(/rootfsPropagation/, (config) => (config.linux["rootfsPropagation"] = "sideways"));
  await refused(/not of the wanted type/, (config) => {
    config.linux["namespaces"] = [{ type: "mount" }, { type: "uts", path: "/proc/self/ns/net" }];
  });
});

test("config.json itself: broken, nested too deeply, with a NUL, or not there", async () => {
  const bundle = await lab.bundle(usualConfig("true"));
  const file = path.join(bundle, "config.json");
  for (const [text, words] of [
    ['{"ociVersion": ', /unexpected end|unexpected character/],
    ["[".repeat(200), /nested too deeply/],
    ['{"process": {"args": ["a\\u0000b"]}}', /bad text/],
    ['{"a": 1} trailing', /more follows/],
    ['"text"', /want an object|root.path/],
  ] as const) {
    await fs.writeFile(file, text);
    await lab.refused(words, "create", "--bundle", bundle, lab.id());
  }
  await fs.rm(file);
  await lab.refused(/config.json not found/, "create", "--bundle", bundle, lab.id());
});

test("process: ambient capabilities, unknown ones, personality, io priority, umask, HOME", async () => {
  const out = await lab.sh(
    "grep CapAmb /proc/self/status; cat /proc/self/personality; ionice -p $$; umask; echo $HOME",
    (config) => {
      const sets = config.process["capabilities"] as Record<string, string[]>;
      sets["inheritable"] = ["CAP_KILL"];
      sets["ambient"] = ["CAP_KILL"];
      sets["bounding"] = [...(sets["bounding"] ?? []), "CAP_OF_THE_FUTURE"];
      config.process["ioPriority"] = { class: "IOPRIO_CLASS_IDLE", priority: 0 };
      config.process["user"] = { uid: 1000, gid: 1000, umask: 0o77 };
      config.linux["personality"] = { domain: "LINUX32" };
    },
  );
  assert.match(out, /CapAmb:\s+0{14}20\n0*8\nidle\S*\s*.*\n0077\n\/home\/ann/);
});

test("a time namespace with its offsets", async () => {
  const out = await lab.sh("cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time", (config) => {
    namespacesOf(config).push({ type: "time" });
    config.linux["timeOffsets"] = { boottime: { secs: 1_000_000_000, nanosecs: 0 }, monotonic: { secs: 5 } };
  });
  const [uptime = "", namespace] = out.split("\n");
  assert.ok(Number(uptime) > 1_000_000_000, uptime);
  assert.notEqual(namespace, readlinkSync("/proc/self/ns/time"));
});

test("a user namespace joined by its path owns the others", async () => {
  const holder = spawn("unshare", ["--user", "--map-root-user", "sleep", "1000"], { stdio: "ignore" });
  try {
    await until("the namespace is made", WAIT, () => {
      const isMapped = readFileSync(`/proc/${holder.pid}/uid_map`, "utf8").trim() !== "";
      return Promise.resolve(isMapped && /sleep/.test(readFileSync(`/proc/${holder.pid}/comm`, "utf8")));
    });
    const out = await lab.sh("readlink /proc/self/ns/user; id -u; hostname changed && hostname", (config) => {
      namespacesOf(config).push({ type: "user", path: `/proc/${holder.pid}/ns/user` });
      (config.process["capabilities"] as Record<string, string[]>) = {
        bounding: ["CAP_SYS_ADMIN"],
        effective: ["CAP_SYS_ADMIN"],
        permitted: ["CAP_SYS_ADMIN"],
      };
      config.mounts = config.mounts.map((mount) =>
        mount["type"] === "devpts"
          ? { ...mount, options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] }
          : mount,
      );
    });
    assert.equal(out, `${readlinkSync(`/proc/${holder.pid}/ns/user`)}\n0\nchanged`);
  } finally {
    holder.kill("SIGKILL");
  }
});

test("mounts: recursive read-only, copy-up, late read-only tmpfs, mode of what is covered, propagation", async () => {
  const source = path.join(lab.folder, "tree");
  await fs.mkdir(path.join(source, "below"), { recursive: true });
  spawnSync("mount", ["-t", "tmpfs", "tmpfs", path.join(source, "below")]);
  try {
    const out = await lab.sh(
      "touch /place/ro/x 2>/dev/null || echo ro; touch /place/ro/below/x 2>/dev/null && echo open; " +
        "touch /place/rro/below/x 2>/dev/null || echo rro; cat /etc/passwd | head -1; touch /etc/new 2>/dev/null || echo sealed; " +
        "stat -c %a /root; grep ' /place/shared ' /proc/self/mountinfo | grep -c shared",
      (config) => {
        config.mounts.push(
          { destination: "/place/ro", type: "bind", source, options: ["rbind", "ro"] },
          { destination: "/place/rro", type: "bind", source, options: ["rbind", "rro"] },
          { destination: "/etc", type: "tmpfs", source: "tmpfs", options: ["tmpcopyup", "ro"] },
          { destination: "/root", type: "tmpfs", source: "tmpfs" },
          { destination: "/place/shared", type: "bind", source, options: ["bind", "rshared"] },
        );
      },
    );
    assert.equal(out, "ro\nopen\nrro\nroot:x:0:0::/root:/bin/sh\nsealed\n755\n1");
  } finally {
    spawnSync("umount", [path.join(source, "below")]);
  }
});

test("cgroup mounts show the container's own group, with and without a cgroup namespace", async () => {
  for (const isOwn of [true, false]) {
    const out = await lab.sh(
      "cat /sys/fs/cgroup/pids/pids.max; touch /sys/fs/cgroup/pids/x 2>/dev/null || echo refused",
      (config) => {
        if (isOwn) namespacesOf(config).push({ type: "cgroup" });
        resourcesOf(config)["pids"] = { limit: 77 };
        config.mounts.push({
          destination: "/sys/fs/cgroup",
          type: "cgroup",
          source: "cgroup",
          options: ["nosuid", "noexec", "nodev", "ro"],
        });
      },
    );
    assert.equal(out, "77\nrefused");
  }
});

test("device rules: denied unless allowed, the later rule wins", async () => {
  const out = await lab.sh(
    "for d in null test zero; do head -c1 /dev/$d >/dev/null 2>&1 && echo $d yes || echo $d no; done",
    (config) => {
      config.linux["devices"] = [
        { path: "/dev/test", type: "c", major: 1, minor: 5 },
        { path: "/dev/kmsg2", type: "c", major: 1, minor: 11 },
      ];
      resourcesOf(config)["devices"] = [{ allow: false, access: "rwm" }];
    },
  );
  assert.equal(out, "null yes\ntest yes\nzero yes");
  const denied = await lab.sh("head -c1 /dev/kmsg2 2>&1 | grep -c 'not permitted'", (config) => {
    config.linux["devices"] = [{ path: "/dev/kmsg2", type: "c", major: 1, minor: 11 }];
  });
  assert.equal(denied, "1");
});

test("memory and cpu limits reach the kernel; a limit without its controller is refused", async () => {
  const config = usualConfig("sleep", "100");
  resourcesOf(config)["memory"] = { limit: 64 << 20, swap: 128 << 20, reservation: 32 << 20, swappiness: 20 };
  resourcesOf(config)["cpu"] = { shares: 300, quota: 20_000, period: 50_000 };
  const id = await lab.start(config);
  const { pid } = await lab.state(id);
  assert.equal(await groupFile(pid, "memory", "memory.soft_limit_in_bytes"), String(32 << 20));
  assert.equal(await groupFile(pid, "memory", "memory.swappiness"), "20");
  assert.equal(await groupFile(pid, "cpu", "cpu.shares"), "300");
  await lab.remove(id);
  if (!existsSync("/sys/fs/cgroup/net_cls")) {
    await refused(
      /net_cls cgroup, which is not mounted here/,
      (each) => (resourcesOf(each)["network"] = { classID: 7 }),
    );
  }
});

test("hooks: one that fails or takes too long stops the creation, and poststop follows", async () => {
  const log = path.join(lab.folder, "poststop");
  for (const [kind, extra, words] of [
    ["prestart", {}, /error running prestart hook #0: exit status 3, output: said/],
    ["createRuntime", {}, /createRuntime hook #0/],
    ["createContainer", {}, /createContainer hook #0/],
    ["createRuntime", { timeout: 1 }, /ran past specified timeout of 1s/],
  ] as const) {
    await fs.rm(log, { force: true });
    await refused(words, (config) => {
      const script = "timeout" in extra ? "sleep 60" : "echo said; exit 3";
      config.hooks = { [kind]: [hook(script, extra)], poststop: [hook(`echo ran >> ${log}`)] };
    });
    assert.equal(readFileSync(log, "utf8"), "ran\n");
  }
});

test("hooks: startContainer runs inside, a failing poststart ends the container, a failing poststop does not hinder", async () => {
  const inside = await lab.sh("cat /place/from-hook", (config) => {
    config.mounts.push({ destination: "/place", type: "tmpfs", source: "tmpfs" });
    config.hooks = { startContainer: [hook("cat > /place/from-hook")] };
  });
  assert.equal((JSON.parse(inside) as { status: string }).status, "created");
  const config = usualConfig("sleep", "100");
  config.hooks = { poststart: [hook("exit 1")], poststop: [hook("exit 1")] };
  const id = lab.id();
  await lab.ok("create", "--bundle", await lab.bundle(config), id);
  await lab.refused(/poststart hook #0/, "start", id);
  await lab.until(id, "stopped");
  await lab.ok("delete", id);
});

test("without no_new_privs the filter is in force, and calls needed before it may be forbidden", async () => {
  const out = await lab.sh("grep -E 'Seccomp:|NoNew' /proc/self/status | tr -d '\\t'", (config) => {
    config.linux["seccomp"] = {
      defaultAction: "SCMP_ACT_ALLOW",
      syscalls: [
        {
          names: ["setresuid", "setgroups", "setresgid", "pivot_root", "mount", "umask"],
          action: "SCMP_ACT_KILL_PROCESS",
        },
      ],
    };
  });
  assert.equal(out, "NoNewPrivs:0\nSeccomp:2");
});

test("a root with links for /dev, /proc and mount targets leads nowhere outside", async () => {
  const outside = path.join(lab.folder, "outside");
  await fs.mkdir(outside);
  const withLink = async (name: string): Promise<string> => {
    const bundle = await lab.bundle(usualConfig("true"), { ownRoot: true });
    await fs.rm(path.join(bundle, "rootfs", name), { recursive: true, force: true });
    await fs.symlink(outside, path.join(bundle, "rootfs", name));
    return bundle;
  };
  for (const name of ["proc", "sys"]) {
    const refused = await withLink(name);
    // Again and again: whose last words came while something was on its way to it, was once not heard.
    for (let round = 0; round < 20; round++)
      await lab.refused(/error mounting/, "create", "--bundle", refused, lab.id());
  }
  const dev = lab.id();
  const { status } = await lab.verb("create", "--bundle", await withLink("dev"), dev);
  if (status === 0) await lab.ok("delete", "--force", dev);
  const bundle = await withLink("place");
  const config = usualConfig("true");
  config.mounts.push({ destination: "/place/new", type: "tmpfs", source: "tmpfs" });
  await lab.rewrite(bundle, config);
  await lab.verb("run", "--bundle", bundle, lab.id());
  assert.deepEqual(await fs.readdir(outside), []);
});

test("a working folder never leads to a descriptor of the host's, and none is open in the program", async () => {
  for (let fd = 3; fd < 10; fd++) {
    // What is open of the container's own is no harm: upwards from there is its root.
    const up = 'cd ../../../../../../..; test "$(stat -c %d:%i .)" = "$(stat -c %d:%i /)" && echo inside';
    const config = usualConfig("sh", "-c", up);
    config.process["cwd"] = `/proc/self/fd/${fd}`;
    const { status, stdout, stderr } = await lab.run(config);
    assert.match(
      status === 0 ? stdout : stderr,
      /^inside\n$|chdir|mkdir|working directory/,
      `cwd /proc/self/fd/${fd}`,
    );
  }
  assert.equal(await lab.sh("ls /proc/self/fd | wc -l"), "4");
  const id = await lab.start(usualConfig("sleep", "100"));
  assert.equal((await lab.verb("exec", id, "sh", "-c", "ls /proc/self/fd | wc -l")).stdout, "4\n");
  await lab.remove(id);
});

test("an ordinary user runs a container as its own root, without cgroups", async () => {
  const user = { uid: 65_534, gid: 65_534 };
  const folder = path.join(lab.folder, "rootless");
  await fs.mkdir(path.join(folder, "bundle"), { recursive: true });
  await fs.copyFile(lab.program, path.join(folder, "shoal-oci"));
  await fs.chmod(path.join(folder, "shoal-oci"), 0o755);
  for (const each of [folder, path.join(folder, "bundle")]) await fs.chown(each, user.uid, user.gid);
  const call = (...args: readonly string[]): ReturnType<typeof spawnSync> =>
    spawnSync(path.join(folder, "shoal-oci"), args, {
      ...user,
      encoding: "utf8",
      cwd: path.join(folder, "bundle"),
      env: { PATH: process.env["PATH"], XDG_RUNTIME_DIR: path.join(folder, "run") },
    });
  await fs.mkdir(path.join(folder, "run"));
  await fs.chown(path.join(folder, "run"), user.uid, user.gid);
  assert.equal(call("spec", "--rootless").status, 0);
  const file = path.join(folder, "bundle/config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as OciConfig;
  config.process["terminal"] = false;
  config.process["args"] = [
    "sh",
    "-c",
    "id -u; cat /proc/self/uid_map /proc/self/setgroups | tr -s ' '; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/pids/x 2>/dev/null || echo refused",
  ];
  config.root.path = path.join(lab.folder, "rootfs");
  await fs.writeFile(file, JSON.stringify(config));
  const ran = call("run", "one");
  assert.deepEqual([ran.status, ran.stdout, ran.stderr], [0, "0\n 0 65534 1\ndeny\nrefused\n", ""]);
  assert.equal(call("list", "-q").stdout, "");
});
