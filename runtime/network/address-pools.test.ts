import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../../common/errors.ts";
import { parseAddressPool, subnetRanges } from "./address-pools.ts";
import { parseBlock } from "./addresses.ts";
import { chooseSubnet } from "./local-records.ts";

test("parseAddressPool() reads base and size in any order and refuses the rest by name", () => {
  assert.deepEqual(parseAddressPool("base=10.10.0.0/16,size=24"), { base: "10.10.0.0/16", size: 24 });
  assert.deepEqual(parseAddressPool("size=16,base=10.10.0.0/16"), { base: "10.10.0.0/16", size: 16 });
  for (const [text, wanted] of [
    ["10.10.0.0/16", /must be base=CIDR,size=BITS, got "10\.10\.0\.0\/16"/],
    ["base=10.10.0.0/16", /size must be 16 to 29/],
    ["base=10.10.0.0/16,size=8", /size must be 16 to 29/],
    ["base=10.10.0.0/16,size=30", /size must be 16 to 29/],
    ["base=10.10.0.0,size=24", /base must be an IPv4 network/],
    ["base=fd00::/8,size=24", /base must be an IPv4 network/],
    ["base=10.10.0.0/16,size=24,x=1", /must be base=CIDR,size=BITS/],
  ] as const)
    assert.throws(
      () => parseAddressPool(text),
      (error) => hasCode(error, "invalid_argument") && wanted.test(error.message),
      text,
    );
});

test("chooseSubnet() cuts from the pools that were given, one after the other, and not from Docker's own", () => {
  const ranges = subnetRanges([
    { base: "10.10.0.0/23", size: 24 },
    { base: "10.20.0.0/16", size: 28 },
  ]);
  const used: ReturnType<typeof parseBlock>[] = [];
  const next = (): string => {
    const { Subnet } = chooseSubnet(used, ranges);
    used.push(parseBlock(Subnet));
    return Subnet;
  };
  assert.deepEqual(
    [next(), next(), next(), next()],
    ["10.10.0.0/24", "10.10.1.0/24", "10.20.0.0/28", "10.20.0.16/28"],
  );
  const full = subnetRanges([{ base: "10.10.0.0/24", size: 24 }]);
  assert.throws(() => chooseSubnet([parseBlock("10.10.0.0/16")], full), /non-overlapping IPv4 address pool/);
});
