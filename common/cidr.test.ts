import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  formatAddress,
  formatCidr,
  holds,
  overlaps,
  parseAddress,
  parseCidr,
  subBlock,
  subBlockCount,
} from "./cidr.ts";
import { hasCode } from "./errors.ts";

describe("cidr", () => {
  it("reads and writes addresses of both families", () => {
    for (const [text, shown] of [
      ["10.0.0.1", "10.0.0.1"],
      ["255.255.255.255", "255.255.255.255"],
      ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
      ["::", "::"],
      ["::1", "::1"],
      ["fd00::", "fd00::"],
      ["::ffff:192.0.2.1", "::ffff:c000:201"],
      ["1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"],
    ] as const) {
      const address = parseAddress(text);
      assert(address !== undefined, text);
      assert.equal(formatAddress(address.family, address.value), shown);
    }
    assert.equal(parseAddress("10.0.0.256"), undefined);
  });

  it("formatAddress() is undone by parseAddress()", () => {
    const group = fc.oneof(fc.constant(0), fc.nat(0xffff));
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
        const value = groups.reduce((sum, each) => sum * 65536n + BigInt(each), 0n);
        assert.deepEqual(parseAddress(formatAddress(6, value)), { family: 6, value });
      }),
    );
  });

  it("cuts blocks and refuses what is none", () => {
    const pool = parseCidr("10.1.2.3/16");
    assert.equal(formatCidr(pool), "10.1.0.0/16");
    assert.equal(subBlockCount(pool, 24), 256);
    assert.equal(formatCidr(subBlock(pool, 24, 255) ?? pool), "10.1.255.0/24");
    assert.equal(subBlock(pool, 24, 256), undefined);
    assert.equal(subBlockCount(pool, 8), 0);
    assert.equal(overlaps(parseCidr("10.1.0.0/16"), parseCidr("10.1.255.0/24")), true);
    assert.equal(overlaps(parseCidr("10.1.0.0/16"), parseCidr("10.2.0.0/24")), false);
    for (const text of ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "x/8", "10.0.0.0/8/8x", "::/129", ""]) {
      assert.throws(
        () => parseCidr(text),
        (caught) => hasCode(caught, "invalid_argument"),
        text,
      );
    }
  });

  it("holds() is true of a block and its parts, and of nothing wider", () => {
    const whole = parseCidr("10.1.0.0/16");
    assert.equal(holds(whole, whole), true);
    assert.equal(holds(whole, parseCidr("10.1.255.0/24")), true);
    assert.equal(holds(whole, parseCidr("10.2.0.0/24")), false);
    assert.equal(holds(whole, parseCidr("10.0.0.0/8")), false);
    assert.equal(holds(whole, parseCidr("fd00::/64")), false);
  });
});
