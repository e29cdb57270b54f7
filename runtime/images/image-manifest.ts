/** OCI manifests for images that come without one: built here, or from old archives. Same image, same bytes. */
import { sha256 } from "./content-store.ts";
import { MEDIA } from "./image-documents.ts";
import type { ArchiveCompression } from "./layer-jobs.ts";

export interface ManifestLayer {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
}

export function layerMediaType(compression: ArchiveCompression): string {
  return compression === "none" ? MEDIA.ociLayer : `${MEDIA.ociLayer}+${compression}`;
}

export function makeManifest(configBytes: Uint8Array, layers: readonly ManifestLayer[]): Buffer {
  const document = {
    schemaVersion: 2,
    mediaType: MEDIA.ociManifest,
    config: { mediaType: MEDIA.ociConfig, digest: sha256(configBytes), size: configBytes.byteLength },
    layers: layers.map(({ mediaType, digest, sizeBytes }) => ({ mediaType, digest, size: sizeBytes })),
  };
  return Buffer.from(JSON.stringify(document));
}
