/**
 * The unmodified buildx plugin against the engine: what it prints, how it ends, what it leaves. Debian 12 has no buildx, so
 * this is skipped where none is installed; the protocol itself is tested everywhere by buildkit.test.ts. Needs root.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { type Contender, startShoal } from "../../bench/contenders.ts";
import { ask } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { must } from "../../common/assert.ts";
import { type CommandResult, run, type RunOptions } from "../../dev/run-command.ts";
import { until } from "../../dev/until.ts";
import { tarOf } from "../../runtime/images/testing/archives.ts";

const FOLDERS = [
  "/usr/local/lib/docker/cli-plugins",
  "/usr/local/libexec/docker/cli-plugins",
  "/usr/lib/docker/cli-plugins",
  "/usr/libexec/docker/cli-plugins",
  path.join(homedir(), ".docker/cli-plugins"),
];
const buildx = [
  process.env["SHOAL_TEST_BUILDX"] ?? "",
  ...FOLDERS.map((each) => path.join(each, "docker-buildx")),
].find((file) => file !== "" && existsSync(file));
const skip =
  process.getuid?.() !== 0
    ? "needs root"
    : buildx === undefined
      ? "no buildx plugin here (SHOAL_TEST_BUILDX may name one)"
      : false;
const UNTIL = { timeoutMs: 30_000, pollMs: 20 };

describe("docker buildx", { skip }, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-buildx-"));
  let engine: Contender | undefined;

  function file(name: string, text: string): string {
    const place = path.join(folder, name);
    mkdirSync(path.dirname(place), { recursive: true });
    writeFileSync(place, text);
    return place;
  }

  before(async () => {
    file("context/Dockerfile", "FROM base:1\nCOPY f /f\nRUN cat /f && echo told >&2\n");
    file("context/f", "from the file\n");
    file("context/.dockerignore", "ignored\n");
    file("context/ignored", "i");
    file("context/slow", "FROM base:1\nRUN echo begun; sleep 1000\n");
    engine = await startShoal();
    await ask(engine.socket, "POST", "/images/create?fromSrc=-&repo=base&tag=1", busyboxTar());
  });
  after(async () => {
    await engine?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  function inContext(
    argv: readonly string[],
    given: Pick<RunOptions, "input" | "signal"> = {},
  ): Promise<CommandResult> {
    const env = {
      ...process.env,
      DOCKER_HOST: `unix://${must(engine, "started").socket}`,
      DOCKER_CONFIG: path.join(folder, "config"),
      SECRET: "sesame",
    };
    return run([must(buildx, "not skipped"), ...argv], { ...given, env, cwd: path.join(folder, "context") });
  }

  const build = (
    argv: readonly string[],
    options: { readonly input?: string | Buffer; readonly signal?: AbortSignal } = {},
  ): Promise<CommandResult> =>
    inContext(
      ["build", "--network=none", ...(argv.includes("-q") ? [] : ["--progress=plain"]), ...argv],
      options,
    );

  async function json(place: string): Promise<unknown> {
    return ask(must(engine, "started").socket, "GET", place);
  }

  async function idOf(name: string): Promise<string> {
    return ((await json(`/images/${name}/json`)) as { readonly Id: string }).Id;
  }

  test("a folder is built and named, step by step, and found in the cache again", async () => {
    const iid = path.join(folder, "iid");
    const metadata = path.join(folder, "metadata.json");
    const built = await build([
      "-t",
      "x:1",
      "-t",
      "y",
      `--iidfile=${iid}`,
      `--metadata-file=${metadata}`,
      ".",
    ]);
    assert.equal(built.status, 0, built.stderr);
    for (const line of [
      /^#\d+ \[internal\] load build definition from Dockerfile$/m,
      /^#\d+ \[internal\] load \.dockerignore$/m,
      /^#\d+ \[1\/3\] FROM docker\.io\/library\/base:1$/m,
      /^#\d+ \[2\/3\] COPY f \/f$/m,
      /^#\d+ [\d.]+ from the file$/m,
      /^#\d+ [\d.]+ told$/m,
      /^#\d+ naming to docker\.io\/library\/x:1 .*done$/m,
    ])
      assert.match(built.stderr, line);
    const id = await idOf("x:1");
    assert.equal(await idOf("y:latest"), id);
    assert.equal(readFileSync(iid, "utf8"), id);
    assert.equal(JSON.parse(readFileSync(metadata, "utf8"))["containerimage.digest"], id);
    const again = await build(["."]);
    assert.match(again.stderr, /^#\d+ CACHED$/m);
    assert.doesNotMatch(again.stderr, /from the file/);
    assert.doesNotMatch((await build(["--no-cache", "."])).stderr, /CACHED/);
  });

  const same: readonly (readonly [string, readonly string[], (() => string | Buffer)?])[] = [
    ["quietly", ["-q", "."]],
    [
      "a Dockerfile on stdin",
      ["-q", "-f", "-", "."],
      () => readFileSync(path.join(folder, "context/Dockerfile")),
    ],
    ["a Dockerfile elsewhere", ["-q", "-f", "../elsewhere", "."]],
    [
      "a tar on stdin",
      ["-q", "-"],
      () =>
        tarOf([
          { name: "Dockerfile", content: readFileSync(path.join(folder, "context/Dockerfile"), "utf8") },
          { name: "f", content: "from the file\n" },
        ]),
    ],
  ];
  for (const [what, argv, input] of same) {
    test(`${what}: the same image`, async () => {
      file("elsewhere", readFileSync(path.join(folder, "context/Dockerfile"), "utf8"));
      const first = await build(["-q", "."]);
      const outcome = await build(argv, input === undefined ? {} : { input: input() });
      assert.deepEqual([outcome.status, outcome.stdout], [0, first.stdout], outcome.stderr);
      assert.match(outcome.stdout, /^sha256:[0-9a-f]{64}\n$/);
    });
  }

  test("a step that fails is shown with its lines, and ends with 1", async () => {
    const outcome = await build(["-"], { input: "FROM base:1\nRUN echo before; exit 9\n" });
    assert.equal(outcome.status, 1);
    assert.match(
      outcome.stderr,
      /ERROR: process "\/bin\/sh -c echo before; exit 9" did not complete successfully: exit code: 9/,
    );
    assert.match(
      outcome.stderr,
      /^Dockerfile:2\n-+\n +1 \| +FROM base:1\n +2 \| >>> RUN echo before; exit 9$/m,
    );
    assert.match((await build(["-"], { input: "FROM base:1\nFRM x\n" })).stderr, /unknown instruction: FRM/);
    assert.match((await build(["-f", "nosuch", "."])).stderr, /nosuch: no such file or directory/);
  });

  test("the result goes into a folder or a tar", async () => {
    file("context/scratch", "FROM scratch\nCOPY f sub/in /o/\n");
    file("context/sub/in", "inside");
    const [target, tar] = [path.join(folder, "out"), path.join(folder, "out.tar")];
    const local = await build(["-f", "scratch", "-o", target, "."]);
    assert.equal(local.status, 0, local.stderr);
    assert.deepEqual(
      ["o/f", "o/in"].map((name) => readFileSync(path.join(target, name), "utf8")),
      ["from the file\n", "inside"],
    );
    const archive = await build(["-f", "scratch", "-o", `type=tar,dest=${tar}`, "."]);
    assert.equal(archive.status, 0, archive.stderr);
    assert.match(readFileSync(tar, "latin1"), /o\/in/);
  });

  test("secrets, arguments, labels, hosts, targets and named contexts reach the build", async () => {
    file("more/in", "more\n");
    const dockerfile = `FROM base:1 AS wanted
ARG A
COPY --from=more in /in
RUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E cat /run/secrets/s /in; echo "$E $A"; grep there /etc/hosts
FROM wanted
RUN exit 1`;
    const argv = ["--target=wanted", "--build-arg=A=b", "--label=l=1", "--add-host=there:1.2.3.4"];
    const secrets = ["--secret=id=s,src=f", "--secret=id=e,env=SECRET", "--build-context=more=../more"];
    const outcome = await build([...argv, ...secrets, "-t", "z", "-f", "-", "."], { input: dockerfile });
    assert.equal(outcome.status, 0, outcome.stderr);
    for (const line of ["from the file", "more", "sesame b", "1.2.3.4\tthere"])
      assert.match(outcome.stderr, new RegExp(`^#\\d+ [\\d.]+ ${line.replace("\t", "\\s+")}$`, "m"));
    const image = (await json("/images/z/json")) as { readonly Config: { readonly Labels: object } };
    assert.deepEqual(image.Config.Labels, { l: "1" });
  });

  test("builds side by side don't mix", async () => {
    const outcomes = await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        build(["--no-cache", "-"], { input: `FROM base:1\nRUN echo "this is $((${index}+0))"; sleep 0.1\n` }),
      ),
    );
    for (const [index, { stderr, status }] of outcomes.entries()) {
      assert.equal(status, 0, stderr);
      assert.deepEqual(
        [...stderr.matchAll(/^#\d+ [\d.]+ this is (\d)$/gm)].map(([, each]) => each),
        [String(index)],
      );
    }
  });

  test("an interrupt ends the build and leaves nothing", async () => {
    const controller = new AbortController();
    const building = build(["-f", "slow", "."], { signal: controller.signal });
    const containers = async (): Promise<readonly { readonly State: string }[]> =>
      (await json("/containers/json?all=1")) as readonly { readonly State: string }[];
    await until("the step runs", UNTIL, async () =>
      (await containers()).some(({ State }) => State === "running"),
    );
    controller.abort();
    assert.notEqual((await building).status, 0);
    await until("nothing is left", UNTIL, async () => (await containers()).length === 0);
  });

  test("ls, inspect, du and prune know this engine", async () => {
    assert.match((await inContext(["ls"])).stdout, /^default\*? +docker/m);
    assert.match((await inContext(["inspect"])).stdout, /^Status: +running$/m);
    await build(["--no-cache", "-"], {
      input: "FROM base:1\nRUN --mount=type=cache,target=/c echo x > /c/x\n",
    });
    assert.match((await inContext(["du", "--verbose"])).stdout, /^Type:\s+exec\.cachemount$/m);
    assert.match((await inContext(["prune", "-f"])).stdout, /^Total:\s+/m);
    assert.doesNotMatch((await inContext(["du", "--verbose"])).stdout, /exec\.cachemount/);
  });

  test("bake builds its targets, what it can't is said", async () => {
    file(
      "context/docker-bake.hcl",
      `group "default" { targets = ["one", "two"] }
target "one" { tags = ["one:1"] }
target "two" {
  dockerfile-inline = "FROM base:1\\nCOPY --from=other /f /two\\nRUN cat /two"
  contexts = { other = "target:one" }
  tags = ["two:1"]
}
`,
    );
    const baked = await inContext(["bake", "--progress=plain"]);
    assert.equal(baked.status, 0, baked.stderr);
    assert.match(baked.stderr, /^#\d+ [\d.]+ from the file$/m);
    assert.notEqual(await idOf("one:1"), await idOf("two:1"));
    assert.match(
      (await build(["--platform=linux/amd64,linux/arm64", "."])).stderr,
      /Multi-platform build is not supported/,
    );
    assert.match((await build(["--output=type=oci,dest=x", "."])).stderr, /OCI exporter is not supported/);
  });
});
