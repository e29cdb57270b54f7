/**
 * Where the daemon is: from -H, SHOAL_HOST, DOCKER_HOST, the current context, or the default socket, in this order.
 * Reads TLS files only when the endpoint asks for TLS. Never connects.
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";

export const DEFAULT_HOST = "unix:///run/shoal/shoal.sock";
export const CONTEXTS_FILE = "contexts.json";

export interface TlsMaterial {
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
  readonly verify: boolean;
}

export type Endpoint =
  | { readonly kind: "unix"; readonly path: string; readonly text: string }
  | {
      readonly kind: "tcp";
      readonly host: string;
      readonly port: number;
      readonly text: string;
      readonly tls?: TlsMaterial;
    };

export interface EndpointOptions {
  readonly host?: string;
  readonly context?: string;
  readonly tls?: boolean;
  readonly tlsVerify?: boolean;
  readonly tlsCaCert?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** How a context's daemon is reached over TLS. Absolute paths; what is absent is looked for as without a context. */
export interface ContextTls {
  readonly verify: boolean;
  readonly caCert?: string;
  readonly cert?: string;
  readonly key?: string;
}

export interface ContextEntry {
  readonly host: string;
  readonly description?: string;
  readonly tls?: ContextTls;
}

export interface ContextsFile {
  readonly current?: string;
  readonly contexts: Readonly<Record<string, ContextEntry>>;
}

/** Folder of the CLI's own settings: SHOAL_CONFIG, else ~/.shoal. */
export function configFolder(env: Readonly<Record<string, string | undefined>>): string {
  return env["SHOAL_CONFIG"] ?? path.join(homedir(), ".shoal");
}

export function readContexts(env: Readonly<Record<string, string | undefined>>): ContextsFile {
  const file = path.join(configFolder(env), CONTEXTS_FILE);
  if (!existsSync(file)) return { contexts: ownEntries({}) };
  const refuse = (why: string, cause?: unknown): ClusterError =>
    new ClusterError("failed_precondition", `Cannot read contexts: "${file}" must ${why}`, { cause });
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, "utf8"));
  } catch (caught) {
    throw refuse("be JSON", caught);
  }
  if (!isObject(parsed)) throw refuse("hold an object");
  const { contexts = {}, current } = parsed;
  if (current !== undefined && typeof current !== "string") throw refuse('name "current" by a string');
  if (!isObject(contexts)) throw refuse('hold "contexts" as an object');
  const broken = Object.entries(contexts).find(([, entry]) => !isContextEntry(entry));
  if (broken !== undefined)
    throw refuse(`give context "${broken[0]}" a "host", got ${JSON.stringify(broken[1])}`);
  return { contexts: ownEntries(contexts), ...(current === undefined ? {} : { current }) };
}

/** Without what each object has: a context may be called "constructor". */
function ownEntries(contexts: object): Record<string, ContextEntry> {
  return Object.assign(Object.create(null) as Record<string, ContextEntry>, contexts);
}

function isContextEntry(value: unknown): value is ContextEntry {
  return (
    isObject(value) &&
    typeof value["host"] === "string" &&
    (value["description"] === undefined || typeof value["description"] === "string") &&
    (value["tls"] === undefined || isContextTls(value["tls"]))
  );
}

function isContextTls(value: unknown): value is ContextTls {
  if (!isObject(value) || typeof value["verify"] !== "boolean") return false;
  return ["caCert", "cert", "key"].every((key) => ["string", "undefined"].includes(typeof value[key]));
}

/** The daemon that an ordinary user runs, if there is one. */
function ownDaemon(env: Readonly<Record<string, string | undefined>>): string | undefined {
  const runtime = env["XDG_RUNTIME_DIR"] ?? "";
  const socket = path.join(runtime, "shoal/shoal.sock");
  return process.getuid?.() !== 0 && runtime !== "" && existsSync(socket) ? `unix://${socket}` : undefined;
}

