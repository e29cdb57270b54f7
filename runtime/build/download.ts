/** Files that ADD names by URL. Git repositories are not fetched. */
import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { ClusterError } from "../../common/errors.ts";
import type { ImageStorage } from "../images/image-storage.ts";
import { HttpCaller, type HttpAnswer } from "../registry/http-call.ts";

const TIMEOUT_MS = 600_000;
const HEADERS_TIMEOUT_MS = 60_000;
/** As many as Go's client follows. */
const REDIRECT_COUNT_MAX = 10;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);
const TRUST = { verifiesTls: true, authorities: [], clientCertificates: [], clientKeys: [] };

function causeOf(caught: unknown): string {
  return caught instanceof Error ? caught.message : String(caught);
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

/** Of the last of all redirects. The daemon's proxies are asked, as its variables name them. */
async function answerOf(caller: HttpCaller, from: URL, signal: AbortSignal): Promise<HttpAnswer> {
  let url = from;
  for (let count = 0; count <= REDIRECT_COUNT_MAX; count++) {
    const answer = await caller.send({
      method: "GET",
      url,
      headers: { "User-Agent": "shoal" },
      trust: TRUST,
      signal,
      headersTimeoutMs: HEADERS_TIMEOUT_MS,
    });
    const { location } = answer.headers;
    if (!REDIRECTS.has(answer.status) || location === undefined) return answer;
    answer.body.destroy();
    url = new URL(location, url);
    if (!/^https?:$/.test(url.protocol))
      throw new ClusterError("internal", `redirect to "${location}", which is neither http nor https`);
  }
  throw new ClusterError("internal", `stopped after ${REDIRECT_COUNT_MAX} redirects`);
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
  const caller = new HttpCaller();
  const folder = storage.content.ingestPath();
  await storage.env.disk.makeFolder(folder, 0o755);
  try {
    const answer = await answerOf(caller, parsed, AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]));
    if (answer.status < 200 || answer.status > 299) {
      answer.body.destroy();
      return refuse(`server answered ${answer.status}`);
    }
    const file = path.join(folder, name);
    const hash = createHash("sha256");
    const hashed = async function* (pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      for await (const piece of pieces) {
        hash.update(piece);
        yield piece;
      }
    };
    await pipeline(answer.body, hashed, createWriteStream(file, { mode: 0o600 }));
    const digest = `sha256:${hash.digest("hex")}`;
    if (checksum !== "" && digest !== checksum) refuse(`digest mismatch: want ${checksum}, got ${digest}`);
    const modified = Date.parse(answer.headers["last-modified"] ?? "");
    const seconds = Number.isNaN(modified) ? 0 : modified / 1000;
    await fs.chmod(file, 0o600);
    await fs.utimes(file, seconds, seconds);
    return { folder, name };
  } catch (caught) {
    await storage.env.disk.removeTree(folder);
    signal.throwIfAborted();
    if (caught instanceof ClusterError && caught.code === "invalid_argument") throw caught;
    return refuse(causeOf(caught));
  } finally {
    caller.close();
  }
}
