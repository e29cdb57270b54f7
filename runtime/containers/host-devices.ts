/** The device nodes of the host, for privileged containers. */
import { lstatSync, readdirSync } from "node:fs";
import path from "node:path";
import type { LaunchDevice } from "./launch-spec.ts";
import { deviceNumber } from "./resource-limits.ts";

/** Made by the container's own /dev; terminals of the host are not given away. */
const SKIPPED = new Set([
  "pts",
  "shm",
  "fd",
  "mqueue",
  "console",
  "null",
  "zero",
  "full",
  "random",
  "urandom",
  "tty",
  "ptmx",
]);
const DEPTH_MAX = 3;

export function hostDevices(folder = "/dev", depth = 0): readonly LaunchDevice[] {
  const devices: LaunchDevice[] = [];
  for (const name of readdirSync(folder).sort()) {
    if (depth === 0 && SKIPPED.has(name)) continue;
    const place = path.join(folder, name);
    const stat = lstatSync(place, { throwIfNoEntry: false });
    if (stat === undefined) continue;
    if (stat.isDirectory() && depth < DEPTH_MAX) devices.push(...hostDevices(place, depth + 1));
    if (!stat.isBlockDevice() && !stat.isCharacterDevice()) continue;
    const { major, minor } = deviceNumber(stat.rdev);
    const type = stat.isBlockDevice() ? "b" : "c";
    const owner = { mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid };
    devices.push({ path: place, hostPath: place, type, major, minor, ...owner });
  }
  return devices;
}
