/**
 * Builds one stage step by step: each step makes an image on top of the one before, or finds the one that an earlier build of
 * the same step made. The first step that is not found ends the use of the cache for the stage.
 */
import { createHash } from "node:crypto";
import path from "node:path";
import { must, unreachable } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { BuildClient } from "../../model/build.ts";
import type { ContainerConfig, ContainerEngine, ProgressLine } from "../../model/engine.ts";
import type { ImagePlatform } from "../../model/platforms.ts";
import { makeChildImage, placeLayer, type NewLayer } from "../images/child-image.ts";
import type { ImageRecord } from "../images/image-records.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import { LayeredView } from "../images/layered-view.ts";
import type { JobInput } from "../images/layer-jobs.ts";
import type { Lease } from "../images/leases.ts";
import { shortId } from "../images/progress.ts";
import { fromText } from "../images/tar/byte-path.ts";
import type { BuildRequest } from "./build-request.ts";
import { applyConfig, argvOf, DEFAULT_SHELL, splitEnv } from "./config-changes.ts";
import { type CopyRequest, type CopySource, NOTHING_ASKED } from "./copy-request.ts";
import { checkChecksum, downloadFile, isRemote } from "./download.ts";
import type { ArgInstruction, CopyInstruction, Instruction, RunInstruction } from "./instructions.ts";
import { copyText, nopText, stepText } from "./history-text.ts";
import { toInstruction } from "./instructions.ts";
import { parseInstruction } from "./dockerfile-parser.ts";
import { toRunMount } from "./run-mounts.ts";
import { runStep } from "./run-step.ts";
import type { ShownStage, ShownStep } from "./shown-build.ts";
import { StepMounts } from "./step-mounts.ts";
import { expandText, expandWord, type WordOptions } from "./shell-words.ts";

const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** Given to RUN without being declared, and never part of what a step is found by. */
const PROXY_ARGS: ReadonlySet<string> = new Set(
  ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"].flatMap((name) => [
    name,
    name.toLowerCase(),
  ]),
);

/** Where the client's files are. */
export interface ContextFolder {
  /** `isWhole`: also what no step of the Dockerfile names. */
  readonly folder: (isWhole: boolean) => Promise<string>;
}

export interface StageEnvironment {
  readonly storage: ImageStorage;
  readonly containers: ContainerEngine | undefined;
  readonly request: BuildRequest;
  readonly context: ContextFolder;
  readonly lease: Lease;
  readonly escape: string;
  /** Values of the arguments before the first FROM. */
  readonly globalArgs: ReadonlyMap<string, string>;
  readonly platform: ImagePlatform;
  readonly report: (line: ProgressLine) => void;
  /** Awaited by commands that print; absent: what is told is taken at once. */
  readonly room?: () => Promise<void>;
  readonly signal: AbortSignal;
  /** Image of a stage built before, or of a name; undefined for an empty one. */
  readonly imageFor: (from: string) => Promise<ImageRecord | undefined>;
  /** Folder of a context of that name; undefined: there is none. */
  readonly folderFor: (from: string) => Promise<string | undefined>;
  /** Whom the steps are shown to, if anyone draws them. */
  readonly shown?: ShownStage;
  /** Who can be asked for secrets. */
  readonly client?: BuildClient;
  /** Arguments that some ARG took. */
  readonly usedArgs: Set<string>;
  readonly stepCount: number;
}

export interface StageResult {
  readonly image: ImageRecord | undefined;
  readonly config: ContainerConfig;
  readonly author: string;
}

function withPath(config: ContainerConfig): ContainerConfig {
  const env = config.Env ?? [];
  return env.some((entry) => entry.startsWith("PATH=")) ? config : { ...config, Env: [DEFAULT_PATH, ...env] };
}

export class StageBuilder {
  readonly #env: StageEnvironment;
  #image: ImageRecord | undefined;
  #config: ContainerConfig;
  #author: string;
  /** Declared in this stage, with their values. */
  readonly #args = new Map<string, string>();
  #isCommandSet = false;
  #usesCache: boolean;
  #shown: ShownStep | undefined;
  /** Steps of the base image are not in the plan, by which the files of the context were chosen. */
  #isTrigger = false;

