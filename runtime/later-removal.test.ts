import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import { LaterRemoval } from "./later-removal.ts";

const MINUTE_MS = 60_000;

describe("later removal", () => {
  let root = "";
  let clock: FakeClock;
  let large: string[] = [];
  let removal: LaterRemoval;
  beforeEach(() => {
    root = mkdtempSync(path.join(tmpdir(), "later-removal-"));
    clock = new FakeClock();
    large = [];
    const removeLarge = (folder: string): Promise<void> => {
      large.push(folder);
      return Promise.resolve();
    };
    removal = new LaterRemoval({ timers: clock, log: silentLogger, removeLarge });
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  function tree(name: string, files: readonly string[]): string {
    const folder = path.join(root, name);
    mkdirSync(folder);
    for (const file of files) {
      mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
      writeFileSync(path.join(folder, file), "");
    }
    return folder;
  }

  test("small folders go after a quiet spell, all of them", () => {
    const folders = ["a", "b", "c"].map((name) => tree(name, ["x", "deep/y"]));
    for (const folder of folders) removal.add(folder);
    assert.ok(
      folders.every((folder) => existsSync(folder)),
      "not at once",
    );
    clock.advance(MINUTE_MS);
    assert.deepEqual(
      folders.filter((folder) => existsSync(folder)),
      [],
    );
    assert.deepEqual(large, []);
  });

  test("what is added all the time does not put the first off for ever", () => {
    const first = tree("first", ["x"]);
    removal.add(first);
    for (let count = 0; count < 100 && existsSync(first); count++) {
      removal.add(tree(`more-${count}`, []));
      clock.advance(100);
    }
    assert.ok(!existsSync(first));
  });

  test("many entries, deep ones and long files are not this thread's", () => {
    const many = tree(
      "many",
      Array.from({ length: 30 }, (_, index) => `f${index}`),
    );
    const deep = tree("deep", ["1/2/3/4/x"]);
    const long = tree("long", ["x"]);
    writeFileSync(path.join(long, "log"), Buffer.alloc(2 * 1024 * 1024));
    for (const folder of [many, deep, long]) removal.add(folder);
    clock.advance(MINUTE_MS);
    assert.deepEqual(large, [many, deep, long]);
    assert.ok(existsSync(path.join(long, "x")), "nothing of it is touched before");
  });

  test("a folder that is gone meanwhile holds up no other", () => {
    removal.add(path.join(root, "nosuch"));
    const other = tree("other", ["x"]);
    removal.add(other);
    clock.advance(MINUTE_MS);
    assert.ok(!existsSync(other));
  });

  test("closing takes away what waits, and what still comes", () => {
    const [before, after] = [tree("before", ["x"]), tree("after", ["x"])];
    removal.add(before);
    removal.close();
    assert.ok(!existsSync(before));
    removal.add(after);
    assert.ok(!existsSync(after));
  });
});
