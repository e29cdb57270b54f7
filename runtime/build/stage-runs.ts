/**
 * Builds the stages of a plan, independent ones at the same time, with their base images. Both ways to ask for a build end
 * here: POST /build, which is told lines of text, and a client of BuildKit's protocol, which is shown steps.
 */
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { BuildClient } from "../../model/build.ts";
import type { ContainerEngine, ProgressLine } from "../../model/engine.ts";
import { parseReference } from "../../model/image-reference.ts";
import { HOST_PLATFORM, type ImagePlatform, parsePlatformText } from "../../model/platforms.ts";
import type { ImageRecord } from "../images/image-records.ts";
import { holdImage, type ImageStorage } from "../images/image-storage.ts";
import type { Lease } from "../images/leases.ts";
import { shortId } from "../images/progress.ts";
import { stageOf, type BuildPlan, type Stage } from "./build-plan.ts";
import type { BuildRequest } from "./build-request.ts";
import type { NamedContexts } from "./named-contexts.ts";
import { PullShown } from "./pull-shown.ts";
import type { ShownBuild, ShownStage, ShownVertex } from "./shown-build.ts";
import { fullReference } from "./shown-names.ts";
import { EMPTY_STAGE, StageBuilder, stageOn, type ContextFolder, type StageResult } from "./stage-builder.ts";
import { StageOutputs } from "./stage-output.ts";

/** Brings an image here; the header is X-Registry-Auth's form. */
export type EnsureImage = (
  reference: string,
  options: {
    readonly registryAuth?: string;
    readonly platform?: string;
    readonly report: (line: ProgressLine) => void;
  },
  signal: AbortSignal,
) => Promise<string>;

export interface BuilderParts {
  readonly storage: ImageStorage;
  readonly containers: () => ContainerEngine | undefined;
  readonly ensure: EnsureImage;
  /** As ensure, but asks the registry even if the image is here. */
  readonly pull: EnsureImage;
}

export type Report = (line: ProgressLine) => void;

export interface StageRunOptions {
  readonly parts: BuilderParts;
  readonly request: BuildRequest;
  readonly plan: BuildPlan;
  readonly context: ContextFolder;
  readonly platform: ImagePlatform;
  readonly lease: Lease;
  readonly signal: AbortSignal;
  readonly report: Report;
  /** Awaited by commands that print; absent: what is told is taken at once. */
  readonly room?: () => Promise<void>;
  /** Arguments that some ARG took. */
  readonly usedArgs: Set<string>;
  readonly registryAuth: (domain: string) => Promise<string | undefined>;
  /** Of a client that is shown steps. */
  readonly interactive?: InteractiveParts;
}

export interface InteractiveParts {
  readonly shown: ShownBuild;
  readonly client: BuildClient;
  readonly named: NamedContexts;
  /** Stages that use no cache. */
  readonly isUncached: (stage: Stage) => boolean;
}

/** Values that every build has. */
export function platformArgs(platform: ImagePlatform): ReadonlyMap<string, string> {
  const text = (each: ImagePlatform): string =>
    [each.os, each.architecture, each.variant].filter((part) => part !== "").join("/");
  return new Map([
    ["BUILDPLATFORM", text(HOST_PLATFORM)],
    ["BUILDOS", HOST_PLATFORM.os],
    ["BUILDARCH", HOST_PLATFORM.architecture],
    ["BUILDVARIANT", HOST_PLATFORM.variant],
    ["TARGETPLATFORM", text(platform)],
    ["TARGETOS", platform.os],
    ["TARGETARCH", platform.architecture],
    ["TARGETVARIANT", platform.variant],
  ]);
}

/** Stages that the last one needs, itself included. */
export function neededStages(plan: BuildPlan): ReadonlySet<number> {
  const needed = new Set<number>();
  const add = (index: number): void => {
    if (needed.has(index)) return;
    needed.add(index);
    for (const each of plan.stages[index]?.needs ?? []) add(each);
  };
  add(plan.stages.length - 1);
  return needed;
}

export class StageRuns {
  readonly #options: StageRunOptions;
  /** Ends all stages once one has failed or the client left. */
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #results = new Map<number, Promise<StageResult>>();
  readonly #outputs: StageOutputs;
  readonly #metadata = new Map<string, ShownVertex>();

  constructor(options: StageRunOptions) {
    this.#options = options;
    this.#signal = AbortSignal.any([options.signal, this.#stop.signal]);
    this.#outputs = new StageOutputs(options.plan.stages.length, options.report);
  }

