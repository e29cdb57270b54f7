/**
 * Writes an image as `docker save` does, from a few files and without a Dockerfile: one layer, a config and a manifest in a
 * tar. The bytes depend on the input alone, so that the same program gives the same image. Used by the demo and by tests.
 */
import { createHash } from "node:crypto";

export interface ImageFile {
  /** Without a leading slash. */
  readonly path: string;
  readonly data: Uint8Array;
  readonly mode?: number;
}

export interface ImageDescription {
  /** "whoami:1". */
  readonly reference: string;
  readonly files: readonly ImageFile[];
  readonly entrypoint: readonly string[];
  readonly command?: readonly string[];
  readonly env?: readonly string[];
  readonly exposedPorts?: readonly string[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly stopSignal?: string;
}

const BLOCK_BYTES = 512;
const EPOCH = "1970-01-01T00:00:00Z";

function octal(value: number, length: number): string {
  return `${value.toString(8).padStart(length - 1, "0")}\0`;
}

function tarHeader(
  name: string,
  options: { readonly bytes: number; readonly mode: number; readonly isFolder: boolean },
): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  header.write(name, 0, 100);
  header.write(octal(options.mode, 8), 100);
  header.write(octal(0, 8), 108);
  header.write(octal(0, 8), 116);
  header.write(octal(options.bytes, 12), 124);
  header.write(octal(0, 12), 136);
  header.write("        ", 148);
  header.write(options.isFolder ? "5" : "0", 156);
  header.write("ustar\x0000", 257);
  let sum = 0;
  for (const byte of header) sum += byte;
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}

function padded(data: Uint8Array): Buffer {
  const rest = data.length % BLOCK_BYTES;
  return Buffer.concat([data, Buffer.alloc(rest === 0 ? 0 : BLOCK_BYTES - rest)]);
}

function tarOf(files: readonly ImageFile[]): Buffer {
  const folders = new Set<string>();
  for (const { path } of files) {
    const parts = path.split("/").slice(0, -1);
    parts.forEach((_, index) => folders.add(`${parts.slice(0, index + 1).join("/")}/`));
  }
  const pieces: Uint8Array[] = [...folders]
    .sort()
    .map((name) => tarHeader(name, { bytes: 0, mode: 0o755, isFolder: true }));
  for (const file of files) {
    pieces.push(
      tarHeader(file.path, { bytes: file.data.length, mode: file.mode ?? 0o644, isFolder: false }),
      padded(file.data),
    );
  }
  return Buffer.concat([...pieces, Buffer.alloc(2 * BLOCK_BYTES)]);
}

function sha256(data: Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** The tar for `image load`. */
export function imageTar(image: ImageDescription): Buffer {
  const layer = tarOf(image.files);
  const diffId = sha256(layer);
  const config = Buffer.from(
    JSON.stringify({
      architecture: process.arch === "arm64" ? "arm64" : "amd64",
      os: "linux",
      created: EPOCH,
      config: {
        Entrypoint: image.entrypoint,
        ...(image.command === undefined ? {} : { Cmd: image.command }),
        Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ...(image.env ?? [])],
        WorkingDir: "/",
        ...(image.exposedPorts === undefined
          ? {}
          : { ExposedPorts: Object.fromEntries(image.exposedPorts.map((port) => [port, {}])) }),
        ...(image.labels === undefined ? {} : { Labels: image.labels }),
        ...(image.stopSignal === undefined ? {} : { StopSignal: image.stopSignal }),
      },
      rootfs: { type: "layers", diff_ids: [`sha256:${diffId}`] },
      history: [{ created: EPOCH, created_by: "shoal dev image-tar" }],
    }),
  );
  const configName = `${sha256(config)}.json`;
  const layerName = `${diffId}/layer.tar`;
  const manifest = Buffer.from(
    JSON.stringify([{ Config: configName, RepoTags: [image.reference], Layers: [layerName] }]),
  );
  return tarOf([
    { path: configName, data: config },
    { path: layerName, data: layer },
    { path: "manifest.json", data: manifest },
  ]);
}
