import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { NODE_IMAGE_CHARS_MAX, NODE_IMAGE_COUNT_MAX } from "./limits.ts";
import { NodeImages } from "./node-images.ts";

const WEB = "docker.io/library/web:1";
const DIGEST = `sha256:${"a".repeat(64)}`;

test("NodeImages finds nodes by any form of a name, and by digest before tag", () => {
  const images = new NodeImages();
  images.report("a", { full: true, added: [WEB, DIGEST] });
  images.report("b", { full: true, added: [WEB] });
  assert.deepEqual([...images.nodesWith("web:1")], ["a", "b"]);
  assert.deepEqual([...images.nodesWith("library/web:1")], ["a", "b"]);
  assert.deepEqual([...images.nodesWith(`web:1@${DIGEST}`)], ["a"]);
  assert.deepEqual([...images.nodesWith("web")], [], "no tag is latest");
  assert.deepEqual([...images.nodesWith("Not A Name")], []);
});

test("NodeImages applies differences to a full report only, and a full one replaces", () => {
  const images = new NodeImages();
  images.report("a", { added: ["x"] });
  assert.equal(images.of("a"), undefined, "a difference without a whole says nothing");
  images.report("a", { full: true, added: ["x", "y"] });
  images.report("a", { added: ["z"], removed: ["x", "unknown"] });
  assert.deepEqual(images.of("a"), ["y", "z"]);
  assert.equal(images.has("a", "y"), true);
  assert.equal(images.has("a", "x"), false);
  assert.equal(images.has("b", "x"), undefined);
  images.report("a", { full: true, added: [] });
  assert.deepEqual(images.of("a"), []);
  images.forget("a");
  assert.equal(images.of("a"), undefined);
});

test("NodeImages refuses more or longer names than a node may have", () => {
  const images = new NodeImages();
  const many = Array.from({ length: NODE_IMAGE_COUNT_MAX }, (_each, index) => `i${index}`);
  images.report("a", { full: true, added: many });
  images.report("a", { added: ["new"], removed: ["i0"] });
  assert.throws(
    () => images.report("a", { added: ["one more"] }),
    (error) => hasCode(error, "invalid_argument"),
  );
  assert.throws(
    () => images.report("b", { full: true, added: ["x".repeat(NODE_IMAGE_CHARS_MAX + 1)] }),
    (error) => hasCode(error, "invalid_argument"),
  );
  assert.equal(images.of("b"), undefined);
});

test("NodeImages tells listeners who has said something", () => {
  const images = new NodeImages();
  const heard: string[] = [];
  const end = images.onReport((nodeId) => heard.push(nodeId));
  images.report("a", { full: true });
  images.report("b", { full: true });
  end();
  images.report("c", { full: true });
  assert.deepEqual(heard, ["a", "b"]);
});

test("NodeImages.someWith() names a few of many nodes, and in turn all of them", () => {
  const images = new NodeImages();
  for (let index = 0; index < 40; index += 1) images.report(`n${index}`, { full: true, added: [WEB] });
  const named = new Set<string>();
  for (let round = 0; round < 5; round += 1) {
    const some = images.someWith("web:1");
    assert.equal(some.length, 16);
    assert.equal(new Set(some).size, 16);
    for (const nodeId of some) named.add(nodeId);
  }
  assert.equal(named.size, 40);
});
