/** The Dockerfile builder on a real store, with containers that only pretend to run. Needs root for unpacking. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import * as fs from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { after, test } from "node:test";
import { ClusterError } from "../../common/errors.ts";
import type {
  ContainerConfig,
  ContainerEngine,
  CreateContainerRequest,
  JsonObject,
} from "../../model/engine.ts";
import type { RootfsSource } from "../../runtime/ports.ts";
import type { ImageEngineParts } from "../../runtime/images/image-engine.ts";
import { dockerArchive, streamOf, tarOf, type TestMember } from "../../runtime/images/testing/archives.ts";
import { ImageLab } from "./support/image-lab.ts";
import { WAIT_MS } from "./support/wait.ts";

const lab = new ImageLab();
after(() => lab.close());

interface Ran {
  readonly argv: readonly string[];
  readonly env: readonly string[];
}

/**
 * Containers that don't run: "write PATH TEXT" writes to the layer, "exit N" fails, "sleep" runs until it is killed,
 * all else prints itself.
 */
class FakeContainers {
  readonly ran: Ran[] = [];
  readonly removed: string[] = [];
  rootfs: RootfsSource | undefined;
  /** Called while a container is being started. */
  onStart = (): void => {};
  /** Those that run, with what ends them. */
  readonly #running = new Map<string, PromiseWithResolvers<void>>();
  #count = 0;
  readonly #requests = new Map<string, CreateContainerRequest>();

  engine(): ContainerEngine {
    return {
      list: () => Promise.resolve([]),
      create: async (request: CreateContainerRequest) => {
        const id = String(++this.#count).padStart(64, "0");
        this.#requests.set(id, request);
        await this.rootfs?.prepare(id, request.config.Image ?? "");
        return { Id: id, Warnings: [] };
      },
      attach: (id: string) =>
        Promise.resolve({
          isTty: false,
          output: this.#output(id),
          close: () => {},
        }),
      start: (id: string) => {
        this.onStart();
        this.#running.set(id, Promise.withResolvers());
        return Promise.resolve(true);
      },
      wait: async (id: string) => {
        const { argv } = this.#note(id);
        const [command = "", file = "", text = ""] = (argv.at(-1) ?? "").split(" ");
        if (command === "write") {
          const layers = await this.rootfs?.layers(id);
          fs.writeFileSync(path.join(layers?.upper ?? "", file), text);
        }
        if (command === "sleep") await this.#running.get(id)?.promise;
        const exitCode = command === "exit" ? Number(file) : 0;
        return { exitCode, isOomKilled: false, error: "" };
      },
      remove: async (id: string) => {
        this.removed.push(id);
        await this.rootfs?.remove(id);
      },
      kill: (id: string) => {
        this.#running.get(id)?.resolve();
        return Promise.resolve();
      },
    } as unknown as ContainerEngine;
  }

  #config(id: string): ContainerConfig {
    return this.#requests.get(id)?.config ?? {};
  }

  #note(id: string): Ran {
    const config = this.#config(id);
    const ran = { argv: config.Entrypoint ?? [], env: config.Env ?? [] };
    this.ran.push(ran);
    return ran;
  }

  async *#output(
    id: string,
  ): AsyncGenerator<{ readonly stream: "stdout" | "stderr"; readonly data: Uint8Array }> {
    const config = this.#config(id);
    yield { stream: "stdout", data: Buffer.from(`ran ${(config.Entrypoint ?? []).at(-1)}\n`) };
    yield { stream: "stderr", data: Buffer.from("oops\n") };
  }
}

const BASE = {
  tags: ["base:1"],
  layers: [
    [
      { name: "etc/" },
      { name: "etc/passwd", content: "root:x:0:0\nweb:x:33:44:Web\n" },
      { name: "etc/group", content: "staff:x:50:\n" },
      { name: "real/", mode: 0o700, uid: 5, gid: 6 },
      { name: "link", type: "symlink", linkName: "/real" },
    ] satisfies TestMember[],
  ],
  config: { Env: ["PATH=/bin"], Cmd: ["sh"], Entrypoint: null },
};

