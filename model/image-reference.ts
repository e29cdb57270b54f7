/**
 * Names of images as Docker users write them, by the grammar of the distribution project.
 *
 * The familiar form leaves out what is implied ("whoami:1"); the canonical form says everything
 * ("docker.io/library/whoami:1"). Both name the same image everywhere in this project. Used by the CLI, the API, the
 * managers and the runtime; knows nothing of registries' addresses or of what is stored.
 */
import { ClusterError } from "../common/errors.ts";

export const DEFAULT_DOMAIN = "docker.io";
const LEGACY_DEFAULT_DOMAIN = "index.docker.io";
const OFFICIAL_PREFIX = "library/";
export const DEFAULT_TAG = "latest";
/** Characters of domain and path together. */
const NAME_LENGTH_MAX = 255;
/** Anything longer can't be valid; keeps the patterns away from hostile input. */
const REFERENCE_LENGTH_MAX = 1024;

/** A parsed reference. Without tag and digest it names a repository. */
export interface ImageReference {
  /** Registry host with optional port: "docker.io", "localhost:5000", "[::1]:5000". */
  readonly domain: string;
  /** Repository inside the registry: "library/whoami". */
  readonly path: string;
  readonly tag?: string;
  /** "sha256:…". */
  readonly digest?: string;
}

const HOST_LABEL = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const DOMAIN = new RegExp(
  String.raw`^(?:${HOST_LABEL}(?:\.${HOST_LABEL})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?$`,
);
const PATH = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$/;
const SHA256 = /^sha256:[0-9a-f]{64}$/;
const SHA512 = /^sha512:[0-9a-f]{128}$/;
const BARE_ID = /^[0-9a-f]{64}$/;

function invalid(text: string, why = ""): ClusterError {
  return new ClusterError("invalid_argument", `invalid reference format${why}`, {
    details: { reference: text.slice(0, REFERENCE_LENGTH_MAX) },
  });
}

/** True for a digest that content can be checked against: sha256 or sha512 in lower-case hex of the right length. */
export function isDigest(text: string): boolean {
  return SHA256.test(text) || SHA512.test(text);
}

export function isTag(text: string): boolean {
  return TAG.test(text);
}

/** Splits host from path: the first part is a host if it has a dot, a colon or a capital, or is "localhost". */
function splitDomain(name: string): { readonly domain: string; readonly path: string } {
  const slash = name.indexOf("/");
  const first = slash < 0 ? "" : name.slice(0, slash);
  const isHost = slash > 0 && (/[.:]/.test(first) || first === "localhost" || first.toLowerCase() !== first);
  const domain = isHost ? first : DEFAULT_DOMAIN;
  const path = isHost ? name.slice(slash + 1) : name;
  if (domain !== DEFAULT_DOMAIN && domain !== LEGACY_DEFAULT_DOMAIN) return { domain, path };
  return { domain: DEFAULT_DOMAIN, path: path.includes("/") ? path : `${OFFICIAL_PREFIX}${path}` };
}

function splitTag(text: string): { readonly name: string; readonly tag: string | undefined } {
  const colon = text.lastIndexOf(":");
  // A colon before a slash belongs to a port.
  if (colon < 0 || text.indexOf("/", colon) >= 0) return { name: text, tag: undefined };
  return { name: text.slice(0, colon), tag: text.slice(colon + 1) };
}

/** Parses any form a user may write. Throws invalid_argument in Docker's words; never guesses. */
export function parseReference(text: string): ImageReference {
  if (text.length > REFERENCE_LENGTH_MAX) throw invalid(text);
  if (BARE_ID.test(text)) {
    throw new ClusterError(
      "invalid_argument",
      `invalid repository name (${text}), cannot specify 64-byte hexadecimal strings`,
    );
  }
  const at = text.indexOf("@");
  const digest = at < 0 ? undefined : text.slice(at + 1);
  const { name, tag } = splitTag(at < 0 ? text : text.slice(0, at));
  if (digest !== undefined && (!DIGEST.test(digest) || !isDigest(digest))) {
    throw invalid(text);
  }
  if (tag !== undefined && !TAG.test(tag)) throw invalid(text);
  const { domain, path } = splitDomain(name);
  if (path.toLowerCase() !== path && PATH.test(path.toLowerCase())) {
    throw invalid(text, `: repository name (${path}) must be lowercase`);
  }
  if (!DOMAIN.test(domain) || !PATH.test(path)) throw invalid(text);
  if (domain.length + 1 + path.length > NAME_LENGTH_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `repository name must not be more than ${NAME_LENGTH_MAX} characters`,
    );
  }
  return { domain, path, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

/** As parseReference, but undefined for what is no reference. */
export function tryParseReference(text: string): ImageReference | undefined {
  try {
    return parseReference(text);
  } catch (caught) {
    if (caught instanceof ClusterError) return undefined;
    throw caught;
  }
}

/** "docker.io/library/whoami": the repository in full. */
export function canonicalName(reference: ImageReference): string {
  return `${reference.domain}/${reference.path}`;
}

/** "whoami": the repository as users write it. */
export function familiarName(reference: ImageReference): string {
  if (reference.domain !== DEFAULT_DOMAIN) return canonicalName(reference);
  const { path } = reference;
  const rest = path.startsWith(OFFICIAL_PREFIX) ? path.slice(OFFICIAL_PREFIX.length) : path;
  return rest.includes("/") ? path : rest;
}

function suffix(reference: ImageReference): string {
  const tag = reference.tag === undefined ? "" : `:${reference.tag}`;
  return reference.digest === undefined ? tag : `${tag}@${reference.digest}`;
}

/** With tag and digest where they are set. */
export function canonicalForm(reference: ImageReference): string {
  return canonicalName(reference) + suffix(reference);
}

/** With tag and digest where they are set. */
export function familiarForm(reference: ImageReference): string {
  return familiarName(reference) + suffix(reference);
}

/** The tag "latest" where neither tag nor digest says which image of the repository is meant. */
export function withDefaultTag(reference: ImageReference): ImageReference {
  return reference.tag === undefined && reference.digest === undefined
    ? { ...reference, tag: DEFAULT_TAG }
    : reference;
}

/** `text` in full with the default tag: "whoami" is "docker.io/library/whoami:latest". */
export function normalizeReference(text: string): string {
  return canonicalForm(withDefaultTag(parseReference(text)));
}
