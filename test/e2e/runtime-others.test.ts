/**
 * Containers of other OCI runtimes from the same bundle: logs, terminal, exit and removal stay ours, making and joining
 * is theirs. Our own command line under another name is always there to be such a runtime; runc joins where it is
 * installed.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const NATIVE = ["../../runtime/native/build/shoal-runtime", "../../../runtime/native/build/shoal-runtime"]
  .map((each) => path.resolve(import.meta.dirname, each))
  .find((each) => existsSync(each));
const HAS_RUNC = spawnSync("runc", ["--version"]).status === 0;

/** Names a runtime whose verbs are written to a file before they are done. */
async function recorded(root: string, program: string, args: readonly string[]): Promise<string> {
  const script = path.join(root, `recorder-${path.basename(program)}`);
  const log = `${script}.log`;
  await fs.writeFile(script, `#!/bin/sh\necho "$@" >> ${log}\nexec ${[program, ...args].join(" ")} "$@"\n`, {
    mode: 0o755,
  });
  return script;
}

for (const name of ["other", "runc"]) {
  describe(
    `--runtime ${name}`,
    { skip: name === "runc" && !HAS_RUNC ? "runc is not installed" : false },
    () => {
      let lab: RuntimeLab;
      let folder: string;
      let script: string;
      const host = { Runtime: name };
      before(async () => {
        folder = await fs.mkdtemp(path.join(tmpdir(), "shoal-runtimes-"));
        script =
          name === "runc"
            ? await recorded(folder, "runc", [])
            : await recorded(folder, NATIVE ?? "", ["oci"]);
        lab = await RuntimeLab.open({ runtimes: { [name]: { path: script } } });
      });
      after(async () => {
        await lab.close();
        await fs.rm(folder, { recursive: true, force: true });
      });
      const verbs = (): string => readFileSync(`${script}.log`, "utf8");

      test("output, exit code, user and environment, and nothing is left", async () => {
        const run = await lab.run(
          ["sh", "-c", "id -u; id -G; pwd; echo $HOME $A; echo err >&2; exit 3"],
          { ...host, GroupAdd: ["extra"] },
          { config: { User: "web", WorkingDir: "/data", Env: ["A=b"] } },
        );
        assert.deepEqual(
          [run.exitCode, run.stdout, run.stderr],
          [3, "1000\n1000 2000\n/data\n/home/web b\n", "err\n"],
        );
        assert.match(verbs(), /create --bundle[\s\S]*start [\s\S]*delete --force/);
        assert.deepEqual(
          readdirSync(path.join(lab.root, "run/r", name)).filter((each) => each.length === 64),
          [],
        );
        assert.equal(lab.engine.containers.summary(run.id).state.status, "exited");
      });

      test("limits, rights, filter, masks, mounts and secrets are those of our own", async () => {
        const source = path.join(lab.root, "shared");
        await fs.mkdir(source, { recursive: true });
        await fs.writeFile(path.join(source, "file"), "bound\n");
        const look =
          "grep -E 'Cap(Eff|Bnd)|Seccomp:|NoNew' /proc/self/status; cat /shared/file /run/secrets/one; touch /shared/x 2>&1 || true; " +
          "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; ulimit -n; hostname; " +
          "wc -c < /proc/keys; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; stat -c %a:%u /run/secrets/one; df -m /small | tail -1 | tr -s ' ' | cut -d' ' -f2";
        const hostConfig = {
          Memory: 64 * 1024 * 1024,
          Binds: [`${source}:/shared:ro`],
          Tmpfs: { "/small": "size=3m" },
          Ulimits: [{ Name: "nofile", Soft: 100, Hard: 200 }],
          SecurityOpt: ["no-new-privileges"],
          CapAdd: ["NET_ADMIN"],
        };
        const task = {
          files: [
            {
              path: "/run/secrets/one",
              mode: 0o400,
              uid: 7,
              gid: 0,
              data: Buffer.from("hidden\n"),
              isSecret: true,
            },
          ],
        };
        const config = { Hostname: "named" };
        const theirs = await lab.run(["sh", "-c", look], { ...hostConfig, ...host }, { config, task });
        const ours = await lab.run(["sh", "-c", look], hostConfig, { config, task });
        assert.equal(theirs.exitCode, 0, theirs.stderr);
        assert.equal(theirs.stdout, ours.stdout);
        assert.match(ours.stdout, /bound\nhidden/);
      });

      test("exec: output, code, user and terminal", async () => {
        const id = await lab.create(["sleep", "100"], host);
        await lab.engine.containers.start(id);
        for (let round = 0; round < 5; round++)
          assert.deepEqual(await lab.exec(id, ["true"]), { exitCode: 0, output: "" });
        const result = await lab.exec(id, ["sh", "-c", "id -u; echo words; exit 4"]);
        assert.deepEqual(result, { exitCode: 4, output: "0\nwords\n" });
        assert.match(verbs(), /exec --process exec-\w+\.json/);
        await lab.engine.containers.remove(id, { force: true, volumes: false, link: false });
      });

      test("pause, unpause, update, stats, kill and restart", async () => {
        const { containers } = lab.engine;
        const id = await lab.create(["sleep", "100"], { ...host, Memory: 64 << 20 });
        await containers.start(id);
        await containers.pause(id);
        assert.equal(containers.summary(id).state.status, "paused");
        await containers.unpause(id);
        await containers.update(id, { Memory: 128 << 20, MemorySwap: -1 });
        assert.match(verbs(), /pause [\s\S]*resume [\s\S]*update --resources/);
        await containers.restart(id, { signal: "KILL" });
        assert.equal(containers.summary(id).state.status, "running");
        await containers.kill(id, "KILL");
        await containers.wait(id, "not-running", {});
        assert.equal(containers.summary(id).state.exitCode, 137);
      });

      test("a program that is not there: 127 and the runtime's words", async () => {
        const id = await lab.create(["nosuch"], host);
        await assert.rejects(lab.engine.containers.start(id), /executable file not found in \$PATH/);
        assert.equal(lab.engine.containers.summary(id).state.exitCode, 127);
        const again = await lab.create(["true"], host);
        await lab.engine.containers.start(again);
      });

      test("the daemon comes back to a container that ran on, and to one that ended", async () => {
        const { containers } = lab.engine;
        const running = await lab.create(["sleep", "100"], host);
        const ended = await lab.create(["sh", "-c", "sleep 0.3; exit 6"], host);
        await containers.start(running);
        await containers.start(ended);
        await lab.restart(async () => {
          const file = path.join(lab.root, "run/c", ended, "exit");
          await until("the one has ended", WAIT_MS, () => existsSync(file));
        });
        assert.equal(lab.engine.containers.summary(running).state.status, "running");
        const { status, exitCode } = lab.engine.containers.summary(ended).state;
        assert.deepEqual([status, exitCode], ["exited", 6]);
        await lab.engine.containers.remove(running, { force: true, volumes: false, link: false });
      });

      test("info lists it, and unknown names are refused", async () => {
        const info = await lab.engine.info();
        assert.ok(Object.hasOwn(info["Runtimes"] as object, name));
        assert.equal(info["DefaultRuntime"], "shoal");
        await assert.rejects(
          lab.create(["true"], { Runtime: "nosuch" }),
          /unknown or invalid runtime name: nosuch/,
        );
      });
    },
  );
}
