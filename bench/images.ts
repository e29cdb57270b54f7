/**
 * Images beside Docker (Debian's docker.io) and skopeo on the same machine, in turn in one run, all through the same HTTP
 * client: pull of a 10-layer image from a registry on loopback, cold and with 5 layers here; load of the same from a tar;
 * build of a 20-step Dockerfile, cold and cached. Engines and the registry have folders of their own, made and removed here.
 * Needs root and docker-registry.
 *
 *   node bench/images.ts      after `npm run build`; `--help` names its options
 */
import { execFileSync, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { encodeHeader, END_OF_ARCHIVE, paddingOf } from "../runtime/images/tar/tar-entry.ts";
import { freePort } from "../common/testing/free-port.ts";
import { until } from "../dev/until.ts";
import { count, toggle, toolOptions } from "../dev/tool-options.ts";
import { type Contender, hasDocker, START, startDocker, startShoal, stopChild } from "./contenders.ts";
import { ask } from "./docker-http.ts";
import { type Comparison, printComparisons } from "./statistics.ts";
import { busyboxTar } from "./test-image.ts";

const LAYER_COUNT = 10;
const REGISTRY = "/usr/bin/docker-registry";

interface Round {
  pullCold: number;
  pullWarm: number;
  load: number;
  buildCold: number;
  buildCached: number;
}

/** Neither pulls nor these builds need one. */
const NO_NETWORK = { args: ["--bridge=none", "--iptables=false", "--ip-forward=false"] };

async function withBase(start: Promise<Contender>): Promise<Contender> {
  const engine = await start;
  await ask(engine.socket, "POST", "/images/create?fromSrc=-&repo=bench-base&tag=1", busyboxTar());
  return engine;
}

async function startRegistry(
  folder: string,
): Promise<{ readonly host: string; readonly stop: () => Promise<void> }> {
  const port = await freePort();
  const file = path.join(folder, "registry.yml");
  writeFileSync(
    file,
    `version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n` +
      `storage: {filesystem: {rootdirectory: ${folder}/registry}}\nhttp: {addr: "127.0.0.1:${port}"}\n`,
  );
  const child = spawn(REGISTRY, ["serve", file], { stdio: "ignore", env: { OTEL_TRACES_EXPORTER: "none" } });
  const answers = (): Promise<boolean> =>
    new Promise((resolve) => {
      http
        .get({ host: "127.0.0.1", port, path: "/v2/" }, (response) => {
          response.resume();
          resolve(response.statusCode === 200);
        })
        .on("error", () => resolve(false));
    });
  await until("docker-registry", START, answers);
  return { host: `127.0.0.1:${port}`, stop: () => stopChild(child) };
}

function header(name: string, size: number): Buffer {
  const plain = {
    type: "file",
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: 0,
    linkName: "",
    devMajor: 0,
    devMinor: 0,
  } as const;
  return encodeHeader({ ...plain, name, size, xattrs: new Map() });
}

/** Half noise, half text: about what programs compress to. 500 files of different sizes in each layer. */
function layerTar(index: number, bytes: number): Buffer {
  const pieces: Buffer[] = [];
  const files = 500;
  for (let file = 0; file < files; file++) {
    const size = Math.max(1, Math.floor((bytes / files) * (file % 2 === 0 ? 0.5 : 1.5)));
    const text = Buffer.alloc(size >> 1, `line ${file} of layer ${index}, as in a source file or a log\n`);
    const content = Buffer.concat([randomBytes(size - text.length), text]);
    pieces.push(header(`opt/layer${index}/dir${file % 20}/file${file}`, size), content, paddingOf(size));
  }
  return Buffer.concat([...pieces, END_OF_ARCHIVE]);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Two images of the same layers, all of them and the lower half, as an archive on the disk; docker save's form. */
function writeArchive(file: string, megabytes: number): void {
  const fd = openSync(file, "w");
  const put = (name: string, content: Buffer): void => {
    for (const piece of [header(name, content.length), content, paddingOf(content.length)])
      writeSync(fd, piece);
  };
  const layers = Array.from({ length: LAYER_COUNT }, (_, index) => {
    const tar = layerTar(index, (megabytes * 1_000_000) / LAYER_COUNT);
    put(`${sha256(tar)}/layer.tar`, tar);
    return sha256(tar);
  });
  const manifest = [
    ["bench-whole:1", layers],
    ["bench-half:1", layers.slice(0, LAYER_COUNT / 2)],
  ].map(([tag, own]) => {
    const used = own as readonly string[];
    const config = Buffer.from(
      JSON.stringify({
        architecture: process.arch === "arm64" ? "arm64" : "amd64",
        os: "linux",
        config: { Cmd: ["/none"] },
        created: "2026-01-01T00:00:00Z",
        rootfs: { type: "layers", diff_ids: used.map((each) => `sha256:${each}`) },
        history: used.map((_, index) => ({ created: "2026-01-01T00:00:00Z", created_by: `layer ${index}` })),
      }),
    );
    put(`${sha256(config)}.json`, config);
    return {
      Config: `${sha256(config)}.json`,
      RepoTags: [tag],
      Layers: used.map((each) => `${each}/layer.tar`),
    };
  });
  put("manifest.json", Buffer.from(JSON.stringify(manifest)));
  writeSync(fd, END_OF_ARCHIVE);
  closeSync(fd);
}

async function timed(run: () => Promise<unknown>): Promise<number> {
  // What an earlier step left to write must not be paid for by this one.
  execFileSync("sync");
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1000;
}

/** Streams answer 200 and may still fail in their last line. */
async function stream(socket: string, target: string, body?: Uint8Array): Promise<void> {
  const answer = JSON.stringify(await ask(socket, "POST", target, body));
  if (answer.includes("errorDetail")) throw new Error(`${target}: ${answer.slice(-500)}`);
}

const DOCKERFILE = [
  "FROM bench-base:1",
  ...Array.from({ length: 8 }, (_, index) => `RUN echo ${index} > /file${index}`),
  ...Array.from({ length: 6 }, (_, index) => `COPY f${index} /copied/f${index}`),
  "WORKDIR /work",
  "ENV A=1 B=2",
  "LABEL a=b",
  "EXPOSE 80",
  'CMD ["/bin/true"]',
].join("\n");

function buildContext(): Buffer {
  const pieces = [
    header("Dockerfile", DOCKERFILE.length),
    Buffer.from(DOCKERFILE),
    paddingOf(DOCKERFILE.length),
  ];
  for (let index = 0; index < 6; index++) {
    const content = Buffer.alloc(100_000, `content of file ${index}\n`);
    pieces.push(header(`f${index}`, content.length), content, paddingOf(content.length));
  }
  return Buffer.concat([...pieces, END_OF_ARCHIVE]);
}

async function round(socket: string, host: string, archive: Buffer): Promise<Round> {
  const pull = (name: string): Promise<void> =>
    stream(socket, `/images/create?fromImage=${encodeURIComponent(`${host}/${name}`)}&tag=1`);
  const remove = async (...names: readonly string[]): Promise<void> => {
    for (const name of names) await ask(socket, "DELETE", `/images/${name}:1?force=1`);
    await ask(socket, "POST", "/images/prune");
  };
  const pullCold = await timed(() => pull("bench-whole"));
  await remove(`${host}/bench-whole`);
  await pull("bench-half");
  const pullWarm = await timed(() => pull("bench-whole"));
  await remove(`${host}/bench-whole`, `${host}/bench-half`);
  const load = await timed(() => stream(socket, "/images/load?quiet=1", archive));
  await remove("bench-whole", "bench-half");
  const context = buildContext();
  const build = (nocache: boolean): Promise<void> =>
    stream(socket, `/build?t=bench-built%3A1&rm=1&networkmode=none&nocache=${nocache ? 1 : 0}`, context);
  const buildCold = await timed(() => build(true));
  const buildCached = await timed(() => build(false));
  await remove("bench-built");
  return { pullCold, pullWarm, load, buildCold, buildCached };
}

async function skopeo(host: string, folder: string): Promise<number> {
  const target = path.join(folder, "skopeo");
  const seconds = await timed(() => {
    execFileSync(
      "skopeo",
      ["copy", "--src-tls-verify=false", `docker://${host}/bench-whole:1`, `oci:${target}:1`],
      {
        stdio: "ignore",
      },
    );
    return Promise.resolve();
  });
  rmSync(target, { recursive: true, force: true });
  return seconds;
}

/** Fills the registry once, through our engine: the bytes are gzip there, as registries have them. */
async function fill(socket: string, host: string, archive: Buffer): Promise<void> {
  await stream(socket, "/images/load?quiet=1", archive);
  for (const name of ["bench-whole", "bench-half"]) {
    await ask(socket, "POST", `/images/${name}:1/tag?repo=${encodeURIComponent(`${host}/${name}`)}&tag=1`);
    await stream(socket, `/images/${host}/${name}/push?tag=1`);
    await ask(socket, "DELETE", `/images/${host}/${name}:1`);
    await ask(socket, "DELETE", `/images/${name}:1`);
  }
  await ask(socket, "POST", "/images/prune");
}

async function main(): Promise<void> {
  const { megabytes, noPeer, rounds } = toolOptions(
    {
      run: "node bench/images.ts",
      about: "Measures pulls, loads and builds beside Docker and skopeo. Needs root and docker-registry.",
    },
    {
      rounds: count("rounds of all measurements", { fallback: 3 }),
      megabytes: count("size of the image's files in all", { fallback: 500 }),
      noPeer: toggle("without Docker"),
    },
  );
  if (!existsSync(REGISTRY)) {
    console.log("docker-registry is not installed: nothing to pull from");
    return;
  }
  const withPeer = !noPeer && hasDocker();
  if (!withPeer) console.log("dockerd is not installed or not wanted: Shoal alone");
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-bench-images-"));
  const cleanUps: (() => Promise<void> | void)[] = [() => rmSync(folder, { recursive: true, force: true })];
  const ours: Round[] = [];
  const peers: Round[] = [];
  const skopeos: number[] = [];
  try {
    const file = path.join(folder, "archive.tar");
    writeArchive(file, megabytes);
    const archive = readFileSync(file);
    const registry = await startRegistry(folder);
    cleanUps.unshift(registry.stop);
    const shoal = await withBase(startShoal());
    cleanUps.unshift(shoal.stop);
    await fill(shoal.socket, registry.host, archive);
    const docker = withPeer ? await withBase(startDocker(NO_NETWORK)) : undefined;
    if (docker !== undefined) cleanUps.unshift(docker.stop);
    for (let index = 0; index < rounds; index++) {
      ours.push(await round(shoal.socket, registry.host, archive));
      if (docker !== undefined) peers.push(await round(docker.socket, registry.host, archive));
      if (existsSync("/usr/bin/skopeo")) skopeos.push(await skopeo(registry.host, folder));
    }
  } finally {
    for (const cleanUp of cleanUps) await cleanUp();
  }
  const row = (what: string, key: keyof Round): Comparison => ({
    what,
    ours: ours.map((each) => each[key]),
    peer: peers.map((each) => each[key]),
  });
  printComparisons(`Images: ${LAYER_COUNT} layers, ${megabytes} MB of files`, "docker", [
    row("pull, cold", "pullCold"),
    row("pull, 5 layers present", "pullWarm"),
    row("load", "load"),
    row("build of 20 steps, cold", "buildCold"),
    row("build of 20 steps, cached", "buildCached"),
  ]);
  printComparisons("The same pull", "skopeo", [
    { what: "pull, cold (skopeo: copied only)", ours: ours.map((each) => each.pullCold), peer: skopeos },
  ]);
}

await main();