function hostOf(options: EndpointOptions): ContextEntry {
  const fromEnv = (name: string): string | undefined =>
    options.env[name] === undefined || options.env[name] === "" ? undefined : options.env[name];
  const named = options.context ?? (options.host === undefined ? fromEnv("SHOAL_CONTEXT") : undefined);
  if (options.host !== undefined && options.context === undefined) return { host: options.host };
  if (named === undefined) {
    const host = fromEnv("SHOAL_HOST") ?? fromEnv("DOCKER_HOST");
    if (host !== undefined) return { host };
  }
  const file = readContexts(options.env);
  const name = named ?? file.current;
  if (name === undefined || name === "default") return { host: ownDaemon(options.env) ?? DEFAULT_HOST };
  const entry = file.contexts[name];
  if (entry === undefined)
    throw new ClusterError("not_found", `Context "${name}" not found; see shoal context ls`);
  return entry;
}

/** What is said now counts before what the context remembers. */
function withContext(options: EndpointOptions, kept: ContextTls | undefined): EndpointOptions {
  if (kept === undefined) return options;
  const [tlsCaCert, tlsCert, tlsKey] = [
    options.tlsCaCert ?? kept.caCert,
    options.tlsCert ?? kept.cert,
    options.tlsKey ?? kept.key,
  ];
  return {
    ...options,
    tls: true,
    tlsVerify: options.tlsVerify ?? kept.verify,
    ...(tlsCaCert === undefined ? {} : { tlsCaCert }),
    ...(tlsCert === undefined ? {} : { tlsCert }),
    ...(tlsKey === undefined ? {} : { tlsKey }),
  };
}

function tlsOf(options: EndpointOptions): TlsMaterial | undefined {
  const verify = options.tlsVerify ?? (options.env["DOCKER_TLS_VERIFY"] ?? "") !== "";
  const wants =
    verify || options.tls === true || options.tlsCaCert !== undefined || options.tlsCert !== undefined;
  if (!wants) return undefined;
  const folder = options.env["DOCKER_CERT_PATH"] ?? configFolder(options.env);
  const read = (given: string | undefined, name: string): Buffer | undefined => {
    const file = given ?? path.join(folder, name);
    if (given === undefined && !existsSync(file)) return undefined;
    try {
      return readFileSync(file);
    } catch (caught) {
      throw new ClusterError("invalid_argument", `Cannot read TLS file "${file}"`, { cause: caught });
    }
  };
  const ca = read(options.tlsCaCert, "ca.pem");
  const cert = read(options.tlsCert, "cert.pem");
  const key = read(options.tlsKey, "key.pem");
  return {
    verify,
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
  };
}

const PLAIN_PORT = 2375;
const TLS_PORT = 2376;

/** Reads the endpoint that the options and the environment name. Throws invalid_argument with the accepted forms. */
export function resolveEndpoint(given: EndpointOptions): Endpoint {
  const { host: text, tls: kept } = hostOf(given);
  const options = withContext(given, kept);
  const refuse = (): ClusterError =>
    new ClusterError(
      "invalid_argument",
      `Invalid host "${text}": expected unix:///path/to/socket, tcp://HOST[:PORT] or http(s)://HOST[:PORT]`,
    );
  if (text.startsWith("unix://")) {
    if (text.length === "unix://".length) throw refuse();
    return { kind: "unix", path: text.slice("unix://".length), text };
  }
  if (text.startsWith("/")) return { kind: "unix", path: text, text: `unix://${text}` };
  const match = /^(?:(tcp|http|https):\/\/)?(\[[0-9a-fA-F:.]+\]|[^:/[\]\s]+)(?::(\d+))?\/?$/.exec(text);
  if (match === null) throw refuse();
  const tls = tlsOf({ ...options, tls: options.tls === true || match[1] === "https" });
  const host = (match[2] ?? "").replace(/^\[|\]$/g, "");
  const port = match[3] === undefined ? (tls === undefined ? PLAIN_PORT : TLS_PORT) : Number(match[3]);
  if (port < 1 || port > 65535) throw refuse();
  return { kind: "tcp", host, port, text, ...(tls === undefined ? {} : { tls }) };
}
