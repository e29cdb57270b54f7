import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { realRandom } from "../../common/real-env.ts";
import { CacheMounts, type CacheFolderRequest } from "./cache-mounts.ts";

function open(t: TestContext): CacheMounts {
  const root = mkdtempSync(path.join(tmpdir(), "shoal-cache-"));
  t.after(() => rmSync(root, { recursive: true }));
  const trash = path.join(root, "trash");
  mkdirSync(trash);
  return new CacheMounts(root, trash, realRandom);
}

const LOCKED: CacheFolderRequest = { id: "npm", sharing: "locked", mode: 0o755, uid: 0, gid: 0 };

test("CacheMounts.discard() leaves what is used, and forgives what somebody else has discarded", async (t) => {
  const caches = open(t);
  const { folder, release } = await caches.take(LOCKED, new AbortController().signal);
  const [known] = caches.list();
  assert.equal(known?.folder, folder);
  assert.equal(caches.discard(known.name), false);
  assert.ok(existsSync(folder));
  release();
  assert.equal(caches.discard(known.name), true);
  assert.equal(caches.discard(known.name), false);
  assert.deepEqual(caches.list(), []);
});

test("CacheMounts.take() gives a locked folder in turn, also past somebody who left the line", async (t) => {
  const caches = open(t);
  const { signal } = new AbortController();
  const first = await caches.take(LOCKED, signal);
  const leaving = new AbortController();
  const second = caches.take(LOCKED, leaving.signal);
  const third = caches.take(LOCKED, signal);
  leaving.abort(new Error("left"));
  await assert.rejects(second, /left/);
  let isThirdIn = false;
  void third.then(() => (isThirdIn = true));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isThirdIn, false);
  first.release();
  (await third).release();
});
