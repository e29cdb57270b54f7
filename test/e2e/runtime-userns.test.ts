/**
 * Containers with ids of their own: what they are inside, what the host sees of them, what is on disk, and what they
 * can't reach.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { assertInGroups } from "./support/groups.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";

/** Of this run: one that was killed leaves its user. */
const USER = `shoal-remap-${process.pid}-${randomBytes(3).toString("hex")}`;

function rejects(promise: Promise<unknown>, pattern: RegExp): Promise<void> {
  return assert.rejects(promise, (error: Error) => {
    assert.match(error.message, pattern);
    return true;
  });
}

function statusIds(pid: number): readonly string[] {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  return ["Uid", "Gid"].map((name) => new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? "");
}

describe("containers with --userns-remap", () => {
  let lab: RuntimeLab;
  let firstUid = 0;
  let firstGid = 0;
  before(async () => {
    execFileSync("useradd", ["--user-group", "--no-create-home", "--shell", "/bin/false", USER]);
    const start = (file: string): number =>
      Number(new RegExp(`^${USER}:(\\d+):`, "m").exec(readFileSync(file, "utf8"))?.[1] ?? "0");
    firstUid = start("/etc/subuid");
    firstGid = start("/etc/subgid");
    assert.ok(firstUid >= 100_000 && firstGid >= 100_000, "useradd grants ranges");
    lab = await RuntimeLab.open({ usernsRemap: USER });
  });
  after(async () => {
    await lab?.close();
    execFileSync("userdel", [USER]);
  });

  async function started(command: readonly string[], hostConfig = {}): Promise<{ id: string; pid: number }> {
    const id = await lab.create(command, hostConfig);
    await lab.engine.containers.start(id);
    return { id, pid: lab.engine.containers.summary(id).state.pid };
  }

  test("root inside is the first subordinate id outside, other users the next ones", async () => {
    const { id, pid } = await started(["sleep", "60"]);
    assert.deepEqual(statusIds(pid), [String(firstUid), String(firstGid)]);
    const asWeb = await lab.run(
      ["sh", "-c", "id -u; cat /proc/self/uid_map"],
      {},
      { config: { User: "web" } },
    );
    assert.match(asWeb.stdout, new RegExp(`^1000\\n\\s+0\\s+${firstUid}\\s+65536\\n$`));
    const inside = await lab.exec(id, [
      "sh",
      "-c",
      "id -u; id -g; touch /x && stat -c %u:%g /x /bin/busybox /etc/hosts",
    ]);
    assert.equal(inside.output, "0\n0\n0:0\n0:0\n0:0\n");
  });

  test("the first process and an exec are in the container's group of every hierarchy", async () => {
    const { id, pid } = await started(["sleep", "60"]);
    assertInGroups(pid, id);
    const { Id } = await lab.engine.containers.createExec(id, { Cmd: ["sleep", "60"] });
    await lab.engine.containers.startExec(Id, { detach: true, tty: false });
    const exec = Number((await lab.engine.containers.inspectExec(Id))["Pid"]);
    assertInGroups(exec, id);
    assert.deepEqual(statusIds(exec), [String(firstUid), String(firstGid)]);
  });

  test("files keep container ids on disk, so that images and commits are the same as without", async () => {
    const run = await lab.run([
      "sh",
      "-c",
      "touch /root/made; chown 1000:2000 /root/made; echo more >> /data/seed",
    ]);
    assert.equal(run.exitCode, 0, run.stderr);
    const upper = path.join(lab.root, "data");
    const found = execFileSync("find", [upper, "-name", "made", "-printf", "%U:%G"], { encoding: "utf8" });
    assert.equal(found, "1000:2000");
    assert.deepEqual(
      (await lab.engine.containers.changes(run.id)).map((each) => `${each.Kind} ${each.Path}`),
      ["0 /data", "0 /data/seed", "0 /root", "1 /root/made"],
    );
  });

  test("volumes are the container's, folders of the host are not", async () => {
    const shared = path.join(lab.root, "host-folder");
    await fs.mkdir(shared, { mode: 0o755 });
    const script = "echo v > /vol/file; stat -c %u /vol/file; echo h > /host/file";
    const run = await lab.run(["sh", "-c", script], { Binds: [`${shared}:/host`, "own:/vol"] });
    assert.equal(run.stdout, "0\n");
    assert.match(run.stderr, /host\/file: Permission denied/);
    const again = await lab.run(["cat", "/vol/file"], { Binds: ["own:/vol"], UsernsMode: "host" });
    assert.equal(again.stdout, "v\n");
  });

  test("its root has no rights over the host, but over its own namespaces", async () => {
    const run = await lab.run(
      [
        "sh",
        "-c",
        "hostname there; hostname; chown 70000:1 /root; echo 1 > /proc/sys/kernel/hostname; cat /proc/1/environ | wc -c; kill -0 1 && echo own",
      ],
      { CapAdd: ["ALL"], SecurityOpt: ["seccomp=unconfined", "systempaths=unconfined"] },
    );
    assert.match(run.stdout, /^there\n/);
    assert.match(run.stderr, /chown: \/root: Invalid argument/);
    const device = await lab.run(
      ["sh", "-c", "mknod /tmp/d b 254 0; echo x > /dev/null; head -c 4 /dev/zero | wc -c"],
      {
        CapAdd: ["ALL"],
      },
    );
    assert.match(device.stderr, /mknod: \/tmp\/d: Operation not permitted/);
    assert.equal(device.stdout, "4\n");
  });

  test("--userns=host turns it off; what needs the host's is refused without", async () => {
    const { pid } = await started(["sleep", "60"], { UsernsMode: "host" });
    assert.deepEqual(statusIds(pid), ["0", "0"]);
    await rejects(
      lab.create(["true"], { Privileged: true }),
      /privileged mode is incompatible with user namespaces/,
    );
    await rejects(lab.create(["true"], { NetworkMode: "host" }), /cannot share the host's network namespace/);
    await rejects(lab.create(["true"], { PidMode: "host" }), /cannot share the host PID namespace/);
    const run = await lab.run(["true"], { NetworkMode: "host", UsernsMode: "host" });
    assert.equal(run.exitCode, 0);
    const info = await lab.engine.info();
    assert.ok((info["SecurityOptions"] as string[]).includes("name=userns"));
  });

  test("a container that shares namespaces of another is in its user namespace", async () => {
    const { id, pid } = await started(["sleep", "60"]);
    const second = await started(["sleep", "61"], {
      NetworkMode: `container:${id}`,
      PidMode: `container:${id}`,
    });
    const space = (each: number): Promise<string> => fs.readlink(`/proc/${each}/ns/user`);
    assert.equal(await space(second.pid), await space(pid));
    assert.deepEqual(statusIds(second.pid), [String(firstUid), String(firstGid)]);
    const seen = await lab.exec(second.id, ["ps"]);
    assert.match(seen.output, /sleep 60[\s\S]*sleep 61/);
    const host = await started(["sleep", "60"], { UsernsMode: "host" });
    const refused = await lab.create(["true"], { NetworkMode: `container:${host.id}` });
    await rejects(lab.engine.containers.start(refused), /host's user namespace: use --userns=host/);
  });

  test("a network of its own, whose settings it may read and change", async () => {
    const script =
      "cat /proc/sys/net/ipv4/ping_group_range; ip addr show eth0 | grep -c 'inet '; ip link set lo down; ip link show lo";
    const run = await lab.run(["sh", "-c", script], { NetworkMode: "bridge", CapAdd: ["NET_ADMIN"] });
    assert.match(run.stdout, /^0\t65535\n1\n1: lo: <LOOPBACK>/);
  });

  test("archives have the container's ids, running or not", async () => {
    const { id } = await started(["sleep", "60"]);
    const tree = path.join(lab.root, "put");
    await fs.mkdir(tree);
    await fs.writeFile(path.join(tree, "given"), "x");
    const tar = path.join(lab.root, "put.tar");
    execFileSync("tar", ["-C", tree, "--owner=1000", "--group=2000", "--numeric-owner", "-cf", tar, "given"]);
    const { createReadStream } = await import("node:fs");
    const options = { noOverwriteDirNonDir: false, copyUidGid: false };
    await lab.engine.containers.putArchive(id, "/root", createReadStream(tar), options);
    assert.equal((await lab.exec(id, ["stat", "-c", "%u:%g", "/root/given"])).output, "1000:2000\n");
  });

  test("a terminal, /dev/stdout and secrets work as without", async () => {
    const secret = {
      isSecret: true,
      path: "/run/secrets/s",
      mode: 0o400,
      uid: 1000,
      gid: 0,
      data: Buffer.from("hush"),
    };
    const run = await lab.run(
      ["sh", "-c", "echo again > /dev/stdout && cat /run/secrets/s"],
      {},
      { config: { User: "web" }, task: { files: [secret] } },
    );
    assert.equal(run.stdout, "again\nhush", run.stderr);
    const held = await started(["sleep", "60"]);
    const inside = await lab.exec(held.id, ["su", "web", "-s", "/bin/sh", "-c", "id -u"]);
    assert.equal(inside.output, "1000\n");
    const tty = await lab.run(
      ["sh", "-c", "test -t 0 && stat -c %u $(tty) /dev/console"],
      {},
      { config: { Tty: true } },
    );
    assert.equal(tty.stdout, "0\r\n0\r\n");
  });
});
