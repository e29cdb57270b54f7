/** Unit tests of mesh-addresses.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MeshAddresses } from "./mesh-addresses.ts";

test("take() starts after the node's own address and never gives one twice", () => {
  const addresses = new MeshAddresses("10.0.0.0/29");
  const taken = Array.from({ length: 5 }, (_unused, index) => addresses.take(`t${index}`, 0));
  assert.deepEqual(taken, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
  assert.throws(() => addresses.take("t6", 0), /all 5 of this node's block are in use/);
});

test("take() gives a used address again only after it has rested, the longest rested first", () => {
  const addresses = new MeshAddresses("10.0.0.0/30");
  const first = addresses.take("t1", 0);
  addresses.release(first, 1_000);
  assert.throws(() => addresses.take("t2", 5_999), /until a moment ago/);
  assert.equal(addresses.take("t2", 6_000), first);
  assert.equal(addresses.ownerOf(first), "t2");
});

test("claim() keeps an address of a task that runs already from being given away", () => {
  const addresses = new MeshAddresses("10.0.0.0/29");
  addresses.claim("10.0.0.2", "old");
  assert.equal(addresses.take("new", 0), "10.0.0.3");
});
