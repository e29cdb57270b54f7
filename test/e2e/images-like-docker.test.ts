/**
 * What the docker CLI shows of images, and archives that go from one engine to the other: here and with dockerd 20.10. Needs
 * root and a dockerd (Debian's docker.io); without one it is skipped and says so.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { type Contender, hasDocker, startDocker, startShoal } from "../../bench/contenders.ts";
import { must } from "../../common/assert.ts";
import { buildImage, dockerArchive, tarOf, type TestImage } from "../../runtime/images/testing/archives.ts";
import { WAIT_MS } from "./support/wait.ts";

const skip = hasDocker() ? false : "no dockerd here (Debian's docker.io): nothing to compare with";

const SHARED = [{ name: "base", content: "b".repeat(10_000) }];

/** A `count`th image on the shared layer. */
function image(tags: readonly string[], count: number, config: object = {}): TestImage {
  return {
    tags,
    layers: [SHARED, [{ name: `own${count}`, content: String(count).repeat(1000) }]],
    config: {
      Cmd: ["/own"],
      Labels: { number: String(count), ...(count % 2 === 0 ? { even: "" } : {}) },
      ...config,
    },
  };
}

const IMAGES: readonly TestImage[] = [
  image(["app:1", "app:latest", "lab.test:5000/team/app:1"], 1),
  image(["app:2"], 2),
  image(["web/front:1.0-alpine", "web/front:stable"], 3, { Env: ["A=b"], ExposedPorts: { "80/tcp": {} } }),
];

interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

