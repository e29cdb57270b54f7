/**
 * Reads what other nodes say of images. They may run another version, or be hostile: what has not the right form is
 * nothing.
 */
import type { ResolvedImage } from "../model/dispatch.ts";
import type { ImageDescription } from "../model/engine.ts";
import { isDigest } from "../model/image-reference.ts";

type Descriptor = ImageDescription["manifest"];

/** Layers of an image: file systems allow about 500. */
const BLOB_COUNT_MAX = 2_000;
const NODE_COUNT_MAX = 64;

const decoder = new TextDecoder();

function parse(json: Uint8Array | null | undefined): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(decoder.decode(json ?? new Uint8Array()));
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function texts(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === "string") : [];
}

function descriptor(value: unknown): Descriptor | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { digest, mediaType, sizeBytes } = value as Readonly<Record<string, unknown>>;
  if (typeof digest !== "string" || !isDigest(digest)) return undefined;
  if (typeof sizeBytes !== "number" || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0) return undefined;
  return { digest, mediaType: text(mediaType), sizeBytes };
}

function platformOf(value: unknown): Pick<ImageDescription, "platform"> {
  if (typeof value !== "object" || value === null) return {};
  const { os, architecture } = value as Readonly<Record<string, unknown>>;
  return { platform: { os: text(os), architecture: text(architecture) } };
}

export function parseDescription(json: Uint8Array | null | undefined): ImageDescription | undefined {
  const value = parse(json);
  const manifest = descriptor(value?.["manifest"]);
  const index = descriptor(value?.["index"]);
  const blobs = value?.["blobs"];
  if (value === undefined || manifest === undefined || !Array.isArray(blobs)) return undefined;
  const known = blobs.slice(0, BLOB_COUNT_MAX).map(descriptor);
  return {
    reference: text(value["reference"]),
    imageId: text(value["imageId"]),
    manifest,
    ...(index === undefined ? {} : { index }),
    blobs: known.filter((each) => each !== undefined),
    ...platformOf(value["platform"]),
    repoDigests: texts(value["repoDigests"]),
    taggedAt: text(value["taggedAt"]),
  };
}

export function parseResolved(json: Uint8Array | null | undefined): ResolvedImage | undefined {
  const value = parse(json);
  const digest = text(value?.["digest"]);
  if (value === undefined || !isDigest(digest)) return undefined;
  return {
    digest,
    holders: texts(value["holders"]).slice(0, NODE_COUNT_MAX),
    isKept: value["isKept"] === true,
    taggedAt: text(value["taggedAt"]),
  };
}
