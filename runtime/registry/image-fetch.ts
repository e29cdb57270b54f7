/**
 * Brings an image's documents and layers into the stores from whatever sources there are (a registry's hosts, peers): used
 * by pulls of both kinds. Layers are hashed, kept and unpacked in one pass while they arrive, and offered to peers meanwhile.
 */
import { createReadStream, rmSync } from "node:fs";
import type { ImageDescription, ProgressLine } from "../../model/engine.ts";
import { canonicalForm, canonicalName, type ImageReference } from "../../model/image-reference.ts";
import { ClusterError, hasCode } from "../../common/errors.ts";
import { must } from "../../common/assert.ts";
import { DOCUMENT_BYTES_MAX, hasDigest, sha256 } from "../images/content-store.ts";
import {
  chainIdsOf,
  checkImageConfig,
  parseImageDocument,
  parseManifestOrIndex,
  type Descriptor,
  type Manifest,
} from "../images/image-documents.ts";
import type { ImageRecord } from "../images/image-records.ts";
import { recordImage, type ImageStorage } from "../images/image-storage.ts";
import type { LayerIdentity, StagedLayer } from "../images/layer-store.ts";
import type { Lease } from "../images/leases.ts";
import type { Beginning } from "../images/unfinished-blobs.ts";
import { progressLine, shortId } from "../images/progress.ts";
import { blobPieces, type BlobSource, SourceScores } from "./blob-stream.ts";
import { takeBlob } from "./trusted-blob.ts";

export interface FetchOptions {
  readonly manifestBytes: Buffer;
  readonly manifest: Manifest;
  /** Who has a blob as of now; always the same object for the same source. */
  readonly sourcesOf: (descriptor: Descriptor) => readonly BlobSource[];
  readonly lease: Lease;
  readonly report: (line: ProgressLine) => void;
  readonly signal: AbortSignal;
  /** The config is here and checked: the image can be offered to others. */
  readonly onConfig?: () => void;
}

/** The image as peers see it while it is on its way here. */
export function offeredImage(
  storage: ImageStorage,
  reference: ImageReference,
  image: {
    readonly bytes: Buffer;
    readonly manifest: Manifest;
    readonly index?: ImageDescription["index"] | undefined;
  },
): ImageDescription {
  const { mediaType, config, layers } = image.manifest;
  const digest = sha256(image.bytes);
  return {
    reference: canonicalForm(reference),
    imageId: config.digest,
    manifest: { digest, mediaType, sizeBytes: image.bytes.length },
    ...(image.index === undefined ? {} : { index: image.index }),
    blobs: [config, ...layers].map((blob) => ({
      digest: blob.digest,
      mediaType: blob.mediaType,
      sizeBytes: blob.sizeBytes,
    })),
    repoDigests: [`${canonicalName(reference)}@${image.index?.digest ?? digest}`],
    taggedAt: storage.now(),
  };
}

/** A whole small blob, checked. */
export async function fetchDocument(
  descriptor: Descriptor,
  sources: () => readonly BlobSource[],
  signal: AbortSignal,
): Promise<Buffer> {
  if (descriptor.sizeBytes > DOCUMENT_BYTES_MAX) {
    throw new ClusterError("failed_precondition", `Blob ${descriptor.digest} is too large for a document`);
  }
  const { digest, sizeBytes } = descriptor;
  return checkedDocument(descriptor, blobPieces(sources, { digest, sizeBytes, signal }));
}

async function checkedDocument(descriptor: Descriptor, source: AsyncIterable<Buffer>): Promise<Buffer> {
  const { digest } = descriptor;
  const pieces: Buffer[] = [];
  for await (const piece of source) pieces.push(piece);
  const bytes = Buffer.concat(pieces);
  if (!hasDigest(bytes, digest)) {
    throw new ClusterError(
      "failed_precondition",
      `Blob must have the digest ${digest}, got ${sha256(bytes)}`,
    );
  }
  return bytes;
}

const READ_BYTES = 1024 * 1024;

type TakeBlob<T> = (
  pieces: AsyncGenerator<Buffer>,
  blobPath: string,
  onProgress: (bytes: number) => void,
) => Promise<T>;

/** The beginning of a blob that an earlier pull left, as a source: it is suspected like others if the whole is wrong. */
interface EarlierSource extends BlobSource {
  readonly beginning: Beginning;
}

