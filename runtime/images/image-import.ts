/** `docker import`: a root filesystem's tar as an image of one layer. */
import type { Readable } from "node:stream";
import type { ProgressLine } from "../../model/engine.ts";
import { canonicalForm } from "../../model/image-reference.ts";
import { HOST_PLATFORM, parsePlatformText } from "../../model/platforms.ts";
import { applyChanges } from "../build/config-changes.ts";
import { makeChildImage, placeLayer } from "./child-image.ts";
import { makeDurable, nameImage } from "./durable-images.ts";
import { imageEvent } from "./image-events.ts";
import type { ImageStorage } from "./image-storage.ts";
import { progressOf } from "./progress.ts";
import { taggedReference } from "./rootfs-source.ts";

export interface ImportOptions {
  readonly repo?: string;
  readonly tag?: string;
  readonly message?: string;
  readonly changes: readonly string[];
  readonly platform?: string;
}

export function importImage(
  storage: ImageStorage,
  tar: Readable,
  options: ImportOptions,
): AsyncIterable<ProgressLine> {
  return progressOf(
    async (report) => {
      // All that can be wrong with the request, before the archive is read.
      const config = applyChanges({}, options.changes);
      const { repo = "", tag = "", platform = "" } = options;
      const reference = repo === "" ? undefined : taggedReference(repo, tag);
      const wanted = platform === "" ? HOST_PLATFORM : parsePlatformText(platform);
      const lease = storage.leases.open();
      try {
        const blobPath = storage.content.ingestPath();
        const staged = await storage.layers.stage((folder) =>
          storage.pool.run(
            { kind: "apply", input: { kind: "stream" }, blobPath, folder, keepsPlain: true },
            { source: tar },
          ),
        );
        const layer = await placeLayer(storage, undefined, { ...staged, blobPath }, lease);
        const comment = options.message ?? "";
        const image = {
          parent: undefined,
          layer,
          config,
          createdBy: "",
          comment: comment === "" ? "Imported from -" : comment,
          author: "",
          created: storage.now(),
          platform: wanted,
        };
        const record = await makeChildImage(storage, image, lease);
        await makeDurable(storage, record);
        if (reference !== undefined) {
          await nameImage(storage, reference, record);
          imageEvent(storage, "tag", record.id, canonicalForm(reference));
        }
        imageEvent(storage, "import", record.id, record.id);
        report({ status: record.id });
      } finally {
        lease.release();
      }
    },
    () => tar.destroy(),
  );
}
