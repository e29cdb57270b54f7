/** Which host ids `--userns-remap` gives. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { freeRangeStart, parseRemap, type AccountFiles } from "./id-ranges.ts";
import { checkUserNamespace, lastMappedId, parseIdMap } from "./user-namespace.ts";

const FILES: AccountFiles = {
  passwd: "root:x:0:0::/root:/bin/sh\nweb:x:1000:100::/:/bin/false\nbare:x:1001:1001::/:/bin/false\n",
  group: "root:x:0:\nusers:x:100:\nops:x:500:\n",
  subuid: "# comment\nweb:100000:65536\nother:165536:65536\n1000:300000:10\nbad:1:x\nfar:4294967290:100\n",
  subgid: "web:200000:65536\nops:400000:1000\n",
};

describe("parseRemap()", () => {
  test("lays the user's ranges end to end, by name and by number", () => {
    const uid = [
      { inside: 0, outside: 100_000, count: 65_536 },
      { inside: 65_536, outside: 300_000, count: 10 },
    ];
    const gid = [{ inside: 0, outside: 200_000, count: 65_536 }];
    assert.deepEqual(parseRemap("web", FILES), { uid, gid });
    assert.deepEqual(parseRemap("1000", FILES), { uid, gid });
    assert.deepEqual(parseRemap("web:ops", FILES), {
      uid,
      gid: [{ inside: 0, outside: 400_000, count: 1000 }],
    });
    assert.deepEqual(parseRemap("web:500", FILES).gid, [{ inside: 0, outside: 400_000, count: 1000 }]);
  });
  test("names what is missing or wrong", () => {
    for (const [text, words] of [
      ["nobody", /no user "nobody"/],
      ["web:none", /no group "none"/],
      ["bare", /"bare" must own a range in \/etc\/subuid/],
      ["web:users", /"users" must own a range in \/etc\/subgid/],
      ["web:", /must be "default" or USER\[:GROUP\], got "web:"/],
      ["a:b:c", /must be "default" or USER\[:GROUP\]/],
    ] as const)
      assert.throws(() => parseRemap(text, FILES), words);
    const passwd = "bad:x:7:7:::\nfar:x:8:8:::\n";
    assert.throws(
      () => parseRemap("bad", { ...FILES, passwd }),
      /line 5 of \/etc\/subuid must be NAME:START:COUNT/,
    );
    assert.throws(
      () => parseRemap("far", { ...FILES, passwd }),
      /line 6 of \/etc\/subuid goes beyond the last id/,
    );
  });
});

test("freeRangeStart() is above all that is granted", () => {
  assert.equal(freeRangeStart(""), 100_000);
  assert.equal(freeRangeStart("a:100000:65536\nb:400000:10\n"), 400_010);
});

test("parseIdMap() and lastMappedId() read what the kernel shows", () => {
  const maps = parseIdMap("         0     100000      65536\n     65536     300000         10\n");
  assert.deepEqual(maps[1], { inside: 65_536, outside: 300_000, count: 10 });
  assert.equal(lastMappedId(maps), 65_545);
  assert.equal(lastMappedId(maps.slice(1)), -1);
});

test("checkUserNamespace() refuses what only the host's namespace can do", () => {
  const maps = parseRemap("web", FILES);
  assert.throws(() => checkUserNamespace({ Privileged: true }, maps), /incompatible with user namespaces/);
  assert.throws(() => checkUserNamespace({ NetworkMode: "host" }, maps), /host's network namespace/);
  assert.throws(() => checkUserNamespace({ PidMode: "host" }, maps), /host PID namespace/);
  checkUserNamespace({ Privileged: true, UsernsMode: "host" }, maps);
  checkUserNamespace({ Privileged: true }, undefined);
});