describe("images as docker shows them", { skip }, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-images-like-"));
  let ours: Contender | undefined;
  let docker: Contender | undefined;

  function cli(engine: Contender | undefined, ...argv: readonly string[]): Promise<Outcome> {
    const env = { ...process.env, DOCKER_HOST: `unix://${must(engine, "started").socket}` };
    return new Promise((resolve) => {
      execFile("docker", argv, { env, timeout: WAIT_MS }, (error, stdout, stderr) => {
        resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
      });
    });
  }

  async function ok(engine: Contender | undefined, ...argv: readonly string[]): Promise<string> {
    const { status, stdout, stderr } = await cli(engine, ...argv);
    assert.equal(status, 0, `docker ${argv.join(" ")}\n${stdout}${stderr}`);
    return stdout;
  }

  before(async () => {
    ours = await startShoal();
    docker = await startDocker({ args: ["--bridge=none", "--iptables=false", "--ip-forward=false"] });
    const archive = path.join(folder, "images.tar");
    writeFileSync(archive, dockerArchive(IMAGES));
    const tree = path.join(folder, "tree.tar");
    writeFileSync(tree, tarOf(SHARED));
    for (const engine of [ours, docker]) {
      await ok(engine, "load", "-i", archive);
      await ok(engine, "import", "-c", "LABEL imported=yes", tree);
    }
  });

  after(async () => {
    await ours?.stop();
    await docker?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Ids of images are those of their configs, which import makes anew with the time of now. */
  function withoutImported(text: string): string {
    const known = new Set(IMAGES.map((each) => buildImage(each).id.slice(7)));
    return text
      .replace(/(?:sha256:)?\b([0-9a-f]{64}|[0-9a-f]{12})\b/g, (whole, hex: string) =>
        [...known].some((id) => id.startsWith(hex)) ? whole : "OTHER",
      )
      .replace(/no such image: \S+: (?=No such image)/, "")
      .replace("Invalid filter", "invalid filter")
      .replace(/ {2,}/g, "  ")
      .replace(/\d+ (?:seconds?|minutes?) ago|Less than a second ago|About a minute ago/g, "NOW");
  }

  const COMMANDS: readonly (readonly string[])[] = [
    ["images"],
    ["images", "-a", "--no-trunc"],
    ["images", "-q", "--no-trunc"],
    ["images", "--digests"],
    ["images", "app"],
    ["images", "app:2"],
    ["images", "a*"],
    ["images", "nosuch"],
    ["images", "lab.test:5000/team/app"],
    ["images", "-f", "reference=app"],
    ["images", "-f", "reference=app:*"],
    ["images", "-f", "reference=*:1"],
    ["images", "-f", "reference=*/front"],
    ["images", "-f", "reference=web/*:stable"],
    ["images", "-f", "reference=lab.test:5000/*/*:1"],
    ["images", "-f", "reference=*", "-f", "reference=web/*"],
    ["images", "-f", "reference=[ab]pp:?"],
    ["images", "-f", "label=number"],
    ["images", "-f", "label=number=2"],
    ["images", "-f", "label=number", "-f", "label=even"],
    ["images", "-f", "label=even="],
    ["images", "-f", "label=nosuch"],
    ["images", "-f", "dangling=true"],
    ["images", "-f", "dangling=false"],
    ["images", "-f", "dangling=maybe"],
    ["images", "-f", "before=nosuch"],
    ["images", "-f", "since=app:1"],
    ["images", "-f", "before=app:1"],
    ["images", "-f", "since=web/front:stable", "-f", "label=number"],
    ["images", "-f", "nosuch=1"],
    ["history", "app:1"],
    ["history", "--no-trunc", "-q", "web/front:stable"],
    ["history", "--no-trunc", "--human=false", "app:2"],
    ["history", "nosuch"],
    [
      "inspect",
      "--type",
      "image",
      "-f",
      "{{.Id}} {{.RepoTags}} {{.RepoDigests}} {{.Parent}} {{.Os}}/{{.Architecture}} {{.RootFS.Layers}}",
      "app:1",
    ],
    [
      "inspect",
      "-f",
      "{{json .Config.Labels}} {{json .Config.Env}} {{json .Config.ExposedPorts}}",
      "web/front:stable",
    ],
    ["tag", "nosuch", "x"],
    ["tag", "app:1", "Bad"],
    ["rmi", "nosuch"],
    ["image", "inspect", "nosuch"],
    ["save", "nosuch", "-o", "/dev/null"],
  ];

  /** Lines in order of their text: both engines sort by time, which is the same for several. */
  function comparable({ status, stdout, stderr }: Outcome): Outcome {
    const sorted = (text: string): string => withoutImported(text).split("\n").sort().join("\n");
    return { status, stdout: sorted(stdout), stderr: sorted(stderr) };
  }

  for (const argv of COMMANDS) {
    test(`docker ${argv.join(" ")}`, async () => {
      assert.deepEqual(comparable(await cli(ours, ...argv)), comparable(await cli(docker, ...argv)));
    });
  }

  test("archives of many images go from one engine to the other and back", async () => {
    const names = IMAGES.flatMap(({ tags }) => tags);
    const ids = (engine: Contender | undefined): Promise<string> =>
      ok(engine, "inspect", "--type", "image", "-f", "{{.Id}} {{.RootFS.Layers}}", ...names);
    const expected = await ids(docker);
    for (const [from, to] of [
      [ours, docker],
      [docker, ours],
    ]) {
      const archive = path.join(folder, "moved.tar");
      await ok(from, "save", "-o", archive, ...names);
      await ok(to, "rmi", ...names);
      await ok(to, "load", "-i", archive);
      assert.equal(await ids(to), expected);
    }
  });

  test("docker image prune takes what its filters say", async () => {
    const steps: readonly (readonly string[])[] = [
      ["image", "prune", "-f", "--filter", "label=nosuch"],
      ["image", "prune", "-af", "--filter", "until=2020-01-01"],
      ["image", "prune", "-af", "--filter", "label=number=2"],
      ["image", "prune", "-f", "--filter", "label!=imported"],
      // One at a time: of several, Docker protects only what has all of them.
      ["image", "prune", "-af", "--filter", "label!=number=3", "--filter", "label=number"],
      ["image", "prune", "-f"],
      ["image", "prune", "-af", "--filter", "until=1s"],
      ["image", "prune", "-f", "--filter", "nosuch=1"],
    ];
    for (const argv of steps) {
      const left = async (engine: Contender | undefined): Promise<object> => {
        const { status, stderr } = comparable(await cli(engine, ...argv));
        return { argv, status, stderr, left: comparable(await cli(engine, "images")).stdout };
      };
      assert.deepEqual(await left(ours), await left(docker));
    }
  });
});