interface Bench extends ImageEngineParts {
  readonly containers: FakeContainers;
}

async function bench(): Promise<Bench> {
  const containers = new FakeContainers();
  const engine = await lab.open({ containers: () => containers.engine() });
  containers.rootfs = engine.rootfs;
  for await (const line of engine.images.load(streamOf(dockerArchive([BASE])), { quiet: true }))
    assert.ok(line);
  return { ...engine, containers };
}

interface Built {
  readonly lines: readonly JsonObject[];
  readonly text: string;
  readonly id: string;
}

async function build(
  { images }: Bench,
  dockerfile: string,
  options: { readonly files?: readonly TestMember[]; readonly query?: Readonly<Record<string, string>> } = {},
): Promise<Built> {
  const context = streamOf(tarOf([{ name: "Dockerfile", content: dockerfile }, ...(options.files ?? [])]));
  const query = new URLSearchParams({ t: "out:1", ...options.query });
  const lines: JsonObject[] = [];
  for await (const line of images.build({ query, context }, AbortSignal.timeout(WAIT_MS))) lines.push(line);
  const text = lines.map((line) => (typeof line["stream"] === "string" ? line["stream"] : "")).join("");
  return { lines, text, id: images.resolve("out:1") ?? "" };
}

/** "PATH type mode uid:gid content" of all layers above the base. */
async function layerFiles({ rootfs }: Bench, id: string): Promise<readonly string[]> {
  const layers = await rootfs.prepare(`look-${id.slice(7, 19)}`, id);
  const found = new Map<string, string>();
  for (const layer of layers.lower.slice(1, -1).toReversed()) {
    for (const name of fs.readdirSync(layer, { recursive: true, encoding: "utf8" })) {
      const file = path.join(layer, name);
      const stats = fs.lstatSync(file);
      const mode = (stats.mode & 0o7777).toString(8);
      const content = stats.isFile() ? fs.readFileSync(file, "utf8") : stats.isDirectory() ? "/" : "?";
      found.set(name, `${name} ${mode} ${stats.uid}:${stats.gid} ${content}`);
    }
  }
  return [...found.values()].sort();
}

test("ImageEngine.build() tells its steps as the classic builder does", async () => {
  const engine = await bench();
  const { lines, text, id } = await build(engine, 'FROM base:1\nCOPY f /f\nRUN write x y\nCMD ["cat"]\n', {
    files: [{ name: "f", content: "built\n" }],
  });
  assert.match(
    text,
    /^Step 1\/4 : FROM base:1\n ---> [0-9a-f]{12}\nStep 2\/4 : COPY f \/f\n ---> [0-9a-f]{12}\nStep 3\/4 : RUN write x y\n ---> Running in [0-9a-f]{12}\n/,
  );
  assert.ok(text.includes("ran write x y\n\u001b[91moops\n\u001b[0m ---> Removed intermediate container"));
  assert.match(text, /Successfully built [0-9a-f]{12}\nSuccessfully tagged out:1\n$/);
  assert.deepEqual(
    lines.find((line) => "aux" in line),
    { aux: { ID: id } },
  );
  assert.deepEqual(await layerFiles(engine, id), ["f 644 0:0 built\n", "x 644 0:0 y"]);
  const history = await engine.images.history(id);
  assert.equal(history[0]?.["CreatedBy"], '/bin/sh -c #(nop)  CMD ["cat"]');
  assert.equal(history[1]?.["CreatedBy"], "/bin/sh -c write x y");
  assert.match(
    JSON.stringify(history[2]?.["CreatedBy"]),
    /^"\/bin\/sh -c #\(nop\) COPY file:[0-9a-f]{64} in \/f "$/,
  );
});

