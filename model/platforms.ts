/**
 * Platforms of images as text and as fields: what they are called, and which of them run where. Names and their defaults
 * are those of Docker (containerd's package platforms). Pure.
 */
import { ClusterError } from "../common/errors.ts";

export interface ImagePlatform {
  readonly os: string;
  /** As Go names it: amd64, arm64, arm, 386… */
  readonly architecture: string;
  /** Of the architecture: "v7"; empty if that says it all. */
  readonly variant: string;
}

export const HOST_PLATFORM: ImagePlatform = {
  os: "linux",
  architecture: { x64: "amd64", arm: "arm", ia32: "386" }[process.arch as string] ?? process.arch,
  variant: process.arch === "arm64" ? "v8" : process.arch === "arm" ? "v7" : "",
};

/** Other names of an architecture, with the variant that they mean. */
const ARCHITECTURES: Readonly<Record<string, readonly [string, string]>> = {
  x86_64: ["amd64", ""],
  "x86-64": ["amd64", ""],
  aarch64: ["arm64", ""],
  armhf: ["arm", "v7"],
  armel: ["arm", "v6"],
  i386: ["386", ""],
};

/** The variant that is meant where none is named. */
const DEFAULT_VARIANTS: Readonly<Record<string, string>> = { amd64: "v1", arm64: "v8", arm: "v7" };

function known(platform: ImagePlatform): ImagePlatform {
  const [architecture, variant] = ARCHITECTURES[platform.architecture] ?? [platform.architecture, ""];
  return { os: platform.os, architecture, variant: platform.variant === "" ? variant : platform.variant };
}

/** The one form of all that mean the same: "linux/aarch64/v8" and "linux/arm64" are equal in it. */
export function normalizePlatform({ os, architecture, variant }: ImagePlatform): ImagePlatform {
  const named = known({
    os: os.toLowerCase(),
    architecture: architecture.toLowerCase(),
    variant: variant
      .toLowerCase()
      .replace(/^(?=\d)/, "v")
      .replace(/\.0$/, ""),
  });
  return { ...named, variant: named.variant || (DEFAULT_VARIANTS[named.architecture] ?? "") };
}

/** "linux/arm/v7", "linux/amd64", "arm64" or "linux". */
export function parsePlatformText(text: string): ImagePlatform {
  const parts = text.toLowerCase().split("/");
  const [first = "", second = "", third = ""] = parts;
  if (parts.length > 3 || parts.some((part) => !/^[a-z0-9_.-]+$/.test(part))) {
    throw new ClusterError("invalid_argument", `"${text}" is an invalid platform: want os[/arch[/variant]]`);
  }
  if (parts.length === 1 && first !== "linux")
    return known({ os: "linux", architecture: first, variant: "" });
  if (parts.length === 1) return { ...HOST_PLATFORM, os: first };
  return known({ os: first, architecture: second, variant: third });
}

export function platformText({ os, architecture, variant }: ImagePlatform): string {
  return [os, architecture, variant].filter((part) => part !== "").join("/");
}

/** How well `offered` runs where `wanted` was asked for: higher is better, undefined not at all. */
export function platformScore(offered: ImagePlatform, wanted: ImagePlatform): number | undefined {
  const [have, want] = [normalizePlatform(offered), normalizePlatform(wanted)];
  if (have.os !== want.os || have.architecture !== want.architecture) return undefined;
  if (have.variant === want.variant) return 100;
  // Each level has all that the ones below it have.
  const [haveLevel, wantLevel] = [levelOf(have), levelOf(want)];
  return haveLevel < wantLevel ? haveLevel : undefined;
}

/**
 * Whether the image is for the platform. Documents of images need not name the variant: it is taken for the wanted one
 * then.
 */
export function isForPlatform(image: ImagePlatform, wanted: ImagePlatform): boolean {
  return platformScore({ ...image, variant: image.variant || wanted.variant }, wanted) !== undefined;
}

function levelOf({ variant }: ImagePlatform): number {
  return Number(/^v(\d+(?:\.\d+)?)$/.exec(variant)?.[1] ?? Number.NaN);
}
