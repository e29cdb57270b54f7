/**
 * `docker load`: images from an archive, in the form of docker save (manifest.json), as an OCI layout, or both. The archive
 * is read once, in a worker thread; layers begin to be unpacked as soon as each is whole, before the documents at the
 * archive's end say which images they belong to.
 */
import * as fs from "node:fs";
import path from "node:path";
import type { Readable } from "node:stream";
import { must } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { ProgressLine } from "../../model/engine.ts";
import {
  familiarForm,
  parseReference,
  tryParseReference,
  withDefaultTag,
  type ImageReference,
} from "../../model/image-reference.ts";
import {
  HOST_PLATFORM,
  type ImagePlatform,
  isForPlatform,
  parsePlatformText,
  platformText,
} from "../../model/platforms.ts";
import { DOCUMENT_BYTES_MAX, sha256 } from "./content-store.ts";
import { isForeign } from "./decompression.ts";
import { makeDurable, nameImage } from "./durable-images.ts";
import { imageEvent } from "./image-events.ts";
import {
  chainIdsOf,
  checkImageConfig,
  choosePlatform,
  parseImageDocument,
  parseManifestOrIndex,
  type Descriptor,
  type Manifest,
} from "./image-documents.ts";
import { layerMediaType, makeManifest } from "./image-manifest.ts";
import { recordImage, type ImageStorage } from "./image-storage.ts";
import type { AppliedLayer, SplitMember } from "./layer-jobs.ts";
import type { LayerIdentity, StagedLayer } from "./layer-store.ts";
import type { Lease } from "./leases.ts";
import { progressLine, progressOf, shortId } from "./progress.ts";

const LINKS_MAX = 8;

type Report = (line: ProgressLine) => void;

/** One image as the archive describes it. */
interface ArchivedImage {
  readonly configBytes: Buffer;
  readonly layers: readonly SplitMember[];
  readonly references: readonly ImageReference[];
  /** As the archive has it; absent in old archives. */
  readonly manifestBytes: Buffer | undefined;
}

function notAnArchive(why: string): ClusterError {
  return new ClusterError("invalid_argument", `Cannot load image: ${why}`);
}

/** Members by cleaned name, links followed. */
class ArchiveMembers {
  readonly #byName = new Map<string, SplitMember>();

  constructor(members: readonly SplitMember[]) {
    for (const member of members) this.#byName.set(path.posix.normalize(member.name), member);
  }

  find(name: string): SplitMember | undefined {
    let current = path.posix.normalize(name);
    for (let count = 0; count < LINKS_MAX; count++) {
      const member = this.#byName.get(current);
      if (member?.linkName === undefined) return member;
      current = path.posix.join(path.posix.dirname(current), member.linkName);
    }
    return undefined;
  }

  get(name: string): SplitMember {
    const member = this.find(name);
    if (member === undefined) throw notAnArchive(`archive must have the file "${name}", which is missing`);
    return member;
  }

  read(name: string): Buffer {
    const member = this.get(name);
    if (member.sizeBytes > DOCUMENT_BYTES_MAX) throw notAnArchive(`"${name}" is too large`);
    return fs.readFileSync(member.path);
  }

  /** A blob of the OCI layout; its name must tell the truth. */
  blob(descriptor: Pick<Descriptor, "digest">): SplitMember {
    const name = `blobs/${descriptor.digest.replace(":", "/")}`;
    const member = this.get(name);
    if (descriptor.digest.startsWith("sha256:") && member.digest !== descriptor.digest) {
      throw notAnArchive(`"${name}" has the digest ${member.digest}`);
    }
    return member;
  }

  has(name: string): boolean {
    return this.find(name) !== undefined;
  }
}

function parseJson(bytes: Buffer, what: string): unknown {
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    throw notAnArchive(`"${what}" must be JSON`);
  }
}