function earlierSource(digest: string, beginning: Beginning | undefined): EarlierSource | undefined {
  if (beginning === undefined) return undefined;
  const refuse = (): Promise<never> =>
    Promise.reject(new ClusterError("internal", "A beginning is read from its start only"));
  return { name: `what an earlier pull left of ${digest}`, isPartial: true, open: refuse, beginning };
}

class ImageFetch {
  readonly #storage: ImageStorage;
  readonly #scores = new SourceScores();
  /** Sources that gave other bytes than the digest says. */
  readonly #distrusted = new Set<string>();
  readonly #options: FetchOptions;

  constructor(storage: ImageStorage, options: FetchOptions) {
    this.#storage = storage;
    this.#options = options;
  }

  async run(): Promise<ImageRecord> {
    const { content, layers, snapshots } = this.#storage;
    const { manifest, lease, report } = this.#options;
    const configBytes = await this.#config();
    const document = parseImageDocument(configBytes);
    checkImageConfig(document);
    const { diffIds } = document;
    if (diffIds.length !== manifest.layers.length) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot pull image: config must name ${manifest.layers.length} layers, got ${diffIds.length}`,
      );
    }
    // Peers that come to pull from here begin with it.
    lease.hold(sha256(this.#options.manifestBytes));
    await content.put(this.#options.manifestBytes);
    this.#options.onConfig?.();
    const chainIds = chainIdsOf(diffIds);
    const identities = manifest.layers.map((layer, index) => ({
      digest: layer.digest,
      diffId: must(diffIds[index], "as many diff ids as layers"),
      chainId: must(chainIds[index], "as many chain ids as layers"),
    }));
    for (const each of identities) lease.hold(each.digest, each.chainId);
    for (const each of identities) {
      const isHere = snapshots.has(each.chainId) && content.has(each.digest);
      report(line(each.digest, isHere ? "Already exists" : "Pulling fs layer"));
    }
    await layers.ensure(identities, (layer, index) => this.#stage(layer, this.#layer(index)));
    // Unpacked already for another image, with other bytes: peers and pushes want these.
    for (const [index, each] of identities.entries()) {
      if (!content.has(each.digest)) await this.#store(this.#layer(index));
    }
    const { manifestBytes } = this.#options;
    return recordImage(this.#storage, { manifestBytes, manifest, configBytes }, lease);
  }

  #layer(index: number): Descriptor {
    return must(this.#options.manifest.layers[index], "index is inside the list");
  }

  async #config(): Promise<Buffer> {
    const { content } = this.#storage;
    const { config } = this.#options.manifest;
    this.#options.lease.hold(config.digest);
    if (content.has(config.digest)) return content.readDocument(config.digest);
    const bytes = await this.#taken(config, undefined, async (pieces) => checkedDocument(config, pieces));
    await content.put(bytes);
    return bytes;
  }

  /** What `take` makes of the blob's bytes, from sources that gave true ones so far. */
  #taken<T>(
    blob: Descriptor,
    earlier: EarlierSource | undefined,
    take: (pieces: AsyncGenerator<Buffer>) => Promise<T>,
  ): Promise<T> {
    const { signal, sourcesOf } = this.#options;
    const own = earlier === undefined ? [] : [earlier];
    return takeBlob(
      {
        sources: () => [...sourcesOf(blob), ...own],
        pieces: (sources, onUse) => this.#pieces(blob, earlier, { sources, onUse }),
        distrusted: this.#distrusted,
        signal,
      },
      take,
    );
  }

  /** What is here already, then the rest from afar. */
  async *#pieces(
    { digest, sizeBytes }: Descriptor,
    earlier: EarlierSource | undefined,
    from: {
      readonly sources: () => readonly BlobSource[];
      readonly onUse: (source: BlobSource) => void;
    },
  ): AsyncGenerator<Buffer> {
    const { signal } = this.#options;
    const { sources, onUse } = from;
    let fromBytes = 0;
    if (earlier !== undefined && sources().includes(earlier)) {
      onUse(earlier);
      const { file, bytes } = earlier.beginning;
      const end = Math.min(bytes, sizeBytes) - 1;
      for await (const piece of createReadStream(file, { end, highWaterMark: READ_BYTES, signal })) {
        fromBytes += (piece as Buffer).length;
        yield piece as Buffer;
      }
    }
    const others = (): readonly BlobSource[] => sources().filter((source) => source !== earlier);
    yield* blobPieces(others, { digest, sizeBytes, fromBytes, signal, scores: this.#scores, onUse });
  }

  async #stage(identity: LayerIdentity, layer: Descriptor): Promise<StagedLayer> {
    const { content, layers, pool } = this.#storage;
    const { report } = this.#options;
    if (content.has(identity.digest)) {
      const staged = await layers.stageBlob(identity);
      report(line(identity.digest, "Pull complete"));
      return staged;
    }
    const staged = await this.#arriving(layer, (pieces, blobPath, onProgress) =>
      layers.stage((folder) =>
        pool.run(
          {
            kind: "apply",
            input: { kind: "stream" },
            blobPath,
            folder,
            expectedDigest: identity.digest,
            leavesBroken: true,
            expectedDiffId: identity.diffId,
          },
          { source: pieces, onProgress },
        ),
      ),
    );
    report(line(identity.digest, "Verifying Checksum"));
    report(line(identity.digest, "Download complete"));
    report(progressLine(shortId(identity.digest), "Extracting", layer.sizeBytes, layer.sizeBytes));
    report(line(identity.digest, "Pull complete"));
    return staged;
  }

  async #store(layer: Descriptor): Promise<void> {
    const { pool } = this.#storage;
    await this.#arriving(layer, (pieces, blobPath, onProgress) =>
      pool.run(
        {
          kind: "store",
          input: { kind: "stream" },
          blobPath,
          expectedDigest: layer.digest,
          leavesBroken: true,
        },
        { source: pieces, onProgress },
      ),
    );
    this.#options.report(line(layer.digest, "Download complete"));
  }

  /** Runs `take`, which writes the blob to a file, with progress told to the client and to peers. */
  async #arriving<T>(layer: Descriptor, take: TakeBlob<T>): Promise<T> {
    const { unfinished } = this.#storage;
    const download = unfinished.begin(layer.digest);
    let isBrokenOff = false;
    let isKept = false;
    try {
      const earlier = earlierSource(layer.digest, download.earlier);
      return await this.#taken(layer, earlier, async (pieces) => {
        isBrokenOff = true;
        const all = ended(pieces, () => (isBrokenOff = false));
        return this.#arrivingOnce(layer, { pieces: all, blobPath: download.file }, take);
      });
    } catch (caught) {
      // A full disk needs the room.
      if (hasCode(caught, "resource_exhausted")) unfinished.clear();
      else isKept = isBrokenOff;
      throw caught;
    } finally {
      if (isKept) download.keep();
      else download.forget();
    }
  }

  async #arrivingOnce<T>(
    layer: Descriptor,
    { pieces, blobPath }: { readonly pieces: AsyncGenerator<Buffer>; readonly blobPath: string },
    take: TakeBlob<T>,
  ): Promise<T> {
    const { content, partial } = this.#storage;
    // Of a try before this one.
    rmSync(blobPath, { force: true });
    const arriving = partial.start(layer.digest, blobPath, layer.sizeBytes);
    let current = 0;
    let isWhole = false;
    try {
      const result = await take(pieces, blobPath, (bytes) => {
        current += bytes;
        arriving.progress(bytes);
        this.#options.report(progressLine(shortId(layer.digest), "Downloading", current, layer.sizeBytes));
      });
      await content.commit(blobPath, layer.digest);
      isWhole = true;
      return result;
    } finally {
      arriving.end(isWhole);
    }
  }
}

/** The same pieces; `onEnd` is called after the last, not when they break off. */
async function* ended(pieces: AsyncGenerator<Buffer>, onEnd: () => void): AsyncGenerator<Buffer> {
  yield* pieces;
  onEnd();
}

function line(digest: string, status: string): ProgressLine {
  return { status, progressDetail: {}, id: shortId(digest) };
}

export function fetchImage(storage: ImageStorage, options: FetchOptions): Promise<ImageRecord> {
  return new ImageFetch(storage, options).run();
}

/** The manifest of `bytes`, which must not be an index. */
export function parseManifest(bytes: Buffer, mediaType: string): Manifest {
  const parsed = parseManifestOrIndex(bytes, mediaType);
  if (parsed.kind === "index") {
    throw new ClusterError("failed_precondition", "Cannot pull image: an index inside an index");
  }
  return parsed.manifest;
}
