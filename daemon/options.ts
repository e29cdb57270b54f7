/**
 * What `shoal daemon` can be told, by flags and by a JSON file; flags win. Nothing here is shared between two daemons of a
 * machine unless both are told the same.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../common/errors.ts";
import { isObject } from "../common/json.ts";
import type { LogLevel } from "../common/log.ts";
import { checkLogOptions, isLogDriver, LOG_DRIVERS, type LogOptionValues } from "../model/log-drivers.ts";
import { rootlessSide, userFolders } from "./rootless.ts";
import type { RuntimeConfig } from "../runtime/containers/oci-runtimes.ts";
import { type AddressPool, checkAddressPool } from "../runtime/network/address-pools.ts";
import { withoutUser } from "../runtime/registry/registry-config.ts";

export interface TlsFiles {
  readonly verify: boolean;
  readonly caCert: string;
  readonly cert: string;
  readonly key: string;
}

export interface DaemonOptions {
  /** Images, volumes, containers, cluster state: what must survive a reboot. */
  readonly dataRoot: string;
  /** Sockets, pids, mounts: what must not. */
  readonly execRoot: string;
  /** unix:///path or tcp://host:port. */
  readonly hosts: readonly string[];
  readonly pidFile: string;
  /** "host:port" for `swarm init` and `join` when the request doesn't say. */
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly dataPathPort: number;
  readonly logLevel: LogLevel;
  readonly logFormat: "json" | "text";
  readonly labels: readonly string[];
  readonly tls: TlsFiles | undefined;
  readonly insecureRegistries: readonly string[];
  readonly registryMirrors: readonly string[];
  readonly nodeGenericResources: readonly string[];
  /** See EngineOptions: faster starts, at a price, until the machine's next boot. */
  readonly favorDynamicCgroups: boolean;
  /** "default", USER[:GROUP], or "": see EngineOptions. */
  readonly usernsRemap: string;
  /** Other OCI runtimes by name, for `docker run --runtime NAME`. */
  readonly runtimes: Readonly<Record<string, RuntimeConfig>>;
  /** "": ours. */
  readonly defaultRuntime: string;
  /** Where subnets of local networks come from that users leave open; empty: Docker's own pools. */
  readonly defaultAddressPools: readonly AddressPool[];
  /** Of containers that ask for none. */
  readonly logDriver: string;
  readonly logOpts: LogOptionValues;
  /** Group that may use the UNIX socket; the socket is root's alone if there is no such group. */
  readonly group: string;
}

/** TLS as it is asked for, piece by piece. */
interface TlsWishes {
  readonly tlsOn: boolean;
  readonly tlsVerify: boolean;
  readonly tlsCaCert: string;
  readonly tlsCert: string;
  readonly tlsKey: string;
}

type Settable = Omit<DaemonOptions, "tls"> & TlsWishes;

/** What comes from flags, or from the file: absent means not given. */
export type DaemonFlags = { readonly [K in keyof Settable]?: Settable[K] | undefined } & {
  readonly config?: string | undefined;
};

const DEFAULT_CONFIG_FILE = "/etc/shoal/daemon.json";
const DEFAULT_TLS_FOLDER = "/etc/shoal/tls";
export const DEFAULT_CLUSTER_PORT = 2377;
const DEFAULT_DATA_PATH_PORT = 4789;

