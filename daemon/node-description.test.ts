import assert from "node:assert/strict";
import { test } from "node:test";
import { describeNode } from "./node-description.ts";

test("describeNode() lists plugins by kind and name, under Docker's names of them", () => {
  const { Engine } = describeNode({
    version: "1",
    labels: [],
    genericResources: [],
    volumeDrivers: ["nfs", "local"],
  });
  const names = (type: string): readonly string[] =>
    (Engine.Plugins ?? []).filter(({ Type }) => Type === type).map(({ Name }) => Name);
  assert.deepEqual(names("Network"), ["bridge", "host", "null", "overlay"]);
  assert.deepEqual(names("Volume"), ["local", "nfs"]);
  assert.deepEqual(names("Log"), ["fluentd", "gelf", "journald", "json-file", "local", "syslog"]);
});
