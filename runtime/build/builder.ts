/**
 * `POST /build`: the context is received, the Dockerfile planned, its stages built (independent ones at the same time), the
 * last one tagged. Lines and errors as Docker's classic builder has them.
 */
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { BuildOptions, ContainerEngine, ProgressLine } from "../../model/engine.ts";
import { canonicalForm, familiarForm, parseReference } from "../../model/image-reference.ts";
import { HOST_PLATFORM, type ImagePlatform, parsePlatformText } from "../../model/platforms.ts";
import { makeDurable, nameImage } from "../images/durable-images.ts";
import { imageEvent } from "../images/image-events.ts";
import type { ImageRecord } from "../images/image-records.ts";
import { holdImage, type ImageStorage } from "../images/image-storage.ts";
import type { Lease } from "../images/leases.ts";
import { progressOf, shortId } from "../images/progress.ts";
import { BuildContext } from "./build-context.ts";
import { planBuild, stageOf, type BuildPlan, type Stage } from "./build-plan.ts";
import { parseBuildRequest, type BuildRequest } from "./build-request.ts";
import { inRed } from "./run-step.ts";
import { EMPTY_STAGE, StageBuilder, stageOn, type StageResult } from "./stage-builder.ts";
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

type Report = (line: ProgressLine) => void;

/** X-Registry-Config: credentials by registry; those for one as X-Registry-Auth has them. */
function authFor(registryConfig: string | undefined, domain: string): string | undefined {
  if (registryConfig === undefined || registryConfig === "") return undefined;
  try {
    const value: unknown = JSON.parse(Buffer.from(registryConfig, "base64url").toString("utf8"));
    const all = (value ?? {}) as Readonly<Record<string, unknown>>;
    const names =
      domain === "docker.io" ? ["https://index.docker.io/v1/", "docker.io"] : [domain, `https://${domain}`];
    const found = names.map((name) => all[name]).find((each) => each !== undefined);
    return found === undefined ? undefined : Buffer.from(JSON.stringify(found)).toString("base64url");
  } catch {
    throw new ClusterError(
      "invalid_argument",
      "Cannot read X-Registry-Config: want base64url of a JSON object",
    );
  }
}