/** Keys of the file, with Docker's names, and how their values are checked. */
const FILE_KEYS: Readonly<Record<string, { readonly option: keyof Settable; readonly type: string }>> = {
  "data-root": { option: "dataRoot", type: "string" },
  "exec-root": { option: "execRoot", type: "string" },
  hosts: { option: "hosts", type: "strings" },
  pidfile: { option: "pidFile", type: "string" },
  "listen-addr": { option: "listenAddr", type: "string" },
  "advertise-addr": { option: "advertiseAddr", type: "string" },
  "data-path-addr": { option: "dataPathAddr", type: "string" },
  "data-path-port": { option: "dataPathPort", type: "number" },
  "log-level": { option: "logLevel", type: "string" },
  "log-format": { option: "logFormat", type: "string" },
  "log-driver": { option: "logDriver", type: "string" },
  "log-opts": { option: "logOpts", type: "texts" },
  labels: { option: "labels", type: "strings" },
  "insecure-registries": { option: "insecureRegistries", type: "strings" },
  "registry-mirrors": { option: "registryMirrors", type: "strings" },
  "node-generic-resources": { option: "nodeGenericResources", type: "strings" },
  "favor-dynamic-cgroups": { option: "favorDynamicCgroups", type: "boolean" },
  group: { option: "group", type: "string" },
  runtimes: { option: "runtimes", type: "runtimes" },
  "default-runtime": { option: "defaultRuntime", type: "string" },
  "default-address-pools": { option: "defaultAddressPools", type: "pools" },
  "userns-remap": { option: "usernsRemap", type: "string" },
  tls: { option: "tlsOn", type: "boolean" },
  tlsverify: { option: "tlsVerify", type: "boolean" },
  tlscacert: { option: "tlsCaCert", type: "string" },
  tlscert: { option: "tlsCert", type: "string" },
  tlskey: { option: "tlsKey", type: "string" },
};

function hasType(value: unknown, type: string): boolean {
  if (type === "strings") return Array.isArray(value) && value.every((each) => typeof each === "string");
  if (type === "texts") return isObject(value) && hasType(Object.values(value), "strings");
  if (type === "runtimes") return isRuntimes(value);
  if (type === "pools") return Array.isArray(value) && value.every(isPool);
  return typeof value === type;
}

/** As in Docker's file: { "NAME": { "path": "/usr/bin/NAME", "runtimeArgs": [] } }. */
function isRuntimes(value: unknown): boolean {
  if (!isObject(value)) return false;
  return Object.values(value).every((each: unknown) => {
    if (typeof each !== "object" || each === null || !("path" in each)) return false;
    const args = "runtimeArgs" in each ? each.runtimeArgs : [];
    return typeof each.path === "string" && each.path !== "" && hasType(args, "strings");
  });
}

/** As in Docker's file. */
function isPool(value: unknown): boolean {
  if (typeof value !== "object" || value === null || !("base" in value) || !("size" in value)) return false;
  return typeof value.base === "string" && typeof value.size === "number" && Object.keys(value).length === 2;
}

const WANTED_TYPES: Readonly<Record<string, string>> = {
  strings: "a list of strings",
  texts: 'an object of strings like {"max-size": "10m"}',
  pools: 'a list like [{"base": "10.10.0.0/16", "size": 24}]',
  runtimes: 'an object like {"NAME": {"path": "PROGRAM", "runtimeArgs": []}}',
};

/** NAME=PROGRAM of --add-runtime. */
export function parseRuntimes(given: readonly string[]): Readonly<Record<string, RuntimeConfig>> {
  return Object.fromEntries(
    given.map((each) => {
      const [, name, program] = /^([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)$/.exec(each) ?? [];
      if (name === undefined || program === undefined) {
        throw new ClusterError("invalid_argument", `add-runtime must be NAME=PATH, got "${each}"`);
      }
      return [name, { path: program }];
    }),
  );
}

/** KEY=VALUE of --log-opt. */
export function parseLogOpts(given: readonly string[]): LogOptionValues {
  return Object.fromEntries(
    given.map((each) => {
      const at = each.indexOf("=");
      if (at <= 0) throw new ClusterError("invalid_argument", `log-opt must be KEY=VALUE, got "${each}"`);
      return [each.slice(0, at), each.slice(at + 1)];
    }),
  );
}

function checkLog(driver: string, options: LogOptionValues): void {
  if (!isLogDriver(driver)) {
    throw new ClusterError(
      "invalid_argument",
      `log-driver must be one of ${LOG_DRIVERS.join(", ")}, got "${driver}"`,
    );
  }
  try {
    checkLogOptions(driver, options);
  } catch (caught) {
    throw new ClusterError("invalid_argument", `log-opts: ${ClusterError.from(caught).message}`);
  }
}

async function readConfigFile(file: string, mustExist: boolean): Promise<DaemonFlags> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (caught) {
    const error = ClusterError.from(caught);
    if (error.code === "not_found" && !mustExist) return {};
    throw new ClusterError(error.code, `Cannot read configuration file "${file}": ${error.message}`);
  }
  return parseConfig(text, file);
}

