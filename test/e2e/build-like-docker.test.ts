/**
 * The same Dockerfiles built here and by Docker's own classic builder: history, config and every file must be the same. Needs
 * root and a dockerd (Debian's docker.io); without one it is skipped and says so.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { type Contender, hasDocker, startDocker, startShoal } from "../../bench/contenders.ts";
import { ask } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { must } from "../../common/assert.ts";
import { tarOf, type TestMember } from "../../runtime/images/testing/archives.ts";
import { TarReader } from "../../runtime/images/tar/tar-reader.ts";
import type { TarEntry } from "../../runtime/images/tar/tar-entry.ts";

interface Case {
  readonly name: string;
  readonly dockerfile: string;
  readonly query?: Readonly<Record<string, string>>;
}

const HASH = "HASH";
const FILES: readonly TestMember[] = [
  { name: "one", content: "1", mode: 0o640, uid: 1000, gid: 1000 },
  { name: "two.txt", content: "22", mode: 0o755 },
  { name: "three.txt", content: "333" },
  { name: "tree/", mode: 0o750 },
  { name: "tree/in", content: "in", mode: 0o600, uid: 5 },
  { name: "tree/sub/", mode: 0o711 },
  { name: "tree/sub/deep", content: "deep" },
  { name: "tree/link", type: "symlink", linkName: "sub/deep" },
  {
    name: "a.tar",
    content: tarOf([{ name: "packed/" }, { name: "packed/f", content: "f", uid: 7, gid: 8 }]),
  },
  { name: "a.tgz", content: gzipSync(tarOf([{ name: "zipped", content: "z", mode: 0o604 }])) },
  { name: "data.gz", content: gzipSync(Buffer.from("no archive")) },
];

const CASES: readonly Case[] = [
  {
    name: "RUN in both forms, with output and removed files",
    dockerfile: `FROM bench-base:1
RUN mkdir /d && echo a > /d/a && echo b > /d/b && chmod 640 /d/b
RUN ["/bin/sh", "-c", "rm /d/a && ln -s b /d/l && ln /d/b /d/hard"]
RUN rm -rf /d && mkdir /d && echo new > /d/new`,
  },
  {
    name: "COPY of files, folders, patterns, with owner",
    dockerfile: `FROM bench-base:1
COPY one /
COPY one /renamed
COPY two.txt three.txt /both/
COPY *.txt /glob/
COPY tree /tree
COPY tree/ /there/under/
COPY --chown=12:34 tree one /owned/
COPY . /all
WORKDIR /work/dir
COPY one here
COPY one ./folder/`,
  },
  {
    name: "ADD of archives and of what only looks like one",
    dockerfile: `FROM bench-base:1
ADD a.tar /x/
ADD a.tgz /x/
ADD data.gz one /y/
ADD tree /z`,
  },
  {
    name: "the config's instructions",
    dockerfile: `FROM bench-base:1
MAINTAINER somebody <a@b.c>
LABEL a=1 b="two words" c='x'
LABEL "d"="e\\
f"
ENV ONE 1 and more
ENV TWO=2 THREE="a $ONE b" FOUR=\${TWO:-x}\${NONE:+y}
EXPOSE 80 53/udp 8000-8002/tcp
VOLUME /v1 /v2
VOLUME ["/v3"]
USER nobody:nogroup
WORKDIR /w
WORKDIR sub
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=2s --start-period=1m --retries=3 CMD exit 0
ENTRYPOINT ["/bin/sh", "-c"]
CMD echo hi
SHELL ["/bin/sh", "-x", "-c"]
CMD echo again
ONBUILD RUN echo triggered`,
  },
  {
    name: "entry points and commands forget each other as they should",
    dockerfile: `FROM bench-base:1
CMD ["a"]
ENTRYPOINT b c
HEALTHCHECK NONE`,
  },
  {
    name: "arguments",
    dockerfile: `ARG BASE=bench-base
ARG TAG=1
FROM \${BASE}:\${TAG}
ARG TAG
ARG GIVEN=default
ARG NOT_GIVEN=fallback
ENV FROM_ARG=\${GIVEN}
RUN echo "$TAG $GIVEN $NOT_GIVEN $FROM_ARG" > /args
ENV GIVEN=env
RUN echo "$GIVEN" > /env`,
    query: { buildargs: JSON.stringify({ GIVEN: "from the client" }) },
  },
  {
    name: "stages by name, number and from scratch",
    dockerfile: `FROM bench-base:1 AS builder
RUN mkdir -p /out/bin && echo program > /out/bin/p && chmod 4755 /out/bin/p
FROM bench-base:1 as other
COPY --from=builder /out /taken
FROM scratch
COPY --from=0 /out/bin /bin
COPY --from=other /taken/bin/p /p2
COPY --from=bench-base:1 /bin/busybox /sh
CMD ["/bin/p"]`,
  },
  {
    name: "a target and labels of the request",
    dockerfile: `FROM bench-base:1 AS first
ENV A=first
FROM first AS second
ENV A=second`,
    query: { target: "first", labels: JSON.stringify({ z: "1", a: "2" }) },
  },
  {
    name: "comments, continued lines and the escape directive",
    dockerfile: `# escape=\`
FROM bench-base:1
# a comment
RUN echo a \`
  # inside
  && echo b > /file
ENV P=c:\\dir`,
  },
];

function call(socketPath: string, target: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    http
      .get({ socketPath, path: `/v1.41${target}` }, (response) => {
        const pieces: Buffer[] = [];
        response.on("data", (piece: Buffer) => pieces.push(piece));
        response.on("end", () => resolve(Buffer.concat(pieces)));
        response.on("error", reject);
      })
      .on("error", reject);
  });
}

/** "name type mode owner link content" of every file of the image. */
async function treeOf(socket: string, image: string): Promise<readonly string[]> {
  const { Id } = (await ask(socket, "POST", "/containers/create", {
    Image: image,
    Cmd: ["/none"],
    HostConfig: { NetworkMode: "none" },
  })) as { readonly Id: string };
  const lines: string[] = [];
  let current: TarEntry | undefined;
  let hash = createHash("sha256");
  const reader = new TarReader({
    entry: (entry) => {
      current = entry;
      hash = createHash("sha256");
    },
    data: (chunk) => hash.update(chunk),
    entryEnd: () => {
      const { name, type, mode, uid, gid, size, linkName } = must(current, "an entry ends after it began");
      const content = type === "file" ? hash.digest("hex").slice(0, 12) : "";
      lines.push(
        `${name.replace(/\/$/, "")} ${type} ${mode.toString(8)} ${uid}:${gid} ${size} ${linkName} ${content}`,
      );
    },
  });
  reader.feed(await call(socket, `/containers/${Id}/export`));
  reader.finish();
  await ask(socket, "DELETE", `/containers/${Id}?force=1`);
  return lines.sort();
}

