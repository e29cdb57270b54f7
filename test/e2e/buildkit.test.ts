/** BuildKit's protocol with a client of our own, as buildx speaks it and as nobody should. Needs root. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { type Contender, startShoal } from "../../bench/contenders.ts";
import { ask } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { must } from "../../common/assert.ts";
import { until } from "../../dev/until.ts";
import type { buildkit } from "../../proto/buildkit-messages.ts";
import {
  BuildkitClient,
  folder,
  link,
  RpcError,
  type SessionAnswers,
  type TestFile,
  upgrade,
} from "./support/buildkit-client.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";
const UNTIL = { timeoutMs: 30_000, pollMs: 20 };

interface Built {
  readonly answer: Readonly<Record<string, string>>;
  readonly told: readonly buildkit.StatusResponse[];
  readonly client: BuildkitClient;
}

describe("BuildKit's protocol", { skip }, () => {
  let engine: Contender | undefined;
  before(async () => {
    engine = await startShoal();
    await ask(engine.socket, "POST", "/images/create?fromSrc=-&repo=base&tag=1", busyboxTar());
  });
  after(() => engine?.stop());

  const socket = (): string => must(engine, "started").socket;

  async function json(path: string): Promise<unknown> {
    return (await ask(socket(), "GET", path)) as unknown;
  }

  async function build(
    dockerfile: string,
    options: {
      readonly context?: readonly TestFile[];
      readonly attrs?: Readonly<Record<string, string>>;
      readonly answers?: SessionAnswers;
      readonly names?: string;
    } = {},
  ): Promise<Built> {
    const { context = [], attrs = {}, answers = {}, names = "" } = options;
    const client = await BuildkitClient.open(socket());
    try {
      const ref = randomUUID();
      const folders = {
        dockerfile: [{ path: "Dockerfile", content: dockerfile }],
        context,
        ...answers.folders,
      };
      const building = client.build({ ref, attrs, names, answers: { ...answers, folders } });
      const told = client.status(ref);
      const [answer] = await Promise.all([building, told.catch(() => undefined)]);
      return { answer, told: await told, client };
    } finally {
      client.close();
    }
  }

  const vertexes = ({ told }: Built): readonly buildkit.IVertex[] => [
    ...new Map(told.flatMap((each) => each.vertexes).map((each) => [each.digest, each])).values(),
  ];
  const output = ({ told }: Built): string =>
    told
      .flatMap((each) => each.logs)
      .map(({ msg }) => Buffer.from(msg ?? new Uint8Array()).toString("utf8"))
      .join("");

  test("a build is shown step by step, named and in the cache of the classic builder", async () => {
    const text = "FROM base:1\nARG WHO=you\nCOPY f /f\nRUN cat /f; echo hi $WHO >&2\nENV A=1\nWORKDIR /w\n";
    const context = [{ path: "f", content: "from the context\n" }];
    const first = await build(text, { context, names: "shown:1,other/name:2" });
    assert.match(output(first), /from the context/);
    assert.match(output(first), /hi you/);
    const names = vertexes(first).map(({ name }) => name);
    for (const name of [
      "[internal] load build definition from Dockerfile",
      "[internal] load .dockerignore",
      "[internal] load metadata for docker.io/library/base:1",
      "[internal] load build context",
      "[1/4] FROM docker.io/library/base:1",
      "[2/4] COPY f /f",
      "[3/4] RUN cat /f; echo hi you >&2",
      "[4/4] WORKDIR /w",
      "exporting to image",
    ])
      assert.ok(names.includes(name), `${name} in ${names.join(" | ")}`);
    assert.ok(vertexes(first).every(({ started, completed }) => started !== null && completed !== null));
    const id = must(first.answer["containerimage.config.digest"], "an id");
    for (const name of ["shown:1", "other/name:2"]) {
      const image = (await json(`/images/${name}/json`)) as { readonly Id: string };
      assert.equal(image.Id, id);
    }
    const again = await build(text, { context });
    const cached = vertexes(again).filter((each) => each.cached === true);
    assert.deepEqual(
      cached.map(({ name }) => name?.slice(0, 5)),
      ["[2/4]", "[3/4]", "[4/4]"],
    );
    assert.equal(again.answer["containerimage.config.digest"], id);
    const anew = await build(text, { context, attrs: { "no-cache": "" } });
    assert.ok(vertexes(anew).every((each) => each.cached !== true));
  });

  test("only stages that the target needs are built, and only files that steps name travel", async () => {
    const text = `FROM base:1 AS one
COPY wanted/ /wanted
FROM base:1 AS unneeded
COPY unwanted /x
RUN exit 1
FROM base:1
COPY --from=one /wanted /all
RUN ls /all`;
    const context = [
      folder("wanted"),
      { path: "wanted/a", content: "a" },
      { path: "unwanted", content: "u" },
    ];
    const built = await build(text, { context });
    assert.match(output(built), /^a\n$/m);
    assert.deepEqual(built.client.sent, ["Dockerfile", "wanted/a"]);
  });

  test(".dockerignore goes to the client as patterns, the Dockerfile's own list first", async () => {
    const text = "FROM base:1\nCOPY . /all\n";
    const context = [
      { path: ".dockerignore", content: "# none\n/out\n!out/in\ncafé\n" },
      { path: "f", content: "f" },
    ];
    const asked = async (files: readonly TestFile[]): Promise<unknown> => {
      const folders = { dockerfile: [{ path: "Dockerfile", content: text }, ...files] };
      const { client } = await build(text, { context, answers: { folders } });
      return client.asked.map(({ headers }) => headers["exclude-patterns"]).findLast((each) => each);
    };
    assert.equal(await asked([]), "out, !out%2Fin, caf%C3%A9");
    assert.equal(await asked([{ path: "Dockerfile.dockerignore", content: "*.log" }]), "*.log");
  });

  test("a step that fails names its code and its lines of the Dockerfile", async () => {
    const text = "FROM base:1\nRUN true && \\\n  exit 7\nRUN never\n";
    const failed = await build(text).then(
      () => undefined,
      (caught: unknown) => caught,
    );
    assert.ok(failed instanceof RpcError);
    assert.match(
      failed.result.text,
      /^process "\/bin\/sh -c true && +exit 7" did not complete successfully: exit code: 7$/,
    );
    const source = failed.result.details.find(({ type }) => type.endsWith("/errdefs.Source+json"));
    const { info, ranges } = must(source, "a place").value as {
      readonly info: { readonly filename: string; readonly data: string };
      readonly ranges: readonly unknown[];
    };
    assert.equal(Buffer.from(info.data, "base64").toString("utf8"), text);
    assert.deepEqual(ranges, [{ start: { line: 2 }, end: { line: 3 } }]);
  });

  test("secrets reach their step as a file and a variable, and no image", async () => {
    const text = `FROM base:1
RUN --mount=type=secret,id=key --mount=type=secret,id=token,env=TOKEN cat /run/secrets/key; echo "and $TOKEN"; stat -c %a /run/secrets/key
RUN ls -d /run/secrets || echo gone; echo "[$TOKEN]"
RUN --mount=type=secret,id=absent ls /run/secrets/absent 2>&1 || echo none`;
    const built = await build(text, {
      answers: { secrets: { key: "sesame\n", token: "word" } },
      names: "kept:1",
    });
    assert.match(output(built), /sesame\nand word\n400\n/);
    assert.match(output(built), /gone\n\[\]\n/);
    assert.match(output(built), /none\n$/);
    assert.doesNotMatch(JSON.stringify(await json("/images/kept:1/json")), /sesame|word/);
    const required = text.replace("id=absent", "id=absent,required");
    await assert.rejects(build(required), /secret "absent" was not given/);
  });

  test("a named context is a folder or an image under another name", async () => {
    const folders = { extra: [{ path: "e", content: "extra\n" }] };
    const attrs = { "context:more": "local:extra", "context:other": "docker-image://base:1" };
    const built = await build("FROM other\nCOPY --from=more e /e\nRUN cat /e", {
      attrs,
      answers: { folders },
    });
    assert.match(output(built), /extra/);
    await assert.rejects(
      build("FROM more", { attrs, answers: { folders } }),
      /build context of that name is a folder/,
    );
  });

  const HOSTILE: readonly (readonly [string, readonly TestFile[], RegExp])[] = [
    [
      "a name above the folder",
      [{ path: "../evil", content: "x" }],
      /names must be relative and without "\.\."/,
    ],
    ["an absolute name", [{ path: "/etc/evil", content: "x" }], /names must be relative/],
    ["a name through ..", [{ path: "a/../../evil", content: "x" }], /names must be relative/],
    ["a hard link out", [{ path: "l", linkname: "../../etc/passwd" }], /names must be relative/],
    [
      "a file larger than it said",
      [{ path: "f", size: 1, content: "x".repeat(2 ** 21) }],
      /changed while it was sent/,
    ],
    ["a size below zero", [{ path: "f", size: -1, content: "" }], /its size is -1/],
  ];
  for (const [what, context, message] of HOSTILE) {
    test(`a client that sends ${what} is refused`, async () => {
      await assert.rejects(build("FROM base:1\nCOPY . /all\n", { context }), message);
    });
  }

  test("links of a context lead nowhere outside of it", async () => {
    const context = [
      link("out", "/etc"),
      { path: "out/evil", content: "x" },
      link("up", "../../../../etc/hostname"),
    ];
    const failed = await build("FROM base:1\nCOPY . /all\nRUN ls -l /all /all/out", { context }).then(
      output,
      String,
    );
    assert.doesNotMatch(failed, /hosts|shadow/);
    await assert.rejects(
      build("FROM base:1\nCOPY up /up", { context: [link("up", "../../../../etc/hostname")] }),
      /file does not exist/,
    );
  });

  test("a client that goes away takes its build and container along", async () => {
    const client = await BuildkitClient.open(socket());
    const ref = randomUUID();
    const dockerfile = [{ path: "Dockerfile", content: "FROM base:1\nRUN echo begun; sleep 1000" }];
    const building = client.build({ ref, answers: { folders: { dockerfile } } });
    const running = async (): Promise<boolean> => {
      const list = (await json("/containers/json?all=1")) as readonly { readonly State: string }[];
      return list.some(({ State }) => State === "running");
    };
    await until("the step runs", UNTIL, running);
    client.close();
    await assert.rejects(building);
    const isGone = async (): Promise<boolean> =>
      ((await json("/containers/json?all=1")) as readonly unknown[]).length === 0;
    await until("nothing is left", UNTIL, isGone);
  });

  test("a long output comes whole and in order", async () => {
    const count = 300_000;
    const built = await build(`FROM base:1\nRUN seq 1 ${count}`);
    const lines = output(built).trimEnd().split("\n");
    assert.equal(lines.length, count);
    assert.ok(lines.every((line, index) => line === String(index + 1)));
  });

  test("a connection that its client leaves is left here too", async () => {
    // The engine's ends of connections bear the name that the socket had at first; "03" is connected.
    const connections = (): number =>
      readFileSync("/proc/net/unix", "utf8")
        .split("\n")
        .map((line) => line.trim().split(/\s+/))
        .filter((words) => words[5] === "03" && words[7]?.startsWith(socket()) === true).length;
    // That of this test's own questions. Those of all builds before are gone as well.
    const kept = 1;
    await until("those of earlier builds are closed", UNTIL, () => Promise.resolve(connections() <= kept));
    const session = ["Upgrade: h2c", `X-Docker-Expose-Session-Uuid: ${randomUUID()}`];
    const opened = [
      await upgrade(socket(), "/grpc"),
      await upgrade(socket(), "/session", session),
      await upgrade(socket(), "/grpc"),
    ];
    await until("they are open", UNTIL, () => Promise.resolve(connections() >= opened.length));
    for (const each of opened) each.resume().end();
    await until("they are closed", UNTIL, () => Promise.resolve(connections() <= kept));
  });

  test("what is not served is refused by name", async () => {
    await assert.rejects(
      build("FROM base:1", { attrs: { requestid: "frontend.lint" } }),
      /--check and --call are not served/,
    );
    await assert.rejects(
      build("FROM base:1", { attrs: { context: "https://example.com/x.git" } }),
      /remote contexts are not fetched/,
    );
    await assert.rejects(
      build("FROM base:1", { attrs: { platform: "linux/amd64,linux/arm64" } }),
      /want one platform/,
    );
    await assert.rejects(
      build("FROM base:1", { attrs: { "force-network-mode": "mine" } }),
      /network must be default, none or host, got "mine"/,
    );
    await assert.rejects(
      upgrade(socket(), "/grpc", ["Upgrade: other"]),
      /Upgrade must be \\"h2c\\", got \\"other\\"/,
    );
    await assert.rejects(upgrade(socket(), "/session"), /X-Docker-Expose-Session-Uuid must be/);
  });
});
