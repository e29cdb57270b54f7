import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { silentLogger } from "../common/log.ts";
import { FakeClock } from "../common/testing/fake-clock.ts";
import { LaterRemoval } from "./later-removal.ts";

const MINUTE_MS = 60_000;
const QUIET_SPELL_MS = 500;

describe("later removal", () => {
  let root = "";
  let clock: FakeClock;
  let removal: LaterRemoval;
  let rounds: (readonly string[])[] = [];
  /** What the next round ends with. */
  let answer = Promise.withResolvers<void>();

  beforeEach(() => {
    root = mkdtempSync(path.join(tmpdir(), "later-removal-"));
    clock = new FakeClock();
    rounds = [];
    answer = Promise.withResolvers();
    const remove = (folders: readonly string[]): Promise<void> => {
      rounds.push(folders);
      return answer.promise;
    };
    removal = new LaterRemoval({ timers: clock, log: silentLogger, remove });
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  async function answered(): Promise<void> {
    answer.resolve();
    await new Promise(setImmediate);
  }

  test("all that came go together, after a quiet spell", () => {
    for (const folder of ["a", "b", "c"]) removal.add(folder);
    assert.deepEqual(rounds, [], "not at once");
    clock.advance(MINUTE_MS);
    assert.deepEqual(rounds, [["a", "b", "c"]]);
  });

  test("what is added all the time does not put the first off for ever", () => {
    removal.add("first");
    for (let count = 0; count < 100 && rounds.length === 0; count++) {
      removal.add(`more-${count}`);
      clock.advance(100);
    }
    assert.equal(rounds[0]?.[0], "first");
  });

  test("what comes during a round goes with the next one, when that has ended", async () => {
    removal.add("a");
    clock.advance(QUIET_SPELL_MS);
    removal.add("b");
    clock.advance(MINUTE_MS);
    assert.deepEqual(rounds, [["a"]]);
    await answered();
    clock.advance(MINUTE_MS);
    assert.deepEqual(rounds, [["a"], ["b"]]);
  });

  test("where it fails the folders are removed here", async () => {
    const folders = ["one", "two"].map((name) => path.join(root, name));
    for (const folder of folders) {
      mkdirSync(path.join(folder, "deep"), { recursive: true });
      writeFileSync(path.join(folder, "deep", "file"), "");
      removal.add(folder);
    }
    clock.advance(QUIET_SPELL_MS);
    answer.reject(new Error("no launcher"));
    await removal.close();
    assert.deepEqual(
      folders.filter((folder) => existsSync(folder)),
      [],
    );
  });

  test("closing removes what waits and resolves when it is gone; what still comes goes too", async () => {
    removal.add("before");
    let isClosed = false;
    const closed = removal.close().then(() => (isClosed = true));
    assert.deepEqual(rounds, [["before"]]);
    await new Promise(setImmediate);
    assert.equal(isClosed, false);
    await answered();
    await closed;
    removal.add("after");
    assert.deepEqual(rounds, [["before"], ["after"]]);
  });

  test("closing does not wait for ever", async () => {
    removal.add("endless");
    const closed = removal.close();
    clock.advance(MINUTE_MS);
    await closed;
  });
});
