import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { parseGpus } from "./gpus.ts";

const ONE = { Driver: "", Count: 1, DeviceIDs: null, Capabilities: [["gpu"]], Options: {} };

test("parseGpus() makes the request that docker makes of the same words", () => {
  assert.deepEqual(parseGpus("all"), { ...ONE, Count: -1 });
  assert.deepEqual(parseGpus("2"), { ...ONE, Count: 2 });
  assert.deepEqual(parseGpus("driver=nvidia"), { ...ONE, Driver: "nvidia" });
  assert.deepEqual(parseGpus("device=GPU-1"), { ...ONE, Count: 0, DeviceIDs: ["GPU-1"] });
  assert.deepEqual(parseGpus('"device=0,1","capabilities=utility,compute",options=a=b'), {
    ...ONE,
    Count: 0,
    DeviceIDs: ["0", "1"],
    Capabilities: [["utility", "compute", "gpu"]],
    Options: { a: "b" },
  });
});

test("parseGpus() refuses what is no request, and says what it wants", () => {
  const refusals: readonly (readonly [string, RegExp])[] = [
    ["some", /expected "all" or a whole number, 0 or more, got "some"/],
    ["count=-1", /expected "all" or a whole number, 0 or more, got "-1"/],
    ["brand=x", /expected one of driver, count, device, capabilities, options, got "brand"/],
    ["1,count=2", /expected "count" once, got "1,count=2"/],
  ];
  for (const [word, message] of refusals) {
    assert.throws(
      () => parseGpus(word),
      (caught: unknown) => hasCode(caught, "invalid_argument") && message.test(caught.message),
      word,
    );
  }
});
