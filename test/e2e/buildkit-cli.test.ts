/**
 * A docker CLI that has BuildKit's client in it (20.10, as in Debian 12) with DOCKER_BUILDKIT=1: it asks by POST /build with
 * version=2 and answers for its files at /session. Newer CLIs have buildx instead (buildkit-buildx.test.ts). Needs root.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { type Contender, startShoal } from "../../bench/contenders.ts";
import { ask } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { must } from "../../common/assert.ts";
import { type CommandResult, run, type RunOptions } from "../../dev/run-command.ts";
import { until } from "../../dev/until.ts";
import { tarOf } from "../../runtime/images/testing/archives.ts";

/** The last major version before buildx took over. */
const MAJOR_MAX = 22;
const cli = ["docker", "/usr/bin/docker"].find((program) => {
  const { stdout } = spawnSync(program, ["--version"], { encoding: "utf8" });
  const [, major = ""] = /Docker version (\d+)\./.exec(stdout ?? "") ?? [];
  return major !== "" && Number(major) <= MAJOR_MAX;
});
const skip =
  process.getuid?.() !== 0 ? "needs root" : cli === undefined ? "no docker CLI of 20.10 here" : false;
const DOCKERFILE = "FROM base:1\nCOPY f /f\nRUN cat /f && echo told >&2\n";

describe("a docker CLI with BuildKit's client", { skip }, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-buildkit-cli-"));
  let engine: Contender | undefined;

  before(async () => {
    mkdirSync(path.join(folder, "context"));
    for (const [name, content] of [
      ["Dockerfile", DOCKERFILE],
      ["f", "from the file\n"],
      ["slow", "FROM base:1\nRUN echo begun; sleep 1000\n"],
    ] as const)
      writeFileSync(path.join(folder, "context", name), content);
    engine = await startShoal();
    await ask(engine.socket, "POST", "/images/create?fromSrc=-&repo=base&tag=1", busyboxTar());
  });
  after(async () => {
    await engine?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  function build(
    argv: readonly string[],
    given: Pick<RunOptions, "input" | "signal"> = {},
  ): Promise<CommandResult> {
    const env = {
      ...process.env,
      DOCKER_HOST: `unix://${must(engine, "started").socket}`,
      DOCKER_CONFIG: path.join(folder, "config"),
      DOCKER_BUILDKIT: "1",
    };
    const whole = [must(cli, "not skipped"), "build", "--network=none", "--progress=plain", ...argv];
    return run(whole, { ...given, env, cwd: path.join(folder, "context") });
  }

  test("a folder, a tar and a Dockerfile on stdin make the same image", async () => {
    const shown = await build(["-t", "x:1", "."]);
    assert.equal(shown.status, 0, shown.stderr);
    assert.match(shown.stderr, /^#\d+ \[2\/3\] COPY f \/f$/m);
    assert.match(shown.stderr, /^#\d+ [\d.]+ from the file$/m);
    const { Id } = (await ask(must(engine, "started").socket, "GET", "/images/x:1/json")) as {
      readonly Id: string;
    };
    const tar = tarOf([
      { name: "Dockerfile", content: DOCKERFILE },
      { name: "f", content: "from the file\n" },
    ]);
    for (const outcome of [
      await build(["-q", "."]),
      await build(["-q", "-f", "-", "."], { input: DOCKERFILE }),
      await build(["-q", "-"], { input: tar }),
    ])
      assert.deepEqual([outcome.status, outcome.stdout.trim()], [0, Id], outcome.stderr);
  });

  test("a step that fails, secrets, and a result that goes into a folder", async () => {
    const failed = await build(["-f", "-", "."], { input: "FROM base:1\nRUN exit 9\n" });
    assert.notEqual(failed.status, 0);
    assert.match(failed.stderr, /process "\/bin\/sh -c exit 9" did not complete successfully: exit code: 9/);
    const input = "FROM base:1\nRUN --mount=type=secret,id=s cat /run/secrets/s\n";
    const secret = await build(["--no-cache", "--secret=id=s,src=f", "-f", "-", "."], { input });
    assert.match(secret.stderr, /^#\d+ [\d.]+ from the file$/m);
    const target = path.join(folder, "out");
    const local = await build(["-o", target, "-f", "-", "."], { input: "FROM scratch\nCOPY f /o/f\n" });
    assert.equal(local.status, 0, local.stderr);
    assert.equal(readFileSync(path.join(target, "o/f"), "utf8"), "from the file\n");
  });

  test("an interrupt ends the build and leaves nothing", async () => {
    const controller = new AbortController();
    const building = build(["-f", "slow", "."], { signal: controller.signal });
    const { socket } = must(engine, "started");
    const containers = async (): Promise<readonly { readonly State: string }[]> =>
      (await ask(socket, "GET", "/containers/json?all=1")) as readonly { readonly State: string }[];
    const patience = { timeoutMs: 30_000, pollMs: 20 };
    await until("the step runs", patience, async () =>
      (await containers()).some(({ State }) => State === "running"),
    );
    controller.abort();
    assert.notEqual((await building).status, 0);
    await until("nothing is left", patience, async () => (await containers()).length === 0);
  });
});