interface Inspected {
  readonly Config: Readonly<Record<string, unknown>>;
  readonly Author: string;
  readonly Architecture: string;
  readonly Os: string;
  readonly Size: number;
  readonly RootFS: { readonly Layers: readonly string[] };
}

/** Fields that say nothing, and those that name an engine's own ids. */
function withoutEmpty(config: Readonly<Record<string, unknown>>): object {
  const isEmpty = (value: unknown): boolean =>
    value === null || value === "" || value === false || (Array.isArray(value) && value.length === 0);
  return Object.fromEntries(
    Object.entries(config).filter(([key, value]) => key !== "Image" && key !== "Hostname" && !isEmpty(value)),
  );
}

async function build(socket: string, { dockerfile, query = {} }: Case): Promise<object> {
  const context = tarOf([{ name: "Dockerfile", content: dockerfile }, ...FILES]);
  const all = new URLSearchParams({ t: "like:1", networkmode: "none", nocache: "1", ...query });
  const target = `/build?${all.toString()}`;
  const answer = JSON.stringify(await ask(socket, "POST", target, context));
  assert.ok(!answer.includes("errorDetail"), answer.slice(-600));
  const image = (await ask(socket, "GET", "/images/like:1/json")) as Inspected;
  const history = (await ask(socket, "GET", "/images/like:1/history")) as readonly {
    readonly CreatedBy: string;
    readonly Comment: string;
    readonly Size: number;
    readonly Tags: readonly string[] | null;
  }[];
  return {
    config: withoutEmpty(image.Config),
    author: image.Author,
    platform: `${image.Os}/${image.Architecture}`,
    layerCount: image.RootFS.Layers.length,
    history: history.map(({ CreatedBy, Size, Tags }) => ({
      // Docker prints a structure of its program for HEALTHCHECK.
      by: CreatedBy.replace(/[0-9a-f]{64}/g, HASH).replace(/(HEALTHCHECK) .*/, "$1"),
      bytes: Size,
      tags: Tags ?? [],
    })),
    tree: await treeOf(socket, "like:1"),
  };
}

const skip = hasDocker() ? false : "no dockerd here (Debian's docker.io): nothing to compare with";

describe("a build like Docker's", { skip }, () => {
  const engines: Contender[] = [];
  before(async () => {
    engines.push(await startShoal());
    engines.push(await startDocker({ args: ["--bridge=none", "--iptables=false", "--ip-forward=false"] }));
    for (const { socket } of engines)
      await ask(socket, "POST", "/images/create?fromSrc=-&repo=bench-base&tag=1", busyboxTar());
  });
  after(async () => {
    for (const engine of engines) await engine.stop();
  });

  for (const each of CASES) {
    test(each.name, async () => {
      const [ours, docker] = engines;
      assert.deepEqual(
        await build(must(ours, "started").socket, each),
        await build(must(docker, "started").socket, each),
      );
    });
  }
});
