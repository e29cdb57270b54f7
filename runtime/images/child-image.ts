/**
 * Makes new images on this machine: a config document on top of a parent's, with at most one new layer. Used by commit,
 * import and the builder. The same input gives the same bytes, so the same image id.
 */
import { type ImageDocument } from "./image-documents.ts";
import type { ContainerConfig } from "../../model/engine.ts";
import { parseManifestOrIndex, chainIdsOf, MEDIA } from "./image-documents.ts";
import { makeManifest } from "./image-manifest.ts";
import { recordImage, type ImageStorage } from "./image-storage.ts";
import type { ImageRecord } from "./image-records.ts";
import type { Lease } from "./leases.ts";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import { HOST_PLATFORM, type ImagePlatform } from "../../model/platforms.ts";
import { LAYERS_MAX } from "./image-documents.ts";
import type { StagedLayer } from "./layer-store.ts";

/** Of a tar without members: such a layer is left out and its history says so. */
const EMPTY_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

export interface NewLayer {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
  readonly diffId: string;
}

export interface ChildImage {
  readonly parent: ImageRecord | undefined;
  /** undefined: only the config changes. */
  readonly layer: NewLayer | undefined;
  readonly config: ContainerConfig;
  /** Docker's record of the step's container; the classic builder finds cached steps by it. */
  readonly containerConfig?: ContainerConfig;
  readonly containerId?: string;
  readonly createdBy: string;
  readonly comment: string;
  readonly author: string;
  /** RFC 3339. */
  readonly created: string;
  readonly platform?: ImagePlatform;
  /** For the builder's cache. */
  readonly buildKey?: string;
}

function historyOf(child: ChildImage, isEmpty: boolean): object {
  return {
    created: child.created,
    ...(child.author === "" ? {} : { author: child.author }),
    created_by: child.createdBy,
    ...(child.comment === "" ? {} : { comment: child.comment }),
    ...(isEmpty ? { empty_layer: true } : {}),
  };
}

function configDocument(child: ChildImage, parent: ImageDocument | undefined, isEmpty: boolean): Buffer {
  const platform = child.platform ?? parent ?? HOST_PLATFORM;
  const diffIds = [
    ...(parent?.diffIds ?? []),
    ...(child.layer === undefined || isEmpty ? [] : [child.layer.diffId]),
  ];
  const document = {
    architecture: platform.architecture,
    ...(platform.variant === "" ? {} : { variant: platform.variant }),
    ...(child.author === "" ? {} : { author: child.author }),
    ...(child.comment === "" ? {} : { comment: child.comment }),
    config: child.config,
    ...(child.containerId === undefined ? {} : { container: child.containerId }),
    ...(child.containerConfig === undefined ? {} : { container_config: child.containerConfig }),
    created: child.created,
    history: [...(parent?.history ?? []), historyOf(child, isEmpty)],
    os: platform.os,
    rootfs: { type: "layers", diff_ids: diffIds },
  };
  return Buffer.from(JSON.stringify(document));
}

/** Records the image; its layer's blob and files must be in place and held by `lease`. */
export async function makeChildImage(
  storage: ImageStorage,
  child: ChildImage,
  lease: Lease,
): Promise<ImageRecord> {
  const isEmpty = child.layer === undefined || child.layer.diffId === EMPTY_DIFF_ID;
  const parentDocument = child.parent === undefined ? undefined : storage.document(child.parent);
  const configBytes = configDocument(child, parentDocument, isEmpty);
  const layers = [
    ...(child.parent?.layers ?? []),
    ...(child.layer === undefined || isEmpty ? [] : [child.layer]),
  ];
  if (layers.length > LAYERS_MAX) {
    throw new ClusterError(
      "failed_precondition",
      `Cannot make image: at most ${LAYERS_MAX} layers are possible`,
    );
  }
  const manifestBytes = makeManifest(configBytes, layers);
  const parsed = parseManifestOrIndex(manifestBytes);
  if (parsed.kind !== "manifest") throw new ClusterError("internal", "made manifest is none");
  const parentId = child.parent?.id ?? "";
  const key = child.buildKey === undefined ? {} : { buildKey: child.buildKey };
  return recordImage(
    storage,
    { manifestBytes, manifest: parsed.manifest, configBytes, parentId, ...key },
    lease,
  );
}

/**
 * Puts a staged layer with its blob (still an ingest file) on top of `parent`. undefined for a layer without members:
 * nothing is kept of it.
 */
export async function placeLayer(
  storage: ImageStorage,
  parent: ImageRecord | undefined,
  staged: StagedLayer & { readonly blobPath: string },
  lease: Lease,
): Promise<NewLayer | undefined> {
  const { applied } = staged;
  if (applied.diffId === EMPTY_DIFF_ID) {
    storage.snapshots.discardStaging(staged.staging);
    await storage.env.disk.remove(staged.blobPath);
    return undefined;
  }
  const below = parent?.layers ?? [];
  const chainIds = chainIdsOf([...below.map((layer) => layer.diffId), applied.diffId]);
  const chainId = must(chainIds.at(-1), "a chain of at least one layer");
  lease.hold(applied.digest, chainId);
  const identity = { digest: applied.digest, diffId: applied.diffId, chainId };
  let isUsed = false;
  try {
    await storage.layers.ensure([...below, identity], (layer) => {
      // Layers below may have to be unpacked anew after a loss of power.
      if (layer.chainId !== chainId) return storage.layers.stageBlob(layer);
      isUsed = true;
      return Promise.resolve(staged);
    });
    await storage.content.commit(staged.blobPath, applied.digest);
  } catch (caught) {
    await storage.env.disk.remove(staged.blobPath);
    throw caught;
  } finally {
    // Another was faster, or a layer below could not be had.
    if (!isUsed) storage.snapshots.discardStaging(staged.staging);
  }
  const suffix = applied.compression === "none" ? "" : `+${applied.compression}`;
  return {
    digest: applied.digest,
    sizeBytes: applied.sizeBytes,
    mediaType: `${MEDIA.ociLayer}${suffix}`,
    diffId: applied.diffId,
  };
}
