import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseGuests } from "./agent-reports.ts";
import { GUEST_COUNT_MAX, GUEST_NAME_COUNT_MAX } from "./limits.ts";
import { mergeGuests } from "./node-writer.ts";

const KNOWN = [
  { containerId: "c1", networkId: "n1", names: ["web"], wanted: "", address: "10.0.1.3/24" },
  { containerId: "c1", networkId: "n2", names: ["web"], wanted: "", address: "10.0.2.3/24" },
];

describe("mergeGuests", () => {
  it("keeps the address of a container on that network, with the names of now", () => {
    const merged = mergeGuests(KNOWN, parseGuests([{ containerId: "c1", networkId: "n2", names: ["api"] }]));
    assert.deepEqual(merged, [{ ...KNOWN[1], names: ["api"] }]);
  });

  it("keeps it if it is what is asked for, and else lets go of it", () => {
    const report = { containerId: "c1", networkId: "n1", names: ["web"] };
    const [same] = mergeGuests(KNOWN, parseGuests([{ ...report, address: "10.0.1.3" }]));
    assert.deepEqual([same?.wanted, same?.address], ["10.0.1.3", "10.0.1.3/24"]);
    const [other] = mergeGuests(KNOWN, parseGuests([{ ...report, address: "10.0.1.4" }]));
    assert.deepEqual([other?.wanted, other?.address], ["10.0.1.4", ""]);
  });

  it("gives one that is new no address, and takes no more guests and names than it must", () => {
    const names = Array.from({ length: GUEST_NAME_COUNT_MAX + 1 }, (_each, index) => `name${index}`);
    const reported = Array.from({ length: GUEST_COUNT_MAX + 1 }, (_each, index) => ({
      containerId: `new${index}`,
      networkId: "n1",
      names,
    }));
    const merged = mergeGuests(KNOWN, parseGuests(reported));
    assert.equal(merged.length, GUEST_COUNT_MAX);
    assert.deepEqual(merged[0], {
      containerId: "new0",
      networkId: "n1",
      names: names.slice(0, GUEST_NAME_COUNT_MAX),
      wanted: "",
      address: "",
    });
  });
});
