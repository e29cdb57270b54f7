/** `--log-driver` and `--log-opt` as what the monitor writes. Pure. */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";
import { checkLogOptions, parseByteSize, parseLogBoolean } from "../../model/log-drivers.ts";
import { DEFAULT_LOG_FILE_COUNT } from "./container-defaults.ts";
import type { ContainerRecord } from "./container-record.ts";
import { JSON_FORMAT, LOCAL_FORMAT, type LogFormat } from "./log-formats.ts";
import type { LaunchLog } from "./launch-spec.ts";

const LOG_KINDS = { none: 0, "json-file": 1, local: 2 } as const;
const RING_BYTES_MAX = 1024 ** 3;
const LOCAL_BYTES_MAX = 20 * 1024 * 1024;
const LOCAL_FILE_COUNT = 5;

function logDriver(hostConfig: HostConfig): "json-file" | "local" | "none" {
  const type = hostConfig.LogConfig?.Type ?? "";
  if (type === "" || type === "json-file") return "json-file";
  if (type === "local" || type === "none") return type;
  throw new ClusterError("invalid_argument", `logger: no log driver named '${type}' is registered`);
}

/** Throws as `docker create` would. */
export function validateLogOptions(hostConfig: HostConfig): void {
  checkLogOptions(logDriver(hostConfig), hostConfig.LogConfig?.Config ?? {});
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

function attributesOf(record: ContainerRecord): Readonly<Record<string, string>> {
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
  const tag = options["tag"];
  if (tag !== undefined && tag !== "") {
    attributes["tag"] = tag
      .replaceAll("{{.ID}}", record.id.slice(0, 12))
      .replaceAll("{{.FullID}}", record.id)
      .replaceAll("{{.Name}}", record.name)
      .replaceAll("{{.ImageName}}", record.image)
      .replaceAll("{{.ImageID}}", record.imageId.slice(7, 19));
  }
  return attributes;
}

export function logPath(record: Pick<ContainerRecord, "id" | "hostConfig">, folder: string): string {
  const isLocal = logDriver(record.hostConfig) === "local";
  return path.join(folder, isLocal ? "local-logs/container.log" : `${record.id}-json.log`);
}

export function logFormat(record: Pick<ContainerRecord, "hostConfig">): LogFormat {
  return logDriver(record.hostConfig) === "local" ? LOCAL_FORMAT : JSON_FORMAT;
}

/** Whether rotated files are compressed: asked for with json-file, usual with local. */
export function isLogCompressed(hostConfig: HostConfig): boolean {
  const driver = logDriver(hostConfig);
  const asked = parseLogBoolean(hostConfig.LogConfig?.Config?.["compress"], "compress");
  return driver === "local" ? asked !== false : driver === "json-file" && asked === true;
}

/** Docker's default is 1 MiB. */
function ringBytes(text: string | undefined): number {
  const bytes = text === undefined ? 1024 ** 2 : parseByteSize(text, "max-buffer-size");
  return Math.min(RING_BYTES_MAX, Math.max(1, bytes));
}

export function logOptions(record: ContainerRecord, folder: string): LaunchLog {
  const driver = logDriver(record.hostConfig);
  const options = record.hostConfig.LogConfig?.Config ?? {};
  const attributes = attributesOf(record);
  const size = options["max-size"];
  const isLocal = driver === "local";
  return {
    kind: LOG_KINDS[driver],
    path: logPath(record, folder),
    bytesMax: size === undefined ? (isLocal ? LOCAL_BYTES_MAX : 0) : parseByteSize(size, "max-size"),
    fileCountMax: Number(options["max-file"] ?? (isLocal ? LOCAL_FILE_COUNT : DEFAULT_LOG_FILE_COUNT)),
    attributes: Object.keys(attributes).length === 0 ? "" : JSON.stringify(attributes),
    ringBytes: options["mode"] === "non-blocking" ? ringBytes(options["max-buffer-size"]) : 0,
  };
}
