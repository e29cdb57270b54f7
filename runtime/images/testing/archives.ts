/** Tar archives and images in docker save's form, made in memory for tests. */
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { encodeHeader, END_OF_ARCHIVE, paddingOf, type TarEntry } from "../tar/tar-entry.ts";

export interface TestMember extends Partial<Omit<TarEntry, "name">> {
  readonly name: string;
  readonly content?: string | Buffer;
}

export function tarOf(members: readonly TestMember[]): Buffer {
  const pieces: Buffer[] = [];
  for (const member of members) {
    const content = Buffer.from(member.content ?? "");
    pieces.push(
      encodeHeader({
        type: member.name.endsWith("/") ? "folder" : "file",
        mode: member.name.endsWith("/") ? 0o755 : 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_000_000_000,
        linkName: "",
        devMajor: 0,
        devMinor: 0,
        xattrs: new Map(),
        ...member,
        size: content.length,
      }),
      content,
      paddingOf(content.length),
    );
  }
  return Buffer.concat([...pieces, END_OF_ARCHIVE]);
}

export function sha256Of(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

export type Compression = "none" | "gzip" | "zstd";

export function compress(bytes: Buffer, compression: Compression): Buffer {
  if (compression === "none") return bytes;
  return compression === "gzip" ? gzipSync(bytes) : zstdCompressSync(bytes);
}

export interface TestImage {
  readonly tags: readonly string[];
  readonly layers: readonly (readonly TestMember[])[];
  readonly config?: object;
  readonly compression?: Compression;
}

export interface BuiltImage {
  readonly id: string;
  readonly configBytes: Buffer;
  readonly blobs: readonly Buffer[];
  readonly diffIds: readonly string[];
}

export function buildImage(image: TestImage): BuiltImage {
  const tars = image.layers.map(tarOf);
  const diffIds = tars.map((tar) => `sha256:${sha256Of(tar)}`);
  const configBytes = Buffer.from(
    JSON.stringify({
      architecture: "amd64",
      os: "linux",
      created: "2026-01-02T03:04:05Z",
      config: image.config ?? { Cmd: ["/bin/true"] },
      rootfs: { type: "layers", diff_ids: diffIds },
      history: diffIds.map((_, index) => ({ created: "2026-01-02T03:04:05Z", created_by: `step ${index}` })),
    }),
  );
  const blobs = tars.map((tar) => compress(tar, image.compression ?? "none"));
  return { id: `sha256:${sha256Of(configBytes)}`, configBytes, blobs, diffIds };
}

/** As docker save of today writes it, less the OCI index. */
export function dockerArchive(images: readonly TestImage[]): Buffer {
  const members: TestMember[] = [];
  const manifest = images.map((image) => {
    const built = buildImage(image);
    members.push({ name: `blobs/sha256/${sha256Of(built.configBytes)}`, content: built.configBytes });
    const layers = built.blobs.map((blob) => {
      members.push({ name: `blobs/sha256/${sha256Of(blob)}`, content: blob });
      return `blobs/sha256/${sha256Of(blob)}`;
    });
    return { Config: `blobs/sha256/${sha256Of(built.configBytes)}`, RepoTags: image.tags, Layers: layers };
  });
  members.push({ name: "manifest.json", content: JSON.stringify(manifest) });
  return tarOf(members);
}

export function streamOf(bytes: Buffer, pieceBytes = 10_000): Readable {
  function* pieces(): Generator<Buffer> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
  }
  return Readable.from(pieces(), { objectMode: false });
}
