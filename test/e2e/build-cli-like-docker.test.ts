/**
 * `docker build` with the classic builder, here and with dockerd 20.10: what the CLI prints and how it ends, for each way that a
 * context and a Dockerfile can come. Needs root and a dockerd (Debian's docker.io); without one it is skipped and says
 * so.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { type Contender, hasDocker, startDocker, startShoal } from "../../bench/contenders.ts";
import { ask } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { must } from "../../common/assert.ts";
import { type CommandResult, run, type RunOptions } from "../../dev/run-command.ts";
import { until } from "../../dev/until.ts";
import { tarOf } from "../../runtime/images/testing/archives.ts";
import { WAIT_MS } from "./support/wait.ts";

const skip = hasDocker() ? false : "no dockerd here (Debian's docker.io): nothing to compare with";
const STEP_COUNT = 100;

describe("docker build as with Docker", { skip }, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-build-cli-"));
  let ours: Contender | undefined;
  let docker: Contender | undefined;

  function file(name: string, text: string | Buffer): string {
    const place = path.join(folder, name);
    mkdirSync(path.dirname(place), { recursive: true });
    writeFileSync(place, text);
    return place;
  }

  before(async () => {
    file("context/Dockerfile", "FROM base:1\nCOPY . /all\nRUN ls -a /all\n");
    file("context/one", "1");
    file("context/two.txt", "2");
    file("context/.dockerignore", "*.txt\nDockerfile\n");
    file("context/stages", "FROM base:1 AS first\nRUN echo first\nFROM base:1 AS second\nRUN echo second\n");
    file("outside/Other", "FROM base:1\nCOPY one /outside\n");
    ours = await startShoal();
    docker = await startDocker({ args: ["--bridge=none", "--iptables=false", "--ip-forward=false"] });
    for (const { socket } of [ours, docker])
      await ask(socket, "POST", "/images/create?fromSrc=-&repo=base&tag=1", busyboxTar());
  });

  after(async () => {
    await ours?.stop();
    await docker?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  function build(
    engine: Contender | undefined,
    argv: readonly string[],
    given: Pick<RunOptions, "input" | "signal"> = {},
  ): Promise<CommandResult> {
    const { socket } = must(engine, "started");
    const env = {
      ...process.env,
      DOCKER_HOST: `unix://${socket}`,
      DOCKER_BUILDKIT: "0",
      DOCKER_CONFIG: folder,
    };
    const cwd = path.join(folder, "context");
    return run(["docker", "build", "--network", "none", ...argv], { ...given, env, cwd });
  }

  /** Less ids, sizes of contexts and what only containers of steps without a command tell. */
  function comparable({ status, stdout, stderr }: CommandResult): CommandResult {
    const plain = (text: string): string =>
      text
        .replace(/(sha256:)?[0-9a-f]{64}/g, "HASH")
        .replace(/\b[0-9a-f]{12}\b/g, "ID")
        .replace(/Sending build context to Docker daemon.*[\r\n]+/g, "")
        .replace(
          /^(?: ---> Running in|Removing intermediate container| ---> Removed intermediate container) .*\n/gm,
          "",
        );
    return { status, stdout: plain(stdout), stderr: plain(stderr) };
  }

  const tar = tarOf([
    { name: "Dockerfile", content: "FROM base:1\nCOPY . /all\nRUN ls -a /all\n" },
    { name: ".dockerignore", content: "ignored" },
    { name: "ignored", content: "i" },
  ]);

  const CASES: readonly (readonly [string, readonly string[], (string | Buffer)?])[] = [
    ["a folder", ["--no-cache", "."]],
    ["a folder again, from the cache", ["."]],
    [
      "a tag, labels and arguments",
      ["--no-cache", "-t", "x:1", "-t", "y", "--label", "a=b", "--build-arg", "NO=1", "."],
    ],
    ["-q", ["--no-cache", "-q", "."]],
    ["-f outside of the context", ["--no-cache", "-f", "../outside/Other", "."]],
    ["-f of a file that is not there", ["-f", "nosuch", "."]],
    ["a Dockerfile on stdin", ["--no-cache", "-"], "FROM base:1\nRUN echo stdin\n"],
    ["a Dockerfile on stdin, with a context", ["--no-cache", "-f", "-", "."], "FROM base:1\nCOPY one /\n"],
    ["an archive on stdin", ["--no-cache", "-"], tar],
    ["--target", ["--no-cache", "-f", "stages", "--target", "first", "."]],
    ["--target of nothing", ["-f", "stages", "--target", "third", "."]],
    ["--squash", ["--squash", "."]],
    ["--cache-from of an image that is not there", ["--no-cache", "--cache-from", "nosuch:1", "."]],
    ["--rm=false", ["--no-cache", "--rm=false", "."]],
    ["a failing step", ["--no-cache", "-"], "FROM base:1\nRUN exit 42\n"],
    ["a wrong Dockerfile", ["-"], "FROM base:1\nNOSUCH a\n"],
    ["nothing on stdin", ["-"], ""],
    ["a folder that is not there", ["nosuch"]],
    ["a wrong tag", ["-t", "Bad:1", "."]],
    [
      "limits",
      ["--no-cache", "-m", "64m", "--cpu-shares", "100", "--ulimit", "nofile=99", "-"],
      "FROM base:1\nRUN ulimit -n\n",
    ],
    [
      "a host",
      ["--no-cache", "--add-host", "there:10.1.2.3", "-"],
      "FROM base:1\nRUN cat /etc/hosts | tail -1\n",
    ],
    [
      `${STEP_COUNT} steps`,
      ["--no-cache", "-"],
      `FROM base:1\n${Array.from({ length: STEP_COUNT }, (_, step) => `ENV A${step}=${step}\n`).join("")}`,
    ],
  ];

  for (const [name, argv, input] of CASES) {
    test(name, async () => {
      const options = input === undefined ? {} : { input };
      const outcome = comparable(await build(ours, argv, options));
      assert.deepEqual(outcome, comparable(await build(docker, argv, options)));
    });
  }

  test("--iidfile names the image", async () => {
    const place = path.join(folder, "iid");
    assert.equal((await build(ours, ["--iidfile", place, "-t", "named:1", "."])).status, 0);
    const { Id } = (await ask(must(ours, "started").socket, "GET", "/images/named:1/json")) as {
      readonly Id: string;
    };
    assert.equal(readFileSync(place, "utf8"), Id);
    const failed = path.join(folder, "none");
    await build(ours, ["--iidfile", failed, "-"], { input: "FROM base:1\nRUN false\n" });
    assert.equal(existsSync(failed), false);
  });

  test("a build that is left in the middle of a step leaves no container", async () => {
    const { socket } = must(ours, "started");
    const containers = (): Promise<unknown> => ask(socket, "GET", "/containers/json?all=1");
    const before = (await containers()) as readonly unknown[];
    const leaving = new AbortController();
    const input = "FROM base:1\nRUN sleep 1000\nRUN echo never\n";
    const building = build(ours, ["--no-cache", "-"], { input, signal: leaving.signal });
    const limits = { timeoutMs: WAIT_MS, pollMs: 20 };
    await until(
      "the step runs",
      limits,
      async () => ((await containers()) as readonly unknown[]).length > before.length,
    );
    leaving.abort();
    await building;
    await until(
      "its container is gone",
      limits,
      async () => ((await containers()) as readonly unknown[]).length === before.length,
    );
  });
});