test("ImageEngine.prune() of all takes a named image along with what was built on it", async () => {
  const engine = await bench();
  await build(engine, "FROM base:1\nRUN write x y\n", { query: { t: "parent:1" } });
  await build(engine, "FROM parent:1\nLABEL a=b\n", { query: { t: "child:1" } });
  const all = new Map([["dangling", ["false"]]]);
  const { ImagesDeleted } = await engine.images.prune(all);
  const untagged = (ImagesDeleted ?? []).flatMap(({ Untagged = [] }) => Untagged);
  assert.deepEqual(new Set(untagged), new Set(["base:1", "parent:1", "child:1"]));
  for (const name of untagged)
    assert.equal(engine.images.resolve(typeof name === "string" ? name : ""), undefined);
  assert.equal((await engine.images.prune(all)).ImagesDeleted, null);
});

test("ImageEngine.build() finds steps again by content, and not with nocache", async () => {
  const engine = await bench();
  const dockerfile = "FROM base:1\nENV A=1\nCOPY f /f\nRUN write x y\n";
  const first = await build(engine, dockerfile, { files: [{ name: "f", content: "1", mtime: 5 }] });
  const second = await build(engine, dockerfile, { files: [{ name: "f", content: "1", mtime: 99 }] });
  assert.equal(second.text.split("Using cache").length - 1, 3);
  assert.equal(second.id, first.id);
  const changed = await build(engine, dockerfile, { files: [{ name: "f", content: "2" }] });
  assert.equal(changed.text.split("Using cache").length - 1, 1);
  assert.equal(engine.containers.ran.length, 2);
  const none = await build(engine, dockerfile, {
    files: [{ name: "f", content: "1" }],
    query: { nocache: "1" },
  });
  assert.equal(none.text.includes("Using cache"), false);
});

test("ImageEngine.build() ends with the exit status of a failing RUN", async () => {
  const engine = await bench();
  await assert.rejects(build(engine, "FROM base:1\nRUN exit 9\n"), (caught) => {
    assert.ok(caught instanceof ClusterError);
    assert.equal(caught.message, "The command '/bin/sh -c exit 9' returned a non-zero code: 9");
    assert.equal(caught.details["exitCode"], 9);
    return true;
  });
  assert.deepEqual(engine.containers.removed, []);
  await assert.rejects(build(engine, "FROM base:1\nRUN exit 9\n", { query: { forcerm: "1" } }));
  assert.equal(engine.containers.removed.length, 1);
  assert.equal(engine.images.resolve("out:1"), undefined);
});

test("COPY puts files where Docker puts them", async () => {
  const engine = await bench();
  const dockerfile = [
    "FROM base:1",
    "WORKDIR /w",
    "COPY --chown=1234:50 *.txt ./",
    "COPY --chown=web:staff d d2",
    "COPY --chmod=755 a.txt /link/new",
    "COPY d/e /x/y/",
    "COPY d /real",
    'COPY ["a.txt", "with space/"]',
    'COPY <<one <<"two" /docs/',
    "hello $PATH",
    "one",
    "$PATH",
    "two",
  ].join("\n");
  const files = [
    { name: "a.txt", content: "A" },
    { name: "b.txt", content: "B", mode: 0o600 },
    { name: "d/", mode: 0o711 },
    { name: "d/e", content: "E" },
    { name: "d/sub/", mode: 0o750 },
    { name: "d/sub/deep", content: "deep" },
  ];
  const { id } = await build(engine, dockerfile, { files });
  assert.deepEqual(await layerFiles(engine, id), [
    "docs 755 0:0 /",
    "docs/one 644 0:0 hello /bin\n",
    "docs/two 644 0:0 $PATH\n",
    "real 700 5:6 /",
    "real/e 644 0:0 E",
    "real/new 755 0:0 A",
    "real/sub 750 0:0 /",
    "real/sub/deep 644 0:0 deep",
    "w 755 0:0 /",
    "w/a.txt 644 1234:50 A",
    "w/b.txt 600 1234:50 B",
    "w/d2 755 33:50 /",
    "w/d2/e 644 33:50 E",
    "w/d2/sub 750 33:50 /",
    "w/d2/sub/deep 644 33:50 deep",
    "w/with space 755 0:0 /",
    "w/with space/a.txt 644 0:0 A",
    "x 755 0:0 /",
    "x/y 755 0:0 /",
    "x/y/e 644 0:0 E",
  ]);
});

