/**
 * Layers made here are kept as plain tars; registries get them compressed. Remembers which compressed form a layer had, so
 * that a second push asks for it by digest and sends nothing. Losing the file only costs that time again.
 */
import path from "node:path";
import type { ImageStorage } from "../images/image-storage.ts";
import type { LayerRecord } from "../images/image-records.ts";
import { layerMediaType } from "../images/image-manifest.ts";

export interface PushedLayer {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly mediaType: string;
}

type Known = Record<string, PushedLayer>;

const ENTRIES_MAX = 10_000;

async function readKnown(storage: ImageStorage): Promise<Known> {
  try {
    const bytes = await storage.env.disk.readFile(path.join(storage.root, "compressed.json"));
    return JSON.parse(Buffer.from(bytes).toString("utf8")) as Known;
  } catch {
    // None yet, or unreadable: it is only a memory aid.
    return {};
  }
}

function isPlain(layer: LayerRecord): boolean {
  return !/[+.](?:gzip|zstd)$/.test(layer.mediaType);
}

/** How a layer goes to registries. `compressedPath` is set when it had to be made just now: the caller removes it. */
export async function pushedForm(
  storage: ImageStorage,
  layer: LayerRecord,
): Promise<PushedLayer & { readonly compressedPath: string | undefined }> {
  if (!isPlain(layer)) return { ...layer, compressedPath: undefined };
  const known = (await readKnown(storage))[layer.digest];
  if (known !== undefined) return { ...known, compressedPath: undefined };
  return compressLayer(storage, layer);
}

export async function compressLayer(
  storage: ImageStorage,
  layer: LayerRecord,
): Promise<PushedLayer & { readonly compressedPath: string }> {
  const compressedPath = storage.content.ingestPath();
  const { digest, sizeBytes } = await storage.pool.run({
    kind: "store",
    input: { kind: "file", path: storage.content.pathOf(layer.digest) },
    blobPath: compressedPath,
    compress: "gzip",
  });
  const pushed = { digest, sizeBytes, mediaType: layerMediaType("gzip") };
  await remember(storage, layer.digest, pushed);
  return { ...pushed, compressedPath };
}

/** Several layers are compressed at a time, and there is one file. */
const writing = new WeakMap<ImageStorage, Promise<void>>();

function remember(storage: ImageStorage, digest: string, pushed: PushedLayer): Promise<void> {
  const write = async (): Promise<void> => {
    const known = await readKnown(storage);
    const entries = Object.entries({ ...known, [digest]: pushed }).slice(-ENTRIES_MAX);
    const bytes = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
    await storage.env.disk.writeFileAtomic(path.join(storage.root, "compressed.json"), bytes);
  };
  const turn = (writing.get(storage) ?? Promise.resolve()).then(write, write);
  writing.set(storage, turn);
  return turn;
}
