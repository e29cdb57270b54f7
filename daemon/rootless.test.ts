/** Where an ordinary user's daemon keeps its things, and which ids it asks for. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { mapWords, userFolders } from "./rootless.ts";

test("userFolders() follows the XDG base directories", () => {
  assert.deepEqual(userFolders({ HOME: "/home/u", XDG_RUNTIME_DIR: "/run/user/1000" }), {
    dataRoot: "/home/u/.local/share/shoal",
    execRoot: "/run/user/1000/shoal",
    configFile: "/home/u/.config/shoal/daemon.json",
  });
  const all = { HOME: "/h", XDG_DATA_HOME: "/d", XDG_CONFIG_HOME: "/c" };
  assert.deepEqual(userFolders(all), {
    dataRoot: "/d/shoal",
    execRoot: "",
    configFile: "/c/shoal/daemon.json",
  });
});

test("mapWords() makes the user root and lays its subordinate ids behind", () => {
  const ranges = [
    { inside: 0, outside: 100_000, count: 65_536 },
    { inside: 65_536, outside: 300_000, count: 10 },
  ];
  assert.equal(mapWords(1000, ranges), "0 1000 1 1 100000 65536 65537 300000 10");
});