  constructor(env: StageEnvironment, base: StageResult) {
    this.#env = env;
    this.#image = base.image;
    this.#config = withPath(base.config);
    this.#author = base.author;
    this.#usesCache = env.request.usesCache;
  }

  get result(): StageResult {
    return { image: this.#image, config: this.#config, author: this.#author };
  }

  /** Steps that the base image left for those who build on it. */
  async runTriggers(): Promise<void> {
    const triggers = this.#config.OnBuild ?? [];
    const { OnBuild: _, ...config } = this.#config;
    this.#config = config;
    this.#env.report({
      stream: `# Executing ${triggers.length} build trigger${triggers.length === 1 ? "" : "s"}\n`,
    });
    this.#isTrigger = true;
    for (const trigger of triggers)
      await this.#show(toInstruction(parseInstruction(trigger, [], 0), this.#env.escape), undefined);
    this.#isTrigger = false;
    this.#tellImage();
  }

  #tellImage(): void {
    this.#env.report({ stream: ` ---> ${shortId(this.#image?.id ?? "")}\n` });
  }

  async step(instruction: Instruction, number: number): Promise<void> {
    this.#env.signal.throwIfAborted();
    this.#env.report({ stream: `Step ${number}/${this.#env.stepCount} : ${instruction.raw.original}` });
    this.#env.report({ stream: "\n" });
    await this.#show(instruction, number);
    this.#tellImage();
  }

  async #show(instruction: Instruction, number: number | undefined): Promise<void> {
    this.#shown = this.#env.shown?.step(instruction, number, this.#words.variables);
    const work = (): Promise<void> => this.#execute(instruction);
    await (this.#shown === undefined ? work() : this.#shown.during(work));
  }

  get #words(): WordOptions {
    const variables = new Map(this.#args);
    for (const entry of this.#config.Env ?? []) variables.set(...splitEnv(entry));
    return { escape: this.#env.escape, variables };
  }

  async #execute(instruction: Instruction): Promise<void> {
    switch (instruction.kind) {
      case "FROM":
        throw new ClusterError("internal", "FROM begins a stage and is no step of one");
      case "ARG":
        this.#declare(instruction);
        await this.#commit(nopText(this.#config, instruction.raw.original), undefined);
        return;
      case "MAINTAINER":
        this.#author = instruction.text;
        await this.#commit(nopText(this.#config, `MAINTAINER ${instruction.text}`), undefined);
        return;
      case "RUN":
        await this.#run(instruction);
        return;
      case "COPY":
      case "ADD":
        await this.#copy(instruction);
        return;
      case "WORKDIR":
        this.#config = applyConfig(this.#config, instruction, this.#words);
        await this.#workdir(this.#config.WorkingDir ?? "/");
        return;
      case "ENTRYPOINT":
        // A command that the base image had was for its own entrypoint.
        if (!this.#isCommandSet) this.#config = { ...this.#config, Cmd: null };
        break;
      case "CMD":
        this.#isCommandSet = true;
        break;
      case "ENV":
      case "LABEL":
      case "USER":
      case "STOPSIGNAL":
      case "EXPOSE":
      case "VOLUME":
      case "SHELL":
      case "HEALTHCHECK":
      case "ONBUILD":
        break;
      default:
        unreachable(instruction);
    }
    const text = stepText(instruction, this.#config, this.#words);
    this.#config = applyConfig(this.#config, instruction, this.#words);
    await this.#commit(nopText(this.#config, text), undefined);
  }

  #declare(instruction: ArgInstruction): void {
    const { request, globalArgs, usedArgs } = this.#env;
    for (const [key, fallback] of instruction.pairs) {
      usedArgs.add(key);
      const value =
        request.args.get(key) ??
        (fallback === undefined ? globalArgs.get(key) : expandWord(fallback, this.#words));
      if (value !== undefined) this.#args.set(key, value);
    }
  }

  /** What a step is found by: the image below, what the step says, and the config it leaves. */
  #key(text: string): string {
    const { platform } = this.#env;
    const parts = [
      this.#image?.id ?? "",
      platform.os,
      platform.architecture,
      platform.variant,
      this.#author,
      text,
    ];
    return createHash("sha256")
      .update(JSON.stringify([...parts, this.#config]))
      .digest("hex");
  }

  /** True when the step's image was made before; the stage goes on from it. */
  #probe(key: string): boolean {
    if (!this.#usesCache) return false;
    const found = this.#env.storage.records.built(key);
    if (found === undefined) {
      this.#usesCache = false;
      return false;
    }
    this.#env.lease.hold(found.id);
    this.#image = found;
    this.#env.report({ stream: " ---> Using cache\n" });
    this.#shown?.vertex?.cached();
    return true;
  }

  async #commit(
    createdBy: string,
    makeLayer: (() => Promise<NewLayer | undefined>) | undefined,
  ): Promise<void> {
    const key = this.#key(createdBy);
    if (this.#probe(key)) return;
    await this.#child(createdBy, key, await makeLayer?.());
  }

  async #child(createdBy: string, buildKey: string, layer: NewLayer | undefined): Promise<void> {
    const { storage, lease, platform } = this.#env;
    const epoch = this.#epoch;
    const record = await makeChildImage(
      storage,
      {
        parent: this.#image,
        layer,
        config: this.#config,
        containerConfig: {
          ...this.#config,
          Cmd: [...DEFAULT_SHELL, createdBy.replace(/^\/bin\/sh -c /, "")],
        },
        createdBy,
        comment: "",
        author: this.#author,
        created:
          epoch === undefined ? storage.now() : new Date(epoch * 1000).toISOString().replace(/\.000Z$/, "Z"),
        platform,
        buildKey,
      },
      lease,
    );
    lease.hold(record.id);
    this.#image = record;
  }

  /** SOURCE_DATE_EPOCH: no time in the image is later, so that the same sources give the same image. */
  get #epoch(): number | undefined {
    const text = this.#env.request.args.get("SOURCE_DATE_EPOCH") ?? "";
    return /^\d{1,12}$/.test(text) ? Number(text) : undefined;
  }

  async #layer(input: JobInput): Promise<NewLayer | undefined> {
    const { storage, lease } = this.#env;
    const blobPath = storage.content.ingestPath();
    const staged = await storage.layers.stage((folder) =>
      storage.pool.run({ kind: "apply", input, blobPath, folder }),
    );
    return placeLayer(storage, this.#image, { ...staged, blobPath }, lease);
  }

  async #foldersOf(image: ImageRecord | undefined): Promise<readonly string[]> {
    if (image === undefined) return [];
    const { storage } = this.#env;
    await storage.layers.ensure(image.layers);
    return storage.snapshots.folders(image.layers.map((layer) => layer.chainId));
  }

  async #run(instruction: RunInstruction): Promise<void> {
    const argv = argvOf(instruction.command, this.#config);
    const args = this.#runArgs;
    const shown = args.filter(([key]) => this.#args.has(key) || !PROXY_ARGS.has(key));
    const words = [`|${shown.length}`, ...shown.map((each) => each.join("=")).sort(), ...argv];
    const createdBy = (args.length === 0 ? argv : words).join(" ");
    const mounts = this.#mounts(instruction);
    const key = this.#key(`${createdBy} ${instruction.network}${await mounts.key()}`);
    if (this.#probe(key)) return;
    const env = args.map((each) => each.join("="));
    try {
      await this.#child(createdBy, key, await this.#runContainer(instruction, argv, { env, mounts }));
    } finally {
      mounts.release();
    }
  }

  #mounts(instruction: RunInstruction): StepMounts {
    const { storage, context, imageFor, folderFor, client, report, signal } = this.#env;
    const vertex = this.#shown?.vertex;
    const foldersOf = this.#foldersOf.bind(this);
    const workingFolder = this.#config.WorkingDir ?? "/";
    const mounts = instruction.mounts.map((each) => toRunMount(each, this.#words, workingFolder));
    return new StepMounts(
      {
        storage,
        contextFolder: () => context.folder(this.#isTrigger),
        imageFor,
        folderFor,
        foldersOf,
        ...(client === undefined ? {} : { client }),
        warn: (text) => {
          if (vertex === undefined) report({ stream: `[Warning] ${text}\n` });
          else vertex.warn(text);
        },
        signal,
        script: instruction.script,
      },
      mounts,
    );
  }

  /** What a command gets beside the image's environment: arguments of the stage, and proxies that came with the request. */
  get #runArgs(): readonly (readonly [string, string])[] {
    const proxies = [...this.#env.request.args].filter(([key]) => PROXY_ARGS.has(key));
    const names = new Set((this.#config.Env ?? []).map((each) => splitEnv(each)[0]));
    return [...new Map([...proxies, ...this.#args])].filter(([key]) => !names.has(key));
  }

  async #runContainer(
    instruction: RunInstruction,
    argv: readonly string[],
    { env, mounts }: { readonly env: readonly string[]; readonly mounts: StepMounts },
  ): Promise<NewLayer | undefined> {
    const { containers, request, report, room, signal, storage } = this.#env;
    if (containers === undefined)
      throw new ClusterError("unavailable", "Cannot run a build step: containers are not ready");
    const image = this.#image;
    if (image === undefined)
      throw new ClusterError("failed_precondition", "Cannot RUN in an empty image: there is no program");
    const { network } = instruction;
    const vertex = this.#shown?.vertex;
    const opened = await mounts.open();
    const words = argv.join(" ");
    const { Volumes: _volumes, ...config } = this.#config;
    return runStep(
      {
        containers,
        config: {
          ...config,
          Image: image.id,
          Entrypoint: argv,
          Cmd: [],
          Env: [...env, ...(config.Env ?? []), ...opened.env],
          Healthcheck: { Test: ["NONE"] },
        },
        hostConfig: {
          ...request.hostConfig,
          ...(network === "" || network === "default" ? {} : { NetworkMode: network }),
          Mounts: opened.mounts,
          // The build tells what they print; the daemon's default may send it elsewhere.
          LogConfig: { Type: "none" },
        },
        platform: request.platform,
        files: opened.files,
        secretEnv: opened.secretEnv,
        failure: (exitCode) =>
          vertex === undefined
            ? `The command '${words}' returned a non-zero code: ${exitCode}`
            : `process ${JSON.stringify(words)} did not complete successfully: exit code: ${exitCode}`,
        ...(vertex === undefined ? {} : { output: vertex.output.bind(vertex) }),
        removesContainer: request.removesContainers,
        removesFailed: request.removesFailed,
        report,
        ...(room === undefined ? {} : { room }),
        signal,
      },
      async (containerId) => {
        const { upper } = storage.snapshots.layersOf(containerId);
        await mounts.removeStubs(image, upper);
        const epoch = this.#epoch;
        return this.#layer({
          kind: "folder",
          path: upper,
          ...(epoch === undefined ? {} : { mtimeMax: epoch }),
        });
      },
    );
  }

  async #workdir(folder: string): Promise<void> {
    await this.#commit(nopText(this.#config, `WORKDIR ${folder}`), async () => {
      const destinationLayers = await this.#foldersOf(this.#image);
      const view = new LayeredView(destinationLayers);
      if (view.stat(fromText(folder))?.stats.isDirectory() === true) return undefined;
      const request = this.#copyRequest({
        verb: "WORKDIR",
        folders: [folder],
        destination: "/",
        destinationLayers,
      });
      return this.#layer({ kind: "copy", request });
    });
  }

  #copyRequest(
    fields: Partial<CopyRequest> & Pick<CopyRequest, "verb" | "destination" | "destinationLayers">,
  ): CopyRequest {
    const epoch = this.#epoch;
    return {
      ...NOTHING_ASKED,
      ...(epoch === undefined ? {} : { mtimeMax: epoch }),
      ...fields,
    };
  }

  async #copy(instruction: CopyInstruction): Promise<void> {
    const words = this.#words;
    const destination = this.#destination(expandWord(instruction.destination, words));
    const cleanUps: (() => Promise<void> | void)[] = [];
    try {
      const sources = await this.#sources(instruction, cleanUps);
      const request = this.#copyRequest({
        verb: instruction.kind,
        sources: sources.sources,
        inlineFiles: sources.inlineFiles,
        destination,
        destinationLayers: await this.#foldersOf(this.#image),
        chown: expandWord(instruction.chown, words),
        chmod: expandWord(instruction.chmod, words),
        excludes: instruction.excludes,
        keepsParents: instruction.keepsParents,
      });
      const complete = instruction.kind === "ADD" ? await this.#unpackArchives(request, cleanUps) : request;
      const { things } = await this.#env.storage.pool.run({ kind: "hashCopy", request: complete });
      const text = copyText(instruction, things, words);
      // How the same text is meant depends on more than it says.
      const key = this.#key(`${nopText(this.#config, text)} ${destination} ${instruction.chmod}`);
      if (this.#probe(key)) return;
      const layer = await this.#layer({ kind: "copy", request: complete });
      await this.#child(nopText(this.#config, text), key, layer);
    } finally {
      for (const cleanUp of cleanUps) await cleanUp();
    }
  }

  #destination(written: string): string {
    const joined = path.posix.isAbsolute(written)
      ? written
      : path.posix.join(this.#config.WorkingDir ?? "/", written);
    const absolute = path.posix.normalize(`/${joined}`);
    const isFolder = written.endsWith("/") || written === "." || written.endsWith("/.") || written === "";
    return isFolder && !absolute.endsWith("/") ? `${absolute}/` : absolute;
  }

  async #sources(
    instruction: CopyInstruction,
    cleanUps: (() => Promise<void> | void)[],
  ): Promise<Pick<CopyRequest, "sources" | "inlineFiles">> {
    const words = this.#words;
    const { kind, layers } = await this.#source(instruction, words);
    const sources: CopySource[] = [];
    const inlineFiles: { readonly name: string; readonly content: string }[] = [];
    const checksum = expandWord(instruction.checksum, words);
    checkChecksum(checksum, instruction.sources);
    for (const word of instruction.sources) {
      const heredocName = /^<<-?["']?([\w.-]+)["']?$/.exec(word)?.[1];
      const heredoc = instruction.raw.heredocs.find((each) => each.name === heredocName);
      const pattern = expandWord(word, words);
      if (heredoc !== undefined) {
        const content = heredoc.expands ? expandText(heredoc.content, words) : heredoc.content;
        inlineFiles.push({ name: heredoc.name, content });
      } else if (instruction.kind === "ADD" && isRemote(pattern)) {
        const { storage, signal } = this.#env;
        const { folder, name } = await downloadFile(storage, { url: pattern, checksum }, signal);
        cleanUps.push(() => this.#env.storage.env.disk.removeTree(folder));
        sources.push({ pattern: name, layers: [folder], kind: "download" });
      } else sources.push({ pattern, layers, kind });
    }
    return { sources, inlineFiles };
  }

  async #source(
    instruction: CopyInstruction,
    words: WordOptions,
  ): Promise<Pick<CopySource, "kind" | "layers">> {
    const { context, imageFor, folderFor } = this.#env;
    if (instruction.from === "") {
      const readsNothing = instruction.sources.every(
        (each) => each.startsWith("<<") || (instruction.kind === "ADD" && isRemote(expandWord(each, words))),
      );
      return { kind: "context", layers: readsNothing ? [] : [await context.folder(this.#isTrigger)] };
    }
    const from = expandWord(instruction.from, words);
    const folder = await folderFor(from);
    if (folder !== undefined) return { kind: "context", layers: [folder] };
    return { kind: "image", layers: await this.#foldersOf(await imageFor(from)) };
  }

  /** Archives of the context are taken apart; downloaded ones stay as they are. */
  async #unpackArchives(
    request: CopyRequest,
    cleanUps: (() => Promise<void> | void)[],
  ): Promise<CopyRequest> {
    const { storage } = this.#env;
    const fromContext = {
      ...request,
      sources: request.sources.filter((source) => source.kind === "context"),
    };
    const { files } = await storage.pool.run({ kind: "findArchives", request: fromContext });
    const unpacked = await Promise.all(
      files.map(async (file) => {
        const staged = await storage.layers.stage((folder) =>
          storage.pool.run({
            kind: "apply",
            input: { kind: "file", path: file },
            folder,
            isPlain: true,
            knownDigest: "",
          }),
        );
        cleanUps.push(() => storage.snapshots.discardStaging(staged.staging));
        return { file, folder: path.join(staged.staging, "fs") };
      }),
    );
    return { ...request, unpacked };
  }
}

/** For a stage that begins with nothing. */
export const EMPTY_STAGE: StageResult = { image: undefined, config: {}, author: "" };

export function stageOn(storage: ImageStorage, image: ImageRecord): StageResult {
  const document = storage.document(image);
  must(document.config, "an image has a config");
  return { image, config: document.config, author: document.author };
}
