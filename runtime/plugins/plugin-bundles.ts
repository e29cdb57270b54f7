/**
 * Plugins as bundles of blobs (config and one layer, Docker's media types), in a content store of their own: taken from
 * a folder's tar, from a registry, sent to one, unpacked. Knows nothing of what runs.
 */
import * as fs from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { ContentStore } from "../images/content-store.ts";
import { MEDIA } from "../images/image-documents.ts";
import type { AppliedLayer } from "../images/layer-jobs.ts";
import { WorkerPool, type JobOptions } from "../images/worker-pool.ts";
import { encodePluginConfig, parsePluginConfig, type PluginConfig } from "./plugin-config.ts";
import type { BlobRecord, PluginRecords } from "./plugin-records.ts";

export const PLUGIN_CONFIG_TYPE = "application/vnd.docker.plugin.v1+json";
const CONFIG_BYTES_MAX = 1024 * 1024;
const LAYER_TYPE = `${MEDIA.dockerLayer}.gzip`;

/** A bundle whose blobs are in the store and whose files are in `staging`/rootfs. */
export interface StagedBundle {
  readonly staging: string;
  readonly manifest: BlobRecord;
  readonly configBlob: BlobRecord;
  readonly layers: readonly BlobRecord[];
  readonly config: PluginConfig;
}

export interface BundleParts {
  readonly env: Env;
  /** Folder of the managed plugins. */
  readonly root: string;
}

export class PluginBundles {
  readonly content: ContentStore;
  readonly #root: string;
  readonly #trash: string;
  readonly #env: Env;
  readonly #pool: WorkerPool;
  /** Bundles on their way: their blobs are nobody's yet. */
  #underway = 0;

  private constructor(parts: BundleParts, content: ContentStore, trash: string) {
    this.#root = parts.root;
    this.#env = parts.env;
    this.content = content;
    this.#trash = trash;
    this.#pool = new WorkerPool(parts.env.timers, 1);
  }

  static async open(parts: BundleParts): Promise<PluginBundles> {
    const { disk, random } = parts.env;
    const trash = path.join(parts.root, "trash");
    await disk.removeTree(trash);
    await disk.makeFolder(trash, 0o700);
    const content = await ContentStore.open({
      root: path.join(parts.root, "storage"),
      trash,
      disk,
      random,
      // Made durable one by one, before they are anybody's.
      suspectSinceMs: undefined,
      unsyncedSinceMs: undefined,
    });
    return new PluginBundles(parts, content, trash);
  }

  stop(): Promise<void> {
    return this.#pool.stop();
  }

  /** Runs `work`, which may put blobs into the store that no plugin has yet. */
  async adding<T>(work: () => Promise<T>): Promise<T> {
    this.#underway += 1;
    try {
      return await work();
    } finally {
      this.#underway -= 1;
    }
  }