function isStringList(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

/** Manifests of the layout beside manifest.json, by config digest: they keep the digest that registries know. */
function layoutManifests(members: ArchiveMembers, platform: ImagePlatform): ReadonlyMap<string, Buffer> {
  const found = new Map<string, Buffer>();
  if (!members.has("index.json")) return found;
  for (const { bytes, manifest } of manifestsOf(members, platform)) {
    found.set(manifest.config.digest, bytes);
  }
  return found;
}

interface FoundManifest {
  readonly bytes: Buffer;
  readonly manifest: Manifest;
  readonly name: string;
}

const INDEX_DEPTH_MAX = 4;

interface FoundIndex {
  readonly bytes: Buffer;
  readonly what: string;
  readonly depth: number;
  /** The image's, where an index around this one gives it. */
  readonly outerName: string;
}

/** Manifests of the layout for one platform. */
function manifestsOf(members: ArchiveMembers, platform: ImagePlatform): readonly FoundManifest[] {
  const what = "index.json";
  return [...walkIndex(members, platform, { bytes: members.read(what), what, depth: 0, outerName: "" })];
}

function* walkIndex(
  members: ArchiveMembers,
  platform: ImagePlatform,
  { bytes: indexBytes, what, depth, outerName }: FoundIndex,
): Generator<FoundManifest> {
  if (depth > INDEX_DEPTH_MAX) throw notAnArchive("indexes are nested too deep");
  const value = parseManifestOrIndex(indexBytes);
  if (value.kind !== "index") throw notAnArchive(`"${what}" must be an index`);
  // The outer index lists images; the inner ones list platforms of one image.
  const chosen =
    depth === 0
      ? value.manifests
      : [choosePlatform(value.manifests, platform)].filter((each) => each !== undefined);
  for (const descriptor of chosen) {
    const name = imageNameOf(descriptor) || outerName;
    const isKnown = members.has(`blobs/${descriptor.digest.replace(":", "/")}`);
    // Exported layouts may leave other platforms' blobs out.
    if (!isKnown) continue;
    const bytes = fs.readFileSync(members.blob(descriptor).path);
    const inner = parseManifestOrIndex(bytes);
    if (inner.kind === "index") {
      const index = { bytes, what: descriptor.digest, depth: depth + 1, outerName: name };
      yield* walkIndex(members, platform, index);
    } else if (!isAttestation(inner.manifest)) {
      yield { bytes, manifest: inner.manifest, name };
    }
  }
}

function isAttestation(manifest: Manifest): boolean {
  return manifest.layers.some((layer) => layer.mediaType.startsWith("application/vnd.in-toto"));
}

function imageNameOf(descriptor: Descriptor): string {
  const { annotations = {} } = descriptor;
  return annotations["io.containerd.image.name"] ?? annotations["org.opencontainers.image.ref.name"] ?? "";
}

function imagesOfManifestJson(members: ArchiveMembers, platform: ImagePlatform): readonly ArchivedImage[] {
  const list = parseJson(members.read("manifest.json"), "manifest.json");
  if (!Array.isArray(list)) throw notAnArchive('"manifest.json" must be a list');
  const manifests = layoutManifests(members, platform);
  return list.map((item: unknown) => {
    const { Config: config, Layers: layers, RepoTags: tags } = isObject(item) ? item : {};
    if (typeof config !== "string" || !isStringList(layers)) {
      throw notAnArchive('"manifest.json" must have Config and Layers for each image');
    }
    const configBytes = members.read(config);
    return {
      configBytes,
      layers: layers.map((layer) => members.get(layer)),
      references: isStringList(tags) ? tags.map((tag) => withDefaultTag(parseReference(tag))) : [],
      manifestBytes: manifests.get(sha256(configBytes)),
    };
  });
}

function imagesOfLayout(members: ArchiveMembers, platform: ImagePlatform): readonly ArchivedImage[] {
  return manifestsOf(members, platform).map((found) => {
    const parsed = found.name === "" ? undefined : tryParseReference(found.name);
    return {
      configBytes: fs.readFileSync(members.blob(found.manifest.config).path),
      layers: found.manifest.layers.map((layer) => members.blob(layer)),
      references: parsed === undefined ? [] : [withDefaultTag(parsed)],
      manifestBytes: found.bytes,
    };
  });
}

interface LoaderParts {
  readonly storage: ImageStorage;
  readonly lease: Lease;
  readonly report: Report;
  readonly platform: ImagePlatform | undefined;
}

class Loader {
  readonly #storage: ImageStorage;
  readonly #lease: Lease;
  readonly #report: Report;
  readonly #platform: ImagePlatform | undefined;
  readonly #folder: string;
  /** Layers that were begun before it was known what they belong to, by digest. */
  readonly #early = new Map<string, Promise<StagedLayer>>();
  readonly #used = new Set<string>();
  readonly #plained = new Map<string, Promise<SplitMember>>();

  constructor({ storage, lease, report, platform }: LoaderParts) {
    this.#storage = storage;
    this.#lease = lease;
    this.#report = report;
    this.#platform = platform;
    this.#folder = storage.content.ingestPath();
  }

  async run(tar: Readable): Promise<void> {
    const { pool, env } = this.#storage;
    await env.disk.makeFolder(this.#folder);
    try {
      const { members } = await pool.run(
        { kind: "split", input: { kind: "stream" }, folder: this.#folder },
        { source: tar, onMember: (member) => this.#begin(member) },
      );
      const archive = new ArchiveMembers(members);
      for (const image of this.#wanted(this.#images(archive))) await this.#load(image);
    } finally {
      await this.#cleanUp();
    }
  }

  #images(archive: ArchiveMembers): readonly ArchivedImage[] {
    const platform = this.#platform ?? HOST_PLATFORM;
    if (archive.has("manifest.json")) return imagesOfManifestJson(archive, platform);
    if (archive.has("index.json")) return imagesOfLayout(archive, platform);
    throw notAnArchive("archive must have manifest.json or index.json");
  }

  /** Those for the platform that was asked for. */
  #wanted(images: readonly ArchivedImage[]): readonly ArchivedImage[] {
    const wanted = this.#platform;
    if (wanted === undefined) return images;
    const platformOf = ({ configBytes }: ArchivedImage): ImagePlatform => parseImageDocument(configBytes);
    const chosen = images.filter((image) => isForPlatform(platformOf(image), wanted));
    if (chosen.length > 0) return chosen;
    const had = [...new Set(images.map((image) => platformText(platformOf(image))))].join(", ");
    throw new ClusterError(
      "not_found",
      `Cannot load image: the archive must have one for the platform ${platformText(wanted)}, it has ${had || "none"}`,
    );
  }

  /** The layer is whole: unpack it while the rest of the archive is still being read. */
  #begin(member: SplitMember): void {
    if (member.compression === undefined || isForeign(member.compression)) return;
    if (this.#early.has(member.digest)) return;
    const { content, layers } = this.#storage;
    // Blobs that are known were most likely unpacked before.
    if (content.has(member.digest)) return;
    const flight = layers.stage((folder) => this.#apply(member, folder));
    flight.catch(() => {});
    this.#early.set(member.digest, flight);
  }

  #apply(member: SplitMember, folder: string): Promise<AppliedLayer> {
    const input = { kind: "file", path: this.#pathOf(member) } as const;
    return this.#storage.pool.run({ kind: "apply", input, knownDigest: member.digest, folder });
  }

  /** Layers in xz or bzip2 are kept plain: registries would not take them. */
  #plain(member: SplitMember): Promise<SplitMember> {
    if (member.compression === undefined || !isForeign(member.compression)) return Promise.resolve(member);
    const known = this.#plained.get(member.path);
    if (known !== undefined) return known;
    const blobPath = `${member.path}-plain`;
    const input = { kind: "file", path: member.path } as const;
    const flight = this.#storage.pool
      .run({ kind: "store", input, blobPath, decompresses: true })
      .then(({ digest, sizeBytes }): SplitMember => ({
        ...member,
        path: blobPath,
        digest,
        sizeBytes,
        compression: "none",
      }));
    this.#plained.set(member.path, flight);
    return flight;
  }

  #pathOf(member: SplitMember): string {
    const { content } = this.#storage;
    return content.has(member.digest) ? content.pathOf(member.digest) : member.path;
  }

  async #load(archived: ArchivedImage): Promise<void> {
    const { content, layers } = this.#storage;
    const members = await Promise.all(archived.layers.map((member) => this.#plain(member)));
    const image = { ...archived, layers: members };
    const document = parseImageDocument(image.configBytes);
    checkImageConfig(document);
    if (document.diffIds.length !== image.layers.length) {
      throw notAnArchive(
        `config must name ${image.layers.length} layers, as the manifest does, got ${document.diffIds.length}`,
      );
    }
    const chainIds = chainIdsOf(document.diffIds);
    const identities = image.layers.map((member, index) => ({
      digest: member.digest,
      diffId: must(document.diffIds[index], "as many diff ids as layers"),
      chainId: must(chainIds[index], "as many chain ids as layers"),
    }));
    for (const each of identities) this.#lease.hold(each.digest, each.chainId);
    await layers.ensure(identities, (layer, index) =>
      this.#stage(layer, must(image.layers[index], "as many layers as identities")),
    );
    for (const member of image.layers) await content.commit(member.path, member.digest);
    const described = image.layers.map(({ digest, compression = "none" }) => ({
      digest,
      sizeBytes: content.sizeBytes(digest) ?? 0,
      mediaType: layerMediaType(compression),
    }));
    const manifestBytes = this.#manifestBytes(image, described);
    const parsed = parseManifestOrIndex(manifestBytes);
    if (parsed.kind !== "manifest") throw notAnArchive("manifest must not be an index");
    const fresh = { manifestBytes, manifest: parsed.manifest, configBytes: image.configBytes };
    const record = await recordImage(this.#storage, fresh, this.#lease);
    await makeDurable(this.#storage, record);
    for (const reference of image.references) await nameImage(this.#storage, reference, record);
    this.#announce(record.id, image.references);
  }

  /** The archive's own manifest if its layers are the archive's, byte for byte. */
  #manifestBytes(image: ArchivedImage, described: Parameters<typeof makeManifest>[1]): Buffer {
    if (image.manifestBytes !== undefined) {
      const parsed = parseManifestOrIndex(image.manifestBytes);
      const isSame =
        parsed.kind === "manifest" &&
        parsed.manifest.layers.length === described.length &&
        parsed.manifest.layers.every((layer, index) => layer.digest === described[index]?.digest);
      if (isSame) return image.manifestBytes;
    }
    return makeManifest(image.configBytes, described);
  }

  async #stage(layer: LayerIdentity, member: SplitMember): Promise<StagedLayer> {
    const early = this.#used.has(layer.digest) ? undefined : this.#early.get(layer.digest);
    this.#used.add(layer.digest);
    const staged = await (early ?? this.#storage.layers.stage((folder) => this.#apply(member, folder)));
    if (staged.applied.diffId !== layer.diffId) {
      this.#storage.snapshots.discardStaging(staged.staging);
      throw notAnArchive(`layer must have the diff id ${layer.diffId}, got ${staged.applied.diffId}`);
    }
    const total = staged.applied.sizeBytes;
    this.#report(progressLine(shortId(layer.diffId), "Loading layer", total, total));
    return staged;
  }

  #announce(id: string, references: readonly ImageReference[]): void {
    imageEvent(this.#storage, "load", id, id);
    if (references.length === 0) this.#report({ stream: `Loaded image ID: ${id}\n` });
    for (const reference of references) {
      this.#report({ stream: `Loaded image: ${familiarForm(reference)}\n` });
    }
  }

  async #cleanUp(): Promise<void> {
    for (const [digest, flight] of this.#early) {
      if (this.#used.has(digest)) continue;
      const staged = await flight.catch(() => undefined);
      if (staged !== undefined) this.#storage.snapshots.discardStaging(staged.staging);
    }
    await this.#storage.env.disk.removeTree(this.#folder);
  }
}

export interface LoadOptions {
  readonly quiet: boolean;
  /** "linux/arm64": only images for it. Absent: all, and of those with several platforms this machine's. */
  readonly platform?: string;
}

export function loadImages(
  storage: ImageStorage,
  tar: Readable,
  options: LoadOptions,
): AsyncIterable<ProgressLine> {
  return progressOf(
    async (report) => {
      const platform = options.platform === undefined ? undefined : parsePlatformText(options.platform);
      const lease = storage.leases.open();
      const filtered: Report = (line) => {
        if (!options.quiet || !("progressDetail" in line)) report(line);
      };
      try {
        await new Loader({ storage, lease, report: filtered, platform }).run(tar);
      } finally {
        lease.release();
      }
    },
    () => tar.destroy(),
  );
}
