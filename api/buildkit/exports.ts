/** What becomes of a build's result: an image of this engine with its names, or files that the client takes. */
import { createHash, randomBytes } from "node:crypto";
import { finished, pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import type { BuildEvent, BuildVertex, SolvedBuild } from "../../model/build.ts";
import type { ImageEngine } from "../../model/engine.ts";
import { canonicalForm, parseReference, withDefaultTag } from "../../model/image-reference.ts";
import type { OpenBuild } from "./open-build.ts";
import { sendFiles } from "./send-files.ts";

export interface WantedExport {
  readonly type: string;
  readonly attrs: Readonly<Record<string, string>>;
}

export interface ExportParts {
  readonly images: Pick<ImageEngine, "tag">;
  readonly nowMs: () => number;
}

/** Types that mean an image of this engine. */
const IMAGE_TYPES: ReadonlySet<string> = new Set(["moby", "image"]);

class ExportStep {
  readonly #report: (event: BuildEvent) => void;
  readonly #nowMs: () => number;
  #vertex: BuildVertex;

  constructor(name: string, report: (event: BuildEvent) => void, nowMs: () => number) {
    this.#report = report;
    this.#nowMs = nowMs;
    const digest = `sha256:${createHash("sha256").update(randomBytes(32)).digest("hex")}`;
    const [startedMs, completedMs] = [nowMs(), undefined];
    this.#vertex = { digest, name, inputs: [], isCached: false, startedMs, completedMs, error: "" };
  }

  #tell(change: Partial<BuildVertex>): void {
    this.#vertex = { ...this.#vertex, ...change };
    this.#report({ kind: "vertex", vertex: this.#vertex });
  }

  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#tell({});
    try {
      const result = await work();
      this.#tell({ completedMs: this.#nowMs() });
      return result;
    } catch (caught) {
      this.#tell({ completedMs: this.#nowMs(), error: ClusterError.from(caught).message });
      throw caught;
    }
  }

  async part<T>(id: string, work: (moved: (bytes: number) => void) => Promise<T>): Promise<T> {
    const startedMs = this.#nowMs();
    const tell = (current: number, completedMs: number | undefined): void => {
      const transfer = {
        vertex: this.#vertex.digest,
        id,
        name: id,
        current,
        total: 0,
        startedMs,
        completedMs,
      };
      this.#report({ kind: "transfer", transfer });
    };
    let bytes = 0;
    tell(bytes, undefined);
    const result = await work((count) => {
      bytes = count;
    });
    tell(bytes, this.#nowMs());
    return result;
  }
}

function names(
  text: string,
): readonly { readonly repo: string; readonly tag: string; readonly full: string }[] {
  return text
    .split(",")
    .filter((each) => each !== "")
    .map((each) => {
      const reference = withDefaultTag(parseReference(each));
      const full = canonicalForm(reference);
      const tag = reference.tag ?? "";
      return { full, tag, repo: full.slice(0, full.length - tag.length - 1) };
    });
}

/** Before anything is built. */
export function checkExports(exports: readonly WantedExport[]): void {
  for (const { type, attrs } of exports) {
    if (IMAGE_TYPES.has(type)) {
      // With push=true the client pushes by the API when the image is built, as it does with Docker.
      names(attrs["name"] ?? "");
    } else if (type !== "local" && type !== "tar") {
      throw new ClusterError(
        "unimplemented",
        `Cannot export as "${type}": want an image of this engine, local or tar`,
      );
    }
  }
}

async function exportImage(
  solved: SolvedBuild,
  { attrs }: WantedExport,
  { parts, step }: { readonly parts: ExportParts; readonly step: ExportStep },
): Promise<Readonly<Record<string, string>>> {
  const { imageId } = solved;
  const wanted = names(attrs["name"] ?? "");
  await step.part("exporting layers", () => Promise.resolve());
  await step.part(`writing image ${imageId}`, () => Promise.resolve());
  for (const { repo, tag, full } of wanted)
    await step.part(`naming to ${full}`, () => parts.images.tag(imageId, repo, tag));
  return {
    "containerimage.config.digest": imageId,
    "containerimage.digest": imageId,
    ...(wanted.length === 0 ? {} : { "image.name": wanted.map(({ full }) => full).join(",") }),
  };
}

/** Returns what the client is told of it. */
export async function exportResult(
  build: OpenBuild,
  solved: SolvedBuild,
  { exports, parts }: { readonly exports: readonly WantedExport[]; readonly parts: ExportParts },
): Promise<Readonly<Record<string, string>>> {
  let told: Readonly<Record<string, string>> = {};
  for (const [index, wanted] of exports.entries()) {
    const session = await build.session();
    const step = (name: string): ExportStep => new ExportStep(name, build.report, parts.nowMs);
    if (IMAGE_TYPES.has(wanted.type)) {
      const exporting = step("exporting to image");
      told = {
        ...told,
        ...(await exporting.during(() => exportImage(solved, wanted, { parts, step: exporting }))),
      };
    } else if (wanted.type === "tar") {
      const exporting = step("exporting to client tarball");
      await exporting.during(() =>
        exporting.part("sending tarball", async () => {
          const target = session.outputStream(index, build.signal);
          // The client says nothing; its end says that it has all.
          target.resume();
          const hasAll = finished(target);
          await Promise.all([pipeline(await solved.files(), target), hasAll]);
        }),
      );
    } else {
      const exporting = step("exporting to client directory");
      await exporting.during(() =>
        exporting.part("copying files", (moved) =>
          sendFiles(session.output(index, build.signal), () => solved.files(), moved),
        ),
      );
    }
  }
  return told;
}