/** The options in a configuration file's text. Unknown keys and wrong types are refused by name. */
export function parseConfig(text: string, file: string): DaemonFlags {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (caught) {
    throw new ClusterError("invalid_argument", `Cannot read configuration file "${file}": ${String(caught)}`);
  }
  if (!isObject(parsed)) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot read configuration file "${file}": want a JSON object`,
    );
  }
  const flags: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(parsed)) {
    const known = FILE_KEYS[key];
    if (known === undefined) {
      throw new ClusterError("invalid_argument", `Unknown key "${key}" in configuration file "${file}"`);
    }
    if (!hasType(value, known.type)) {
      const wanted = WANTED_TYPES[known.type] ?? `a ${known.type}`;
      throw new ClusterError(
        "invalid_argument",
        `Key "${key}" in configuration file "${file}" must be ${wanted}, got ${JSON.stringify(value)}`,
      );
    }
    flags[known.option] = value;
  }
  return flags;
}

function checked(options: DaemonOptions): DaemonOptions {
  const { logLevel, logFormat, dataPathPort } = options;
  if (!["debug", "info", "warn", "error"].includes(logLevel)) {
    throw new ClusterError(
      "invalid_argument",
      `log-level must be debug, info, warn or error, got "${logLevel}"`,
    );
  }
  if (logFormat !== "json" && logFormat !== "text") {
    throw new ClusterError("invalid_argument", `log-format must be json or text, got "${String(logFormat)}"`);
  }
  if (!Number.isInteger(dataPathPort) || dataPathPort < 1024 || dataPathPort > 49151) {
    throw new ClusterError("invalid_argument", `data-path-port must be 1024 to 49151, got ${dataPathPort}`);
  }
  checkLog(options.logDriver, options.logOpts);
  for (const host of options.hosts) parseHost(host);
  for (const label of options.labels) {
    if (!/^[^=]+=/.test(label)) {
      throw new ClusterError("invalid_argument", `label must be KEY=VALUE, got "${label}"`);
    }
  }
  for (const mirror of options.registryMirrors) {
    const { protocol = "", pathname = "" } = URL.parse(mirror) ?? {};
    if (!/^https?:$/.test(protocol) || pathname !== "/") {
      throw new ClusterError(
        "invalid_argument",
        `registry-mirror must be an http or https URL without a path, got "${withoutUser(mirror)}"`,
      );
    }
  }
  for (const registry of options.insecureRegistries) {
    if (registry === "" || registry.includes("://")) {
      throw new ClusterError(
        "invalid_argument",
        `insecure-registry must be HOST, HOST:PORT or a network, got "${registry}"`,
      );
    }
  }
  for (const pool of options.defaultAddressPools) checkAddressPool(pool, JSON.stringify(pool));
  return options;
}

/** Where the files are is no wish for TLS: one of the two others must be there. */
function tlsOf(wishes: Pick<DaemonFlags, keyof TlsWishes>): TlsFiles | undefined {
  const { tlsOn = false, tlsVerify = false, tlsCaCert, tlsCert, tlsKey } = wishes;
  if (!tlsOn && !tlsVerify) return undefined;
  return {
    verify: tlsVerify,
    caCert: tlsCaCert ?? `${DEFAULT_TLS_FOLDER}/ca.pem`,
    cert: tlsCert ?? `${DEFAULT_TLS_FOLDER}/cert.pem`,
    key: tlsKey ?? `${DEFAULT_TLS_FOLDER}/key.pem`,
  };
}

/** Puts flags, file and defaults together. Throws invalid_argument naming the field. */
export async function resolveOptions(flags: DaemonFlags): Promise<DaemonOptions> {
  const own = rootlessSide() === "none" ? undefined : userFolders(process.env);
  const configFile = flags.config ?? own?.configFile ?? DEFAULT_CONFIG_FILE;
  const file = await readConfigFile(configFile, flags.config !== undefined);
  const pick = <K extends keyof Settable>(key: K, fallback: Settable[K]): Settable[K] =>
    (flags[key] ?? file[key] ?? fallback) as Settable[K];
  const givenRoot = pick("execRoot", own === undefined ? "/run/shoal" : own.execRoot);
  if (givenRoot === "")
    throw new ClusterError(
      "invalid_argument",
      "exec-root must be given without root where XDG_RUNTIME_DIR is not set",
    );
  const execRoot = path.resolve(givenRoot);
  const hosts = pick("hosts", []);
  return checked({
    dataRoot: path.resolve(pick("dataRoot", own?.dataRoot ?? "/var/lib/shoal")),
    execRoot,
    hosts: hosts.length > 0 ? hosts : [`unix://${path.join(execRoot, "shoal.sock")}`],
    pidFile: pick("pidFile", path.join(execRoot, "shoal.pid")),
    listenAddr: pick("listenAddr", `0.0.0.0:${DEFAULT_CLUSTER_PORT}`),
    advertiseAddr: pick("advertiseAddr", ""),
    dataPathAddr: pick("dataPathAddr", ""),
    dataPathPort: pick("dataPathPort", DEFAULT_DATA_PATH_PORT),
    logLevel: pick("logLevel", "info"),
    logFormat: pick("logFormat", "text"),
    labels: pick("labels", []),
    tls: tlsOf({
      tlsOn: flags.tlsOn ?? file.tlsOn,
      tlsVerify: flags.tlsVerify ?? file.tlsVerify,
      tlsCaCert: flags.tlsCaCert ?? file.tlsCaCert,
      tlsCert: flags.tlsCert ?? file.tlsCert,
      tlsKey: flags.tlsKey ?? file.tlsKey,
    }),
    insecureRegistries: pick("insecureRegistries", []),
    registryMirrors: pick("registryMirrors", []),
    nodeGenericResources: pick("nodeGenericResources", []),
    favorDynamicCgroups: pick("favorDynamicCgroups", false),
    usernsRemap: pick("usernsRemap", ""),
    runtimes: { ...file.runtimes, ...flags.runtimes },
    defaultRuntime: pick("defaultRuntime", ""),
    defaultAddressPools: pick("defaultAddressPools", []),
    logDriver: pick("logDriver", "json-file"),
    logOpts: { ...file.logOpts, ...flags.logOpts },
    group: pick("group", "shoal"),
  });
}

export type ApiHost =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** unix:///path, or tcp://host[:port] (2375, 2376 with TLS, is up to the caller when absent: 0). */
export function parseHost(text: string): ApiHost {
  if (text.startsWith("unix://") && text.length > "unix://".length) {
    return { kind: "unix", path: path.resolve(text.slice("unix://".length)) };
  }
  const match = /^tcp:\/\/(\[[0-9a-fA-F:]+\]|[^:/]*)(?::(\d{1,5}))?\/?$/.exec(text);
  const port = Number(match?.[2] ?? "0");
  if (match === null || port > 65535) {
    throw new ClusterError(
      "invalid_argument",
      `host must be unix:///PATH or tcp://ADDRESS:PORT, got "${text}"`,
    );
  }
  return { kind: "tcp", host: (match[1] ?? "").replace(/^\[|\]$/g, "") || "0.0.0.0", port };
}