const COPY_ERRORS: readonly (readonly [string, RegExp])[] = [
  [
    "COPY nosuch /",
    /^COPY failed: file not found in build context or excluded by \.dockerignore: stat nosuch: file does not exist$/,
  ],
  ["COPY *.nosuch /", /^COPY failed: no source files were specified$/],
  ["COPY ../x /", /^COPY failed: forbidden path outside the build context: \.\.\/x/],
  [
    "COPY a b /c",
    /^When using COPY with more than one source file, the destination must be a directory and end with a \/$/,
  ],
  ["COPY --from=base:1 /nosuch /", /^COPY failed: stat nosuch: file does not exist$/],
  ["COPY --chown=nobody-here a /", /can't find uid for user nobody-here/],
  ["COPY --chmod=999 a /", /invalid chmod/],
  ["ADD git@host:x/y.git /", /cannot fetch "git@host:x\/y\.git": only http and https/],
  ["ADD http://127.0.0.1:1/x /", /ADD failed: cannot fetch "http:\/\/127\.0\.0\.1:1\/x"/],
];

for (const [step, message] of COPY_ERRORS) {
  test(`a build with ${step} is refused`, async () => {
    const files = [
      { name: "a", content: "a" },
      { name: "b", content: "b" },
    ];
    await assert.rejects(build(await bench(), `FROM base:1\n${step}\n`, { files }), { message });
  });
}

test("a link in the context that leads outside of it reads nothing outside", async () => {
  const engine = await bench();
  const secret = path.join(lab.newFolder(), "secret");
  fs.writeFileSync(secret, "host");
  const files: TestMember[] = [
    { name: "up", type: "symlink", linkName: "../../../../../../../../../../.." },
    { name: "abs", type: "symlink", linkName: secret },
  ];
  await assert.rejects(build(engine, `FROM base:1\nCOPY up${secret} /\n`, { files }), /file does not exist/);
  await assert.rejects(build(engine, "FROM base:1\nCOPY abs /\n", { files }), /file does not exist/);
  await assert.rejects(build(engine, "FROM base:1\n", { query: { dockerfile: "../x" } }), /forbidden path/);
});

test(".dockerignore keeps the Dockerfile and itself from being copied, the rest is the client's affair", async () => {
  const engine = await bench();
  const files = [
    { name: ".dockerignore", content: "*.log\n.dockerignore\nDocker*\n" },
    { name: "a.log", content: "" },
  ];
  const { id } = await build(engine, "FROM base:1\nCOPY . /c/\n", { files });
  assert.deepEqual(
    (await layerFiles(engine, id)).map((each) => each.split(" ")[0]),
    ["c", "c/a.log"],
  );
  await assert.rejects(
    build(engine, "FROM base:1\nCOPY Dockerfile /\n", { files }),
    /excluded by \.dockerignore/,
  );
});

test("ADD takes local archives apart, COPY does not", async () => {
  const engine = await bench();
  const archive = tarOf([
    { name: "in", content: "x", uid: 7, gid: 8 },
    { name: ".wh.odd", content: "" },
  ]);
  const files = [{ name: "t.tar", content: archive }];
  const { id } = await build(engine, "FROM base:1\nADD t.tar /a/\nCOPY t.tar /b/\n", { files });
  const names = (await layerFiles(engine, id)).map((each) => each.split(" ").slice(0, 3).join(" "));
  assert.deepEqual(
    names.slice(0, 1).concat(names.filter((each) => each.includes("/in") || each.startsWith("b/"))),
    ["a 755 0:0", "a/in 644 7:8", "b/t.tar 644 0:0"],
  );
});

test("COPY --parents keeps the folders above, from /./ on where it is written", async () => {
  const engine = await bench();
  const files = [
    { name: "x/", mode: 0o750 },
    { name: "x/y/" },
    { name: "x/y/a.txt", content: "a" },
    { name: "x/y/b.md", content: "b" },
    { name: "z/deep/er/a.txt", content: "z" },
    { name: "top.txt", content: "t" },
  ];
  const dockerfile = `FROM base:1
COPY --parents x/y/a.txt top.txt /one/
COPY --parents x/./y/*.* /two/
COPY --parents --exclude=x/** **/*.txt /three/
COPY --parents z/deep /four
COPY --exclude=*.md x/y/* /five/
`;
  const { id } = await build(engine, dockerfile, { files });
  assert.deepEqual(await layerFiles(engine, id), [
    "five 755 0:0 /",
    "five/a.txt 644 0:0 a",
    "four 755 0:0 /",
    "four/z 755 0:0 /",
    "four/z/deep 755 0:0 /",
    "four/z/deep/er 755 0:0 /",
    "four/z/deep/er/a.txt 644 0:0 z",
    "one 755 0:0 /",
    "one/top.txt 644 0:0 t",
    "one/x 750 0:0 /",
    "one/x/y 755 0:0 /",
    "one/x/y/a.txt 644 0:0 a",
    "three 755 0:0 /",
    "three/top.txt 644 0:0 t",
    "three/z 755 0:0 /",
    "three/z/deep 755 0:0 /",
    "three/z/deep/er 755 0:0 /",
    "three/z/deep/er/a.txt 644 0:0 z",
    "two 755 0:0 /",
    "two/y 755 0:0 /",
    "two/y/a.txt 644 0:0 a",
    "two/y/b.md 644 0:0 b",
  ]);
});

test("ADD --checksum takes only what has the digest", async () => {
  const engine = await bench();
  const server = createServer((_, answer) => answer.end("content")).listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/file`;
    const digest = `sha256:${createHash("sha256").update("content").digest("hex")}`;
    const { id } = await build(engine, `FROM base:1\nARG SUM\nADD --checksum=$SUM ${url} /f\n`, {
      query: { buildargs: JSON.stringify({ SUM: digest }) },
    });
    assert.deepEqual(await layerFiles(engine, id), ["f 600 0:0 content"]);
    const wrong = `sha256:${"0".repeat(64)}`;
    const add = (flags: string): Promise<unknown> => build(engine, `FROM base:1\nADD ${flags} /f\n`);
    await assert.rejects(
      add(`--checksum=${wrong} ${url}`),
      new RegExp(`digest mismatch: want ${wrong}, got ${digest}`),
    );
    await assert.rejects(
      add(`--checksum=sha256:12 ${url}`),
      /want sha256: and 64 hexadecimal digits, got "sha256:12"/,
    );
    await assert.rejects(add(`--checksum=${digest} file`), /checksum requires HTTP\(S\) sources/);
  } finally {
    server.close();
  }
});

test("ADD of a URL asks the daemon's proxy, and follows redirects", async (t) => {
  const engine = await bench();
  const asked: string[] = [];
  const proxy = createServer((request, answer) => {
    asked.push(request.url ?? "");
    if (request.url === "http://files.test/old") answer.writeHead(302, { location: "/new" }).end();
    else if (request.url === "http://files.test/loop") answer.writeHead(301, { location: "/loop" }).end();
    else answer.end("content");
  }).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const before = process.env["HTTP_PROXY"];
  process.env["HTTP_PROXY"] = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  t.after(() => {
    if (before === undefined) delete process.env["HTTP_PROXY"];
    else process.env["HTTP_PROXY"] = before;
    proxy.close();
  });
  const { id } = await build(engine, "FROM base:1\nADD http://files.test/old /f\n");
  assert.deepEqual(await layerFiles(engine, id), ["f 600 0:0 content"]);
  assert.deepEqual(asked, ["http://files.test/old", "http://files.test/new"]);
  await assert.rejects(
    build(engine, "FROM base:1\nADD http://files.test/loop /f\n"),
    /cannot fetch "http:\/\/files.test\/loop": stopped after 10 redirects/,
  );
});

test("a quiet build that fails tells what it did, one that does not only its image", async () => {
  const engine = await bench();
  const query = { q: "1" };
  assert.match((await build(engine, "FROM base:1\nRUN one\n", { query })).text, /^sha256:[0-9a-f]{64}\n$/);
  const told: string[] = [];
  const context = streamOf(tarOf([{ name: "Dockerfile", content: "FROM base:1\nRUN two\nRUN exit 3\n" }]));
  await assert.rejects(async () => {
    const lines = engine.images.build(
      { query: new URLSearchParams(query), context },
      AbortSignal.timeout(WAIT_MS),
    );
    for await (const line of lines) told.push(JSON.stringify(line));
  }, /returned a non-zero code: 3/);
  assert.match(told.join(""), /Step 2\/3 : RUN two[^]*ran two[^]*Step 3\/3 : RUN exit 3/);
});

test("what the classic builder refuses on Linux is refused here, and names without a value are told", async () => {
  const engine = await bench();
  const refused = (query: Readonly<Record<string, string>>): Promise<unknown> =>
    build(engine, "FROM base:1\n", { query });
  await assert.rejects(refused({ isolation: "hyperv" }), /Unsupported isolation: "hyperv"/);
  await assert.rejects(
    refused({ securityopt: '["foo=bar"]' }),
    /does not support setting security options on build/,
  );
  const query = { isolation: "Default", securityopt: "null", buildargs: '{"B":null,"A":"1"}' };
  assert.match(
    (await build(engine, "FROM base:1\n", { query })).text,
    /build-args \[A B\] were not consumed/,
  );
});

test("stages are built for each other, and a target ends the build", async () => {
  const engine = await bench();
  const dockerfile = [
    "ARG BASE=base",
    "FROM ${BASE}:1 AS one",
    "RUN write s s1",
    "FROM scratch AS two",
    "COPY --from=one /s /s1",
    "COPY --from=0 /s /s2",
    "FROM two",
    "LABEL last=yes",
  ].join("\n");
  const { id, text } = await build(engine, dockerfile, { query: { target: "two" } });
  assert.match(text, /^Step 1\/6 : ARG BASE=base\nStep 2\/6 : FROM \$\{BASE\}:1 AS one/);
  assert.equal(text.includes("LABEL"), false);
  const files = fs.readdirSync((await engine.rootfs.prepare("t", id)).lower[1] ?? "");
  assert.deepEqual(files, ["s2"]);
  const all = await build(engine, dockerfile);
  assert.deepEqual(((await engine.images.inspect(all.id))["Config"] as JsonObject)["Labels"], {
    last: "yes",
  });
  await assert.rejects(
    build(engine, dockerfile, { query: { target: "nosuch" } }),
    /failed to reach build target nosuch/,
  );
});

test("the config of a build has what its instructions say", async () => {
  const engine = await bench();
  const dockerfile = [
    "FROM base:1",
    "MAINTAINER me",
    'ENV A=1 B="two words"',
    "WORKDIR /w",
    "WORKDIR sub",
    "USER web",
    "EXPOSE 80 53/udp",
    "VOLUME /v",
    'ENTRYPOINT ["/bin/echo","e"]',
    "STOPSIGNAL SIGUSR1",
    "HEALTHCHECK --interval=3s --retries=2 CMD true",
    'SHELL ["/bin/sh","-ec"]',
    "ONBUILD RUN true",
    "RUN write f g",
  ].join("\n");
  const { id } = await build(engine, dockerfile, { query: { labels: '{"b":"x \\"y\\" $z","a":"1"}' } });
  const image = await engine.images.inspect(id);
  const config = image["Config"] as JsonObject;
  assert.equal(image["Author"], "me");
  assert.deepEqual(config["Env"], ["PATH=/bin", "A=1", "B=two words"]);
  assert.equal(config["WorkingDir"], "/w/sub");
  assert.equal(config["User"], "web");
  assert.deepEqual(config["ExposedPorts"], { "80/tcp": {}, "53/udp": {} });
  assert.deepEqual(config["Entrypoint"], ["/bin/echo", "e"]);
  assert.equal(config["Cmd"], null);
  assert.deepEqual(config["OnBuild"], ["RUN true"]);
  assert.deepEqual(config["Labels"], { a: "1", b: 'x "y" $z' });
  assert.deepEqual(engine.containers.ran[0]?.argv, ["/bin/sh", "-ec", "write f g"]);
  const child = await build(engine, "FROM out:1\n", { query: { t: "child:1" } });
  assert.match(child.text, /# Executing 1 build trigger\n/);
  assert.deepEqual(engine.containers.ran[1]?.argv, ["/bin/sh", "-ec", "true"]);
});

test("arguments reach RUN, come from the request, and are part of the cache", async () => {
  const engine = await bench();
  const dockerfile = "ARG G=global\nFROM base:1\nARG G\nARG N=default\nRUN one $N\n";
  await build(engine, dockerfile, { query: { buildargs: '{"HTTP_PROXY":"p"}' } });
  assert.deepEqual(engine.containers.ran[0]?.env.slice(0, 3), ["HTTP_PROXY=p", "G=global", "N=default"]);
  const same = await build(engine, dockerfile, { query: { buildargs: '{"HTTP_PROXY":"q"}' } });
  assert.equal(engine.containers.ran.length, 1);
  assert.equal(same.text.includes("not consumed"), false);
  const other = await build(engine, dockerfile, { query: { buildargs: '{"N":"given","Z":"1"}' } });
  assert.equal(engine.containers.ran.length, 2);
  assert.match(other.text, /\[Warning\] One or more build-args \[Z\] were not consumed/);
});

test("the same sources with SOURCE_DATE_EPOCH give the same image on two machines", async () => {
  const ids: string[] = [];
  for (const mtime of [1_700_000_000, 1_800_000_000]) {
    const engine = await bench();
    const files = [{ name: "f", content: "same", mtime }];
    const query = { buildargs: '{"SOURCE_DATE_EPOCH":"1600000000"}' };
    ids.push((await build(engine, "FROM base:1\nCOPY f /n/f\nRUN write x y\n", { files, query })).id);
  }
  assert.equal(ids[0], ids[1]);
});

test("a build that nobody reads is ended and its container removed", async () => {
  const engine = await bench();
  const stop = new AbortController();
  const context = streamOf(tarOf([{ name: "Dockerfile", content: "FROM base:1\nRUN one\nRUN two\n" }]));
  const lines: JsonObject[] = [];
  await assert.rejects(async () => {
    for await (const line of engine.images.build({ query: new URLSearchParams(), context }, stop.signal)) {
      lines.push(line);
      if (JSON.stringify(line).includes("Running in")) stop.abort();
    }
  });
  assert.equal(engine.containers.removed.length, 1);
  assert.equal(engine.containers.ran.length, 1);
});

test("a build that is left while a step's container is being started is ended too", async () => {
  const engine = await bench();
  const leaving = new AbortController();
  engine.containers.onStart = (): void => leaving.abort();
  const context = streamOf(tarOf([{ name: "Dockerfile", content: "FROM base:1\nRUN sleep\n" }]));
  const lines = engine.images.build({ query: new URLSearchParams(), context }, leaving.signal);
  await assert.rejects(async () => {
    for await (const line of lines) assert.ok(line);
  });
  assert.equal(engine.containers.removed.length, 1);
});

test("independent stages are told in the order of the Dockerfile", async () => {
  const engine = await bench();
  const dockerfile =
    "FROM base:1 AS a\nRUN one\nFROM base:1 AS b\nRUN two\nFROM base:1\nCOPY --from=a /etc /1\nCOPY --from=b /etc /2\n";
  const { text } = await build(engine, dockerfile);
  const numbers = [...text.matchAll(/^Step (\d)\/7/gm)].map(([, number]) => number);
  assert.deepEqual(numbers, ["1", "2", "3", "4", "5", "6", "7"]);
});
