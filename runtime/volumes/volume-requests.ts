/** What clients may ask about volumes: names, the create request, filters. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { Filters, JsonObject } from "../../model/engine.ts";
import { checkFilterKeys, filterFlag, labelsPass } from "../../model/filters.ts";
import type { Labels } from "../../model/specs.ts";
import { type TextPattern, textPattern } from "../text-pattern.ts";
import { ANONYMOUS_LABEL, type VolumeRecord } from "./volume-record.ts";

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const NAME_LENGTH_MAX = 200;

export function checkVolumeName(name: string): void {
  if (name.length === 1) {
    throw new ClusterError(
      "invalid_argument",
      `create ${name}: volume name is too short, names should be at least two alphanumeric characters`,
    );
  }
  if (name.length > NAME_LENGTH_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `create volume: name must have at most ${NAME_LENGTH_MAX} characters, got ${name.length}`,
    );
  }
  if (NAME.test(name)) return;
  throw new ClusterError(
    "invalid_argument",
    `create ${name}: "${name}" includes invalid characters for a local volume name, only ` +
      '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path',
  );
}

function stringMap(value: unknown, field: string): Labels {
  if (value === undefined || value === null) return {};
  if (typeof value !== "object" || Array.isArray(value)) {
    throw new ClusterError("invalid_argument", `create volume: ${field} must be a map of strings`);
  }
  const entries = Object.entries(value);
  for (const [key, each] of entries) {
    if (typeof each !== "string") {
      throw new ClusterError("invalid_argument", `create volume: ${field} "${key}" must be a string`);
    }
  }
  return Object.fromEntries(entries) as Labels;
}

function text(value: unknown, field: string): string {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  throw new ClusterError("invalid_argument", `create volume: ${field} must be a string`);
}

export function parseCreateRequest(request: JsonObject): {
  readonly name: string | null;
  readonly driver: string;
  readonly options: Labels;
  readonly labels: Labels;
} {
  const name = text(request["Name"], "Name");
  return {
    name: name === "" ? null : name,
    driver: text(request["Driver"], "Driver"),
    options: stringMap(request["DriverOpts"], "DriverOpts"),
    labels: stringMap(request["Labels"], "Labels"),
  };
}

function expression(text: string): TextPattern {
  return textPattern(
    text,
    (cause) => new ClusterError("invalid_argument", `invalid filter 'name=[${text}]'`, { cause }),
  );
}

const KNOWN: Readonly<Record<"list" | "prune", ReadonlySet<string>>> = {
  list: new Set(["dangling", "driver", "label", "name"]),
  prune: new Set(["label", "label!", "all", "name", "driver", "dangling"]),
};

/** A test for `ls` (or what `prune` takes: unused, and unnamed unless "all"). Throws on filters it doesn't know. */
export function volumeMatcher(
  filters: Filters,
  isUsed: (name: string) => boolean,
  kind: "list" | "prune" = "list",
): (record: VolumeRecord) => boolean {
  checkFilterKeys(filters, KNOWN[kind]);
  const isDangling = kind === "prune" ? true : filterFlag(filters, "dangling");
  const takesNamed = kind === "list" || filterFlag(filters, "all") === true;
  const drivers = filters.get("driver");
  const names = filters.get("name")?.map(expression);
  return (record) =>
    (isDangling === undefined || isUsed(record.name) !== isDangling) &&
    (takesNamed || ANONYMOUS_LABEL in record.labels) &&
    (drivers === undefined || drivers.includes(record.driver)) &&
    (names === undefined || names.some((matches) => matches(record.name))) &&
    labelsPass(filters, record.labels);
}
