/** Version prefixes of paths and what is said to clients that are too old or too new. Pure. */
import { badParameter } from "./error-body.ts";
import { API_VERSION, MIN_API_VERSION } from "./limits.ts";

export interface SplitPath {
  /** Without version prefix and query, still percent-encoded. */
  readonly path: string;
  /** "1.41", or undefined if the path had no prefix: the newest. */
  readonly version: string | undefined;
  readonly params: URLSearchParams;
}

const PREFIX = /^\/v(\d{1,4}\.\d{1,4})(\/.*)$/;

export function splitPath(url: string): SplitPath {
  const mark = url.indexOf("?");
  const whole = mark < 0 ? url : url.slice(0, mark);
  const params = new URLSearchParams(mark < 0 ? "" : url.slice(mark + 1));
  const match = PREFIX.exec(whole);
  return match === null
    ? { path: whole, version: undefined, params }
    : { path: match[2] ?? "/", version: match[1], params };
}

function compare(left: string, right: string): number {
  const [leftMajor = 0, leftMinor = 0] = left.split(".").map(Number);
  const [rightMajor = 0, rightMinor = 0] = right.split(".").map(Number);
  return leftMajor - rightMajor || leftMinor - rightMinor;
}

/** Throws Docker's words for a version that isn't served. */
export function negotiate(version: string | undefined): void {
  if (version === undefined) return;
  if (compare(version, API_VERSION) > 0) {
    throw badParameter(
      `client version ${version} is too new. Maximum supported API version is ${API_VERSION}`,
    );
  }
  if (compare(version, MIN_API_VERSION) < 0) {
    throw badParameter(
      `client version ${version} is too old. Minimum supported API version is ${MIN_API_VERSION}, please upgrade your client to a newer version`,
    );
  }
}

/** Minor number of the version asked for; the newest if none was. */
export function minorOf(version: string | undefined): number {
  return Number((version ?? API_VERSION).split(".")[1] ?? "0");
}