  /** Builds `stages`, which have all that they need among them, and returns the last one's image. */
  async run(stages: readonly Stage[]): Promise<ImageRecord> {
    const failures: unknown[] = [];
    const { interactive, plan } = this.#options;
    for (const { baseName, baseStage } of stages) if (baseStage === undefined) this.#metadataOf(baseName);
    const shown = stages.map((stage) => interactive?.shown.stage(plan, stage));
    for (const [index, stage] of stages.entries()) {
      const result = this.#stage(stage, shown[index]).finally(() => this.#outputs.end(stage.index));
      result.catch((caught: unknown) => {
        failures.push(caught);
        this.#stop.abort();
      });
      this.#results.set(stage.index, result);
    }
    const settled = await Promise.allSettled(this.#results.values());
    // The first to fail is the reason; the others were told to stop.
    if (failures.length > 0) throw failures[0];
    const last = must(settled.at(-1), "a build has a stage");
    if (last.status === "rejected") throw last.reason;
    if (last.value.image === undefined) {
      throw new ClusterError("invalid_argument", "No image was generated. Is your Dockerfile empty?");
    }
    return last.value.image;
  }

  #resultOf(index: number): Promise<StageResult> {
    return must(this.#results.get(index), "an earlier stage that is needed");
  }

  async #stage(stage: Stage, shown: ShownStage | undefined): Promise<StageResult> {
    const { plan, parts, interactive } = this.#options;
    for (const index of stage.needs) await this.#resultOf(index);
    const report: Report = (line) => this.#outputs.write(stage.index, line);
    report({ stream: `Step ${stage.number}/${plan.stepCount} : ${stage.from.raw.original}` });
    report({ stream: "\n" });
    const platform = stage.platform === "" ? this.#options.platform : parsePlatformText(stage.platform);
    const base = await this.#baseOf(stage, report, shown);
    const hasTriggers = stage.baseStage === undefined && (base.config.OnBuild ?? []).length > 0;
    if (!hasTriggers) report({ stream: ` ---> ${shortId(base.image?.id ?? "")}\n` });
    const { request } = this.#options;
    const builder = new StageBuilder(
      {
        ...this.#options,
        storage: parts.storage,
        containers: parts.containers(),
        request: interactive?.isUncached(stage) === true ? { ...request, usesCache: false } : request,
        escape: plan.escape,
        globalArgs: plan.globalArgs,
        platform,
        report,
        signal: this.#signal,
        imageFor: (from) => this.#copyFrom(from, stage, report),
        folderFor: (from) => interactive?.named.folder(from, this.#signal) ?? Promise.resolve(undefined),
        stepCount: plan.stepCount,
        ...(shown === undefined ? {} : { shown }),
        ...(interactive === undefined ? {} : { client: interactive.client }),
      },
      base,
    );
    if (hasTriggers) await builder.runTriggers();
    for (const { instruction, number } of stage.steps) await builder.step(instruction, number);
    const { image } = builder.result;
    if (image !== undefined) report({ aux: { ID: image.id } });
    return builder.result;
  }

  async #baseOf(stage: Stage, report: Report, shown: ShownStage | undefined): Promise<StageResult> {
    const named = this.#options.interactive?.named.image(stage.baseName);
    if (stage.baseStage !== undefined && named === undefined) return this.#resultOf(stage.baseStage);
    try {
      return await this.#base(named ?? stage.baseName, stage.platform, report, shown?.base);
    } catch (caught) {
      if (shown !== undefined) this.#options.interactive?.shown.failedAt(shown.raw, shown.base?.digest ?? "");
      throw caught;
    }
  }

  async #copyFrom(from: string, stage: Stage, report: Report): Promise<ImageRecord | undefined> {
    const named = this.#options.interactive?.named.image(from);
    const index = named === undefined ? stageOf(from, this.#options.plan.stages, stage.index) : undefined;
    if (index !== undefined) return (await this.#resultOf(index)).image;
    const name = named ?? from;
    const vertex = this.#options.interactive?.shown.vertex(`FROM ${fullReference(name)}`);
    return (await this.#base(name, "", report, vertex)).image;
  }

  async #base(
    name: string,
    platform: string,
    report: Report,
    shown: ShownVertex | undefined,
  ): Promise<StageResult> {
    if (name === "scratch") return EMPTY_STAGE;
    const { parts, request, lease } = this.#options;
    // What has no name is at no registry.
    const isId = name.startsWith("sha256:");
    const known = request.pulls && !isId ? undefined : parts.storage.records.find(name);
    const pull = shown === undefined ? undefined : this.#pullShown(name, shown);
    try {
      const image = known ?? (await this.#bring(name, platform, pull === undefined ? report : pull.line));
      pull?.done();
      holdImage(image, lease);
      return stageOn(parts.storage, image);
    } catch (caught) {
      pull?.fail(caught);
      throw caught;
    }
  }

  #pullShown(name: string, shown: ShownVertex): PullShown | undefined {
    const metadata = this.#metadataOf(name);
    return metadata === undefined ? undefined : new PullShown(metadata, shown);
  }

  /** One for each image, shown before the steps that need it. */
  #metadataOf(name: string): ShownVertex | undefined {
    const { interactive } = this.#options;
    if (interactive === undefined || name === "scratch") return undefined;
    const reference = fullReference(interactive.named.image(name) ?? name);
    const vertex =
      this.#metadata.get(reference) ?? interactive.shown.vertex(`[internal] load metadata for ${reference}`);
    this.#metadata.set(reference, vertex);
    return vertex;
  }

  async #bring(name: string, platform: string, report: Report): Promise<ImageRecord> {
    const { request, registryAuth: authFor } = this.#options;
    const { storage, ensure, pull } = this.#options.parts;
    const registryAuth = await authFor(parseReference(name).domain);
    const wanted = platform === "" ? request.platform : platform;
    const options = {
      report,
      ...(registryAuth === undefined ? {} : { registryAuth }),
      ...(wanted === "" ? {} : { platform: wanted }),
    };
    const id = await (request.pulls ? pull : ensure)(name, options, this.#signal);
    return must(storage.records.image(id), "a brought image is recorded");
  }
}
