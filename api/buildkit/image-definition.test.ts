import assert from "node:assert/strict";
import { test } from "node:test";
import { bk } from "../../proto/buildkit-messages.ts";
import { BRIDGE_ANSWER, imageOfInput } from "./image-definition.ts";

const IMAGE = `sha256:${"ab".repeat(32)}`;

test("BRIDGE_ANSWER carries a reference that a client can hand on as an input", () => {
  const bytes = BRIDGE_ANSWER.encode({ ref: "r1", imageId: IMAGE }).finish();
  assert.equal(bk.BridgeSolveResponse.decode(bytes).result?.ref?.id, "r1");
  const text = Buffer.from(bytes).toString("latin1");
  assert.ok(text.includes(`shoal-image://${IMAGE}`));
  const empty = BRIDGE_ANSWER.encode({ ref: "", imageId: undefined }).finish();
  assert.equal(bk.BridgeSolveResponse.decode(empty).result?.ref?.id, "");
});

test("imageOfInput() finds our image among steps, and nothing in others or in garbage", () => {
  const source = (identifier: string): Buffer =>
    Buffer.concat([
      Buffer.from([0x1a, identifier.length + 2, 0x0a, identifier.length]),
      Buffer.from(identifier),
    ]);
  const other = source("docker-image://docker.io/library/a:1");
  assert.equal(imageOfInput([other, source(`shoal-image://${IMAGE}`)]), IMAGE);
  assert.equal(imageOfInput([other]), undefined);
  assert.equal(imageOfInput([Buffer.from([0x1a, 0xff, 0x01])]), undefined);
  assert.equal(imageOfInput([]), undefined);
});
