/** `--log-driver` and `--log-opt` as what the monitor writes: the log itself, or for a collector the log that is kept here. Pure. */
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";
import {
  checkLogOptions,
  isCollectorDriver,
  isLogDriver,
  parseByteSize,
  parseLogBoolean,
  type LogDriverName,
  type LogOptionValues,
} from "../../model/log-drivers.ts";
import { lineAttributes } from "../logging/log-target.ts";
import { DEFAULT_LOG_FILE_COUNT } from "./container-defaults.ts";
import type { ContainerRecord } from "./container-record.ts";
import { JSON_FORMAT, LOCAL_FORMAT, type LogFormat } from "./log-formats.ts";
import type { LaunchLog } from "./launch-spec.ts";

const RING_BYTES_MAX = 1024 ** 3;
const LOCAL_BYTES_MAX = 20 * 1024 * 1024;
const LOCAL_FILE_COUNT = 5;
/** With one file alone a rotation would take away what a collector has not had yet. */
const COLLECTOR_FILE_COUNT_MIN = 2;
const SPOOL_FOLDER = "log-spool";

export type LogConfig = NonNullable<HostConfig["LogConfig"]>;

function logDriver(hostConfig: HostConfig): LogDriverName {
  const type = hostConfig.LogConfig?.Type ?? "";
  if (type === "") return "json-file";
  if (isLogDriver(type)) return type;
  throw new ClusterError(
    "invalid_argument",
    `error looking up logging plugin ${type}: plugin "${type}" not found`,
  );
}

/** Throws as `docker create` would. */
export function validateLogOptions(hostConfig: HostConfig): void {
  checkLogOptions(logDriver(hostConfig), hostConfig.LogConfig?.Config ?? {});
}

/** What a container gets that asks for no driver, and for options of the same one that it leaves open. */
export function withDefaultLog(hostConfig: HostConfig, defaults: LogConfig): HostConfig {
  const driver = defaults.Type ?? "";
  const asked = hostConfig.LogConfig?.Type ?? "";
  if (driver === "" || (asked !== "" && asked !== driver)) return hostConfig;
  const Config = { ...defaults.Config, ...hostConfig.LogConfig?.Config };
  return { ...hostConfig, LogConfig: { Type: driver, Config } };
}

/** All logs that wait for a collector, each in a folder of its container's id. */
export function spoolRoot(dataRoot: string): string {
  return path.join(dataRoot, SPOOL_FOLDER);
}

/** Of a container whose own folder is `folder`; it stays behind when that one goes, until the collector has it all. */
function spoolFolder(folder: string): string {
  return path.join(spoolRoot(path.dirname(path.dirname(folder))), path.basename(folder));
}

export function spoolLogPath(spool: string): string {
  return path.join(spool, "container.log");
}

export function logPath(record: Pick<ContainerRecord, "id" | "hostConfig">, folder: string): string {
  const driver = logDriver(record.hostConfig);
  if (isCollectorDriver(driver)) return spoolLogPath(spoolFolder(folder));
  return path.join(folder, driver === "local" ? "local-logs/container.log" : `${record.id}-json.log`);
}

export function logFormat(record: Pick<ContainerRecord, "hostConfig">): LogFormat {
  return isJson(logDriver(record.hostConfig)) ? JSON_FORMAT : LOCAL_FORMAT;
}

function isJson(driver: LogDriverName): boolean {
  return driver === "json-file" || driver === "none";
}

/** Whether its driver's log is a file of this machine. */
export function hasOwnLog(hostConfig: HostConfig): boolean {
  const driver = logDriver(hostConfig);
  return driver !== "none" && !isCollectorDriver(driver);
}

/** Whether `docker logs` has something to read. */
export function isLogReadable(hostConfig: HostConfig): boolean {
  const driver = logDriver(hostConfig);
  if (!isCollectorDriver(driver)) return driver !== "none";
  return parseLogBoolean(hostConfig.LogConfig?.Config?.["cache-disabled"], "cache-disabled") !== true;
}

/** Options of the files, which have a prefix where the files are not the driver's own. */
function fileOptions(hostConfig: HostConfig): LogOptionValues {
  const options = hostConfig.LogConfig?.Config ?? {};
  if (!isCollectorDriver(logDriver(hostConfig))) return options;
  const own = Object.entries(options).filter(([key]) => key.startsWith("cache-"));
  return Object.fromEntries(own.map(([key, value]) => [key.slice("cache-".length), value]));
}

/** Whether rotated files are compressed: asked for with json-file, usual with the others. */
export function isLogCompressed(hostConfig: HostConfig): boolean {
  const driver = logDriver(hostConfig);
  const asked = parseLogBoolean(fileOptions(hostConfig)["compress"], "compress");
  return isJson(driver) ? driver === "json-file" && asked === true : asked !== false;
}

/** Docker's default is 1 MiB. */
function ringBytes(text: string | undefined): number {
  const bytes = text === undefined ? 1024 ** 2 : parseByteSize(text, "max-buffer-size");
  return Math.min(RING_BYTES_MAX, Math.max(1, bytes));
}

export function logOptions(record: ContainerRecord, folder: string): LaunchLog {
  const driver = logDriver(record.hostConfig);
  const options = record.hostConfig.LogConfig?.Config ?? {};
  const { "max-size": size, "max-file": count } = fileOptions(record.hostConfig);
  const attributes = driver === "json-file" ? lineAttributes(record) : {};
  const fileCount = Number(count ?? (isJson(driver) ? DEFAULT_LOG_FILE_COUNT : LOCAL_FILE_COUNT));
  return {
    kind: driver === "none" ? 0 : driver === "json-file" ? 1 : 2,
    path: logPath(record, folder),
    bytesMax: size === undefined ? (isJson(driver) ? 0 : LOCAL_BYTES_MAX) : parseByteSize(size, "max-size"),
    fileCountMax: isCollectorDriver(driver) ? Math.max(COLLECTOR_FILE_COUNT_MIN, fileCount) : fileCount,
    attributes: Object.keys(attributes).length === 0 ? "" : JSON.stringify(attributes),
    ringBytes: options["mode"] === "non-blocking" ? ringBytes(options["max-buffer-size"]) : 0,
  };
}
