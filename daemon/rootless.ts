/**
 * The daemon of an ordinary user: where its folders are, and the way into the namespaces in which it is root. There the
 * user's own id is root and the ids from /etc/subuid and /etc/subgid are the others; the network is slirp4netns'.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { ClusterError } from "../common/errors.ts";
import { type IdMaps, readAccounts, parseRemap } from "../runtime/containers/id-ranges.ts";

/** Set by the native program for the daemon inside. */
const INSIDE_VARIABLE = "SHOAL_ROOTLESS";
/** slirp4netns' name server. */
const NAME_SERVER = "10.0.2.3";

type Environment = Readonly<Record<string, string | undefined>>;

/** "outside": must enter the namespaces yet; "inside": has; "none": started by root. */
export function rootlessSide(): "none" | "outside" | "inside" {
  if (process.env[INSIDE_VARIABLE] === "1") return "inside";
  return process.getuid?.() === 0 ? "none" : "outside";
}

export interface UserFolders {
  readonly dataRoot: string;
  readonly execRoot: string;
  readonly configFile: string;
}

/** By the XDG base directories. `execRoot` is "" where there is no XDG_RUNTIME_DIR. */
export function userFolders(environment: Environment): UserFolders {
  const home = environment["HOME"] ?? "/";
  const runtime = environment["XDG_RUNTIME_DIR"] ?? "";
  return {
    dataRoot: path.join(environment["XDG_DATA_HOME"] ?? path.join(home, ".local/share"), "shoal"),
    execRoot: runtime === "" ? "" : path.join(runtime, "shoal"),
    configFile: path.join(environment["XDG_CONFIG_HOME"] ?? path.join(home, ".config"), "shoal/daemon.json"),
  };
}

/** Words for newuidmap or newgidmap: the user itself is root, the subordinate ids follow. */
export function mapWords(own: number, ranges: IdMaps["uid"]): string {
  const rest = ranges.map(({ inside, outside, count }) => `${inside + 1} ${outside} ${count}`);
  return [`0 ${own} 1`, ...rest].join(" ");
}

/** The host's search list with slirp4netns' name server. */
function resolvConf(): string {
  let host = "";
  try {
    host = readFileSync("/etc/resolv.conf", "utf8");
  } catch {
    // Without one there is nothing to search.
  }
  const kept = host.split("\n").filter((line) => /^(search|options)\s/.test(line));
  return [`nameserver ${NAME_SERVER}`, ...kept, ""].join("\n");
}

/** Becomes the native program, which becomes this daemon again inside. Returns only by throwing. */
export async function enterRootless(options: {
  readonly execRoot: string;
  readonly nativeBinary: string;
}): Promise<never> {
  const { execRoot, nativeBinary } = options;
  const uid = process.getuid?.() ?? 0;
  const gid = process.getgid?.() ?? 0;
  const maps = parseRemap(String(uid), readAccounts());
  await mkdir(execRoot, { recursive: true, mode: 0o700 });
  const resolv = path.join(execRoot, "resolv.conf");
  writeFileSync(resolv, resolvConf());
  const own = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const words = ["rootless", execRoot, mapWords(uid, maps.uid), mapWords(gid, maps.gid), resolv, ...own];
  if (process.execve === undefined)
    throw new ClusterError("unimplemented", "Running without root needs Node 24 or newer");
  return process.execve(nativeBinary, [nativeBinary, ...words], process.env);
}
