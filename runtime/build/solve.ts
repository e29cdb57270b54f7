/**
 * A build for a client that is asked for its files while the build runs: the Dockerfile first, then what its steps read of
 * the context. Only stages that the target needs are built. The same plan, steps and cache as for POST /build.
 */
import path from "node:path";
import { createReadStream } from "node:fs";
import type { Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { SolvedBuild, SolveOptions } from "../../model/build.ts";
import type { HostConfig } from "../../model/engine.ts";
import { HOST_PLATFORM, type ImagePlatform, parsePlatformText } from "../../model/platforms.ts";
import { makeDurable } from "../images/durable-images.ts";
import type { ImageRecord } from "../images/image-records.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import type { Lease } from "../images/leases.ts";
import { BuildContext } from "./build-context.ts";
import { planBuild, type BuildPlan, type Stage } from "./build-plan.ts";
import type { BuildRequest } from "./build-request.ts";
import { contextPaths } from "./context-paths.ts";
import { NOTHING_ASKED } from "./copy-request.ts";
import { IGNORE_FILE, readIgnoreFile } from "./ignore-patterns.ts";
import { NamedContexts } from "./named-contexts.ts";
import { ShownBuild, type ShownParts, ShownVertex } from "./shown-build.ts";
import { type BuilderParts, neededStages, platformArgs, StageRuns } from "./stage-runs.ts";

interface SolveRun {
  readonly lease: Lease;
  readonly signal: AbortSignal;
}

interface ReadDockerfile {
  readonly content: string;
  /** Of the list that belongs to this Dockerfile, if there is one. */
  readonly ignoreText: string | undefined;
  /** The whole context, where that had to be read for it. */
  readonly context: BuildContext | undefined;
}

function hostConfig({ run }: SolveOptions): HostConfig {
  return {
    NetworkMode: run.networkMode,
    CgroupParent: run.cgroupParent,
    ...(run.extraHosts.length === 0 ? {} : { ExtraHosts: run.extraHosts }),
    ...(run.ulimits.length === 0 ? {} : { Ulimits: run.ulimits }),
    ...(run.shmBytes === 0 ? {} : { ShmSize: run.shmBytes }),
  };
}

class Solve {
  readonly #parts: BuilderParts;
  readonly #options: SolveOptions;
  readonly #lease: Lease;
  readonly #signal: AbortSignal;
  readonly #shownParts: ShownParts;
  readonly #contexts: Promise<BuildContext>[] = [];
  #named: NamedContexts | undefined;
  #definition: ShownVertex | undefined;

  constructor(parts: BuilderParts, options: SolveOptions, run: SolveRun) {
    this.#parts = parts;
    this.#options = options;
    this.#lease = run.lease;
    this.#signal = run.signal;
    this.#shownParts = { report: options.report, nowMs: () => parts.storage.env.clock.wallMs() };
  }

  get #storage(): ImageStorage {
    return this.#parts.storage;
  }

  async run(): Promise<ImageRecord> {
    try {
      const dockerfile = await this.#readDockerfile();
      const { path: filename } = this.#options.dockerfile;
      const shown = new ShownBuild(this.#shownParts, { filename, content: dockerfile.content });
      const { platform: wanted } = this.#options;
      const platform = wanted === "" ? HOST_PLATFORM : parsePlatformText(wanted);
      const plan = this.#plan(dockerfile.content, platform, shown);
      for (const warning of plan.warnings) this.#definition?.warn(warning.replace("[WARNING]: ", ""));
      const image = await this.#build(plan, dockerfile, { platform, shown });
      await makeDurable(this.#storage, image);
      return image;
    } finally {
      for (const result of await Promise.allSettled(this.#contexts))
        if (result.status === "fulfilled") result.value.discard();
      await this.#named?.discard();
    }
  }

  #vertex(name: string): ShownVertex {
    return new ShownVertex(this.#shownParts, name, []);
  }

  async #receive(tar: Readable): Promise<BuildContext> {
    const received = BuildContext.receive(this.#storage, tar);
    this.#contexts.push(received);
    return received;
  }

  /** A few files of one of the client's folders. */
  async #files(vertex: ShownVertex, name: string, paths: readonly string[]): Promise<BuildContext> {
    const transfer = vertex.transfer(`transferring ${name}:`);
    return this.#receive(
      this.#options.client.folder({ name, paths }, (bytes) => transfer.moved(bytes), this.#signal),
    );
  }

  async #readDockerfile(): Promise<ReadDockerfile> {
    const { dockerfile, context } = this.#options;
    const { path: name, folder } = dockerfile;
    const vertex = this.#vertex(`[internal] load build definition from ${path.posix.basename(name)}`);
    this.#definition = vertex;
    return vertex.during(async () => {
      if (folder === undefined) {
        if (context.kind === "folder")
          throw new ClusterError("internal", "A Dockerfile is in a folder of the client or in a tar");
        const whole = await this.#receive(context.open(this.#signal));
        return { content: whole.takeDockerfile(name), ignoreText: undefined, context: whole };
      }
      const own = `${name}${IGNORE_FILE}`;
      const files = await this.#files(vertex, folder, [name, own]);
      const content = files.text(name);
      if (content === undefined) {
        throw new ClusterError(
          "not_found",
          `failed to read dockerfile: open ${name}: no such file or directory`,
        );
      }
      if (content === "")
        throw new ClusterError("invalid_argument", `the Dockerfile (${name}) cannot be empty`);
      return { content, ignoreText: files.text(own), context: undefined };
    });
  }

  #plan(content: string, platform: ImagePlatform, shown: ShownBuild): BuildPlan {
    const { args, labels, target } = this.#options;
    try {
      return planBuild(content, {
        args,
        labels,
        target: target.toLowerCase(),
        platformArgs: platformArgs(platform),
      });
    } catch (caught) {
      const line = caught instanceof ClusterError ? caught.details["line"] : undefined;
      if (typeof line === "number") shown.failedAt({ line }, "");
      throw caught;
    }
  }

  async #build(
    plan: BuildPlan,
    dockerfile: ReadDockerfile,
    { platform, shown }: { readonly platform: ImagePlatform; readonly shown: ShownBuild },
  ): Promise<ImageRecord> {
    const { client, namedContexts, noCache } = this.#options;
    const named = new NamedContexts({ contexts: namedContexts, client, storage: this.#storage, shown });
    this.#named = named;
    const needed = neededStages(plan);
    const stages = plan.stages.filter(({ index }) => needed.has(index));
    for (const { baseName, from } of stages) named.checkBase(baseName, from.raw.line);
    const request = this.#request();
    const runs = new StageRuns({
      parts: this.#parts,
      request,
      plan,
      context: await this.#context(dockerfile, stages),
      platform,
      lease: this.#lease,
      signal: this.#signal,
      report: () => undefined,
      usedArgs: new Set(),
      registryAuth: (domain) => client.registryAuth(domain, this.#signal),
      interactive: {
        shown,
        client,
        named,
        isUncached: ({ name, index }) =>
          typeof noCache === "object" && (noCache.includes(name) || noCache.includes(String(index))),
      },
    });
    return runs.run(stages);
  }

  #request(): BuildRequest {
    const { args, labels, target, platform, noCache, pulls } = this.#options;
    return {
      tags: [],
      dockerfile: this.#options.dockerfile.path,
      isQuiet: false,
      usesCache: noCache !== "all",
      pulls,
      removesContainers: true,
      removesFailed: true,
      args,
      unsetArgs: [],
      labels,
      target,
      platform,
      hostConfig: hostConfig(this.#options),
    };
  }

  /** Fetches what the stages read, at once and beside the base images; all of it only if a step turns out to need that. */
  async #context(
    dockerfile: ReadDockerfile,
    stages: readonly Stage[],
  ): Promise<{ readonly folder: (isWhole: boolean) => Promise<string> }> {
    const { context: source } = this.#options;
    const known = dockerfile.context;
    if (known !== undefined) return { folder: () => Promise.resolve(known.folder) };
    const excludes = readIgnoreFile(dockerfile.ignoreText ?? (await this.#ignoreText()));
    const paths = contextPaths(stages);
    const fetch = (wanted: readonly string[] | undefined): Promise<BuildContext> => {
      const vertex = this.#vertex("[internal] load build context");
      const fetched = vertex.during(async () => {
        if (source.kind === "tar") return this.#receive(source.open(this.#signal));
        const transfer = vertex.transfer("transferring context:");
        const part = { name: source.name, excludes, ...(wanted === undefined ? {} : { paths: wanted }) };
        return this.#receive(
          this.#options.client.folder(part, (bytes) => transfer.moved(bytes), this.#signal),
        );
      });
      // Whoever reads it is told.
      fetched.catch(() => undefined);
      return fetched;
    };
    const part = paths?.length === 0 ? undefined : fetch(paths);
    let whole = paths === undefined || source.kind === "tar" ? part : undefined;
    return {
      folder: async (isWhole) => {
        if (!isWhole && part !== undefined) return (await part).folder;
        whole ??= fetch(undefined);
        return (await whole).folder;
      },
    };
  }

  async #ignoreText(): Promise<string> {
    const { context } = this.#options;
    if (context.kind === "tar") return "";
    const vertex = this.#vertex(`[internal] load ${IGNORE_FILE}`);
    const files = await vertex.during(() => this.#files(vertex, context.name, [IGNORE_FILE]));
    return files.text(IGNORE_FILE) ?? "";
  }
}

/** All that a container of the image would see, as a tar. */
async function imageFiles(storage: ImageStorage, image: ImageRecord): Promise<Readable> {
  await storage.layers.ensure(image.layers);
  const layers = storage.snapshots.folders(image.layers.map((layer) => layer.chainId));
  const request = {
    ...NOTHING_ASKED,
    verb: "COPY",
    sources: [{ pattern: "/", layers, kind: "image" as const }],
    destination: "/",
    destinationLayers: [],
  };
  const blobPath = storage.content.ingestPath();
  await storage.pool.run({ kind: "apply", input: { kind: "copy", request }, blobPath });
  const content = createReadStream(blobPath);
  content.once("close", () => void storage.env.disk.removeTree(blobPath));
  return content;
}

export async function solveBuild(
  parts: BuilderParts,
  options: SolveOptions,
  signal: AbortSignal,
): Promise<SolvedBuild> {
  const { storage } = parts;
  const lease = storage.leases.open();
  try {
    const image = await new Solve(parts, options, { lease, signal }).run();
    return {
      imageId: image.id,
      files: () => imageFiles(storage, image),
      release: () => lease.release(),
    };
  } catch (caught) {
    lease.release();
    throw caught;
  }
}
