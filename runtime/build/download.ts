/** Files that ADD names by URL. Git repositories are not fetched. */
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import type { ImageStorage } from "../images/image-storage.ts";

const TIMEOUT_MS = 600_000;

function causeOf(caught: unknown): string {
  const error = caught instanceof Error ? caught : new Error(String(caught));
  return error.cause instanceof Error ? error.cause.message : error.message;
}

/** A source of ADD that is not looked up in the context. */
export function isRemote(source: string): boolean {
  return /^(?:https?|ftp):\/\/|^git@|\.git(?:#|$)/.test(source);
}

/** Refuses a --checksum that could not be held against what is fetched. */
export function checkChecksum(checksum: string, sources: readonly string[]): void {
  if (checksum === "") return;
  const refuse = (why: string): never => {
    throw new ClusterError("invalid_argument", `ADD failed: ${why}`);
  };
  if (sources.length > 1) refuse("checksum can't be specified for multiple sources");
  if (!sources.every(isRemote)) refuse("checksum requires HTTP(S) sources");
  if (!/^sha256:[0-9a-f]{64}$/.test(checksum))
    refuse(`invalid checksum digest format: want sha256: and 64 hexadecimal digits, got "${checksum}"`);
}

/** The file in a new folder of its own, with the time that the server gave it. */
export async function downloadFile(
  storage: ImageStorage,
  { url, checksum }: { readonly url: string; readonly checksum: string },
  signal: AbortSignal,
): Promise<{ readonly folder: string; readonly name: string }> {
  const refuse = (why: string): never => {
    throw new ClusterError("invalid_argument", `ADD failed: cannot fetch "${url}": ${why}`);
  };
  if (!/^https?:\/\//.test(url)) refuse("only http and https URLs are fetched, not git repositories");
  const parsed = new URL(url);
  const name = path.posix.basename(decodeURIComponent(parsed.pathname));
  if (name === "" || name === "." || name === "..") refuse("cannot determine filename from url");
  const folder = storage.content.ingestPath();
  await storage.env.disk.makeFolder(folder, 0o755);
  try {
    const response = await fetch(parsed, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
    });
    if (!response.ok || response.body === null) return refuse(`server answered ${response.status}`);
    const file = path.join(folder, name);
    const hash = createHash("sha256");
    const hashed = async function* (pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      for await (const piece of pieces) {
        hash.update(piece);
        yield piece;
      }
    };
    await pipeline(Readable.fromWeb(response.body), hashed, createWriteStream(file, { mode: 0o600 }));
    const digest = `sha256:${hash.digest("hex")}`;
    if (checksum !== "" && digest !== checksum) refuse(`digest mismatch: want ${checksum}, got ${digest}`);
    const modified = Date.parse(response.headers.get("last-modified") ?? "");
    const seconds = Number.isNaN(modified) ? 0 : modified / 1000;
    await fs.chmod(file, 0o600);
    await fs.utimes(file, seconds, seconds);
    return { folder, name };
  } catch (caught) {
    await storage.env.disk.removeTree(folder);
    signal.throwIfAborted();
    if (caught instanceof ClusterError) throw caught;
    return refuse(causeOf(caught));
  }
}
