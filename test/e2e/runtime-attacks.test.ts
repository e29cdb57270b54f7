/**
 * Attacks on the runtime that other runtimes fell to. Each test does what the attacker did, from inside a container or by a
 * prepared image, volume or request, and looks at the host for what must not have happened. docs/security.md lists them.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { extract, pack } from "tar-stream";
import { packageRoot } from "../../common/package-root.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";

const ALL_RIGHTS = { CapAdd: ["ALL"], SecurityOpt: ["seccomp=unconfined", "systempaths=unconfined"] };

function rejects(promise: Promise<unknown>, pattern: RegExp): Promise<void> {
  return assert.rejects(promise, (error: Error) => {
    assert.match(error.message, pattern);
    return true;
  });
}

describe("attacks on the runtime", () => {
  let lab: RuntimeLab;
  /** A file of the host that no container has any business with. */
  let marker = "";
  before(async () => {
    lab = await RuntimeLab.open();
    marker = path.join(lab.root, "host-marker");
    await fs.writeFile(marker, "HOST-SECRET\n");
  });
  after(() => lab.close());

  async function started(command: readonly string[], hostConfig = {}, options = {}): Promise<string> {
    const id = await lab.create(command, hostConfig, options);
    await lab.engine.containers.start(id);
    return id;
  }

  /** An image of the test's, with further entries on top of the usual ones. */
  async function imageWith(tag: string, change: (tree: string) => Promise<void>): Promise<string> {
    const tree = path.join(lab.root, `tree-${tag}`);
    await fs.cp(path.join(lab.root, "tree"), tree, { recursive: true, verbatimSymlinks: true });
    await change(tree);
    const tar = execFileSync("tar", ["-C", tree, "-cf", "-", "."], { maxBuffer: 1 << 28 });
    const lines = lab.engine.images.import(Readable.from([tar]), { repo: "evil", tag, changes: [] });
    for await (const line of lines) assert.equal(line["error"], undefined);
    return `evil:${tag}`;
  }

  function isMarkerWhole(): void {
    assert.equal(readFileSync(marker, "utf8"), "HOST-SECRET\n");
  }

  test("CVE-2019-5736, CVE-2016-9962: a process that enters shows neither the host's program nor its descriptors", async () => {
    const binary = path.join(packageRoot(import.meta.dirname), "runtime/native/build/shoal-runtime");
    const digest = (): string => createHash("sha256").update(readFileSync(binary)).digest("hex");
    const before_ = digest();
    // Looks at whoever enters, as often as it can, and writes to the program if it can be opened.
    const script = `while :; do for p in /proc/[0-9]*; do [ $p = /proc/1 ] && continue
      readlink $p/exe; ls -l $p/fd 2>/dev/null; (exec 9<$p/exe && echo opened $(readlink $p/exe) && cat /dev/zero > /proc/self/fd/9) 2>/dev/null
      done; done > /tmp/seen 2>/dev/null`;
    const id = await started(["sh", "-c", script], ALL_RIGHTS);
    for (let round = 0; round < 25; round++) await lab.exec(id, ["true"]);
    const seen = (await lab.exec(id, ["cat", "/tmp/seen"])).output;
    assert.match(seen, /\/bin\/busybox/, "the attacker sees processes");
    const paths = seen
      .split("\n")
      .filter((line) => /native\/build|shoal-runtime-test|cgroup|launcher/.test(line));
    assert.deepEqual([...new Set(paths)], [], "nothing of the host's");
    assert.ok(
      Math.max(...seen.split("\n").map((line) => Number(/ (\d+) -> socket:/.exec(line)?.[1] ?? 0))) < 20,
    );
    assert.equal(digest(), before_);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("CVE-2024-21626: a working folder that is a descriptor of the host's leads nowhere", async () => {
    const climb = `cat ../../../../../../../../..${marker}; cat ../../../../../../..${marker}`;
    const holder = await started(["sleep", "100"]);
    for (let fd = 3; fd < 14; fd++) {
      const WorkingDir = `/proc/self/fd/${fd}`;
      const id = await lab.create(["sh", "-c", climb], {}, { config: { WorkingDir } });
      const isStarted = await lab.engine.containers.start(id).catch(() => false);
      if (isStarted === true) {
        await lab.engine.containers.wait(id, "not-running", {});
        assert.doesNotMatch((await lab.output(id)).stdout, /HOST-SECRET/);
      }
      const exec = await lab.engine.containers.createExec(holder, {
        Cmd: ["sh", "-c", climb],
        WorkingDir,
        AttachStdout: true,
      });
      const streams = await lab.engine.containers
        .startExec(exec.Id, { detach: false, tty: false })
        .catch(() => undefined);
      for await (const chunk of streams?.output ?? [])
        assert.doesNotMatch(Buffer.from(chunk.data).toString(), /HOST-SECRET/);
    }
  });

  test("CVE-2025-31133, CVE-2026-41579, CVE-2026-47766: an image's /dev and /dev/null are not what devices and masks are made in", async () => {
    const outside = path.join(lab.root, "outside-dev");
    await fs.mkdir(outside);
    const linked = await imageWith("dev", async (tree) => {
      await fs.rm(path.join(tree, "dev"), { recursive: true });
      await fs.symlink(`../../../../../../../..${outside}`, path.join(tree, "dev"));
    });
    const id = await lab.create(["true"], {}, { config: { Image: linked } });
    await rejects(lab.engine.containers.start(id), /rootfs at "\/dev"/);
    assert.deepEqual(await fs.readdir(outside), []);
    const nulled = await imageWith("null", async (tree) => {
      await fs.symlink("/proc/sys/kernel/core_pattern", path.join(tree, "dev/null"));
    });
    const script =
      "stat -c %t:%T /dev/null; stat -c %F /proc/keys; cat /proc/keys; echo x > /proc/keys; echo evil > /dev/null";
    const pattern = readFileSync("/proc/sys/kernel/core_pattern", "utf8");
    const run = await lab.run(["sh", "-c", script], {}, { config: { Image: nulled } });
    assert.equal(run.stdout, "1:3\ncharacter special file\n");
    assert.equal(readFileSync("/proc/sys/kernel/core_pattern", "utf8"), pattern);
  });

  test("CVE-2025-52565: what stands in for /dev/pts is not taken for a terminal", async () => {
    const fake = path.join(lab.root, "fake-pts");
    await fs.mkdir(fake);
    await fs.symlink("/proc/sysrq-trigger", path.join(fake, "ptmx"));
    await fs.symlink("/proc/sysrq-trigger", path.join(fake, "0"));
    const id = await lab.create(["true"], { Binds: [`${fake}:/dev/pts`] }, { config: { Tty: true } });
    await rejects(lab.engine.containers.start(id), /\/dev\/pts is no devpts|open terminal/);
  });

  test("CVE-2025-52881, CVE-2019-19921, CVE-2019-16884, CVE-2023-27561, CVE-2023-28642: settings go to the kernel, whatever /proc is", async () => {
    const fake = path.join(lab.root, "fake-proc");
    await fs.mkdir(path.join(fake, "sys/net/ipv4"), { recursive: true });
    await fs.symlink(marker, path.join(fake, "sys/net/ipv4/ip_unprivileged_port_start"));
    await fs.symlink(marker, path.join(fake, "sys/net/ipv4/ping_group_range"));
    for (const target of ["/proc", "/proc/sys", "/proc/self/attr"]) {
      const id = await lab.create(["true"], { Binds: [`${fake}:${target}`] });
      await rejects(lab.engine.containers.start(id), /inside \/proc|not of type proc/);
    }
    const linked = await imageWith("proc", async (tree) => {
      await fs.rm(path.join(tree, "proc"), { recursive: true });
      await fs.mkdir(path.join(tree, "evil/sys/net/ipv4"), { recursive: true });
      await fs.symlink("/evil", path.join(tree, "proc"));
    });
    const id = await lab.create(["true"], {}, { config: { Image: linked } });
    await rejects(lab.engine.containers.start(id), /rootfs at "\/proc"/);
    isMarkerWhole();
  });

  test("CVE-2021-30465, CVE-2024-45310: a mount's target that is swapped for a link stays inside", async () => {
    const outside = path.join(lab.root, "outside-mount");
    await fs.mkdir(outside);
    const up = `../../../../../../../../../../..${outside}`;
    const swap = `cd /vol; ln -s ${up} planted; while :; do mkdir t; rmdir t; ln -s ${up} t; rm t; done`;
    const attacker = await started(["sh", "-c", swap], { Binds: ["swapped:/vol"] });
    const source = path.join(lab.root, "mounted");
    await fs.mkdir(source);
    await fs.writeFile(path.join(source, "file"), "mounted\n");
    for (let round = 0; round < 20; round++) {
      const target = round === 0 ? "/vol/planted/new" : "/vol/t/new";
      const id = await lab.create(["true"], { Binds: ["swapped:/vol", `${source}:${target}`] });
      await lab.engine.containers.start(id).catch(() => undefined);
      assert.deepEqual(await fs.readdir(outside), [], "nothing is made outside");
      assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(outside));
      await lab.engine.containers.remove(id, { force: true, volumes: false, link: false });
    }
    await lab.engine.containers.remove(attacker, { force: true, volumes: true, link: false });
  });

  test("CVE-2022-24769, CVE-2022-27650: no inheritable capabilities, in a container or an exec", async () => {
    const id = await started(["sleep", "100"], { CapAdd: ["NET_ADMIN"] }, { config: { User: "web" } });
    const pid = lab.engine.containers.summary(id).state.pid;
    assert.match(readFileSync(`/proc/${pid}/status`, "utf8"), /CapInh:\s+0000000000000000/);
    assert.match(
      (await lab.exec(id, ["grep", "CapInh", "/proc/self/status"])).output,
      /CapInh:\s+0000000000000000/,
    );
  });

  test("CVE-2022-0492: no release agent of a cgroup can be set", async () => {
    const script = `for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent; do echo /tmp/x > $f; done
      mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c && echo /tmp/x > /tmp/c/release_agent && echo set
      unshare -UrmC sh -c 'mount -t cgroup -o memory c /tmp/c && echo /tmp/x > /tmp/c/release_agent && echo set'`;
    const run = await lab.run(["sh", "-c", script]);
    assert.doesNotMatch(run.stdout, /set/);
    const roots = await fs.readdir("/sys/fs/cgroup");
    const agents = roots
      .map((name) => `/sys/fs/cgroup/${name}/release_agent`)
      .filter((file) => existsSync(file));
    for (const file of agents) assert.doesNotMatch(readFileSync(file, "utf8"), /\/tmp\/x/);
  });

  test("CVE-2020-15257: on the host's network no socket of ours can be reached", async () => {
    const held = await started(["sleep", "100"]);
    const script = `cat /proc/net/unix | grep -c '@.*shoal'; ls ${lab.root} 2>&1`;
    const run = await lab.run(["sh", "-c", script], { NetworkMode: "host" });
    assert.match(run.stdout, /^0\n/);
    const sockets = await fs.readdir(path.join(lab.root, "run/m"));
    assert.ok(sockets.some((name) => name.startsWith(held.slice(0, 12))));
    for (const name of [...sockets.map((each) => `m/${each}`), "launcher.sock"])
      assert.equal((await fs.stat(path.join(lab.root, "run", name))).mode & 0o777, 0o600, name);
  });

  test("CVE-2018-15664, CVE-2026-41567, CVE-2026-41568, CVE-2026-42306: copies never leave the container, however its links move", async () => {
    const outside = path.join(lab.root, "outside-copy");
    await fs.mkdir(outside);
    await fs.copyFile(marker, path.join(outside, "f"));
    const swap = `cd /tmp; mkdir d; echo inside > d/f; while :; do mv d e; ln -s ../../../../../../../../..${outside} d; rm d; mv e d; done`;
    const id = await started(["sh", "-c", swap]);
    const containers = lab.engine.containers;
    for (let round = 0; round < 40; round++) {
      const got = await containers.getArchive(id, "/tmp/d/f").catch(() => undefined);
      if (got !== undefined) {
        const reader = extract();
        got.tar.pipe(reader);
        for await (const entry of reader) {
          let text = "";
          for await (const piece of entry as AsyncIterable<Buffer>) text += piece.toString();
          assert.doesNotMatch(text, /HOST-SECRET/);
        }
      }
      const tar = pack();
      tar.entry({ name: "f" }, "from-outside");
      tar.finalize();
      const options = { noOverwriteDirNonDir: false, copyUidGid: false };
      await containers.putArchive(id, "/tmp/d", Readable.from(tar), options).catch(() => undefined);
    }
    assert.equal(readFileSync(path.join(outside, "f"), "utf8"), "HOST-SECRET\n");
    assert.deepEqual(await fs.readdir(outside), ["f"]);
    await containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("CVE-2019-14271: a copy runs nothing of the container's", async () => {
    const evil = await imageWith("helpers", async (tree) => {
      await fs.mkdir(path.join(tree, "lib"), { recursive: true });
      for (const name of ["bin/tar", "bin/docker-tar", "bin/gzip", "bin/chroot"])
        await fs.rm(path.join(tree, name), { force: true });
      for (const name of ["bin/tar", "bin/docker-tar", "bin/gzip", "bin/chroot"])
        await fs.writeFile(path.join(tree, name), "#!/bin/sh\necho ran >> /ran\n", { mode: 0o755 });
      await fs.writeFile(path.join(tree, "etc/ld.so.preload"), "/lib/evil.so\n");
      for (const name of ["libnss_files.so.2", "evil.so"])
        await fs.writeFile(path.join(tree, "lib", name), "not a library");
    });
    const id = await started(["sleep", "100"], {}, { config: { Image: evil } });
    const got = await lab.engine.containers.getArchive(id, "/etc");
    for await (const piece of got.tar) assert.ok(piece);
    const whole = await lab.engine.containers.export(id);
    for await (const piece of whole) assert.ok(piece);
    assert.match((await lab.exec(id, ["ls", "/ran"])).output, /No such file/);
  });

  test("CVE-2026-30892: a user that is no number and no name is nobody, not root", async () => {
    const id = await started(["sleep", "100"]);
    for (const User of ["0x10", "1000abc", "-1", "4294967296", " 0", "1000:0abc", "+0", "1e3", "web\n"]) {
      const given = { Cmd: ["id", "-u"], User, AttachStdout: true, AttachStderr: true };
      await assert.rejects(
        lab.engine.containers.createExec(id, given),
        /unable to find (user|group)|must be in range/,
        JSON.stringify(User),
      );
    }
  });

  test("CVE-2024-25621: state, logs and layers are closed to other users of the host", async () => {
    const run = await lab.run(["echo", "secret"]);
    const folder = path.join(lab.root, "data/containers", run.id);
    const mode = async (file: string): Promise<number> => (await fs.stat(file)).mode & 0o007;
    for (const file of ["", "container.json", `${run.id}-json.log`])
      assert.equal(await mode(path.join(folder, file)), 0, file);
    for (const name of ["data", "data/containers", "data/images", "data/volumes", "run", "run/c", "run/m"])
      assert.equal((await mode(path.join(lab.root, name))) & 0o006, 0, name);
    assert.ok(existsSync(path.join(lab.root, "run/launcher.lock")));
  });
});
