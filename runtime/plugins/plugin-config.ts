/**
 * The config of a managed plugin (Docker's plugin config v1): what it is, what it asks of the host, what its user may
 * set. Pure. Keys are matched without regard to case: people write "entrypoint", engines store "Entrypoint".
 */
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { Json, JsonObject } from "../../model/engine.ts";

export interface PluginMount {
  readonly Name: string;
  readonly Description: string;
  readonly Settable: readonly string[] | null;
  /** Absent source: to be set before the plugin is enabled. */
  readonly Source: string | null;
  readonly Destination: string;
  readonly Type: string;
  readonly Options: readonly string[] | null;
}

export interface PluginDevice {
  readonly Name: string;
  readonly Description: string;
  readonly Settable: readonly string[] | null;
  readonly Path: string | null;
}

export interface PluginEnvironment {
  readonly Name: string;
  readonly Description: string;
  readonly Settable: readonly string[] | null;
  readonly Value: string | null;
}

export interface PluginArguments {
  readonly Name: string;
  readonly Description: string;
  readonly Settable: readonly string[] | null;
  readonly Value: readonly string[] | null;
}

/** As it is shown by inspect and stored as a blob. */
export interface PluginConfig {
  readonly DockerVersion?: string;
  readonly Description: string;
  readonly Documentation: string;
  readonly Interface: {
    /** "docker.volumedriver/1.0" */
    readonly Types: readonly string[];
    /** Name of the socket in /run/docker/plugins of the plugin. */
    readonly Socket: string;
    readonly ProtocolScheme?: string;
  };
  readonly Entrypoint: readonly string[];
  readonly WorkDir: string;
  readonly User: { readonly UID?: number; readonly GID?: number };
  readonly Network: { readonly Type: string };
  readonly Linux: {
    readonly Capabilities: readonly string[] | null;
    readonly AllowAllDevices: boolean;
    readonly Devices: readonly PluginDevice[] | null;
  };
  /** Folder of the plugin whose mounts the host shall see, or "". */
  readonly PropagatedMount: string;
  readonly IpcHost: boolean;
  readonly PidHost: boolean;
  readonly Mounts: readonly PluginMount[] | null;
  readonly Env: readonly PluginEnvironment[] | null;
  readonly Args: PluginArguments;
  readonly rootfs?: { readonly type: string; readonly diff_ids: readonly string[] };
}

/** What of the config is in force. */
export interface PluginSettings {
  readonly Mounts: readonly PluginMount[];
  readonly Env: readonly string[];
  readonly Args: readonly string[];
  readonly Devices: readonly PluginDevice[];
}

export interface PluginPrivilege {
  readonly Name: string;
  readonly Description: string;
  readonly Value: readonly string[];
}

function bad(place: string, wanted: string, got: unknown): ClusterError {
  const text = JSON.stringify(got) ?? "nothing";
  return new ClusterError(
    "invalid_argument",
    `Cannot read plugin config: ${place} must be ${wanted}, got ${text.length > 80 ? `${text.slice(0, 80)}…` : text}`,
  );
}

/** One object of the config, read by names of any case. Null counts as absent, as in Go. */
class Fields {
  readonly #values = new Map<string, unknown>();
  readonly #place: string;

  constructor(value: unknown, place: string) {
    this.#place = place;
    if (value === undefined) return;
    if (!isObject(value)) throw bad(place, "an object", value);
    for (const [key, each] of Object.entries(value))
      if (each !== null) this.#values.set(key.toLowerCase(), each);
  }

