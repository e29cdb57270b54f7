/** What a writable layer changes against the layers below it: the answer of `docker diff`. Runs in worker threads. */
import * as fs from "node:fs";
import type { LayerChange } from "./layer-jobs.ts";
import { isOpaque, isWhiteout, LayeredView } from "./layered-view.ts";
import { fsPath, toText } from "./tar/byte-path.ts";

function isSameFolder(left: fs.Stats, right: fs.Stats): boolean {
  return (
    left.mode === right.mode &&
    left.uid === right.uid &&
    left.gid === right.gid &&
    left.mtimeMs === right.mtimeMs
  );
}

/** Sorted by path; folders that only lead to a change are listed as modified. */
export function layerChanges(upper: string, lower: readonly string[]): readonly LayerChange[] {
  const below = new LayeredView(lower);
  const changes = new Map<string, 0 | 1 | 2>();
  const note = (parts: readonly string[], kind: 0 | 1 | 2): void => {
    for (let count = 1; count < parts.length; count++) {
      const parent = parts.slice(0, count).join("/");
      if (!changes.has(parent)) changes.set(parent, 0);
    }
    changes.set(parts.join("/"), kind);
  };
  const visit = (parts: readonly string[], isNew: boolean): void => {
    const folder = [upper, ...parts].join("/");
    const hidesBelow = !isNew && isOpaque(folder);
    const names = fs.readdirSync(fsPath(folder), { encoding: "latin1" });
    if (hidesBelow) {
      for (const name of below.list(parts)) if (!names.includes(name)) note([...parts, name], 2);
    }
    for (const name of names.sort()) {
      const child = [...parts, name];
      const stats = fs.lstatSync(fsPath(`${folder}/${name}`));
      const found = isNew ? undefined : below.find(child);
      if (isWhiteout(stats)) {
        if (found !== undefined) note(child, 2);
        continue;
      }
      if (found === undefined) note(child, 1);
      else if (!(stats.isDirectory() && found.stats.isDirectory() && isSameFolder(stats, found.stats))) {
        note(child, 0);
      }
      if (stats.isDirectory()) visit(child, found === undefined);
    }
  };
  visit([], false);
  return [...changes]
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([path, Kind]) => ({ Path: `/${toText(path)}`, Kind }));
}
