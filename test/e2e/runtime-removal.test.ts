/** What the native side removes: trees as containers may leave them, and nothing else. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { packageRoot } from "../../common/package-root.ts";
import { NativeLauncher } from "../../runtime/containers/native-launcher.ts";

describe("removed trees", () => {
  const root = mkdtempSync(path.join(tmpdir(), "shoal-removal-"));
  let launcher: NativeLauncher;

  before(async () => {
    const execRoot = path.join(root, "run");
    mkdirSync(execRoot);
    launcher = new NativeLauncher({
      execRoot,
      nativeBinary: path.join(packageRoot(import.meta.dirname), "runtime/native/build/shoal-runtime"),
      log: silentLogger,
    });
    await launcher.start();
  });
  after(() => {
    launcher.stop();
    rmSync(root, { recursive: true, force: true });
  });

  function folder(name: string): string {
    const place = path.join(root, name);
    mkdirSync(place);
    return place;
  }

  function deepen(place: string, depth: number): void {
    let below = place;
    for (let level = 0; level < depth; level++) {
      below = path.join(below, "deep");
      mkdirSync(below);
      writeFileSync(path.join(below, "file"), "");
    }
  }

  test("files, links and folders go, and nothing that a link leads to", async () => {
    const kept = folder("kept");
    writeFileSync(path.join(kept, "file"), "");
    const place = folder("plain");
    mkdirSync(path.join(place, "a/b"), { recursive: true, mode: 0o000 });
    writeFileSync(path.join(place, "a/file"), "x");
    symlinkSync(kept, path.join(place, "a/link"));
    execFileSync("mknod", [path.join(place, "whiteout"), "c", "0", "0"]);
    symlinkSync(kept, path.join(root, "link"));
    await launcher.removeTrees([place, path.join(root, "nosuch")]);
    assert.equal(existsSync(place), false);
    await assert.rejects(launcher.removeTrees([path.join(root, "link")]), /link/);
    assert.ok(existsSync(path.join(kept, "file")));
  });

  test("a tree of any depth goes, whatever its names are", async () => {
    const place = folder("deep-tree");
    for (const name of [".deep-0", ".deep-1"]) deepen(folder(`deep-tree/${name}`), 100);
    deepen(place, 700);
    await launcher.removeTrees([place]);
    assert.equal(existsSync(place), false);
  });

  test("one that can't go is named, the others are gone", async () => {
    const held = folder("held");
    const mounted = folder("held/mounted");
    execFileSync("mount", ["-t", "tmpfs", "none", mounted]);
    const other = folder("other");
    try {
      await assert.rejects(launcher.removeTrees([held, other]), /remove .*held: Resource busy/);
      assert.equal(existsSync(other), false);
    } finally {
      execFileSync("umount", [mounted]);
    }
    await launcher.removeTrees([held]);
    assert.equal(existsSync(held), false);
  });
});
