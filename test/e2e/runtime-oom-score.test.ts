/** The daemon's unit lowers its OOM score: what the kernel kills first must be a container that takes too much, not the host. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { RuntimeLab } from "./support/runtime-lab.ts";

const SCORE = "/proc/self/oom_score_adj";

describe("the OOM score of the daemon", () => {
  let lab: RuntimeLab;
  let former: string;

  before(async () => {
    former = readFileSync(SCORE, "utf8");
    // Raised, which takes no rights. The launcher gets it from here.
    writeFileSync(SCORE, "250");
    lab = await RuntimeLab.open();
  });

  after(async () => {
    writeFileSync(SCORE, former);
    await lab.close();
  });

  test("is not its containers', neither of their first process nor of an exec", async () => {
    assert.equal((await lab.run(["cat", SCORE])).stdout, "0\n");
    const id = await lab.create(["sleep", "100"]);
    await lab.engine.containers.start(id);
    assert.equal((await lab.exec(id, ["cat", SCORE])).output, "0\n");
  });

  test("gives way to the one that was asked for, which an exec has too", async () => {
    const id = await lab.create(["sleep", "100"], { OomScoreAdj: 400 });
    await lab.engine.containers.start(id);
    assert.equal((await lab.exec(id, ["cat", SCORE])).output, "400\n");
    assert.equal((await lab.run(["cat", SCORE], { OomScoreAdj: 400 })).stdout, "400\n");
  });
});
