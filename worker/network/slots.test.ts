/** Unit tests of slots.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fillSlots, SLOT_CLASSES, slotClass, slotElements } from "./slots.ts";

function keys(count: number): string[] {
  return Array.from({ length: count }, (_unused, index) => `10.0.0.${index + 1}`);
}

function shares(slots: readonly string[]): number[] {
  const counts = new Map<string, number>();
  for (const slot of slots) counts.set(slot, (counts.get(slot) ?? 0) + 1);
  return [...counts.values()];
}

test("fillSlots() fills every slot and gives shares that differ by one at most", () => {
  for (const size of SLOT_CLASSES) {
    for (let count = 1; count <= size; count += 1) {
      const counts = shares(fillSlots(keys(count), size));
      assert.equal(counts.length, count);
      assert.equal(
        counts.reduce((sum, each) => sum + each, 0),
        size,
      );
      assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `${count} in ${size}`);
    }
  }
});

test("fillSlots() depends on the endpoints alone, not on their order", () => {
  assert.deepEqual(fillSlots(keys(5).toReversed(), 16), fillSlots(keys(5), 16));
});

test("fillSlots() moves about its own share when one endpoint goes", () => {
  const before = fillSlots(keys(8), 256);
  const after = fillSlots(keys(7), 256);
  const moved = before.filter((slot, index) => slot !== after[index]).length;
  assert.ok(moved < 256 / 3, `${moved} of 256 moved`);
});

test("slotClass() keeps shares within two to one, and exact where that costs nothing", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 8, 9, 16, 32, 33].map(slotClass), [1, 1, 4, 16, 4, 16, 64, 16, 64, 256]);
});

test("slotElements() writes the slot into the key above one, and nothing for no backend", () => {
  assert.equal(slotElements("vip", "10.0.0.2", []).size, 0);
  const one = slotElements("vip", "10.0.0.2", ["10.0.0.7"]);
  assert.deepEqual([...(one.get("vip1") ?? [])], [["10.0.0.2", "10.0.0.7"]]);
  const two = slotElements("vip", "10.0.0.3", ["10.0.0.7", "10.0.0.8"]);
  assert.deepEqual(
    [...(two.get("vip4")?.keys() ?? [])],
    ["10.0.0.3 . 0", "10.0.0.3 . 1", "10.0.0.3 . 2", "10.0.0.3 . 3"],
  );
});
