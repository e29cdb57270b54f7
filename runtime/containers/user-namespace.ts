/**
 * Which user namespace a container lives in: one of its own with the engine's maps, that of the container whose
 * namespaces it shares, or the daemon's. Also tells it of a running process, which may be of a daemon with other maps.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";
import type { IdMaps } from "./id-ranges.ts";
import type { IdMap } from "./launch-spec.ts";

/** Checks of `docker create` where the engine remaps ids; in Docker's words. */
export function checkUserNamespace(hostConfig: HostConfig, maps: IdMaps | undefined): void {
  if (maps === undefined || hostConfig.UsernsMode === "host") return;
  const refuse = (text: string): never => {
    throw new ClusterError("invalid_argument", text);
  };
  if (hostConfig.Privileged === true) {
    refuse(
      "privileged mode is incompatible with user namespaces. You must run the container in the host namespace when running privileged mode",
    );
  }
  if (hostConfig.NetworkMode === "host")
    refuse("cannot share the host's network namespace when user namespaces are enabled");
  if (hostConfig.PidMode === "host")
    refuse("cannot share the host PID namespace when user namespaces are enabled");
}

export interface ProcessUserNamespace {
  /** Another one than the daemon's. */
  readonly isOwn: boolean;
  readonly uidMaps: readonly IdMap[];
  readonly gidMaps: readonly IdMap[];
}

/** Of a process that lives; the daemon's own if it has just gone. */
export function userNamespaceOf(pid: number): ProcessUserNamespace {
  const ours: ProcessUserNamespace = { isOwn: false, uidMaps: [], gidMaps: [] };
  const map = (name: string): readonly IdMap[] => parseIdMap(readFileSync(`/proc/${pid}/${name}`, "utf8"));
  try {
    if (readlinkSync(`/proc/${pid}/ns/user`) === readlinkSync("/proc/self/ns/user")) return ours;
    return { isOwn: true, uidMaps: map("uid_map"), gidMaps: map("gid_map") };
  } catch {
    return ours;
  }
}

/** Text of /proc/PID/uid_map. */
export function parseIdMap(text: string): readonly IdMap[] {
  return text
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter((numbers) => numbers.length === 3)
    .map(([inside = 0, outside = 0, count = 0]) => ({ inside, outside, count }));
}

let gidMap: readonly IdMap[] | undefined;

/** Of this process, which never changes. */
export function ownGidMap(): readonly IdMap[] {
  gidMap ??= parseIdMap(readFileSync("/proc/self/gid_map", "utf8"));
  return gidMap;
}

/** Highest id that the first range reaches without a gap. */
export function lastMappedId(maps: readonly IdMap[]): number {
  let next = 0;
  for (const map of maps) if (map.inside === next) next += map.count;
  return next - 1;
}
