import assert from "node:assert/strict";
import { test } from "node:test";
import type { ProgressLine } from "../../model/engine.ts";
import { StageOutputs } from "./stage-output.ts";

test("StageOutputs keeps a bounded text of a stage that waits for its turn, and says so", () => {
  const told: ProgressLine[] = [];
  const outputs = new StageOutputs(2, (line) => void told.push(line));
  const piece = "x".repeat(1024 * 1024);
  for (let count = 0; count < 20; count++) outputs.write(1, { stream: piece });
  outputs.write(0, { stream: "first\n" });
  outputs.end(0);
  outputs.write(1, { stream: "last\n" });
  const texts = told.map((line) => line["stream"]);
  assert.equal(texts[0], "first\n");
  assert.deepEqual(
    texts.slice(1, -2),
    Array.from({ length: 8 }, () => piece),
  );
  assert.deepEqual(texts.slice(-2), ["[output of this stage is too long to keep]\n", "last\n"]);
});