function platformArgs(platform: ImagePlatform): ReadonlyMap<string, string> {
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

/** What a quiet build would have told, for the case that it fails: the end of it. */
const KEPT_BYTES_MAX = 1024 * 1024;

class KeptLines {
  readonly #lines: ProgressLine[] = [];
  #bytes = 0;

  add(line: ProgressLine): void {
    this.#lines.push(line);
    this.#bytes += sizeOf(line);
    while (this.#bytes > KEPT_BYTES_MAX && this.#lines.length > 1)
      this.#bytes -= sizeOf(must(this.#lines.shift(), "there are several"));
  }

  get lines(): readonly ProgressLine[] {
    return this.#lines;
  }
}

function sizeOf(line: ProgressLine): number {
  return JSON.stringify(line).length;
}

class Build {
  readonly #parts: BuilderParts;
  readonly #options: BuildOptions;
  readonly #request: BuildRequest;
  readonly #report: Report;
  readonly #lease: Lease;
  /** Ends all stages once one has failed or the client left. */
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #usedArgs = new Set<string>();
  readonly #kept = new KeptLines();

  constructor(
    parts: BuilderParts,
    options: BuildOptions,
    run: { readonly report: Report; readonly lease: Lease; readonly signal: AbortSignal },
  ) {
    this.#parts = parts;
    this.#options = options;
    this.#request = parseBuildRequest(options.query);
    this.#lease = run.lease;
    this.#signal = AbortSignal.any([run.signal, this.#stop.signal]);
    this.#report = this.isQuiet ? (line): void => this.#kept.add(line) : run.report;
  }

  get isQuiet(): boolean {
    return this.#request.isQuiet;
  }

  /** What was not told because the build is quiet. */
  get kept(): readonly ProgressLine[] {
    return this.#kept.lines;
  }

  async run(): Promise<ImageRecord> {
    const context = await BuildContext.receive(this.#parts.storage, this.#options.context);
    try {
      const platform =
        this.#request.platform === "" ? HOST_PLATFORM : parsePlatformText(this.#request.platform);
      const plan = planBuild(context.takeDockerfile(this.#request.dockerfile), {
        args: this.#request.args,
        labels: this.#request.labels,
        target: this.#request.target,
        platformArgs: platformArgs(platform),
      });
      if (plan.warnings.length > 0) this.#report({ stream: inRed(`${plan.warnings.join("\n")}\n`) });
      for (const { instruction, number } of plan.globals) {
        for (const [key] of instruction.pairs) this.#usedArgs.add(key);
        this.#report({ stream: `Step ${number}/${plan.stepCount} : ${instruction.raw.original}` });
        this.#report({ stream: "\n" });
      }
      const image = await this.#stages(plan, context, platform);
      await this.#finish(image);
      return image;
    } finally {
      context.discard();
    }
  }

  async #stages(plan: BuildPlan, context: BuildContext, platform: ImagePlatform): Promise<ImageRecord> {
    const outputs = new StageOutputs(plan.stages.length, this.#report);
    const results: Promise<StageResult>[] = [];
    const failures: unknown[] = [];
    for (const stage of plan.stages) {
      const result = this.#stage(stage, plan, { context, platform, results, outputs }).finally(() =>
        outputs.end(stage.index),
      );
      result.catch((caught: unknown) => {
        failures.push(caught);
        this.#stop.abort();
      });
      results.push(result);
    }
    const settled = await Promise.allSettled(results);
    // The first to fail is the reason; the others were told to stop.
    if (failures.length > 0) throw failures[0];
    const last = must(settled.at(-1), "a build has a stage");
    if (last.status === "rejected") throw last.reason;
    if (last.value.image === undefined) {
      throw new ClusterError("invalid_argument", "No image was generated. Is your Dockerfile empty?");
    }
    return last.value.image;
  }

  async #stage(
    stage: Stage,
    plan: BuildPlan,
    shared: {
      readonly context: BuildContext;
      readonly platform: ImagePlatform;
      readonly results: readonly Promise<StageResult>[];
      readonly outputs: StageOutputs;
    },
  ): Promise<StageResult> {
    for (const index of stage.needs) await shared.results[index];
    const report: Report = (line) => shared.outputs.write(stage.index, line);
    report({ stream: `Step ${stage.number}/${plan.stepCount} : ${stage.from.raw.original}` });
    report({ stream: "\n" });
    const platform = stage.platform === "" ? shared.platform : parsePlatformText(stage.platform);
    const base =
      stage.baseStage === undefined
        ? await this.#base(stage.baseName, stage.platform, report)
        : await must(shared.results[stage.baseStage], "a stage starts from an earlier one");
    const hasTriggers = stage.baseStage === undefined && (base.config.OnBuild ?? []).length > 0;
    if (!hasTriggers) report({ stream: ` ---> ${shortId(base.image?.id ?? "")}\n` });
    const builder = new StageBuilder(
      {
        storage: this.#parts.storage,
        containers: this.#parts.containers(),
        request: this.#request,
        context: shared.context,
        lease: this.#lease,
        escape: plan.escape,
        globalArgs: plan.globalArgs,
        platform,
        report,
        signal: this.#signal,
        imageFor: (from) => this.#copyFrom(from, stage, plan, shared.results, report),
        usedArgs: this.#usedArgs,
        stepCount: plan.stepCount,
      },
      base,
    );
    if (hasTriggers) await builder.runTriggers();
    for (const { instruction, number } of stage.steps) await builder.step(instruction, number);
    const { image } = builder.result;
    if (image !== undefined) report({ aux: { ID: image.id } });
    return builder.result;
  }

  async #copyFrom(
    from: string,
    stage: Stage,
    plan: BuildPlan,
    results: readonly Promise<StageResult>[],
    report: Report,
  ): Promise<ImageRecord | undefined> {
    const index = stageOf(from, plan.stages, stage.index);
    if (index !== undefined) return (await must(results[index], "an earlier stage"))?.image;
    return (await this.#base(from, "", report)).image;
  }

  async #base(name: string, platform: string, report: Report): Promise<StageResult> {
    if (name === "scratch") return EMPTY_STAGE;
    const { storage } = this.#parts;
    const known = storage.records.find(name);
    const image =
      known !== undefined && !this.#request.pulls ? known : await this.#bring(name, platform, report);
    holdImage(image, this.#lease);
    return stageOn(storage, image);
  }

  async #bring(name: string, platform: string, report: Report): Promise<ImageRecord> {
    const { storage, ensure, pull } = this.#parts;
    const registryAuth = authFor(this.#options.registryConfig, parseReference(name).domain);
    const wanted = platform === "" ? this.#request.platform : platform;
    const options = {
      report,
      ...(registryAuth === undefined ? {} : { registryAuth }),
      ...(wanted === "" ? {} : { platform: wanted }),
    };
    const id = await (this.#request.pulls ? pull : ensure)(name, options, this.#signal);
    return must(storage.records.image(id), "a brought image is recorded");
  }

  async #finish(image: ImageRecord): Promise<void> {
    const { storage } = this.#parts;
    const unused = [...this.#request.args.keys(), ...this.#request.unsetArgs].filter(
      (key) => !this.#usedArgs.has(key) && key !== "SOURCE_DATE_EPOCH" && !/_proxy$/i.test(key),
    );
    if (unused.length > 0) {
      this.#report({
        stream: `[Warning] One or more build-args [${unused.sort().join(" ")}] were not consumed\n`,
      });
    }
    await makeDurable(storage, image);
    this.#report({ stream: `Successfully built ${shortId(image.id)}\n` });
    for (const reference of this.#request.tags) {
      await nameImage(storage, reference, image);
      imageEvent(storage, "tag", image.id, canonicalForm(reference));
      this.#report({ stream: `Successfully tagged ${familiarForm(reference)}\n` });
    }
  }
}

export function buildImage(
  parts: BuilderParts,
  options: BuildOptions,
  signal: AbortSignal,
): AsyncIterable<ProgressLine> {
  const own = new AbortController();
  return progressOf(
    async (report) => {
      const lease = parts.storage.leases.open();
      try {
        const build = new Build(parts, options, {
          report,
          lease,
          signal: AbortSignal.any([signal, own.signal]),
        });
        const image = await build.run().catch((caught: unknown) => {
          for (const line of build.kept) report(line);
          throw caught;
        });
        if (build.isQuiet) report({ stream: `${image.id}\n` });
      } finally {
        lease.release();
      }
    },
    () => own.abort(),
  );
}
