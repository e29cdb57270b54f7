/**
 * The same Dockerfiles built here and by Docker's own classic builder: history, config and every file must be the same. Needs
 * root and a dockerd (Debian's docker.io); without one it is skipped and says so.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { type Contender, hasDocker, startDocker, startShoal } from "../../bench/contenders.ts";
import { ask, type Reply, request } from "../../bench/docker-http.ts";
import { busyboxTar } from "../../bench/test-image.ts";
import { must } from "../../common/assert.ts";
import { tarOf } from "../../runtime/images/testing/archives.ts";
import { BUILD_CASES, BUILD_FILES, type BuildCase } from "./support/build-cases.ts";
import { TarReader } from "../../runtime/images/tar/tar-reader.ts";
import type { TarEntry } from "../../runtime/images/tar/tar-entry.ts";

const HASH = "HASH";

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
  const lines: TreeLine[] = [];
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
      const content = type === "file" ? `${size} ${hash.digest("hex").slice(0, 12)}` : "";
      // Which of a file's names is met first is the engine's affair.
      const isLink = type === "link";
      const text = `${isLink ? "file" : type} ${mode.toString(8)} ${uid}:${gid} ${isLink ? "" : linkName} ${content}`;
      lines.push({ name: name.replace(/\/$/, ""), text, first: isLink ? linkName : "" });
    },
  });
  reader.feed(await call(socket, `/containers/${Id}/export`));
  reader.finish();
  await ask(socket, "DELETE", `/containers/${Id}?force=1`);
  return lines.map((line) => described(line, lines)).sort();
}

interface TreeLine {
  readonly name: string;
  readonly text: string;
  /** The file's name that came before, if this is another one. */
  readonly first: string;
}

/** With all names that the file has. */
function described({ name, text, first }: TreeLine, all: readonly TreeLine[]): string {
  const group = first === "" ? name : first;
  const names = all.filter((each) => each.name === group || each.first === group);
  if (names.length === 1) return `${name} ${text}`;
  const content = must(
    names.find((each) => each.first === ""),
    "one name comes first",
  ).text;
  return `${name} ${content} as ${names
    .map((each) => each.name)
    .sort()
    .join(" and ")}`;
}

interface Inspected {
  readonly Config: Readonly<Record<string, unknown>>;
  readonly Author: string;
  readonly Architecture: string;
  readonly Os: string;
  readonly Size: number;
  readonly RootFS: { readonly Layers?: readonly string[] };
}

/** Fields that say nothing, and those that name an engine's own ids. */
function withoutEmpty(config: Readonly<Record<string, unknown>>): object {
  const isEmpty = (value: unknown): boolean =>
    value === null || value === "" || value === false || (Array.isArray(value) && value.length === 0);
  return Object.fromEntries(
    Object.entries(config).filter(([key, value]) => key !== "Image" && key !== "Hostname" && !isEmpty(value)),
  );
}

/** What is told, less the names that differ from run to run. */
function toldBy(body: unknown): string {
  // One object a line, unless it is one altogether.
  const lines: readonly unknown[] =
    typeof body === "string"
      ? body.split(/\r?\n/).flatMap((line): unknown[] => (line === "" ? [] : [JSON.parse(line)]))
      : [body];
  const texts = lines.map((line) => {
    const { stream, aux, errorDetail, message } = line as Readonly<Record<string, unknown>>;
    if (typeof stream === "string") return stream;
    if (errorDetail !== undefined) return `ERROR ${JSON.stringify(errorDetail)}\n`;
    return aux === undefined ? `MESSAGE ${String(message)}\n` : "AUX\n";
  });
  return (
    texts
      .join("")
      // Here only RUN has a container; later versions of Docker have changed the words of its end.
      .replace(
        /^(?: ---> Running in|Removing intermediate container| ---> Removed intermediate container) .*\n/gm,
        "",
      )
      .replace(/sha256:[0-9a-f]{64}/g, HASH)
      .replace(/\b[0-9a-f]{12}\b/g, "ID")
      .replace(/(?<= )[0-9a-f]{64}/g, HASH)
  );
}

/** Less what versions of Docker put around the same words, and its own paths. */
function plainFailure(text: string): string {
  return (
    text
      .replace(/^\{"message":"(.*)"\}$/, "$1")
      .replace(/(?:dockerfile parse error(?: on)?(?: line \d+)?|failed to parse Dockerfile): /, "")
      .replace("failed to create task for container: ", "")
      // As newer versions of runc say it.
      .replace("error during container init: ", "")
      .replace(/(?:COPY failed: )?failed to copy files: .*(?=: not a directory)/, "copy")
      .replace(/\(library\/\w+\) /, "")
      .replace(/flag(.*): (?:--)?/i, "flag$1: ")
      .toLowerCase()
  );
}

async function build(socket: string, each: BuildCase): Promise<object> {
  for (const [name, dockerfile] of Object.entries(each.bases ?? {})) {
    await post(socket, { name, dockerfile, query: { t: name } });
  }
  const { status, body } = await post(socket, each);
  const told = toldBy(body);
  const failure = /(?:MESSAGE|ERROR) (.*)\n$/.exec(told)?.[1];
  if (failure !== undefined) {
    assert.equal(status === 200 || status >= 400, true);
    return each.differs === undefined ? { failure: plainFailure(failure) } : { isFailure: true };
  }
  const image = (await ask(socket, "GET", "/images/like:1/json")) as Inspected;
  const history = (await ask(socket, "GET", "/images/like:1/history")) as readonly {
    readonly CreatedBy: string;
    readonly Comment: string;
    readonly Size: number;
    readonly Tags: readonly string[] | null;
  }[];
  return {
    told,
    config: withoutEmpty(image.Config),
    author: image.Author,
    platform: `${image.Os}/${image.Architecture}`,
    layerCount: image.RootFS.Layers?.length ?? 0,
    history: history.map(({ CreatedBy, Size, Tags }) => ({
      // Docker prints a structure of its program for HEALTHCHECK.
      by: CreatedBy.replace(/[0-9a-f]{64}/g, HASH).replace(/(HEALTHCHECK) .*/, "$1"),
      bytes: Size,
      tags: Tags ?? [],
    })),
    tree: await treeOf(socket, "like:1"),
  };
}

function post(socket: string, { dockerfile, query = {}, files = [] }: BuildCase): Promise<Reply> {
  const context = tarOf([{ name: "Dockerfile", content: dockerfile }, ...BUILD_FILES, ...files]);
  const all = new URLSearchParams({ t: "like:1", networkmode: "none", nocache: "1", rm: "1", ...query });
  return request(socket, "POST", `/build?${all.toString()}`, context);
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

  for (const each of BUILD_CASES) {
    test(each.name, async () => {
      const [ours, docker] = engines;
      assert.deepEqual(
        await build(must(ours, "started").socket, each),
        await build(must(docker, "started").socket, each),
      );
    });
  }
});
