/** Real containers on the native program: what they see, how they end, what is left of them, and what they can't reach. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { hasCode } from "../../common/errors.ts";
import { compressRotated } from "../../runtime/containers/log-compression.ts";
import { parseHierarchies } from "../../runtime/containers/cgroups.ts";
import { monitorSocket } from "../../runtime/containers/spec.ts";
import type { AttachedNetworks, AttachStreams } from "../../model/engine.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { until, WAIT_MS } from "./support/wait.ts";

const KILOBYTE = 1024;

async function text(stream: AsyncIterable<{ readonly data: Uint8Array }>): Promise<string> {
  let all = "";
  for await (const chunk of stream) all += Buffer.from(chunk.data).toString();
  return all;
}

function rejects(promise: Promise<unknown>, pattern: RegExp): Promise<void> {
  return assert.rejects(promise, (error: Error) => {
    assert.match(error.message, pattern);
    return true;
  });
}

/** "" of a process that is gone. */
function fieldOf(pid: string, name: "comm" | "stat" | "wchan"): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8").trim();
  } catch {
    return "";
  }
}

function readCommand(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    // Gone meanwhile.
    return "";
  }
}

describe("containers", () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  test("run: output, streams and exit code", async () => {
    const run = await lab.run(["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert.deepEqual([run.exitCode, run.stdout, run.stderr], [3, "out\n", "err\n"]);
  });

  test("start: 127 and 126 with runc's words", async () => {
    for (const [command, code, words] of [
      [
        "nosuch",
        127,
        /error during container init: exec: "nosuch": executable file not found in \$PATH: unknown$/,
      ],
      ["/etc/nosuch", 127, /stat \/etc\/nosuch: no such file or directory/],
      ["/etc/passwd", 126, /exec: "\/etc\/passwd": permission denied/],
      ["/etc", 126, /exec: "\/etc": is a directory: permission denied/],
    ] as const) {
      const id = await lab.create([command]);
      await rejects(lab.engine.containers.start(id), words);
      const { exitCode, status } = lab.engine.containers.summary(id).state;
      assert.deepEqual([exitCode, status], [code, "created"]);
    }
  });

  test("a start that fails in the container's own folder ends, and says why", async () => {
    const id = await lab.create(["pwd"], {}, { config: { WorkingDir: "/etc/passwd" } });
    await rejects(lab.engine.containers.start(id), /^Cannot mkdir: \/etc\/passwd is not a directory$/);
    assert.equal(lab.engine.containers.summary(id).state.status, "created");
  });

  test("privileged means every capability of the daemon, and not one that it lacks", async () => {
    const run = await lab.run(["grep", "CapEff", "/proc/self/status"], { Privileged: true });
    const own = /^CapBnd:\s+(\w+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
    assert.equal(run.stdout, `CapEff:\t${own}\n`);
  });

  test("a bind source that has gone is not mistaken for a missing command", async () => {
    const source = path.join(lab.root, "gone");
    await fs.mkdir(source);
    const id = await lab.create(["true"], { Binds: [`${source}:/x`] });
    await fs.rmdir(source);
    await rejects(lab.engine.containers.start(id), /bind source path does not exist/);
  });

  test("isolation: default capabilities, filter, masks and a mount table of its own", async () => {
    const script =
      "grep -E 'CapEff|Seccomp:' /proc/self/status; cat /proc/keys | wc -c; echo x > /proc/sys/kernel/core_pattern; mount -t tmpfs x /tmp; ls /proc/acpi | wc -l; hostname; ps | wc -l";
    const run = await lab.run(["sh", "-c", script]);
    assert.match(run.stdout, /CapEff:\s+00000000a80425fb\nSeccomp:\s+2\n0\n/);
    assert.match(run.stderr, /core_pattern: Read-only file system/);
    assert.match(run.stderr, /mount: (permission denied|mounting)/);
    assert.match(run.stdout, new RegExp(`\n${run.id.slice(0, 12)}\n`));
    assert.ok(
      !readFileSync("/proc/self/mountinfo", "utf8").includes(lab.root),
      "nothing shows in the host's mounts",
    );
  });

  test("users: by name with their groups, and unknown ones refused", async () => {
    const run = await lab.run(["id"], { GroupAdd: ["777"] }, { config: { User: "web" } });
    assert.match(run.stdout, /uid=1000\(web\) gid=1000\(web\) groups=777,1000\(web\),2000\(extra\)/);
    const id = await lab.create(["id"], {}, { config: { User: "12x" } });
    await rejects(
      lab.engine.containers.start(id),
      /^unable to find user 12x: no matching entries in passwd file$/,
    );
    const beyond = await lab.create(["id"], {}, { config: { User: "99999999999" } });
    await rejects(lab.engine.containers.start(beyond), /^uids and gids must be in range 0-2147483647$/);
  });

  test("stdin: attached before the start, closed once, every byte arrives", async () => {
    const id = await lab.create(
      ["md5sum"],
      {},
      { config: { OpenStdin: true, StdinOnce: true, AttachStdin: true } },
    );
    const streams = await lab.engine.containers.attach(id, {
      stdin: true,
      stdout: true,
      stderr: true,
      logs: false,
      stream: true,
    });
    await lab.engine.containers.start(id);
    const block = Buffer.alloc(64 * KILOBYTE, "a");
    for (let i = 0; i < 32; i++) streams.stdin?.write(block);
    streams.stdin?.end();
    const { createHash } = await import("node:crypto");
    const expected = createHash("md5")
      .update(Buffer.alloc(32 * 64 * KILOBYTE, "a"))
      .digest("hex");
    assert.equal(await text(streams.output), `${expected}  -\n`);
  });

  describe("a client that goes away while nobody reads the output", () => {
    const flood = Buffer.alloc(4 * KILOBYTE * KILOBYTE, "y\n");
    const all = { stdin: true, stdout: true, stderr: true, logs: false, stream: true };

    /** More than all buffers on the way hold: the program waits for its reader, and the writer for the program. */
    async function leaveStuck(streams: AttachStreams | undefined): Promise<void> {
      assert.ok(streams?.stdin !== undefined);
      streams.stdin.write(flood);
      for await (const { data } of streams.output) if (data.byteLength > 0) break;
      streams.close();
    }

    test("ends the stdin of a container that has it once, so that cat ends", async () => {
      const id = await lab.create(
        ["cat"],
        {},
        { config: { OpenStdin: true, StdinOnce: true, AttachStdin: true } },
      );
      const streams = await lab.engine.containers.attach(id, all);
      await lab.engine.containers.start(id);
      await leaveStuck(streams);
      await until("end of cat", WAIT_MS, () => !lab.engine.containers.summary(id).state.isRunning);
      assert.equal(lab.engine.containers.summary(id).state.exitCode, 0);
    });

    test("ends the stdin of an exec", async () => {
      const id = await lab.create(["sleep", "100"]);
      await lab.engine.containers.start(id);
      const { containers } = lab.engine;
      const config = { Cmd: ["cat"], AttachStdin: true, AttachStdout: true, AttachStderr: true };
      const { Id } = await containers.createExec(id, config);
      await leaveStuck(await containers.startExec(Id, { detach: false, tty: false }));
      const ended = await until("end of cat", WAIT_MS, async () => {
        const exec = await containers.inspectExec(Id);
        return exec["Running"] === false && exec;
      });
      assert.equal(ended["ExitCode"], 0);
    });

    test("leaves the stdin of others open for the next client", async () => {
      const id = await lab.create(["cat"], {}, { config: { OpenStdin: true } });
      await lab.engine.containers.start(id);
      await leaveStuck(await lab.engine.containers.attach(id, all));
      const next = await lab.engine.containers.attach(id, all);
      next.stdin?.write("next\n");
      let output = "";
      for await (const { data } of next.output) {
        output += Buffer.from(data).toString();
        if (output.includes("next\n")) break;
      }
      assert.equal(lab.engine.containers.summary(id).state.isRunning, true);
      next.close();
    });
  });

  test("a client that does not read holds a container's end back from nobody, and gets all that was said", async () => {
    const { containers } = lab.engine;
    const id = await lab.create(["yes", "x".repeat(KILOBYTE)]);
    const deaf = await containers.attach(id, {
      stdin: false,
      stdout: true,
      stderr: true,
      logs: false,
      stream: true,
    });
    await containers.start(id);
    const { pid } = containers.summary(id).state;
    const { LogPath: file } = await containers.inspect(id, { size: false });
    assert.ok(typeof file === "string");
    let seenBytes = -1;
    await until("the program waits for its reader, and the log for the program", WAIT_MS, () => {
      const isSame = statSync(file).size === seenBytes;
      seenBytes = statSync(file).size;
      return isSame && readFileSync(`/proc/${pid}/wchan`, "utf8").includes("pipe_write");
    });
    await containers.stop(id, { timeoutSeconds: 0 });
    assert.equal(containers.summary(id).state.exitCode, 137);
    let heardBytes = 0;
    for await (const { data } of deaf.output) heardBytes += data.byteLength;
    let loggedBytes = 0;
    const all = { follow: false, stdout: true, stderr: true };
    for await (const { data } of containers.logs(id, all, AbortSignal.timeout(WAIT_MS)))
      loggedBytes += data.byteLength;
    assert.ok(heardBytes > 64 * KILOBYTE);
    assert.equal(heardBytes, loggedBytes);
  });

  test("terminal: size, echo and detach keys", async () => {
    const id = await lab.create(
      ["sh", "-c", "stty size; read x; echo got-$x"],
      { ConsoleSize: [30, 100] },
      { config: { Tty: true, OpenStdin: true } },
    );
    const streams = await lab.engine.containers.attach(id, {
      stdin: true,
      stdout: true,
      stderr: true,
      logs: false,
      stream: true,
    });
    await lab.engine.containers.start(id);
    streams.stdin?.write("abc\n");
    assert.match(await text(streams.output), /30 100\r\n[\s\S]*got-abc\r\n/);
    const other = await lab.create(["sh"], {}, { config: { Tty: true, OpenStdin: true } });
    await lab.engine.containers.start(other);
    const detached = await lab.engine.containers.attach(other, {
      stdin: true,
      stdout: true,
      stderr: true,
      logs: false,
      stream: true,
    });
    detached.stdin?.write(Buffer.from([16, 17]));
    await text(detached.output);
    assert.equal(lab.engine.containers.summary(other).state.isRunning, true);
  });

  test("exec: joins all namespaces, reports codes, 127 for a missing command", async () => {
    const id = await lab.create(["sleep", "100"], { Init: true });
    await lab.engine.containers.start(id);
    const ps = await lab.exec(id, ["ps"]);
    assert.match(ps.output, /1 root\s+\/sbin\/docker-init -- sleep 100/);
    assert.equal((await lab.exec(id, ["sh", "-c", "exit 9"])).exitCode, 9);
    assert.match((await lab.exec(id, ["cat", "/proc/self/cgroup"])).output, /:\/\n/);
    const missing = await lab.exec(id, ["nosuch"]);
    assert.match(
      missing.output,
      /^OCI runtime exec failed: .*exec: "nosuch": executable file not found.*\r\n$/,
    );
    assert.equal(missing.exitCode, 127);
    const nowhere = await lab.exec(id, ["pwd"], { WorkingDir: "/nosuch" });
    assert.match(nowhere.output, /chdir to cwd \("\/nosuch"\).*no such file or directory/);
    assert.equal(nowhere.exitCode, 127);
    const file = await lab.exec(id, ["pwd"], { WorkingDir: "/etc/passwd" });
    assert.match(file.output, /not a directory: unknown: Are you trying to mount a directory onto a file/);
    assert.equal(file.exitCode, 127);
    const relative = await lab.exec(id, ["pwd"], { WorkingDir: "tmp" });
    assert.match(relative.output, /exec failed: Cwd must be an absolute path: unknown\r\n$/);
    assert.equal(relative.exitCode, 128);
    assert.equal(await lab.engine.containers.stop(id, { timeoutSeconds: 60 }), true);
    assert.equal(lab.engine.containers.summary(id).state.exitCode, 143);
  });

  test("exec: a user that the container doesn't have is refused before there is an exec", async () => {
    const id = await lab.create(["sleep", "100"]);
    const { containers } = lab.engine;
    await containers.start(id);
    const made = (User: string): Promise<unknown> => containers.createExec(id, { Cmd: ["id"], User });
    await rejects(made("nosuch"), /^unable to find user nosuch: no matching entries in passwd file$/);
    await rejects(made("web:nosuch"), /^unable to find group nosuch: no matching entries in group file$/);
    await rejects(made("99999999999"), /^uids and gids must be in range 0-2147483647$/);
    // Made while it runs.
    await lab.exec(id, ["sh", "-c", "echo late:x:77:78::/:/bin/sh >> /etc/passwd"]);
    assert.match((await lab.exec(id, ["id"], { User: "late:web" })).output, /uid=77\(late\) gid=1000\(web\)/);
    assert.match((await lab.exec(id, ["id"], { User: "5:6" })).output, /uid=5 gid=6/);
    // A pipe in the file's place is not waited for.
    await lab.exec(id, ["sh", "-c", "rm /etc/passwd && mkfifo /etc/passwd"]);
    await rejects(made("late"), /^unable to find user late/);
    await containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("exec: users of a file that is mounted are found by the container itself", async () => {
    const source = path.join(lab.root, "accounts");
    await fs.writeFile(source, "guest:x:55:56::/:/bin/sh\n");
    const id = await lab.create(["sleep", "100"], { Binds: [`${source}:/etc/passwd`] });
    await lab.engine.containers.start(id);
    assert.match((await lab.exec(id, ["id"], { User: "guest" })).output, /uid=55\(guest\) gid=56/);
    const unknown = await lab.exec(id, ["id"], { User: "nosuch" });
    assert.match(unknown.output, /^unable to find user nosuch: no matching entries in passwd file\r\n$/);
    assert.equal(unknown.exitCode, 126);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("namespaces of a container that does not run, or keeps its memory to itself, are not joined", async () => {
    const { containers } = lab.engine;
    const other = await lab.create(["sleep", "100"]);
    const refused = async (key: "NetworkMode" | "PidMode" | "IpcMode", words: RegExp): Promise<void> => {
      const id = await lab.create(["true"], { [key]: `container:${other}` });
      await rejects(containers.start(id), words);
      await containers.remove(id, { force: true, volumes: true, link: false });
    };
    await refused(
      "NetworkMode",
      /^cannot join network namespace of a non running container: container \w+ is created$/,
    );
    await refused("PidMode", /^failed to join PID namespace: container [0-9a-f]{64} is not running$/);
    await refused("IpcMode", /^failed to join IPC namespace: container [0-9a-f]{64} is not running$/);
    await containers.start(other);
    await refused("IpcMode", /^failed to join IPC namespace: container [0-9a-f]{64}: non-shareable IPC/);
    await containers.remove(other, { force: true, volumes: true, link: false });
  });

  test("a folder over a file, and the other way round, is said as Docker says it", async () => {
    const folder = path.join(lab.root, "kind");
    await fs.mkdir(folder);
    const binds = [`${folder}:/etc/passwd`, "/etc/hostname:/etc"];
    for (const bind of binds) {
      const id = await lab.create(["true"], { Binds: [bind] });
      await rejects(
        lab.engine.containers.start(id),
        /error mounting "[^"]*" to rootfs at "[^"]*": not a directory: unknown: Are you trying to mount a directory/,
      );
      assert.equal(lab.engine.containers.summary(id).state.exitCode, 127);
    }
  });

  test("kill: refusals name what was asked for", async () => {
    const { containers } = lab.engine;
    const id = await lab.create(["sleep", "100"]);
    await rejects(containers.kill(id, "KILL"), /^cannot kill container: \w+: container \w+ is not running$/);
    await containers.start(id);
    await rejects(containers.kill(id, "FOO"), /^cannot kill container: \w+: invalid signal: FOO$/);
    await rejects(
      containers.kill("nosuch", ""),
      /^cannot kill container: nosuch: No such container: nosuch$/,
    );
    await containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("stop: SIGKILL after the time is up, 137 and not by memory", async () => {
    const id = await lab.create(["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"]);
    await lab.engine.containers.start(id);
    await lab.engine.containers.stop(id, { timeoutSeconds: 0 });
    const { exitCode, isOomKilled } = lab.engine.containers.summary(id).state;
    assert.deepEqual([exitCode, isOomKilled], [137, false]);
  });

  test("memory: over the limit ends with 137 and says so", async () => {
    const run = await lab.run(["sh", "-c", "x=a; while true; do x=$x$x; done"], {
      Memory: 8 * KILOBYTE * KILOBYTE,
    });
    assert.deepEqual([run.exitCode, run.isOomKilled], [137, true]);
  });

  test("pause: nothing runs until unpause", async () => {
    // A file, since what the container has said may be on its way to the log when it is paused.
    const folder = path.join(lab.root, "written");
    await fs.mkdir(folder);
    const file = path.join(folder, "file");
    const id = await lab.create(["sh", "-c", "while true; do echo x >> /written/file; sleep 0.02; done"], {
      Binds: [`${folder}:/written`],
    });
    await lab.engine.containers.start(id);
    await until("it writes", WAIT_MS, () => existsSync(file));
    await lab.engine.containers.pause(id);
    const before = statSync(file).size;
    await assert.rejects(lab.engine.containers.createExec(id, { Cmd: ["true"] }), (caught) =>
      hasCode(caught, "conflict"),
    );
    // As long as it would write ten times.
    await lab.run(["sleep", "0.2"]);
    assert.equal(statSync(file).size, before);
    await lab.engine.containers.unpause(id);
    await until("it goes on", WAIT_MS, () => statSync(file).size > before);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("volumes: seeded from the image once, tmpfs, read-only root, secrets in memory", async () => {
    const task = {
      files: [
        {
          path: "/run/secrets/word",
          data: Buffer.from("sesame"),
          uid: 1000,
          gid: 1000,
          mode: 0o400,
          isSecret: true,
        },
      ],
    };
    const script =
      "cat /data/seed; cat /run/secrets/word; ls -ln /run/secrets/word; touch /x; touch /t/x && echo tmpfs; mount | grep secrets";
    const run = await lab.run(
      ["sh", "-c", script],
      { Binds: ["shared:/data"], ReadonlyRootfs: true, Tmpfs: { "/t": "size=1m" } },
      { task },
    );
    assert.match(run.stdout, /^seed\nsesame-r--------\s+1 1000\s+1000\s+6 /);
    assert.match(run.stdout, /tmpfs\n.*tmpfs on \/run\/secrets\/word type tmpfs \(ro/s);
    assert.match(run.stderr, /\/x: Read-only file system/);
    await lab.engine.containers.remove(run.id, { force: true, volumes: true, link: false });
    const { Mountpoint: mountpoint } = await lab.engine.volumes.inspect("shared");
    assert.ok(typeof mountpoint === "string");
    assert.equal(await fs.readFile(path.join(mountpoint, "seed"), "utf8"), "seed\n");
  });

  test("log: tail, since, long lines in pieces, rotation loses nothing to a follower", async () => {
    const run = await lab.run(["sh", "-c", "seq 1 20; head -c 20000 /dev/zero | tr '\\0' x; echo"]);
    const lines: string[] = [];
    const options = { follow: false, stdout: true, stderr: true, tail: 3 };
    for await (const line of lab.engine.containers.logs(run.id, options, AbortSignal.timeout(WAIT_MS)))
      lines.push(Buffer.from(line.data).toString());
    assert.deepEqual([lines[0], lines[1]?.length, lines[2]?.length], ["20\n", 16384, 20000 - 16384 + 1]);
    const id = await lab.create(["sh", "-c", "seq 1 5000"], {
      LogConfig: { Type: "json-file", Config: { "max-size": "20k", "max-file": "100" } },
    });
    await lab.engine.containers.start(id);
    const all = (await lab.output(id)).stdout.trim().split("\n");
    assert.equal(all.length, 5000);
    assert.equal(all.at(-1), "5000");
    assert.ok(existsSync(path.join(lab.root, "data/containers", id, `${id}-json.log.1`)));
  });

  test("log compress=true: rotated files are small, and no reader loses or repeats a line", async () => {
    const id = await lab.create(["sh", "-c", "i=0; while [ $i -lt 6000 ]; do echo $i; i=$((i+1)); done"], {
      LogConfig: { Type: "json-file", Config: { "max-size": "20k", "max-file": "200", compress: "true" } },
    });
    await lab.engine.containers.start(id);
    const live = path.join(lab.root, "data/containers", id, `${id}-json.log`);
    const following = lab.output(id);
    // Twice at a time, as the engine's own round may come in between.
    while (lab.engine.containers.summary(id).state.isRunning)
      await Promise.all([compressRotated(live), compressRotated(live)]);
    const wanted = Array.from({ length: 6000 }, (_, index) => String(index));
    const followed = (await following).stdout.trim().split("\n").map(Number);
    for (let round = 0; round < 2; round++) await compressRotated(live);
    const gaps = followed.flatMap((number, at) =>
      at > 0 && number !== (followed[at - 1] ?? 0) + 1 ? [`${followed[at - 1]}-${number}`] : [],
    );
    assert.deepEqual([gaps, followed.length], [[], 6000], "who followed");
    assert.deepEqual((await lab.output(id)).stdout.trim().split("\n"), wanted, "who came later");
    const names = await fs.readdir(path.dirname(live));
    const rotated = names.filter((name) => /\.log\.\d+/.test(name));
    assert.ok(rotated.length > 10 && rotated.every((name) => name.endsWith(".gz")), rotated.join(" "));
    const tail: string[] = [];
    const options = { follow: false, stdout: true, stderr: true, tail: 3000 };
    for await (const line of lab.engine.containers.logs(id, options, AbortSignal.timeout(WAIT_MS)))
      tail.push(Buffer.from(line.data).toString().trim());
    assert.deepEqual(tail, wanted.slice(-3000));
    const refused = { LogConfig: { Type: "json-file", Config: { compress: "true" } } };
    await rejects(lab.create(["true"], refused), /compress cannot be true when max-file is less than 2/);
  });

  test("log driver local: Docker's records, read from both ends and across compressed files", async () => {
    const local = { LogConfig: { Type: "local", Config: {} } };
    const run = await lab.run(
      ["sh", "-c", "seq 1 20; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo"],
      local,
    );
    assert.equal(run.stderr, "err\n");
    assert.equal(run.stdout.length, 51 + 20_001);
    const bytes = readFileSync(path.join(lab.root, "data/containers", run.id, "local-logs/container.log"));
    const length = bytes.readUInt32BE(0);
    assert.deepEqual(
      [bytes.toString("latin1", 4, 12), bytes.readUInt32BE(4 + length)],
      ["\n\x06stdout", length],
    );
    // The piece that was cut says so, and the one that ends the line that it is the last.
    assert.ok(
      bytes.includes(Buffer.from([0x20, 1, 0x2a, 0])) &&
        bytes.includes(Buffer.from([0x20, 1, 0x2a, 2, 8, 1])),
    );
    const tailOf = async (id: string, tail: number): Promise<readonly string[]> => {
      const lines: string[] = [];
      const options = { follow: false, stdout: true, stderr: true, tail };
      for await (const line of lab.engine.containers.logs(id, options, AbortSignal.timeout(WAIT_MS)))
        lines.push(Buffer.from(line.data).toString().trim());
      return lines;
    };
    assert.deepEqual(
      (await tailOf(run.id, 40)).map((line) => line.length).filter((size) => size > 3),
      [16_384, 20_000 - 16_384],
    );
    const id = await lab.create(["sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done"], {
      LogConfig: { Type: "local", Config: { "max-size": "20k", "max-file": "200" } },
    });
    await lab.engine.containers.start(id);
    const file = path.join(lab.root, "data/containers", id, "local-logs/container.log");
    const following = lab.output(id);
    while (lab.engine.containers.summary(id).state.isRunning) await compressRotated(file);
    const wanted = Array.from({ length: 5000 }, (_, index) => String(index));
    assert.deepEqual((await following).stdout.trim().split("\n"), wanted);
    for (let round = 0; round < 2; round++) await compressRotated(file);
    assert.deepEqual((await lab.output(id)).stdout.trim().split("\n"), wanted);
    assert.deepEqual(await tailOf(id, 4000), wanted.slice(-4000));
    assert.ok((await fs.readdir(path.dirname(file))).includes("container.log.1.gz"));
  });

  test("log mode=non-blocking: a disk that stands still holds nobody back, and only what has no room is lost", async () => {
    const count = 20_000;
    // Through a buffer, so that most writes end in the middle of a line.
    const print = `awk 'BEGIN { for (i = 0; i < ${count}; i++) print "line-" i }'`;
    const after = `until [ -e /more ]; do sleep 0.02; done; echo line-${count}; touch /ended`;
    const writes = `${print}; touch /done; ${after}; sleep 100`;
    const seen = (id: string, file: string): Promise<unknown> =>
      until(`the container has made ${file}`, WAIT_MS, async () => {
        return (await lab.exec(id, ["ls", file])).exitCode === 0;
      });
    for (const [size, isWhole] of [
      ["64m", true],
      ["100k", false],
    ] as const) {
      const id = await lab.create(["sh", "-c", `until [ -e /go ]; do sleep 0.02; done; ${writes}`], {
        LogConfig: { Type: "json-file", Config: { mode: "non-blocking", "max-buffer-size": size } },
      });
      await lab.engine.containers.start(id);
      const { pid } = lab.engine.containers.summary(id).state;
      const parent = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";
      const writer = await until("the log's writer", WAIT_MS, () => {
        const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim().split(" ");
        const found = children.find((each) => readFileSync(`/proc/${each}/comm`, "utf8") === "shoal-log\n");
        return found === undefined ? undefined : Number(found);
      });
      process.kill(writer, "SIGSTOP");
      await lab.exec(id, ["touch", "/go"]);
      await seen(id, "/done");
      process.kill(writer, "SIGCONT");
      await lab.exec(id, ["touch", "/more"]);
      await seen(id, "/ended");
      await lab.engine.containers.stop(id, { timeoutSeconds: 0 });
      const lines = (await lab.output(id)).stdout.trim().split("\n");
      const numbers = lines.map((line) => Number(/^line-(\d+)$/.exec(line)?.[1] ?? "NaN"));
      assert.ok(
        numbers.every((number, at) => at === 0 || number > (numbers[at - 1] ?? 0)),
        "whole lines, in order",
      );
      assert.equal(numbers[0], 0);
      assert.equal(numbers.length === count + 1, isWhole, `${numbers.length} lines with ${size}`);
    }
  });

  test("copy: in while stopped, out while running, never through a planted link", async () => {
    const id = await lab.create(["sh", "-c", "ln -s /host /root/up; sleep 100"]);
    const { pack, extract } = await import("tar-stream");
    const put = (tar: Readable): Promise<void> =>
      lab.engine.containers.putArchive(id, "/root", tar, { noOverwriteDirNonDir: false, copyUidGid: false });
    const packed = (fill: (tar: ReturnType<typeof pack>) => void): Readable => {
      const tar = pack();
      fill(tar);
      tar.finalize();
      return Readable.from(tar);
    };
    await put(packed((tar) => tar.entry({ name: "d/f", mode: 0o4755, uid: 5, gid: 6 }, "hello")));
    // Compressed archives are taken too; a cut one is an error of the archive, not of the container.
    const big = (name: string): Promise<Buffer> =>
      buffer(packed((tar) => tar.entry({ name }, randomBytes(100_000))));
    await put(Readable.from([gzipSync(await big("d/g"))]));
    assert.equal((await lab.engine.containers.statPath(id, "/root/d/g"))["size"], 100_000);
    const cut = gzipSync(await big("d/h")).subarray(0, 50_000);
    await assert.rejects(put(Readable.from([cut])), (caught) => hasCode(caught, "invalid_argument"));
    // Without the empty blocks of its end it is whole, within a block it is not.
    const bare = (await big("d/i")).subarray(0, 512 + 100_352);
    await put(Readable.from([bare]));
    await assert.rejects(put(Readable.from([bare, Buffer.alloc(100, "x")])), /unexpected end of the archive/);
    for (const linkname of ["/etc", "../../../../../../etc"]) {
      const evil = packed((tar) => {
        tar.entry({ name: "d/l", type: "symlink", linkname });
        tar.entry({ name: "d/l/shoal-escape-test" }, "no");
      });
      await assert.rejects(put(evil));
    }
    await assert.rejects(put(packed((tar) => tar.entry({ name: "../../../etc/shoal-escape-test" }, "no"))));
    assert.ok(!existsSync("/etc/shoal-escape-test"));
    await lab.engine.containers.start(id);
    const stat = await lab.engine.containers.statPath(id, "/root/d/f");
    assert.deepEqual([stat["name"], stat["size"], stat["mode"]], ["f", 5, 2 ** 23 + 0o755]);
    const { tar: out } = await lab.engine.containers.getArchive(id, "/root/d/f");
    const names: string[] = [];
    const reader = extract();
    out.pipe(reader);
    for await (const entry of reader) {
      names.push(`${entry.header.name} ${entry.header.uid}`);
      entry.resume();
    }
    assert.deepEqual(names, ["f 5"]);
    await assert.rejects(lab.engine.containers.statPath(id, "/nosuch"), (caught) =>
      hasCode(caught, "not_found"),
    );
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("an image whose /proc is a link is refused, and /dev/null is the null device", async () => {
    const run = await lab.run([
      "sh",
      "-c",
      "rm -f /dev/null; ln -s /proc/sysrq-trigger /dev/null; ls -l /dev/null",
    ]);
    assert.equal(run.exitCode, 0);
    const { Id } = await lab.engine.containers.commit(run.id, { pause: false, changes: [] });
    const again = await lab.engine.containers.create({
      config: { Image: Id, Cmd: ["ls", "-l", "/dev/null"] },
      hostConfig: { NetworkMode: "none" },
    });
    await lab.engine.containers.start(again.Id);
    await lab.engine.containers.wait(again.Id, "not-running", {});
    assert.match((await lab.output(again.Id)).stdout, /^crw-rw-rw-.*1,\s+3/);
  });

  test("a layer that is thrown away is never synced, and outlives a restart", async () => {
    const rootOptions = (id: string): string => {
      const { pid } = lab.engine.containers.summary(id).state;
      return /^\S+ \S+ \S+ \S+ \/ .*$/m.exec(readFileSync(`/proc/${pid}/mountinfo`, "utf8"))?.[0] ?? "";
    };
    const kept = await lab.create(["sleep", "100"]);
    const thrown = await lab.create(["sleep", "100"], { AutoRemove: true });
    for (const id of [kept, thrown]) await lab.engine.containers.start(id);
    assert.doesNotMatch(rootOptions(kept), /volatile/);
    assert.match(rootOptions(thrown), /[,=]volatile/);
    await lab.exec(thrown, ["sh", "-c", "echo here >/file"]);
    await lab.engine.containers.restart(thrown, { timeoutSeconds: 0 });
    assert.match(rootOptions(thrown), /[,=]volatile/);
    assert.equal((await lab.exec(thrown, ["cat", "/file"])).output, "here\n");
    for (const id of [kept, thrown])
      await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("restart policy: on-failure stops after its count", async () => {
    const id = await lab.create(["false"], { RestartPolicy: { Name: "on-failure", MaximumRetryCount: 2 } });
    await lab.engine.containers.start(id);
    await until(
      "it is not started again",
      WAIT_MS,
      () => lab.engine.containers.summary(id).state.status === "exited",
    );
    assert.equal((await lab.engine.containers.inspect(id, { size: false }))["RestartCount"], 2);
  });

  test("a daemon's absence loses no line, no exit code and no container", async () => {
    const runs = await lab.create(["sh", "-c", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"]);
    const ends = await lab.create(["sh", "-c", "sleep 0.3; exit 42"]);
    const forSale = await lab.create(["sh", "-c", "sleep 0.3"], { AutoRemove: true });
    for (const id of [runs, ends, forSale]) await lab.engine.containers.start(id);
    await lab.restart(async () => {
      const files = [ends, forSale].map((id) => path.join(lab.root, "run/c", id, "exit"));
      await until("both have ended", WAIT_MS, () => files.every((file) => existsSync(file)));
    });
    assert.equal(lab.engine.containers.summary(ends).state.exitCode, 42);
    assert.equal(lab.engine.containers.summary(runs).state.isRunning, true);
    assert.throws(() => lab.engine.containers.summary(forSale), /No such container/);
    await lab.engine.containers.stop(runs, { timeoutSeconds: 0 });
    const numbers = (await lab.output(runs)).stdout.trim().split("\n").map(Number);
    assert.deepEqual(
      numbers,
      numbers.map((_, index) => index + 1),
    );
  });

  test("a record of a local log that a loss of power cut short hides no later one", async () => {
    const local = { LogConfig: { Type: "local" } };
    for (const torn of [Buffer.from([0, 0, 0, 40, 10, 6, 115]), Buffer.alloc(13), Buffer.from([1])]) {
      const { id } = await lab.run(["echo", "line"], local);
      const file = path.join(lab.root, "data/containers", id, "local-logs/container.log");
      await fs.appendFile(file, torn);
      await lab.engine.containers.start(id);
      await lab.engine.containers.wait(id, "not-running", {});
      assert.equal((await lab.output(id)).stdout, "line\nline\n");
    }
  });

  test("events are dockerd's: of commands, prunes, and images that are loaded and removed", async () => {
    const sinceMs = Date.now();
    const { containers, images } = lab.engine;
    const id = await lab.create(["sleep", "60"]);
    await containers.start(id);
    await lab.exec(id, ["true"]);
    await containers.remove(id, { force: true, volumes: true, link: false });
    await containers.prune(new Map([["until", ["24h"]]]));
    await images.tag("box:1", "events", "1");
    for await (const _ of images.load(await images.save(["events:1"]), { quiet: true })) continue;
    const run = await lab.create(["true"], {}, { config: { Labels: { made: "here" } } });
    await containers.commit(run, { repo: "labelled", tag: "1", pause: false, changes: [] });
    await images.remove("labelled:1", { force: false, noPrune: false });
    await images.remove("events:1", { force: false, noPrune: false });
    const told: string[] = [];
    for await (const event of lab.engine.events(
      // Events of one millisecond are told apart by nanoseconds, so that the last may lie just beyond it.
      { sinceMs, untilMs: Date.now() + 1 },
      AbortSignal.timeout(WAIT_MS),
    )) {
      if (event.Type === "image" || /^(exec_create|prune)/.test(event.Action))
        told.push(`${event.Type} ${event.Action}|${event.status}|${event.Actor.Attributes["made"] ?? ""}`);
    }
    assert.deepEqual(told, [
      "container exec_create: true |exec_create: true |",
      "container prune|prune|",
      "image tag|tag|",
      "image save|save|",
      "image load|load|",
      "image tag|tag|here",
      "image untag|untag|here",
      "image delete|delete|",
      "image untag|untag|",
    ]);
    await containers.remove(run, { force: true, volumes: true, link: false });
  });

  test("a text with a NUL is refused by the field that holds it, not cut short", async () => {
    const cases = [
      [
        ["true"],
        {},
        { Env: ["A=1", "B=2\0C"] },
        /invalid Config\.Env\[1\]: must hold no NUL character, got "B=2\\u0000C"/,
      ],
      [["sh", "a\0b"], {}, {}, /invalid Config\.Cmd\[1\]/],
      [["true"], {}, { Labels: { team: "\0" } }, /invalid Config\.Labels\.team/],
      [["true"], {}, { Labels: { "\0": "" } }, /invalid name in Config\.Labels/],
      [["true"], { Binds: ["/tmp\0:/x"] }, {}, /invalid HostConfig\.Binds\[0\]/],
    ] as const;
    for (const [command, hostConfig, config, said] of cases)
      await assert.rejects(lab.create(command, hostConfig, { config: { Cmd: command, ...config } }), said);
    const id = await lab.create(["sleep", "60"]);
    await lab.engine.containers.start(id);
    await assert.rejects(lab.exec(id, ["echo", "a\0b"]), /invalid ExecConfig\.Cmd\[1\]/);
    await assert.rejects(lab.exec(id, ["env"], { Env: ["A=\0"] }), /invalid ExecConfig\.Env\[0\]/);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });

  test("a container that can't be created leaves no volume behind, nor uses one", async () => {
    const options = { DriverConfig: { Name: "nosuch" } };
    const Mounts = [
      { Type: "volume" as const, Target: "/anonymous" },
      { Type: "volume" as const, Source: "named", Target: "/named" },
      { Type: "volume" as const, Source: "impossible", Target: "/impossible", VolumeOptions: options },
    ];
    const names = async (): Promise<readonly unknown[]> => {
      const { Volumes } = await lab.engine.volumes.list(new Map());
      return Volumes.map((volume) => volume["Name"]);
    };
    const before = await names();
    await assert.rejects(lab.create(["true"], { Mounts }), /plugin "nosuch" not found/);
    await lab.engine.volumes.remove("named", false);
    assert.deepEqual(await names(), before);
  });

  test("a container's network is noted before its program runs, and not after a start that failed", async () => {
    const endpoints = { mesh: { IPAddress: "10.9.8.7" } };
    const attached = { endpoints, nameservers: [], searchDomains: [], dnsOptions: [] };
    const options = { task: { attachNetwork: () => Promise.resolve(attached) } };
    const Binds = [`${path.join(lab.root, "data/containers")}:/records:ro`];
    const ran = await lab.run(["sh", "-c", "grep -q 10.9.8.7 /records/*/container.json"], { Binds }, options);
    assert.equal(ran.exitCode, 0);
    const bad = path.join(lab.root, "bad");
    await fs.writeFile(bad, "#!/nosuch\n", { mode: 0o755 });
    const id = await lab.create(["/bad"], { Binds: [`${bad}:/bad`] }, options);
    await assert.rejects(lab.engine.containers.start(id), /no such file or directory/);
    const { NetworkSettings } = await lab.engine.containers.inspect(id, { size: false });
    assert.ok(!JSON.stringify(NetworkSettings).includes("10.9.8.7"));
  });

  test("why a container can't be is told to a daemon that was about to send it on", async () => {
    // As a daemon with much else to do: the monitor has said it, nobody has read it, and the network is there.
    const attachNetwork = ({ containerId }: { readonly containerId: string }): Promise<AttachedNetworks> => {
      const states = (): readonly string[] =>
        readdirSync("/proc")
          .filter(
            (name) => /^\d+$/.test(name) && fieldOf(name, "comm") === `shoal-${containerId.slice(0, 8)}`,
          )
          // The container's own process is not waited for by anybody.
          .filter((name) => !/\) Z /.test(fieldOf(name, "stat")))
          .map((name) => fieldOf(name, "wchan"));
      const cell = new Int32Array(new SharedArrayBuffer(4));
      const deadlineMs = Date.now() + WAIT_MS;
      // It has ended, or waits until it is heard.
      while (Date.now() < deadlineMs && !states().every((wchan) => /poll/.test(wchan)))
        Atomics.wait(cell, 0, 0, 1);
      return Promise.resolve({ endpoints: {}, nameservers: [], searchDomains: [], dnsOptions: [] });
    };
    const id = await lab.create(["/etc"], {}, { task: { attachNetwork } });
    await rejects(lab.engine.containers.start(id), /exec: "\/etc": is a directory/);
  });

  test(
    "a program whose interpreter is missing fails its start, and nothing of it stays",
    { timeout: WAIT_MS },
    async () => {
      const bad = path.join(lab.root, "bad-alone");
      await fs.writeFile(bad, "#!/nosuch\n", { mode: 0o755 });
      // Neither waits for a network: the word to start is there before the container is.
      for (const NetworkMode of ["none", "host"]) {
        const id = await lab.create(["/bad"], { Binds: [`${bad}:/bad:ro`], NetworkMode });
        await assert.rejects(lab.engine.containers.start(id), /no such file or directory/);
        assert.ok(!existsSync(path.join(lab.root, "run", monitorSocket(id))));
      }
    },
  );

  test("settings of interfaces to come are those of the one that a network brings", async () => {
    const seen: string[] = [];
    // Made by the network while the container is built, unless something is set for it before.
    const attachNetwork = ({ pid }: { readonly pid: number }): Promise<AttachedNetworks> => {
      const inside = [
        `--net=/proc/${pid}/ns/net`,
        "ip",
        "link",
        "add",
        "eth7",
        "type",
        "veth",
        "peer",
        "eth8",
      ];
      execFileSync("nsenter", inside);
      seen.push(String(pid));
      return Promise.resolve({ endpoints: {}, nameservers: [], searchDomains: [], dnsOptions: [] });
    };
    const show = ["cat", "/proc/sys/net/ipv4/conf/eth7/rp_filter"];
    for (const value of ["1", "2"]) {
      const Sysctls = { "net.ipv4.conf.default.rp_filter": value };
      const { stdout } = await lab.run(show, { Sysctls }, { task: { attachNetwork } });
      assert.equal(stdout.trim(), value);
    }
    assert.equal(seen.length, 2);
    const bare = await lab.run(["ls", "/proc/sys/net/ipv4/conf"], {}, { task: { attachNetwork } });
    assert.match(bare.stdout, /eth7/);
  });

  test("remove without force refuses a container whose start is under way, and lets it run", async () => {
    const id = await lab.create(["sleep", "100"], { RestartPolicy: { Name: "always" } });
    const starting = lab.engine.containers.start(id);
    const options = { force: false, volumes: true, link: false };
    await assert.rejects(
      lab.engine.containers.remove(id, options),
      /container is running: stop the container/,
    );
    await starting;
    assert.equal(lab.engine.containers.summary(id).state.isRunning, true);
    await lab.engine.containers.remove(id, { ...options, force: true });
  });

  test("remove with force ends a container that somebody starts meanwhile", async () => {
    // Whose unmount takes the end of the container more than a turn of the event loop.
    await lab.engine.volumes.create({ Name: "memory", DriverOpts: { type: "tmpfs", device: "tmpfs" } });
    const id = await lab.create(["sleep", "54321"], { Binds: ["memory:/memory"] });
    await lab.engine.containers.start(id);
    let isRemoved = false;
    const starts: Promise<unknown>[] = [];
    const removing = lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
    void removing.finally(() => (isRemoved = true));
    while (!isRemoved) {
      starts.push(lab.engine.containers.start(id).catch((caught: unknown) => caught));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await removing;
    await Promise.all(starts);
    assert.throws(() => lab.engine.containers.summary(id), /No such container/);
    const commands = readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map((pid) => readCommand(pid));
    assert.ok(!commands.includes("sleep 54321 "));
    await lab.engine.volumes.remove("memory", false);
  });

  test("removed containers leave no cgroup, socket or folder", async () => {
    const id = await lab.create(["sleep", "100"]);
    await lab.engine.containers.start(id);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
    assert.ok(!existsSync(path.join(lab.root, "run/c", id)));
    assert.ok(!existsSync(path.join(lab.root, "data/containers", id)));
    const { v1, v2 } = parseHierarchies(readFileSync("/proc/self/mountinfo", "utf8"), () => "");
    for (const root of new Set([...v1.values(), ...(v2 === undefined ? [] : [v2])])) {
      for (const parent of (await fs.readdir(root)).filter((name) => name.startsWith("shoal-"))) {
        assert.ok(!existsSync(path.join(root, parent, id)));
      }
    }
  });
});
