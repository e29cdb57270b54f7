/**
 * `POST /build`: the context is received, the Dockerfile planned, its stages built (independent ones at the same time), the
 * last one tagged. Lines and errors as Docker's classic builder has them.
 */
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { BuildOptions, ProgressLine } from "../../model/engine.ts";
import { canonicalForm, familiarForm } from "../../model/image-reference.ts";
import { HOST_PLATFORM, type ImagePlatform, parsePlatformText } from "../../model/platforms.ts";
import { makeDurable, nameImage } from "../images/durable-images.ts";
import { imageEvent } from "../images/image-events.ts";
import type { ImageRecord } from "../images/image-records.ts";
import type { Lease } from "../images/leases.ts";
import { progressOf, shortId } from "../images/progress.ts";
import { BuildContext } from "./build-context.ts";
import { planBuild, type BuildPlan } from "./build-plan.ts";
import { parseBuildRequest, type BuildRequest } from "./build-request.ts";
import { inRed } from "./run-step.ts";
import { type BuilderParts, platformArgs, type Report, StageRuns } from "./stage-runs.ts";

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
  readonly #room: () => Promise<void>;
  readonly #lease: Lease;
  readonly #signal: AbortSignal;
  readonly #usedArgs = new Set<string>();
  readonly #kept = new KeptLines();

  constructor(
    parts: BuilderParts,
    options: BuildOptions,
    run: {
      readonly report: Report;
      readonly room: () => Promise<void>;
      readonly lease: Lease;
      readonly signal: AbortSignal;
    },
  ) {
    this.#parts = parts;
    this.#options = options;
    this.#request = parseBuildRequest(options.query);
    this.#room = run.room;
    this.#lease = run.lease;
    this.#signal = run.signal;
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
      const image = await this.#build(plan, context, platform);
      await this.#finish(image);
      return image;
    } finally {
      context.discard();
    }
  }

  #build(plan: BuildPlan, context: BuildContext, platform: ImagePlatform): Promise<ImageRecord> {
    const { registryConfig } = this.#options;
    const stages = new StageRuns({
      parts: this.#parts,
      request: this.#request,
      plan,
      context: { folder: () => Promise.resolve(context.folder) },
      platform,
      lease: this.#lease,
      signal: this.#signal,
      report: this.#report,
      room: this.#room,
      usedArgs: this.#usedArgs,
      registryAuth: async (domain) => authFor(registryConfig, domain),
    });
    return stages.run(plan.stages);
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
    async (report, room) => {
      const lease = parts.storage.leases.open();
      try {
        const build = new Build(parts, options, {
          report,
          room,
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
