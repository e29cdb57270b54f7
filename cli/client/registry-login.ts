/**
 * Keeps and forgets credentials of registries where docker does: in config.json, or with the credential helper that it
 * names.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, realpathSync, renameSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import { configFile, DOCKER_HUB, HELPER_TIMEOUT_MS, helperOf, TOKEN_USER } from "./registry-auth.ts";

type Env = Readonly<Record<string, string | undefined>>;

export interface Credentials {
  readonly username: string;
  readonly password: string;
  /** A refresh token that the registry gave; kept in place of the password. */
  readonly identityToken?: string;
}

/** The registry's name as config.json keys it, from what a user types: "" is Docker Hub, a URL is its host. */
export function registryKey(server: string): string {
  const host = server.replace(/^https?:\/\//, "").replace(/\/.*$/, "");
  return ["", "docker.io", "index.docker.io", "registry-1.docker.io"].includes(host) ? DOCKER_HUB : host;
}

/** All of the file, since it holds more than credentials. */
function readAll(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return {};
  }
  // helperOf() has refused what is no object.
  const all: unknown = JSON.parse(text);
  return isObject(all) ? all : {};
}

/** At once or not at all, for this user's eyes only, and through a link to where it leads. */
function writeAll(file: string, all: Record<string, unknown>): void {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  let target = file;
  try {
    target = realpathSync(file);
  } catch {
    // There is none yet.
  }
  const fresh = `${target}.${process.pid}`;
  writeFileSync(fresh, `${JSON.stringify(all, null, "\t")}\n`, { mode: 0o600 });
  renameSync(fresh, target);
}

function callHelper(helper: string, verb: "store" | "erase", input: string): void {
  const program = `docker-credential-${helper}`;
  const result = spawnSync(program, [verb], { input, encoding: "utf8", timeout: HELPER_TIMEOUT_MS });
  if (result.error === undefined && result.status === 0) return;
  const said = `${result.stdout ?? ""}${result.stderr ?? ""}`.trim().slice(0, 200);
  const why = result.error?.message ?? `exit status ${result.status ?? "unknown"}`;
  throw new ClusterError(
    "failed_precondition",
    `Cannot ${verb} credentials: ${program}: ${why}, out: "${said}"`,
  );
}

/** The file that holds the secret in plain text now, if that is where it went. */
export function storeCredentials(env: Env, registry: string, credentials: Credentials): string | undefined {
  const { username, password, identityToken = "" } = credentials;
  const helper = helperOf(env, registry);
  if (helper !== undefined) {
    const isToken = identityToken !== "";
    const Username = isToken ? TOKEN_USER : username;
    const Secret = isToken ? identityToken : password;
    callHelper(helper, "store", JSON.stringify({ ServerURL: registry, Username, Secret }));
    return undefined;
  }
  const file = configFile(env);
  const all = readAll(file);
  const auths = isObject(all["auths"]) ? all["auths"] : {};
  const auth = Buffer.from(`${username}:${identityToken === "" ? password : ""}`).toString("base64");
  const entry = identityToken === "" ? { auth } : { auth, identitytoken: identityToken };
  writeAll(file, { ...all, auths: { ...auths, [registry]: entry } });
  return file;
}

/** False: there were none. */
export function eraseCredentials(env: Env, registry: string): boolean {
  const helper = helperOf(env, registry);
  if (helper !== undefined) {
    callHelper(helper, "erase", registry);
    return true;
  }
  const file = configFile(env);
  const all = readAll(file);
  const auths = isObject(all["auths"]) ? all["auths"] : {};
  if (!Object.hasOwn(auths, registry)) return false;
  const { [registry]: _, ...rest } = auths;
  writeAll(file, { ...all, auths: rest });
  return true;
}
