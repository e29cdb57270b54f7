import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { LevelTaskDb } from "./task-db.ts";

test("LevelTaskDb.load() says where it failed, and why", async (t) => {
  const parent = mkdtempSync(path.join(tmpdir(), "shoal-task-db-"));
  t.after(() => rmSync(parent, { recursive: true, force: true }));
  const folder = path.join(parent, "tasks");
  mkdirSync(path.join(folder, "LOCK"), { recursive: true });
  const db = new LevelTaskDb(folder, () => {});
  await assert.rejects(db.load(), (error: Error) => {
    return error.message.startsWith(`Cannot read the node's tasks in "${folder}": IO error: ${folder}`);
  });
});
