import assert from "node:assert/strict";
import { test } from "node:test";
import type { ContainerEngine } from "../../model/engine.ts";
import { runStep } from "./run-step.ts";

test("runStep() takes no more of what the command prints than there is room for", async () => {
  let printed = 0;
  async function* output(): AsyncGenerator<{ readonly stream: "stdout"; readonly data: Buffer }> {
    for (; printed < 2;) {
      printed += 1;
      yield { stream: "stdout", data: Buffer.from(`${printed}`) };
    }
  }
  const containers = {
    create: async () => ({ Id: "c".repeat(64), Warnings: [] }),
    attach: async () => ({ isTty: false, output: output(), close: () => undefined }),
    start: async () => undefined,
    wait: async () => ({ exitCode: 0, error: "" }),
    remove: async () => undefined,
  } as unknown as ContainerEngine;
  const printedAtRoom: number[] = [];
  await runStep(
    {
      containers,
      config: {},
      hostConfig: {},
      platform: "",
      files: [],
      secretEnv: [],
      failure: () => "",
      removesContainer: true,
      removesFailed: true,
      report: () => undefined,
      room: async () => {
        await new Promise<void>((resolve) => void setImmediate(resolve));
        printedAtRoom.push(printed);
      },
      signal: new AbortController().signal,
    },
    async () => undefined,
  );
  assert.deepEqual(printedAtRoom, [1, 2]);
});
