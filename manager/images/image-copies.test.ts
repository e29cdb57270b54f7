import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { ImageHolder } from "../../model/objects.ts";
import { IMAGE_COPY_COUNT } from "../../model/cluster-images.ts";
import { type Keeper, planHolders } from "./image-copies.ts";

const IDLE = {
  isUsable: true,
  isMissed: false,
  isStalled: false,
  hasImage: undefined,
  keepsSibling: false,
  keptCount: 0,
};

function nodes(...keepers: readonly (Partial<Keeper> & { readonly nodeId: string })[]): Map<string, Keeper> {
  return new Map(keepers.map((keeper) => [keeper.nodeId, { ...IDLE, ...keeper }]));
}

function holder(nodeId: string, isComplete = true): ImageHolder {
  return { nodeId, isComplete };
}

function text(holders: readonly ImageHolder[]): string {
  return holders.map((each) => `${each.nodeId}${each.isComplete ? "" : "?"}`).join(" ");
}

test("planHolders() chooses nodes that have the image, then those that keep the fewest", () => {
  const all = nodes(
    { nodeId: "a" },
    { nodeId: "b", keptCount: 2 },
    { nodeId: "c", keptCount: 1 },
    { nodeId: "d", keptCount: 9, hasImage: true },
  );
  assert.equal(text(planHolders([holder("a")], all)), "a d c?");
});

test("planHolders() chooses nodes that keep another image of the repository before idle ones", () => {
  const all = nodes(
    { nodeId: "a" },
    { nodeId: "b" },
    { nodeId: "c" },
    { nodeId: "d", keepsSibling: true, keptCount: 9 },
  );
  assert.equal(text(planHolders([holder("a")], all)), "a d? b?");
});

test("planHolders() returns the same list when nothing is to be changed", () => {
  const holders = [holder("a"), holder("b"), holder("c")];
  assert.equal(planHolders(holders, nodes({ nodeId: "a" }, { nodeId: "b" }, { nodeId: "c" })), holders);
});

test("planHolders() keeps a drained node until enough others have the image", () => {
  const all = nodes({ nodeId: "a", isUsable: false }, { nodeId: "b" }, { nodeId: "c" }, { nodeId: "d" });
  const fetching = planHolders([holder("a"), holder("b"), holder("c")], all);
  assert.equal(text(fetching), "a b c d?");
  all.set("d", { ...IDLE, nodeId: "d", hasImage: true, keptCount: 1 });
  assert.equal(text(planHolders(fetching, all)), "b c d");
});

test("planHolders() waits for a node that is only just missed", () => {
  const away = { nodeId: "a", isUsable: false, isMissed: true };
  const holders = [holder("a"), holder("b"), holder("c")];
  const all = nodes(away, { nodeId: "b" }, { nodeId: "c" }, { nodeId: "d" });
  assert.equal(planHolders(holders, all), holders);
  all.set("a", { ...IDLE, ...away, isMissed: false, keptCount: 1 });
  assert.equal(text(planHolders(holders, all)), "a b c d?");
});

test("planHolders() forgets a removed node, and counts a node that lost the image as one that must fetch it", () => {
  const all = nodes({ nodeId: "b", hasImage: false }, { nodeId: "c" }, { nodeId: "d" });
  assert.equal(text(planHolders([holder("a"), holder("b"), holder("c")], all)), "b? c d?");
});

test("planHolders() asks another node beside one that stalls, and lets that one go when there are enough", () => {
  const all = nodes({ nodeId: "a" }, { nodeId: "b" }, { nodeId: "c", isStalled: true }, { nodeId: "d" });
  const holders = [holder("a"), holder("b"), holder("c", false)];
  const asked = planHolders(holders, all);
  assert.equal(text(asked), "a b c? d?");
  all.set("d", { ...IDLE, nodeId: "d", hasImage: true });
  assert.equal(text(planHolders(asked, all)), "a b d");
  all.set("c", { ...IDLE, nodeId: "c", isStalled: true, hasImage: true });
  assert.equal(text(planHolders(holders, all)), "a b c", "late is good enough");
});

test("planHolders() blames nobody while nobody can serve the image", () => {
  const all = nodes(
    { nodeId: "a", isUsable: false, isMissed: true },
    { nodeId: "b", isStalled: true },
    { nodeId: "c", isStalled: true },
    { nodeId: "d" },
  );
  const holders = [holder("a"), holder("b", false), holder("c", false)];
  assert.equal(planHolders(holders, all), holders);
});

test("planHolders() never lets go of a copy before there are enough, and settles", () => {
  const keeper = fc.record({
    isUsable: fc.boolean(),
    isMissed: fc.boolean(),
    isStalled: fc.boolean(),
    hasImage: fc.constantFrom(true, false, undefined),
    keepsSibling: fc.boolean(),
    keptCount: fc.nat(5),
  });
  fc.assert(
    fc.property(
      fc.array(keeper, { maxLength: 8 }),
      fc.array(fc.tuple(fc.nat(9), fc.boolean()), { maxLength: 6 }),
      (keepers, held) => {
        const holders = [...new Map(held).entries()].map(([index, isComplete]) =>
          holder(`n${index}`, isComplete),
        );
        const isHeld = (nodeId: string): boolean => holders.some((each) => each.nodeId === nodeId);
        const all = nodes(
          ...keepers.map((each, index) => {
            const nodeId = `n${index}`;
            return { ...each, nodeId, isStalled: each.isStalled && isHeld(nodeId) };
          }),
        );
        const planned = planHolders(holders, all);
        const safe = planned.filter((each) => each.isComplete && all.get(each.nodeId)?.isUsable === true);
        const dropped = holders.filter(
          (each) => all.has(each.nodeId) && !planned.some((other) => other.nodeId === each.nodeId),
        );
        if (dropped.length > 0) assert.ok(safe.length >= IMAGE_COPY_COUNT, "enough remain");
        const usable = [...all.values()].filter((each) => each.isUsable).length;
        const hasSource =
          safe.length > 0 || [...all.values()].some((each) => each.isUsable && each.hasImage === true);
        const stalled = planned.filter(({ isComplete, nodeId }) => {
          const node = all.get(nodeId);
          return !isComplete && node?.isStalled === true && node.isUsable && !node.isMissed;
        }).length;
        const blamed = hasSource ? stalled : 0;
        const counted = planned.filter((each) => {
          const node = all.get(each.nodeId);
          return node?.isUsable === true || node?.isMissed === true;
        }).length;
        assert.ok(counted >= Math.min(usable, IMAGE_COPY_COUNT), "enough are asked");
        assert.ok(counted - blamed >= Math.min(usable - blamed, IMAGE_COPY_COUNT), "enough do not stall");
        assert.equal(new Set(planned.map((each) => each.nodeId)).size, planned.length);
        assert.equal(planHolders(planned, all), planned, "a second look changes nothing");
      },
    ),
  );
});
