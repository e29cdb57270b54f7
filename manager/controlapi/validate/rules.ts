/** Small checks that several specs share, with Docker's words. Pure. */
import { ClusterError } from "../../../common/errors.ts";
import { isObject } from "../../../common/json.ts";
import { checkLogOptions, isLogDriver } from "../../../model/log-drivers.ts";
import type { Driver, Labels } from "../../../model/specs.ts";

/** One way only to read a name: a repeated group that may be split in several makes a long wrong one cost minutes. */
const DNS_NAME = /^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9])*$/;
const BLOB_NAME = /^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$/;
const NETWORK_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const DNS_NAME_CHARS_MAX = 63;
const BLOB_NAME_CHARS_MAX = 64;

export function refuse(text: string, field?: string): ClusterError {
  return new ClusterError("invalid_argument", text, field === undefined ? {} : { details: { field } });
}

/** One of a closed list of words, or absent ("" too, as Go clients send it). */
export function checkWord(value: string | undefined, words: readonly string[], field: string): void {
  if (value === undefined || value === "" || words.includes(value)) return;
  throw refuse(`invalid ${field}: "${value}", want one of ${words.join(", ")}`, field);
}

export function checkNotNegative(value: number | undefined, text: string): void {
  if (value !== undefined && value < 0) throw refuse(text);
}

export function checkServiceName(name: string | undefined): void {
  if (name === undefined || name === "") throw refuse("meta: name must be provided", "Name");
  if (!DNS_NAME.test(name)) throw refuse("name must be valid as a DNS name component", "Name");
  if (name.length > DNS_NAME_CHARS_MAX) {
    throw refuse(`name must be ${DNS_NAME_CHARS_MAX} characters or fewer`, "Name");
  }
}

/** Names of secrets and configs. */
export function checkBlobName(name: string | undefined): void {
  if (name !== undefined && name.length <= BLOB_NAME_CHARS_MAX && BLOB_NAME.test(name)) return;
  throw refuse(
    `invalid name, only ${BLOB_NAME_CHARS_MAX} [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]`,
    "Name",
  );
}

export function checkNetworkName(name: string | undefined): void {
  if (name === undefined || name === "") throw refuse("network name cannot be blank or empty", "Name");
  if (!NETWORK_NAME.test(name)) {
    throw refuse(`invalid network name "${name}", only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`, "Name");
  }
}

export function checkLabels(labels: Labels | undefined): void {
  for (const key of Object.keys(labels ?? {})) {
    if (key === "") throw refuse("invalid label: key must not be empty", "Labels");
  }
}

/**
 * Options of drivers that every node has. Others are plugins' own, and options without a driver are for the node's
 * default one.
 */
export function checkLogDriver(driver: Driver | undefined, field: string): void {
  const name = driver?.Name ?? "";
  if (!isLogDriver(name)) return;
  try {
    checkLogOptions(name, driver?.Options ?? {});
  } catch (caught) {
    throw refuse(`${field}: ${ClusterError.from(caught).message}`, field);
  }
}

/** The first value that occurs twice. */
export function firstDuplicate<T>(values: readonly T[]): T | undefined {
  const seen = new Set<T>();
  for (const value of values) {
    if (seen.has(value)) return value;
    seen.add(value);
  }
  return undefined;
}

/** Equal as JSON documents, whatever the order of keys. */
export function isSameJson(left: unknown, right: unknown): boolean {
  return left === right || canonical(left) === canonical(right);
}

function canonical(value: unknown): string {
  return (
    JSON.stringify(value, (_key, item: unknown) =>
      isObject(item)
        ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
        : item,
    ) ?? "undefined"
  );
}