  /** Removes blobs that no plugin has, as far as all plugins are known. */
  async sweep(records: Pick<PluginRecords, "all" | "isWhole">): Promise<void> {
    if (this.#underway > 0 || !records.isWhole) return;
    const needed = new Set(
      records.all.flatMap(({ manifest, configBlob, layers }) =>
        [manifest, configBlob, ...layers].map((blob) => blob.digest),
      ),
    );
    for (const digest of this.content.digests()) if (!needed.has(digest)) this.content.discard(digest);
    for (const name of await fs.readdir(this.#trash))
      await this.#pool.run({ kind: "remove", path: path.join(this.#trash, name) });
  }

  /** Everything written so far survives a loss of power. */
  async makeDurable(): Promise<void> {
    await this.#pool.run({ kind: "sync", path: this.#root });
    this.content.markSynced(this.content.unsynced());
  }

  /** From the tar of a folder with config.json and rootfs/. */
  async fromFolder(tar: Readable, staging: string): Promise<StagedBundle> {
    const context = path.join(staging, "context");
    await this.#env.disk.makeFolder(context, 0o755);
    await this.#unpack({ input: { kind: "stream" }, folder: context }, { source: tar });
    const files = path.join(context, "rootfs");
    if (!(await isFolder(files))) throw new ClusterError("invalid_argument", "no rootfs found");
    const given = await readConfig(path.join(context, "config.json"));
    const plain = path.join(staging, "layer.tar");
    const applied = await this.#pool.run({
      kind: "apply",
      input: { kind: "folder", path: files },
      blobPath: plain,
      isPlain: true,
    });
    const packed = path.join(staging, "layer.tar.gz");
    const layer = await this.#pool.run({
      kind: "store",
      input: { kind: "file", path: plain },
      blobPath: packed,
      compress: "gzip",
    });
    await this.#env.disk.remove(plain);
    await this.content.commit(packed, layer.digest);
    await this.#env.disk.rename(files, path.join(staging, "rootfs"));
    await this.#env.disk.removeTree(context);
    const config: PluginConfig = { ...given, rootfs: { type: "layers", diff_ids: [applied.diffId] } };
    const configBlob = await this.#put(encodePluginConfig(config));
    const layers = [{ digest: layer.digest, sizeBytes: layer.sizeBytes }];
    const manifest = await this.#put(encodeManifest(configBlob, layers));
    return { staging, manifest, configBlob, layers, config };
  }

  async #put(bytes: Buffer): Promise<BlobRecord> {
    return { digest: await this.content.put(bytes), sizeBytes: bytes.length };
  }

  /** A layer as it arrives: kept as a blob, checked, unpacked into `folder`. */
  async arriving(
    blob: BlobRecord,
    folder: string,
    options: JobOptions & { readonly source: AsyncIterable<Uint8Array> },
  ): Promise<void> {
    await this.#env.disk.makeFolder(folder, 0o755);
    if (this.content.has(blob.digest)) {
      await this.#unpack({ input: { kind: "file", path: this.content.pathOf(blob.digest) }, folder }, {});
      return;
    }
    const blobPath = this.content.ingestPath();
    try {
      await this.#unpack(
        { input: { kind: "stream" }, folder, blobPath, expectedDigest: blob.digest },
        options,
      );
      await this.content.commit(blobPath, blob.digest);
    } finally {
      await this.#env.disk.remove(blobPath);
    }
  }

  async #unpack(
    job: Omit<Parameters<WorkerPool["run"]>[0] & { readonly kind: "apply" }, "kind">,
    options: JobOptions,
  ): Promise<AppliedLayer> {
    const applied = await this.#pool.run({ ...job, kind: "apply", isPlain: true }, options);
    if ((applied.layer?.pendingLinks.length ?? 0) > 0)
      throw new ClusterError(
        "invalid_argument",
        `Cannot unpack plugin: link "${applied.layer?.pendingLinks[0]?.path}" must lead to a file of the plugin`,
      );
    return applied;
  }
}

async function isFolder(file: string): Promise<boolean> {
  return fs.lstat(file).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}

/** Not followed where it is a link: the tar is a client's, the file would be the host's. */
async function readConfig(file: string): Promise<PluginConfig> {
  const stats = await fs.lstat(file).catch(() => undefined);
  if (stats?.isFile() !== true) throw new ClusterError("invalid_argument", "config not found");
  if (stats.size > CONFIG_BYTES_MAX)
    throw new ClusterError(
      "invalid_argument",
      `Cannot read plugin config: config.json must have at most ${CONFIG_BYTES_MAX} bytes, got ${stats.size}`,
    );
  return parsePluginConfig(await fs.readFile(file));
}

function encodeManifest(config: BlobRecord, layers: readonly BlobRecord[]): Buffer {
  const described = (mediaType: string) => (blob: BlobRecord) => ({
    mediaType,
    size: blob.sizeBytes,
    digest: blob.digest,
  });
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA.dockerManifest,
      config: described(PLUGIN_CONFIG_TYPE)(config),
      layers: layers.map(described(LAYER_TYPE)),
    }),
  );
}
