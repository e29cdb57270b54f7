/**
 * The thin layer between an image and a container's writable layer: empty files and folders where every container gets
 * something mounted. What the image has itself is left alone.
 */
import * as fs from "node:fs";
import path from "node:path";
import { LayeredView } from "../images/layered-view.ts";

const STUBS: readonly (readonly [string, "folder" | "file" | "link"])[] = [
  // By which programs tell that they run in a container.
  [".dockerenv", "file"],
  ["dev", "folder"],
  ["dev/pts", "folder"],
  ["dev/shm", "folder"],
  ["proc", "folder"],
  ["sys", "folder"],
  ["etc", "folder"],
  ["etc/hosts", "file"],
  ["etc/hostname", "file"],
  ["etc/resolv.conf", "file"],
  ["etc/mtab", "link"],
  ["dev/console", "file"],
];

/** `lower`: the image's folders, newest first. */
export function buildInitLayer(folder: string, lower: readonly string[]): void {
  const image = new LayeredView(lower);
  const root = image.find([]);
  if (root !== undefined) {
    fs.chownSync(folder, root.stats.uid, root.stats.gid);
    fs.chmodSync(folder, root.stats.mode & 0o7777);
  }
  for (const [name, kind] of STUBS) {
    const parts = name.split("/");
    if (image.find(parts) !== undefined) continue;
    if (!makeParent(folder, parts, image)) continue;
    const target = path.join(folder, name);
    if (kind === "folder") fs.mkdirSync(target, 0o755);
    else if (kind === "file") makeFile(target);
    else fs.symlinkSync("/proc/mounts", target);
  }
}

/** Its mode is Docker's; what gets mounted on it has its own. */
function makeFile(target: string): void {
  fs.writeFileSync(target, "");
  fs.chmodSync(target, 0o755);
}

/** False where the image has something else than a folder in the way. */
function makeParent(folder: string, parts: readonly string[], image: LayeredView): boolean {
  if (parts.length < 2) return true;
  const parent = parts.slice(0, -1);
  const target = path.join(folder, ...parent);
  if (fs.existsSync(target)) return true;
  const found = image.find(parent);
  if (found === undefined || !found.stats.isDirectory()) return false;
  fs.mkdirSync(target, 0o755);
  fs.chmodSync(target, found.stats.mode & 0o7777);
  fs.chownSync(target, found.stats.uid, found.stats.gid);
  fs.utimesSync(target, found.stats.atimeMs / 1000, found.stats.mtimeMs / 1000);
  return true;
}
