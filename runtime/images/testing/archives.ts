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

function compress(bytes: Buffer, compression: Compression): Buffer {
  if (compression === "none") return bytes;
  return compression === "gzip" ? gzipSync(bytes) : zstdCompressSync(bytes);
}

export interface TestImage {
  readonly tags: readonly string[];
  readonly layers: readonly (readonly TestMember[])[];
  readonly config?: object;
  readonly compression?: Compression;
  /** Default: amd64. */
  readonly platform?: { readonly architecture: string; readonly variant?: string };
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
      ...image.platform,
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

/** One image for several platforms as an OCI layout: an index in an index. */
export function layoutArchive(tag: string, images: readonly TestImage[]): Buffer {
  const members: TestMember[] = [];
  const put = (content: Buffer, mediaType: string): object => {
    members.push({ name: `blobs/sha256/${sha256Of(content)}`, content });
    return { mediaType, digest: `sha256:${sha256Of(content)}`, size: content.length };
  };
  const putJson = (value: object, mediaType: string): object =>
    put(Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, ...value })), mediaType);
  const manifests = images.map((image) => {
    const built = buildImage(image);
    const config = put(built.configBytes, "application/vnd.oci.image.config.v1+json");
    const layers = built.blobs.map((blob) => put(blob, "application/vnd.oci.image.layer.v1.tar"));
    const manifest = putJson({ config, layers }, "application/vnd.oci.image.manifest.v1+json");
    return { ...manifest, platform: { architecture: "amd64", ...image.platform, os: "linux" } };
  });
  const inner = putJson({ manifests }, "application/vnd.oci.image.index.v1+json");
  const named = { ...inner, annotations: { "io.containerd.image.name": tag } };
  const index = JSON.stringify({ schemaVersion: 2, manifests: [named] });
  return tarOf([...members, { name: "index.json", content: index }]);
}

export function streamOf(bytes: Buffer, pieceBytes = 10_000): Readable {
  function* pieces(): Generator<Buffer> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
  }
  return Readable.from(pieces(), { objectMode: false });
}
