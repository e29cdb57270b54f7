import assert from "node:assert/strict";
import { test } from "node:test";
import { Loss } from "./collector.ts";

test("Loss.guard() gives what comes first, and the loss to all that comes after it", async () => {
  const loss = new Loss();
  assert.equal(await loss.guard(Promise.resolve(1)), 1);
  const waiting = loss.guard(new Promise(() => undefined));
  loss.happened(new Error("first"));
  loss.happened(new Error("second"));
  await assert.rejects(waiting, /first/);
  await assert.rejects(loss.guard(Promise.resolve(2)), /first/);
  await assert.rejects(loss.guard(Promise.reject(new Error("its own"))), /first/);
});