  #at(name: string): string {
    return this.#place === "config" ? name : `${this.#place}.${name}`;
  }

  optionalText(name: string): string | null {
    const value = this.#values.get(name.toLowerCase());
    if (value === undefined) return null;
    if (typeof value !== "string") throw bad(this.#at(name), "a string", value);
    return value;
  }

  text(name: string): string {
    return this.optionalText(name) ?? "";
  }

  flag(name: string): boolean {
    const value = this.#values.get(name.toLowerCase()) ?? false;
    if (typeof value !== "boolean") throw bad(this.#at(name), "true or false", value);
    return value;
  }

  number(name: string): number | undefined {
    const value = this.#values.get(name.toLowerCase());
    if (value === undefined) return undefined;
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0)
      throw bad(this.#at(name), "a number of at least 0", value);
    return value;
  }

  texts(name: string): readonly string[] | null {
    const value = this.#values.get(name.toLowerCase());
    if (value === undefined) return null;
    if (!Array.isArray(value) || !value.every((each) => typeof each === "string"))
      throw bad(this.#at(name), "a list of strings", value);
    return value;
  }

  list<T>(name: string, read: (fields: Fields) => T): readonly T[] | null {
    const value = this.#values.get(name.toLowerCase());
    if (value === undefined) return null;
    if (!Array.isArray(value)) throw bad(this.#at(name), "a list of objects", value);
    return value.map((each, index) => read(new Fields(each, `${this.#at(name)}[${index}]`)));
  }

  inner(name: string): Fields {
    return new Fields(this.#values.get(name.toLowerCase()), this.#at(name));
  }

  has(name: string): boolean {
    return this.#values.has(name.toLowerCase());
  }
}

function described(fields: Fields): {
  readonly Name: string;
  readonly Description: string;
  readonly Settable: readonly string[] | null;
} {
  return {
    Name: fields.text("Name"),
    Description: fields.text("Description"),
    Settable: fields.texts("Settable"),
  };
}

const SOCKET = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const TYPE = /^[a-z]+\.[a-z]+\/\d+(\.\d+)?$/i;

function readInterface(fields: Fields): PluginConfig["Interface"] {
  const Types = fields.texts("Types") ?? [];
  for (const type of Types)
    if (!TYPE.test(type)) throw bad("Interface.Types", 'like "docker.volumedriver/1.0"', type);
  const Socket = fields.text("Socket");
  if (!SOCKET.test(Socket)) throw bad("Interface.Socket", "a file name of at most 64 characters", Socket);
  const scheme = fields.text("ProtocolScheme");
  return { Types, Socket, ...(scheme === "" ? {} : { ProtocolScheme: scheme }) };
}

function readRootfs(fields: Fields): Pick<PluginConfig, "rootfs"> {
  if (!fields.has("rootfs")) return {};
  const rootfs = fields.inner("rootfs");
  return { rootfs: { type: rootfs.text("type"), diff_ids: rootfs.texts("diff_ids") ?? [] } };
}

function readUser(fields: Fields): PluginConfig["User"] {
  const [UID, GID] = [fields.number("UID"), fields.number("GID")];
  return { ...(UID === undefined ? {} : { UID }), ...(GID === undefined ? {} : { GID }) };
}

/** Throws invalid_argument that names the field. */
export function parsePluginConfig(bytes: Uint8Array): PluginConfig {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString("utf8"));
  } catch (caught) {
    throw new ClusterError(
      "invalid_argument",
      `failed to parse config: ${ClusterError.from(caught).message}`,
    );
  }
  const fields = new Fields(value, "config");
  const linux = fields.inner("Linux");
  const version = fields.text("DockerVersion");
  const config: PluginConfig = {
    ...(version === "" ? {} : { DockerVersion: version }),
    Description: fields.text("Description"),
    Documentation: fields.text("Documentation"),
    Interface: readInterface(fields.inner("Interface")),
    Entrypoint: fields.texts("Entrypoint") ?? [],
    WorkDir: fields.text("WorkDir"),
    User: readUser(fields.inner("User")),
    Network: { Type: fields.inner("Network").text("Type") },
    Linux: {
      Capabilities: linux.texts("Capabilities"),
      AllowAllDevices: linux.flag("AllowAllDevices"),
      Devices: linux.list("Devices", (each) => ({ ...described(each), Path: each.optionalText("Path") })),
    },
    PropagatedMount: fields.text("PropagatedMount"),
    IpcHost: fields.flag("IpcHost"),
    PidHost: fields.flag("PidHost"),
    Mounts: fields.list("Mounts", (each) => ({
      ...described(each),
      Source: each.optionalText("Source"),
      Destination: each.text("Destination"),
      Type: each.text("Type"),
      Options: each.texts("Options"),
    })),
    Env: fields.list("Env", (each) => ({ ...described(each), Value: each.optionalText("Value") })),
    Args: { ...described(fields.inner("Args")), Value: fields.inner("Args").texts("Value") },
    ...readRootfs(fields),
  };
  if (config.PropagatedMount !== "" && !config.PropagatedMount.startsWith("/"))
    throw bad("PropagatedMount", "an absolute path", config.PropagatedMount);
  return config;
}

/** What is in force before anybody sets anything. */
export function defaultSettings(config: PluginConfig): PluginSettings {
  return {
    Mounts: config.Mounts ?? [],
    Env: (config.Env ?? []).flatMap(({ Name, Value }) => (Value === null ? [] : [`${Name}=${Value}`])),
    Args: config.Args.Value ?? [],
    Devices: config.Linux.Devices ?? [],
  };
}

/** What the plugin asks of the host; its user grants all of it or does not install it. */
export function privilegesOf(config: PluginConfig): readonly PluginPrivilege[] {
  const privileges: PluginPrivilege[] = [];
  const add = (Name: string, Description: string, Value: readonly string[]): void => {
    privileges.push({ Name, Description, Value });
  };
  const network = config.Network.Type;
  if (!["", "null", "bridge"].includes(network)) add("network", "permissions to access a network", [network]);
  if (config.IpcHost) add("host ipc namespace", "allow access to host ipc namespace", ["true"]);
  if (config.PidHost) add("host pid namespace", "allow access to host pid namespace", ["true"]);
  for (const { Source } of config.Mounts ?? [])
    if (Source !== null) add("mount", "host path to mount", [Source]);
  for (const { Path } of config.Linux.Devices ?? [])
    if (Path !== null) add("device", "host device to access", [Path]);
  if (config.Linux.AllowAllDevices) add("allow-all-devices", "allow 'rwm' access to all devices", ["true"]);
  const capabilities = config.Linux.Capabilities ?? [];
  if (capabilities.length > 0) add("capabilities", "list of additional capabilities required", capabilities);
  return privileges;
}

/** Throws unless `granted` (JSON from a client) is what the config asks for, in any order. */
export function checkPrivileges(config: PluginConfig, granted: readonly Json[]): void {
  const keyOf = (name: unknown, value: unknown): string => {
    const values = Array.isArray(value) ? value.map(String).sort() : [];
    return JSON.stringify([name, values]);
  };
  const wanted = privilegesOf(config).map((each) => keyOf(each.Name, each.Value));
  const given = granted.map((each) => {
    const privilege = isObject(each) ? each : {};
    return keyOf(privilege["Name"], privilege["Value"]);
  });
  if (JSON.stringify(wanted.sort()) === JSON.stringify(given.sort())) return;
  throw new ClusterError("internal", "incorrect privileges");
}

interface Setting {
  readonly name: string;
  readonly field: string;
  readonly value: string;
}

/** "NAME[.FIELD][=VALUE]" */
function parseSetting(text: string): Setting {
  const equals = text.indexOf("=");
  if (equals === 0 || text === "")
    throw new ClusterError("internal", "invalid format, must be <name>[.<field>][=<value>]");
  const full = equals < 0 ? text : text.slice(0, equals);
  const value = equals < 0 ? "" : text.slice(equals + 1);
  const dot = full.lastIndexOf(".");
  return dot > 0
    ? { name: full.slice(0, dot), field: full.slice(dot + 1), value }
    : { name: full, field: "", value };
}

function checkSettable(setting: Setting, field: string, settable: readonly string[] | null): void {
  const fields = settable ?? [];
  if (setting.field === "" && fields.length > 1)
    throw new ClusterError("internal", "multiple fields are settable, one must be specified");
  const wanted = setting.field === "" ? fields[0] : setting.field;
  if (wanted === field && fields.includes(field)) return;
  const pretty = setting.field === "" ? setting.name : `${setting.name}.${setting.field}`;
  throw new ClusterError("internal", `${JSON.stringify(pretty)} is not settable`);
}

function withEnvironment(env: readonly string[], { name, value }: Setting): readonly string[] {
  const entry = `${name}=${value}`;
  const isKnown = env.some((each) => each.split("=", 1)[0] === name);
  return isKnown ? env.map((each) => (each.split("=", 1)[0] === name ? entry : each)) : [...env, entry];
}

function applySetting(config: PluginConfig, settings: PluginSettings, text: string): PluginSettings {
  const setting = parseSetting(text);
  const { name, value } = setting;
  const variable = (config.Env ?? []).find((each) => each.Name === name);
  if (variable !== undefined) {
    checkSettable(setting, "value", variable.Settable);
    return { ...settings, Env: withEnvironment(settings.Env, setting) };
  }
  const mount = (config.Mounts ?? []).find((each) => each.Name === name);
  if (mount !== undefined) {
    checkSettable(setting, "source", mount.Settable);
    const Mounts = settings.Mounts.map((each) => (each.Name === name ? { ...each, Source: value } : each));
    return { ...settings, Mounts };
  }
  const device = (config.Linux.Devices ?? []).find((each) => each.Name === name);
  if (device !== undefined) {
    checkSettable(setting, "path", device.Settable);
    const Devices = settings.Devices.map((each) => (each.Name === name ? { ...each, Path: value } : each));
    return { ...settings, Devices };
  }
  if (config.Args.Name === name) {
    checkSettable(setting, "value", config.Args.Settable);
    return { ...settings, Args: value.split(" ") };
  }
  throw new ClusterError("internal", `setting ${JSON.stringify(name)} not found in the plugin configuration`);
}

/** `docker plugin set`: all of `texts` or, if one can't be, none. */
export function applySettings(
  config: PluginConfig,
  settings: PluginSettings,
  texts: readonly string[],
): PluginSettings {
  return texts.reduce((all, text) => applySetting(config, all, text), settings);
}

/** "docker.volumedriver/1.0" to "volumedriver"; "" for interfaces that are not Docker's. */
export function capabilityOf(type: string): string {
  return /^docker\.([a-z]+)\//i.exec(type)?.[1]?.toLowerCase() ?? "";
}

/** The document that is stored and pushed. */
export function encodePluginConfig(config: PluginConfig): Buffer {
  return Buffer.from(`${JSON.stringify(config)}\n`);
}

export function asJson(value: PluginConfig | PluginSettings): JsonObject {
  return value as unknown as JsonObject;
}
