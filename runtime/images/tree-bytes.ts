/**
 * Adds up the sizes of a tree's files, each hard link once. What goes away meanwhile is not counted; links are not
 * followed.
 */
import * as fs from "node:fs/promises";

export async function treeBytes(path: string): Promise<number> {
  const seen = new Set<string>();
  const pending: Buffer[] = [Buffer.from(path)];
  let bytes = 0;
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    const names = await fs.readdir(folder, { encoding: "buffer" }).catch(() => []);
    for (const name of names) {
      const child = Buffer.concat([folder, Buffer.from("/"), name]);
      const stats = await fs.lstat(child).catch(() => undefined);
      if (stats === undefined) continue;
      if (stats.isDirectory()) pending.push(child);
      if (!stats.isFile()) continue;
      const key = `${stats.dev}:${stats.ino}`;
      if (stats.nlink > 1 && seen.has(key)) continue;
      if (stats.nlink > 1) seen.add(key);
      bytes += stats.size;
    }
  }
  return bytes;
}
