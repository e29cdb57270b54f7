import assert from "node:assert/strict";
import { test } from "node:test";
import { guestKey, guestsByKey } from "./node-guests.ts";

test("guestKey is of the container and the network, and of nothing else", () => {
  const guest = { containerId: "c1", networkId: "n1" };
  assert.equal(guestKey({ ...guest }), guestKey(guest));
  assert.notEqual(guestKey({ ...guest, containerId: "c2" }), guestKey(guest));
  assert.notEqual(guestKey({ ...guest, networkId: "n2" }), guestKey(guest));
});

test("guestsByKey finds a container's guest of each of its networks", () => {
  const [first, second] = ["n1", "n2"].map((networkId) => ({
    containerId: "c1",
    networkId,
    names: ["web"],
    wanted: "",
    address: "",
  }));
  assert.ok(first !== undefined && second !== undefined);
  const found = guestsByKey([first, second]);
  assert.equal(found.size, 2);
  assert.equal(found.get(guestKey(second)), second);
});
