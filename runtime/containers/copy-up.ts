/**
 * First use of a volume: what the image has at that place is copied into it, while it is empty. Reads the layers
 * directly (newest first), following no link out of them.
 */
import * as fs from "node:fs/promises";
import path from "node:path";

async function entriesOf(folder: string): Promise<readonly string[] | undefined> {
  try {
    const stat = await fs.lstat(folder);
    return stat.isDirectory() ? await fs.readdir(folder) : undefined;
  } catch {
    return undefined;
  }
}

/** True if every parent of `target` below `layer` is a real folder. */
async function isPlain(layer: string, target: string): Promise<boolean> {
  let folder = layer;
  for (const part of target.split("/").filter((each) => each !== "")) {
    folder = path.join(folder, part);
    const stat = await fs.lstat(folder).catch(() => undefined);
    if (stat === undefined || !stat.isDirectory()) return false;
  }
  return true;
}

/** An overlay whiteout: a character device 0:0. */
async function isWhiteout(file: string): Promise<boolean> {
  const stat = await fs.lstat(file).catch(() => undefined);
  return stat?.isCharacterDevice() === true && stat.rdev === 0;
}

async function copyEntry(from: string, to: string): Promise<void> {
  const stat = await fs.lstat(from);
  if (stat.isSymbolicLink()) await fs.symlink(await fs.readlink(from), to);
  else if (stat.isDirectory()) await fs.mkdir(to, { recursive: true });
  else if (stat.isFile()) await fs.copyFile(from, to);
  else return;
  await fs.lchown(to, stat.uid, stat.gid);
  if (!stat.isSymbolicLink()) await fs.chmod(to, stat.mode & 0o7777);
}

async function copyMerged(layers: readonly string[], to: string): Promise<void> {
  const seen = new Map<string, string[]>();
  const hidden = new Set<string>();
  for (const layer of layers) {
    for (const name of (await entriesOf(layer)) ?? []) {
      const place = path.join(layer, name);
      if (hidden.has(name)) continue;
      if (await isWhiteout(place)) {
        hidden.add(name);
        continue;
      }
      const places = seen.get(name) ?? [];
      places.push(place);
      seen.set(name, places);
    }
  }
  for (const [name, places] of seen) {
    const [top = ""] = places;
    await copyEntry(top, path.join(to, name));
    if ((await entriesOf(top)) !== undefined) await copyMerged(places, path.join(to, name));
    const stat = await fs.lstat(top);
    if (stat.isDirectory() || stat.isFile()) await fs.utimes(path.join(to, name), stat.atime, stat.mtime);
  }
}

export async function copyUp(layers: readonly string[], target: string, volume: string): Promise<void> {
  if ((await fs.readdir(volume)).length > 0) return;
  const places: string[] = [];
  for (const layer of layers) if (await isPlain(layer, target)) places.push(path.join(layer, target));
  const [top] = places;
  if (top === undefined) return;
  const stat = await fs.lstat(top);
  await fs.chown(volume, stat.uid, stat.gid);
  await fs.chmod(volume, stat.mode & 0o7777);
  await copyMerged(places, volume);
}
