/** Packs a folder as a tar, name by name in order and without owners, as the daemon takes contexts of builds and plugins. */
import { lstat, readdir, readFile, readlink } from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import type { Pack } from "tar-stream";

export interface FolderTarOptions {
  /** Names with forward slashes, relative to the folder. What is left out may hold what is not. */
  readonly isLeftOut: (name: string) => boolean;
  /** Also look into folders that are left out. */
  readonly looksEverywhere: boolean;
}

async function addEntry(pack: Pack, file: string, name: string): Promise<void> {
  const found = await lstat(file);
  const header = { name, mode: found.mode & 0o7777, mtime: found.mtime, uid: 0, gid: 0 };
  if (found.isSymbolicLink()) pack.entry({ ...header, type: "symlink", linkname: await readlink(file) });
  else if (found.isDirectory()) pack.entry({ ...header, name: `${name}/`, type: "directory" });
  else if (found.isFile()) {
    const content = await readFile(file);
    await new Promise<void>((resolve, reject) => {
      pack.entry({ ...header, size: content.length }, content, (caught) =>
        caught ? reject(caught) : resolve(),
      );
    });
  }
}

async function packFolder(pack: Pack, folder: string, options: FolderTarOptions): Promise<void> {
  const walk = async (relative: string): Promise<void> => {
    const names = (await readdir(path.join(folder, relative))).sort();
    for (const base of names) {
      const name = relative === "" ? base : `${relative}/${base}`;
      const isLeftOut = options.isLeftOut(name);
      const isFolder = (await lstat(path.join(folder, name))).isDirectory();
      if (!isLeftOut) await addEntry(pack, path.join(folder, name), name);
      if (isFolder && (!isLeftOut || options.looksEverywhere)) await walk(name);
    }
  };
  await walk("");
  pack.finalize();
}

/** What can't be read ends the stream with its error. */
export async function folderTar(
  folder: string,
  options: FolderTarOptions = { isLeftOut: () => false, looksEverywhere: false },
): Promise<Readable> {
  const { pack: createPack } = await import("tar-stream");
  const pack = createPack();
  packFolder(pack, folder, options).catch((caught: unknown) => {
    pack.destroy(caught instanceof Error ? caught : new Error(String(caught)));
  });
  return Readable.from(pack);
}
