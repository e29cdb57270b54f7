/** Each verb of the OCI command line with its flags, as callers of runc use them. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import net from "node:net";
import path from "node:path";
import { after, before, test } from "node:test";
import { until } from "../../dev/until.ts";
import { cgroupMount, exitOf, OciLab, resourcesOf, usualConfig, WAIT } from "./support/oci-lab.ts";
import { groupFile } from "./support/suite-cases.ts";

let lab: OciLab;
before(async () => {
  lab = await OciLab.create();
});
after(async () => {
  await lab.close();
});

const SLEEPER = ["sleep", "1000"] as const;

test("run returns the program's exit code and leaves nothing behind", async () => {
  const result = await lab.run(usualConfig("sh", "-c", "echo out; echo err >&2; exit 7"));
  assert.deepEqual(result, { status: 7, stdout: "out\n", stderr: "err\n" });
  assert.deepEqual(await lab.run(usualConfig("sh", "-c", "exec 2>&1; sh -c 'kill -9 $$'; exit $?")), {
    status: 137,
    stdout: "Killed\n",
    stderr: "",
  });
  assert.equal(await lab.ok("list", "-q"), "");
  const pids = await cgroupMount("pids");
  assert.ok(!existsSync(path.join(pids ?? "", `${lab.name}-1`)));
});

test("run passes signals on", async () => {
  const config = usualConfig("sh", "-c", "trap 'exit 5' USR1; sleep 1000 & echo ready; wait");
  const child = lab.spawn(
    ["run", "--bundle", await lab.bundle(config), lab.id()],
    ["ignore", "pipe", "inherit"],
  );
  const ended = exitOf(child);
  await new Promise((resolve) => child.stdout?.once("data", resolve));
  child.kill("SIGUSR1");
  assert.equal(await ended, 5);
});

test("create --pid-file, run --detach --pid-file, --preserve-fds", async () => {
  const config = usualConfig("sh", "-c", "cat <&3; sleep 1000");
  const bundle = await lab.bundle(config);
  const id = lab.id();
  const pidFile = path.join(lab.folder, "pid");
  const text = await fs.open(path.join(lab.folder, "rootfs/etc/passwd"));
  const out = await fs.open(path.join(lab.folder, "preserved"), "w");
  const child = lab.spawn(
    ["run", "--detach", "--pid-file", pidFile, "--preserve-fds", "1", "--bundle", bundle, id],
    ["ignore", out.fd, "inherit", text.fd],
  );
  assert.equal(await exitOf(child), 0);
  assert.equal(readFileSync(pidFile, "utf8"), String((await lab.state(id)).pid));
  await until("the program has written", WAIT, async () => {
    return (await fs.stat(path.join(lab.folder, "preserved"))).size > 0;
  });
  assert.match(readFileSync(path.join(lab.folder, "preserved"), "utf8"), /^root:/);
  await text.close();
  await out.close();
  await lab.remove(id);
  await lab.refused(
    /descriptor 200 is not open|descriptor \d+ is not open/,
    "create",
    "--preserve-fds",
    "198",
    "--bundle",
    bundle,
    lab.id(),
  );
});

test("start tells of a program that can't be executed, and refuses a second time", async () => {
  await lab.refused(
    /executable file not found in \$PATH/,
    "create",
    "--bundle",
    await lab.bundle(usualConfig("nosuch")),
    lab.id(),
  );
  const id = await lab.start(usualConfig(...SLEEPER));
  await lab.refused(/already running/, "start", id);
  await lab.verb("kill", id, "9");
  await lab.until(id, "stopped");
  await lab.refused(/has stopped/, "start", id);
  await lab.ok("delete", id);
});

test("kill takes names and numbers, --all reaches everybody, a stopped container is an error", async () => {
  const id = await lab.start(usualConfig("sh", "-c", "trap 'echo got' USR1; sleep 1000 & wait; wait"));
  await lab.refused(/unknown signal .*NOSUCH/, "kill", id, "NOSUCH");
  await lab.ok("kill", id, "sigusr1");
  await lab.ok("kill", "--all", id, "KILL");
  await lab.until(id, "stopped");
  await lab.refused(/container not running/, "kill", id, "KILL");
  await lab.ok("delete", id);
});

test("without a pid namespace, kill KILL ends every process of the container", async () => {
  const config = usualConfig("sh", "-c", "sleep 1000 & sleep 1000");
  config.linux["namespaces"] = [{ type: "mount" }, { type: "uts" }];
  const id = await lab.start(config);
  const pids = async (): Promise<number[]> =>
    JSON.parse(await lab.ok("ps", "--format", "json", id)) as number[];
  await until("both run", WAIT, async () => (await pids()).length === 2);
  await lab.ok("kill", id, "KILL");
  await lab.until(id, "stopped");
  await until("none runs", WAIT, async () => (await pids()).length === 0);
  await lab.ok("delete", id);
});

test("delete refuses what runs unless forced, and a second delete finds nothing", async () => {
  const id = await lab.start(usualConfig(...SLEEPER));
  await lab.refused(/that is not stopped: running/, "delete", id);
  await lab.ok("delete", "--force", id);
  await lab.refused(/does not exist/, "delete", id);
  await lab.ok("delete", "--force", id);
});

test("exec: command, exit code, user, environment, folder, capabilities, no-new-privs", async () => {
  const id = await lab.start(usualConfig(...SLEEPER));
  const script =
    "id -u; id -g; id -G; pwd; echo $A $PATH | cut -c1-10; grep -E 'CapEff|NoNew' /proc/self/status";
  const flags = [
    "--user",
    "1000:100",
    "--additional-gids",
    "7",
    "--env",
    "A=b",
    "--cwd",
    "/tmp",
    "--no-new-privs",
  ];
  const out = await lab.ok("exec", ...flags, "--cap", "CAP_SYS_TIME", id, "sh", "-c", script);
  assert.equal(
    out,
    "1000\n100\n100 7\n/tmp\nb /usr/loc\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n".replace(
      "0000000000000000",
      out.match(/CapEff:\t(\w+)/)?.[1] ?? "",
    ),
  );
  assert.equal((await lab.verb("exec", id, "sh", "-c", "exit 9")).status, 9);
  const missing = await lab.verb("exec", id, "nosuch");
  assert.equal(missing.status, 255);
  assert.match(missing.stderr, /executable file not found/);
  await lab.refused(/--user: want a number/, "exec", "--user", "1000x", id, "true");
  await lab.remove(id);
  await lab.refused(/does not exist/, "exec", id, "true");
});

test("exec --process, --detach and --pid-file; the process is inside the container's namespaces and groups", async () => {
  const id = await lab.start(usualConfig(...SLEEPER));
  const file = path.join(lab.folder, "process.json");
  const given = { args: [...SLEEPER], cwd: "/", user: { uid: 5, gid: 6 }, env: ["PATH=/bin"] };
  await fs.writeFile(file, JSON.stringify(given));
  const pidFile = path.join(lab.folder, "exec-pid");
  await lab.ok("exec", "--process", file, "--detach", "--pid-file", pidFile, id);
  const pid = Number(readFileSync(pidFile, "utf8"));
  const { pid: first } = await lab.state(id);
  for (const kind of ["mnt", "pid", "net", "ipc", "uts"]) {
    assert.equal(
      await fs.readlink(`/proc/${pid}/ns/${kind}`),
      await fs.readlink(`/proc/${first}/ns/${kind}`),
    );
  }
  assert.equal(readFileSync(`/proc/${pid}/cgroup`, "utf8"), readFileSync(`/proc/${first}/cgroup`, "utf8"));
  assert.match(readFileSync(`/proc/${pid}/status`, "utf8"), /^Uid:\t5\t5\t5\t5\nGid:\t6/m);
  const listed = JSON.parse(await lab.ok("ps", "-f", "json", id)) as number[];
  assert.deepEqual(new Set(listed), new Set([first, pid]));
  assert.match(await lab.ok("ps", id), /PID[\s\S]*sleep 1000[\s\S]*sleep 1000/);
  await lab.remove(id);
});

test("pause and resume; exec waits for neither", async () => {
  const id = await lab.start(usualConfig(...SLEEPER));
  await lab.refused(/not paused/, "resume", id);
  await lab.ok("pause", id);
  assert.equal((await lab.state(id)).status, "paused");
  await lab.refused(/paused container/, "exec", id, "true");
  await lab.ok("resume", id);
  assert.equal((await lab.state(id)).status, "running");
  await lab.ok("exec", id, "true");
  await lab.ok("pause", id);
  // A frozen one is killed all the same.
  await lab.ok("delete", "--force", id);
});

test("update by flags, by file and by standard input", async () => {
  const config = usualConfig(...SLEEPER);
  resourcesOf(config)["memory"] = { limit: 33_554_432, swap: 67_108_864 };
  const id = await lab.start(config);
  const { pid } = await lab.state(id);
  await lab.ok(
    "update",
    "--memory",
    "128M",
    "--memory-swap",
    "256M",
    "--pids-limit",
    "20",
    "--cpu-share",
    "500",
    id,
  );
  assert.equal(await groupFile(pid, "memory", "memory.limit_in_bytes"), String(128 << 20));
  assert.equal(await groupFile(pid, "pids", "pids.max"), "20");
  assert.equal(await groupFile(pid, "cpu", "cpu.shares"), "500");
  const file = path.join(lab.folder, "resources.json");
  await fs.writeFile(
    file,
    JSON.stringify({ memory: { limit: 64 << 20, swap: 64 << 20 }, cpu: { quota: 50_000, period: 100_000 } }),
  );
  await lab.ok("update", "--resources", file, id);
  assert.equal(await groupFile(pid, "memory", "memory.limit_in_bytes"), String(64 << 20));
  assert.equal(await groupFile(pid, "cpu", "cpu.cfs_quota_us"), "50000");
  const child = lab.spawn(["update", "-r", "-", id], ["pipe", "inherit", "inherit"]);
  child.stdin?.end('{"pids":{"limit":-1}}');
  assert.equal(await exitOf(child), 0);
  assert.equal(await groupFile(pid, "pids", "pids.max"), "max");
  await lab.refused(/want numbers|want a size/, "update", "--memory", "lots", id);
  await lab.remove(id);
});

test("events --stats prints usage, events prints it again and again until the end", async () => {
  const id = await lab.start(usualConfig(...SLEEPER));
  const once = JSON.parse(await lab.ok("events", "--stats", id)) as {
    type: string;
    id: string;
    data: Record<string, Record<string, unknown>>;
  };
  assert.deepEqual([once.type, once.id, once.data["pids"]?.["current"]], ["stats", id, 1]);
  assert.ok(JSON.stringify(once.data["memory"]?.["usage"]).includes('"usage":'));
  const child = lab.spawn(["events", "--interval", "20ms", id], ["ignore", "pipe", "inherit"]);
  const ended = exitOf(child);
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  await until("two lines came", WAIT, () => Promise.resolve(text.split("\n").length >= 3));
  await lab.remove(id);
  assert.equal(await ended, 0);
  assert.ok(
    text
      .trim()
      .split("\n")
      .every((line) => (JSON.parse(line) as { type: string }).type === "stats"),
  );
  await lab.refused(
    /duration interval/,
    "events",
    "--interval",
    "soon",
    await lab.start(usualConfig(...SLEEPER)),
  );
});

test("events tells of a want of memory", async () => {
  const config = usualConfig("sh", "-c", "sleep 1000");
  resourcesOf(config)["memory"] = { limit: 16 << 20, swap: 16 << 20 };
  const id = await lab.start(config);
  const child = lab.spawn(["events", "--interval", "60s", id], ["ignore", "pipe", "inherit"]);
  const ended = exitOf(child);
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  for (let round = 0; round < 200 && !text.includes('"oom"'); round++)
    await lab.verb("exec", id, "sh", "-c", "tail /dev/zero");
  assert.match(text, new RegExp(`{"type":"oom","id":"${id}"}`));
  await lab.remove(id);
  assert.equal(await ended, 0);
});

test("list as table, as JSON and quietly", async () => {
  const id = await lab.start(usualConfig(...SLEEPER));
  const states = JSON.parse(await lab.ok("list", "--format", "json")) as { id: string; status: string }[];
  assert.equal(states.find((each) => each.id === id)?.status, "running");
  assert.match(
    await lab.ok("list"),
    new RegExp(`^ID +PID +STATUS +BUNDLE +CREATED +OWNER\\n[\\s\\S]*${id} +\\d+ +running`),
  );
  assert.ok((await lab.ok("list", "-q")).split("\n").includes(id));
  await lab.remove(id);
});

test("spec writes a config that runs, with and without root's rights, and never over another", async () => {
  const bundle = await fs.mkdtemp(path.join(lab.folder, "spec-"));
  await lab.ok("spec", "--bundle", bundle);
  const config = JSON.parse(readFileSync(path.join(bundle, "config.json"), "utf8")) as ReturnType<
    typeof usualConfig
  >;
  config.process["terminal"] = false;
  config.process["args"] = ["echo", "hello"];
  assert.equal((await lab.run(config)).stdout, "hello\n");
  await lab.refused(/exists. Remove it first/, "spec", "--bundle", bundle);
  await fs.rm(path.join(bundle, "config.json"));
  await lab.ok("spec", "--rootless", "--bundle", bundle);
  const rootless = JSON.parse(readFileSync(path.join(bundle, "config.json"), "utf8")) as ReturnType<
    typeof usualConfig
  >;
  assert.deepEqual(rootless.linux["uidMappings"], [{ containerID: 0, hostID: 0, size: 1 }]);
});

test("features is JSON that names every hook and namespace", async () => {
  const features = JSON.parse(await lab.ok("features")) as {
    hooks: string[];
    linux: { namespaces: string[]; capabilities: string[] };
  };
  assert.equal(features.hooks.length, 6);
  assert.equal(features.linux.namespaces.length, 8);
  assert.equal(features.linux.capabilities.length, 41);
});

test("--log and --log-format: errors go to the log in the form that engines parse", async () => {
  const log = path.join(lab.folder, "log.json");
  const { status } = await lab.verb("--log", log, "--log-format", "json", "start", "nosuch");
  assert.equal(status, 1);
  const line = JSON.parse(readFileSync(log, "utf8")) as { level: string; msg: string; time: string };
  assert.equal(line.level, "error");
  assert.match(line.msg, /container "nosuch" does not exist/);
  assert.ok(!Number.isNaN(Date.parse(line.time)));
});

test("bad ids, flags and verbs are refused by name", async () => {
  const bundle = await lab.bundle(usualConfig("true"));
  for (const id of ["", ".hidden", "..", "a/b", "a b", "ä"])
    await lab.refused(/invalid container id format/, "create", "--bundle", bundle, id);
  await lab.refused(/not defined: --nosuch/, "create", "--nosuch", "x");
  await lab.refused(/unknown command frob/, "frob");
  await lab.refused(/checkpoint is not supported/, "checkpoint", "x");
  await lab.refused(/config.json not found/, "create", "--bundle", lab.folder, lab.id());
});

/** Listens for the terminal's descriptor; what arrives can't be taken in JavaScript, so it is only counted. */
async function consoleSocket(
  file: string,
): Promise<{ readonly connected: Promise<void>; close: () => void }> {
  const server = net.createServer();
  const connected = new Promise<void>((resolve) =>
    server.once("connection", (socket) => {
      socket.once("data", () => resolve());
    }),
  );
  await new Promise<void>((resolve) => server.listen(file, resolve));
  return { connected, close: () => server.close() };
}

test("a terminal goes over the console socket, and is asked for in time", async () => {
  const config = usualConfig(...SLEEPER);
  config.process["terminal"] = true;
  const bundle = await lab.bundle(config);
  await lab.refused(/without setting console socket/, "create", "--bundle", bundle, lab.id());
  const file = path.join(lab.folder, "console.sock");
  const socket = await consoleSocket(file);
  const id = lab.id();
  await lab.ok("create", "--console-socket", file, "--bundle", bundle, id);
  await socket.connected;
  socket.close();
  await lab.verb("kill", id, "KILL");
  await lab.until(id, "stopped");
  await lab.ok("delete", id);
});
