/** The daemon of an ordinary user: a real account, real namespaces, slirp4netns; asked by the unmodified API. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { ask, request } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { packageRoot } from "../../common/package-root.ts";
import { freePort } from "../../common/testing/free-port.ts";
import { until, WAIT_MS } from "./support/wait.ts";

/** Of this run: one that was killed leaves its user. */
const USER = `shoal-rootless-${process.pid}-${randomBytes(3).toString("hex")}`;

function statusIds(pid: number): readonly string[] {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  return ["Uid", "Gid"].map((name) => new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? "");
}

describe("a daemon without root", () => {
  let root = "";
  let socketPath = "";
  let uid = 0;
  let firstSubordinate = 0;
  let daemon: ChildProcess | undefined;
  let words = "";
  /** Of the host's own network, where others listen too. */
  let port = 0;

  function startDaemon(environment: Readonly<Record<string, string>> = {}): ChildProcess {
    const installed = path.join(root, "shoal");
    const shoal = path.join(installed, "bin", "shoal");
    const own = { HOME: root, XDG_RUNTIME_DIR: path.join(root, "xdg"), ...environment };
    const variables = Object.entries(own).map(([key, value]) => `${key}=${value}`);
    // Machines whose /dev/net/tun is root's alone: every distribution opens it, so in a mount namespace the test does. The
    // tree may lie where only root comes.
    const node = path.join(root, "tun");
    const open = [
      `[ -e ${node} ] || mknod -m 666 ${node} c 10 200`,
      `mount --bind ${node} /dev/net/tun`,
      `mkdir -p ${installed}`,
      `mount --bind ${packageRoot(import.meta.dirname)} ${installed}`,
      'exec "$@"',
    ].join(" && ");
    const asUser = ["runuser", "-u", USER, "--", "env", ...variables, shoal, "daemon"];
    const child = spawn("unshare", ["--mount", "sh", "-c", open, "sh", ...asUser], {
      stdio: ["ignore", "ignore", "pipe"],
      cwd: "/",
    });
    child.stderr.on("data", (chunk: Buffer) => (words += chunk.toString()));
    return child;
  }

  async function answers(): Promise<void> {
    await until(`the daemon answers; it says: ${words}`, WAIT_MS, async () => {
      if (daemon?.exitCode !== null || daemon.signalCode !== null) throw new Error(words);
      return (await request(socketPath, "GET", "/_ping")).status === 200;
    });
  }

  async function stopDaemon(): Promise<void> {
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
    const ended = new Promise((resolve) => daemon?.once("exit", resolve));
    // runuser passes it on.
    daemon.kill("SIGTERM");
    await ended;
  }

  before(async () => {
    root = mkdtempSync(path.join(tmpdir(), "shoal-rootless-"));
    port = await freePort();
    execFileSync("useradd", [
      "--user-group",
      "--no-create-home",
      "--home-dir",
      root,
      "--shell",
      "/bin/sh",
      USER,
    ]);
    uid = Number(execFileSync("id", ["-u", USER], { encoding: "utf8" }));
    const gid = Number(execFileSync("id", ["-g", USER], { encoding: "utf8" }));
    firstSubordinate = Number(
      new RegExp(`^${USER}:(\\d+):`, "m").exec(readFileSync("/etc/subuid", "utf8"))?.[1],
    );
    mkdirSync(path.join(root, "xdg"));
    for (const folder of [root, path.join(root, "xdg")]) chownSync(folder, uid, gid);
    socketPath = path.join(root, "xdg/shoal/shoal.sock");
    daemon = startDaemon();
    await answers();
    await ask(socketPath, "POST", "/images/create?fromSrc=-&repo=box&tag=1", busyboxTar());
  });

  after(async () => {
    if (socketPath !== "") {
      const all = (await ask(socketPath, "GET", "/containers/json?all=1").catch(() => [])) as {
        readonly Id: string;
      }[];
      for (const { Id } of all) await request(socketPath, "DELETE", `/containers/${Id}?force=1&v=1`);
    }
    await stopDaemon();
    const ofUser = (): readonly string[] => {
      try {
        return execFileSync("pgrep", ["-u", USER], { encoding: "utf8" }).trim().split("\n");
      } catch {
        return [];
      }
    };
    await until("nothing of the user's runs", WAIT_MS, () => ofUser().length === 0);
    execFileSync("userdel", [USER]);
    rmSync(root, { recursive: true, force: true });
  });

  async function create(name: string, config: object): Promise<string> {
    const path_ = `/containers/create?name=${name}`;
    return ((await ask(socketPath, "POST", path_, { Image: "box:1", ...config })) as { readonly Id: string })
      .Id;
  }

  async function pidOf(name: string): Promise<number> {
    const found = (await ask(socketPath, "GET", `/containers/${name}/json`)) as {
      readonly State: { readonly Pid: number };
    };
    return found.State.Pid;
  }

  test("root inside is the user outside, other users are subordinate ids", async () => {
    await create("ids", { Cmd: ["sh", "-c", "cat /proc/self/uid_map; sleep 100"] });
    await ask(socketPath, "POST", "/containers/ids/start");
    assert.equal(statusIds(await pidOf("ids"))[0], String(uid));
    await create("other", { Cmd: ["sleep", "100"], User: "1000:1000" });
    await ask(socketPath, "POST", "/containers/other/start");
    assert.equal(statusIds(await pidOf("other"))[0], String(firstSubordinate + 999));
    const exec = (await ask(socketPath, "POST", "/containers/ids/exec", {
      Cmd: ["sh", "-c", "test -w / && touch /made && ls -ln /made | sed 's/ root.*//'"],
      AttachStdout: true,
    })) as { readonly Id: string };
    await ask(socketPath, "POST", `/exec/${exec.Id}/start`, { Detach: true });
    const info = (await ask(socketPath, "GET", "/info")) as { readonly SecurityOptions: readonly string[] };
    assert.ok(info.SecurityOptions.includes("name=rootless"));
  });

  test("a published port is reached from the host, and the host's network from inside", async () => {
    await create("web", {
      Cmd: ["sh", "-c", "mkdir /www; echo hello > /www/index.html; exec busybox httpd -f -p 80 -h /www"],
      HostConfig: { PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: String(port) }] } },
    });
    await ask(socketPath, "POST", "/containers/web/start");
    const get = (): Promise<string> =>
      new Promise((resolve, reject) => {
        http
          .get(`http://127.0.0.1:${port}/`, (response) => {
            let text = "";
            response.on("data", (chunk: Buffer) => (text += chunk.toString()));
            response.on("end", () => resolve(text));
          })
          .on("error", reject);
      });
    assert.equal(await until("the page", WAIT_MS, get), "hello\n");
    const low = await create("low", {
      Cmd: ["true"],
      HostConfig: { PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "83" }] } },
    });
    const refused = await request(socketPath, "POST", `/containers/${low}/start`);
    assert.match(JSON.stringify(refused.body), /cannot expose privileged port 83/);
  });

  test("limits that nobody delegated are discarded with a warning", async () => {
    const made = (await ask(socketPath, "POST", "/containers/create", {
      Image: "box:1",
      Cmd: ["true"],
      HostConfig: { Memory: 64 * 1024 ** 2, NanoCpus: 5e8, PidsLimit: 50 },
    })) as { readonly Id: string; readonly Warnings: readonly string[] };
    assert.match(made.Warnings.join("\n"), /memory limit capabilities[\s\S]*PIDs limit[\s\S]*CPU CFS quota/);
    await ask(socketPath, "POST", `/containers/${made.Id}/start`);
    const ended = (await ask(socketPath, "POST", `/containers/${made.Id}/wait`)) as {
      readonly StatusCode: number;
    };
    assert.equal(ended.StatusCode, 0);
  });

  test("CVE-2023-25809: the cgroups of the host can't be written", async () => {
    await create("groups", { Cmd: ["sh", "-c", "mkdir /sys/fs/cgroup/x || echo refused"] });
    await ask(socketPath, "POST", "/containers/groups/start");
    await ask(socketPath, "POST", "/containers/groups/wait");
    const logs = (await request(socketPath, "GET", "/containers/groups/logs?stdout=1")).body;
    assert.match(String(logs), /refused/);
  });

  test("containers and their ports outlive the daemon; the next one finds them", async () => {
    const before_ = await pidOf("web");
    await stopDaemon();
    assert.deepEqual(statusIds(before_)[0], String(uid));
    daemon = startDaemon();
    await answers();
    assert.equal(await pidOf("web"), before_);
    await ask(socketPath, "DELETE", "/containers/web?force=1");
    await create("again", {
      Cmd: ["sleep", "100"],
      HostConfig: { PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: String(port) }] } },
    });
    await ask(socketPath, "POST", "/containers/again/start");
  });
});
