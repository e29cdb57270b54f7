import assert from "node:assert/strict";
import { test } from "node:test";
import { parseHttpBuild, uploadedId } from "./http-build.ts";

test("parseHttpBuild() puts the query as BuildKit's frontend has it", () => {
  const query = new URLSearchParams({
    version: "2",
    remote: "client-session",
    session: "s1",
    buildid: "b1",
    dockerfile: "sub/Other",
    target: "last",
    networkmode: "none",
    shmsize: "0",
    nocache: "1",
    pull: "1",
    q: "1",
    buildargs: JSON.stringify({ A: "b", UNSET: null }),
    labels: JSON.stringify({ l: "1" }),
  });
  for (const name of ["x:1", "y"]) query.append("t", name);
  for (const host of ["h:1.2.3.4", "six:::1"]) query.append("extrahosts", host);
  assert.deepEqual(parseHttpBuild(query), {
    ref: "b1",
    session: "s1",
    attributes: {
      filename: "sub/Other",
      target: "last",
      platform: "",
      "force-network-mode": "none",
      "add-hosts": "h=1.2.3.4,six=::1",
      "shm-size": "",
      "cgroup-parent": "",
      "no-cache": "",
      "image-resolve-mode": "pull",
      "build-arg:A": "b",
      "label:l": "1",
    },
    exports: [{ type: "moby", attrs: { name: "x:1,y" } }],
    isUploaded: false,
    isQuiet: true,
  });
});

test("parseHttpBuild() knows where else a result goes, and a context that is uploaded", () => {
  const outputs = JSON.stringify([{ Type: "local", Attrs: {} }, { Type: "cacheonly" }]);
  const query = new URLSearchParams({ remote: "upload-request", buildid: "b2", outputs });
  const build = parseHttpBuild(query);
  assert.deepEqual(build.exports, [{ type: "local", attrs: {} }]);
  assert.equal(build.isUploaded, true);
  assert.equal(uploadedId(query), undefined);
  assert.equal(uploadedId(new URLSearchParams({ buildid: "upload-request:b2" })), "b2");
});

const BAD: readonly (readonly [Readonly<Record<string, string>>, RegExp])[] = [
  [{ remote: "" }, /remote must say where the context comes from/],
  [{ networkmode: "mine" }, /networkmode must be default, none or host, got "mine"/],
  [{ buildargs: "[" }, /buildargs must be JSON, got "\["/],
  [{ labels: "[]" }, /labels must be a JSON map, got "\[\]"/],
  [{ outputs: "{}" }, /outputs must be a JSON list, got "\{\}"/],
];
for (const [fields, message] of BAD) {
  test(`parseHttpBuild() refuses ${JSON.stringify(fields)}`, () => {
    const query = new URLSearchParams({ remote: "client-session", ...fields });
    assert.throws(() => parseHttpBuild(query), { code: "invalid_argument", message });
  });
}
