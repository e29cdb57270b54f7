/**
 * Whose lines go where: all that forwarding a container's log takes, written beside the log at its start, so that it goes on when the
 * daemon is another one and the container is gone.
 */
import * as os from "node:os";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import { isCollectorDriver, type CollectorDriver, type LogOptionValues } from "../../model/log-drivers.ts";
import { expandLogTag, type LogTagInfo } from "../../model/log-tags.ts";
import { commandOf } from "../containers/config-merge.ts";
import type { ContainerRecord } from "../containers/container-record.ts";

const DEFAULT_TAG = "{{.ID}}";

export interface LogTarget {
  readonly driver: CollectorDriver;
  readonly options: LogOptionValues;
  readonly containerId: string;
  /** Without a slash. */
  readonly containerName: string;
  readonly imageId: string;
  readonly imageName: string;
  readonly command: string;
  /** RFC 3339. */
  readonly created: string;
  readonly hostname: string;
  readonly tag: string;
  /** Labels and variables that the options pick out. */
  readonly attributes: Readonly<Record<string, string>>;
}

function matching(
  text: string | undefined,
  regex: string | undefined,
  keys: readonly string[],
): readonly string[] {
  const named = (text ?? "").split(",").filter((each) => each !== "");
  const pattern = regex === undefined ? undefined : new RegExp(regex);
  return keys.filter((key) => named.includes(key) || pattern?.test(key) === true);
}

/** What `labels`, `labels-regex`, `env` and `env-regex` of the options pick out of a container. */
function pickedAttributes(record: ContainerRecord): Readonly<Record<string, string>> {
  const options = record.hostConfig.LogConfig?.Config ?? {};
  const labels = record.config.Labels ?? {};
  const env = new Map(
    (record.config.Env ?? []).map((entry) => {
      const at = entry.indexOf("=");
      return at < 0 ? ([entry, ""] as const) : ([entry.slice(0, at), entry.slice(at + 1)] as const);
    }),
  );
  const attributes: Record<string, string> = {};
  for (const key of matching(options["labels"], options["labels-regex"], Object.keys(labels))) {
    attributes[key] = labels[key] ?? "";
  }
  for (const key of matching(options["env"], options["env-regex"], [...env.keys()])) {
    attributes[key] = env.get(key) ?? "";
  }
  return attributes;
}

function tagInfo(record: ContainerRecord, attributes: Readonly<Record<string, string>>): LogTagInfo {
  return {
    id: record.id,
    name: record.name,
    imageId: record.imageId,
    imageName: record.image,
    command: commandOf(record.config),
    created: record.created,
    env: record.config.Env ?? [],
    labels: record.config.Labels ?? {},
    attributes,
    hostname: os.hostname(),
  };
}

/** What a json-file's lines carry as `attrs`. */
export function lineAttributes(record: ContainerRecord): Readonly<Record<string, string>> {
  const attributes = pickedAttributes(record);
  const tag = record.hostConfig.LogConfig?.Config?.["tag"] ?? "";
  return tag === "" ? attributes : { ...attributes, tag: expandLogTag(tag, tagInfo(record, attributes)) };
}

/** undefined if the container's log goes nowhere. */
export function logTarget(record: ContainerRecord): LogTarget | undefined {
  const { Type: driver = "", Config } = record.hostConfig.LogConfig ?? {};
  if (!isCollectorDriver(driver)) return undefined;
  const options = Config ?? {};
  const attributes = pickedAttributes(record);
  const info = tagInfo(record, attributes);
  return {
    driver,
    options,
    containerId: record.id,
    containerName: record.name,
    imageId: record.imageId,
    imageName: record.image,
    command: info.command.join(" "),
    created: record.created,
    hostname: info.hostname,
    tag: expandLogTag(options["tag"] || DEFAULT_TAG, info),
    attributes,
  };
}

/** Of the file's text. Throws if it is none. */
export function parseLogTarget(text: string): LogTarget {
  const value: unknown = JSON.parse(text);
  if (isObject(value) && isCollectorDriver(String(value["driver"]))) return value as unknown as LogTarget;
  throw new ClusterError("invalid_argument", "a log target must name a driver with a collector");
}
