import assert from "node:assert/strict";
import { test } from "node:test";
import { Router } from "./router.ts";
import { negotiate, splitPath } from "./versions.ts";
import { pullReference } from "./routes/images.ts";

test("Router.find() takes one segment for {id} and many for {name*}", () => {
  const router = new Router<string>();
  router.add("GET", "/images/json", "list");
  router.add("GET", "/images/{name*}/json", "inspect");
  router.add("DELETE", "/containers/{id}", "remove");
  assert.equal(router.find("GET", "/images/json")?.handler, "list");
  assert.equal(router.find("GET", "/images/host:5000/a/b:1/json")?.params.get("name"), "host:5000/a/b:1");
  assert.equal(router.find("DELETE", "/containers/a%20b")?.params.get("id"), "a b");
  assert.equal(router.find("DELETE", "/containers/a/b"), undefined);
  assert.equal(router.find("POST", "/images/json"), undefined);
  assert.equal(router.find("DELETE", "/containers/%zz"), undefined);
});

test("splitPath() cuts version and query", () => {
  const { path, version, params } = splitPath("/v1.41/containers/json?all=1");
  assert.deepEqual([path, version, params.get("all")], ["/containers/json", "1.41", "1"]);
  assert.equal(splitPath("/containers/json").version, undefined);
});

test("negotiate() refuses versions outside the range in Docker's words", () => {
  negotiate("1.24");
  negotiate("1.50");
  assert.throws(
    () => negotiate("9.99"),
    /^ClusterError: client version 9\.99 is too new\. Maximum supported API version is 1\.50$/,
  );
  assert.throws(
    () => negotiate("1.1"),
    /client version 1\.1 is too old\. Minimum supported API version is 1\.24/,
  );
});

test("pullReference() joins image and tag as clients send them", () => {
  assert.equal(pullReference("busybox", "1.36"), "busybox:1.36");
  assert.equal(pullReference("host:5000/busybox", "1"), "host:5000/busybox:1");
  assert.equal(pullReference("busybox", "sha256:abc"), "busybox@sha256:abc");
  assert.equal(pullReference("busybox:1", ""), "busybox:1");
});
