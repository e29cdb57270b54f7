import assert from "node:assert/strict";
import { test } from "node:test";
import { type Attributes, solveRequest } from "./solve-request.ts";

test("solveRequest() reads what buildx sends", () => {
  const request = solveRequest({
    filename: "sub/Other",
    target: "Last",
    platform: "linux/amd64",
    "build-arg:A": "b=c",
    "build-arg:EMPTY": "",
    "label:l": "1",
    "no-cache": "One,two",
    "image-resolve-mode": "pull",
    "force-network-mode": "none",
    "add-hosts": "h=1.2.3.4,six=[::1]",
    "shm-size": "67108864",
    ulimit: "nofile=10:20,core=-1",
    "cgroup-parent": "/x",
    "context:More": "local:more",
    "context:base:1::linux/amd64": "docker-image://other:2",
    "attest:provenance": "mode=min",
    "frontend.caps": "moby.buildkit.frontend.contexts+forward",
  });
  assert.deepEqual(request, {
    context: { folder: "context" },
    dockerfile: { path: "sub/Other", folder: "dockerfile" },
    namedContexts: new Map([
      ["more", { kind: "folder", name: "more" }],
      ["base:1", { kind: "image", reference: "other:2" }],
    ]),
    args: new Map([
      ["A", "b=c"],
      ["EMPTY", ""],
    ]),
    labels: new Map([["l", "1"]]),
    target: "Last",
    platform: "linux/amd64",
    noCache: ["one", "two"],
    pulls: true,
    run: {
      networkMode: "none",
      extraHosts: ["h:1.2.3.4", "six:::1"],
      shmBytes: 67_108_864,
      ulimits: [
        { Name: "nofile", Soft: 10, Hard: 20 },
        { Name: "core", Soft: -1, Hard: -1 },
      ],
      cgroupParent: "/x",
    },
  });
});

test("solveRequest() has defaults, and knows a context that comes from the client's stdin", () => {
  const plain = solveRequest({});
  assert.deepEqual(plain.dockerfile, { path: "Dockerfile", folder: "dockerfile" });
  assert.deepEqual([plain.noCache, plain.pulls, plain.run.networkMode], ["none", false, "default"]);
  assert.equal(solveRequest({ "no-cache": "" }).noCache, "all");
  const upload = solveRequest({ context: "http://buildkit-session/abc" });
  assert.deepEqual(upload.context, { upload: new URL("http://buildkit-session/abc") });
  assert.equal(upload.dockerfile.folder, undefined);
  const keys = solveRequest({ contextkey: "ctx", dockerfilekey: "df" });
  assert.deepEqual([keys.context, keys.dockerfile.folder], [{ folder: "ctx" }, "df"]);
});

const BAD: readonly (readonly [Attributes, RegExp])[] = [
  [{ context: "https://example.com/repo.git" }, /Cannot build from "https:\/\/example.com\/repo.git"/],
  [{ context: "http://elsewhere/x" }, /remote contexts are not fetched/],
  [{ "context:x": "https://example.com" }, /build context "x" must be a folder or docker-image/],
  [{ platform: "linux/amd64,linux/arm64" }, /want one platform/],
  [{ "force-network-mode": "mine" }, /network must be default, none or host, got "mine"/],
  [{ "shm-size": "big" }, /shm-size must be a number of bytes, got "big"/],
  [{ ulimit: "nofile" }, /ulimit must be NAME=SOFT\[:HARD\], got "nofile"/],
  [{ "add-hosts": "h:1.2.3.4" }, /add-hosts must be NAME=ADDRESS, got "h:1.2.3.4"/],
];
for (const [attributes, message] of BAD) {
  test(`solveRequest() refuses ${JSON.stringify(attributes)}`, () => {
    assert.throws(() => solveRequest(attributes), { code: "invalid_argument", message });
  });
}
