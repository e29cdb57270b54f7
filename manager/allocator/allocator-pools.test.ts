import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { parseCidr, formatCidr } from "../../common/cidr.ts";
import type { Network } from "../../model/objects.ts";
import { ADDRESS_QUARANTINE_MS } from "../limits.ts";
import { NetworkPool } from "./network-pool.ts";
import { NumberPool } from "./number-pool.ts";
import { SubnetTable } from "./subnets.ts";

describe("NumberPool", () => {
  it("goes round, keeps what was given back in quarantine, and says when that ends", () => {
    const pool = new NumberPool({ first: 1, last: 3, quarantineMs: 100 });
    assert.deepEqual([pool.take(0), pool.take(0)], [1, 2]);
    pool.release(1, 10);
    assert.deepEqual([pool.take(10), pool.take(10)], [3, undefined]);
    assert.equal(pool.nextFreeMs(109), 110);
    assert.equal(pool.take(109), undefined);
    assert.equal(pool.nextFreeMs(110), undefined, "it is free, whether or not anybody takes it");
    assert.equal(pool.take(110), 1);
  });

  it("never gives a number to two holders, whatever is reserved, taken and given back", () => {
    const command = fc.oneof(
      fc.record({ kind: fc.constant("take" as const) }),
      fc.record({ kind: fc.constant("reserve" as const), value: fc.nat(25) }),
      fc.record({ kind: fc.constant("release" as const), pick: fc.nat(30) }),
      fc.record({ kind: fc.constant("wait" as const), ms: fc.nat(80) }),
    );
    fc.assert(
      fc.property(fc.array(command, { maxLength: 120 }), (commands) => {
        const pool = new NumberPool({ first: 3, last: 18, quarantineMs: 50 });
        const held = new Set<number>();
        const freed = new Map<number, number>();
        let nowMs = 0;
        for (const each of commands) {
          if (each.kind === "wait") nowMs += each.ms;
          else if (each.kind === "release") {
            const value = [...held][each.pick % Math.max(1, held.size)];
            if (value === undefined) continue;
            pool.release(value, nowMs);
            held.delete(value);
            freed.set(value, nowMs);
          } else if (each.kind === "reserve") {
            assert.equal(pool.reserve(each.value), !held.has(each.value));
            held.add(each.value);
          } else {
            const value = pool.take(nowMs);
            const isFree = (candidate: number): boolean =>
              !held.has(candidate) && nowMs - (freed.get(candidate) ?? Number.NEGATIVE_INFINITY) >= 50;
            const free = Array.from({ length: 16 }, (_each, index) => index + 3).filter(isFree);
            // A number that was reserved again since counts as never freed.
            if (value === undefined) assert.deepEqual(free, []);
            else {
              assert(free.includes(value), `${value} of ${free.join()}`);
              held.add(value);
            }
          }
        }
      }),
    );
  });
});

describe("SubnetTable", () => {
  it("gives disjoint blocks, keeps clear of reserved ones and uses up all pools", () => {
    const table = new SubnetTable([parseCidr("10.0.0.0/28"), parseCidr("192.168.0.0/29")], 30);
    table.reserve("custom", parseCidr("10.0.0.4/31"));
    const taken = ["a", "b", "c", "d", "e"].map((holder) => table.take(holder));
    assert.deepEqual(
      taken.map((block) => block && formatCidr(block)),
      ["10.0.0.0/30", "10.0.0.8/30", "10.0.0.12/30", "192.168.0.0/30", "192.168.0.4/30"],
    );
    assert.equal(table.take("f"), undefined);
    table.release("b");
    assert.equal(formatCidr(table.take("f") ?? parseCidr("0.0.0.0/0")), "10.0.0.8/30");
    assert.equal(table.conflict(parseCidr("10.0.0.0/24"), "a") !== undefined, true);
  });
});

describe("NetworkPool", () => {
  function network(subnets: readonly { subnet: string; gateway: string }[], range?: string): Network {
    const config = subnets.map((each) => ({
      Subnet: each.subnet,
      ...(range === undefined ? {} : { IPRange: range }),
    }));
    return {
      id: "n",
      version: 1,
      createdAt: "",
      updatedAt: "",
      spec: { Name: "net", IPAM: { Config: config } },
      allocation: { vni: 4096, subnets },
    };
  }

  it("gives every host address but the gateway's, once", () => {
    const pool = new NetworkPool(network([{ subnet: "10.0.9.0/29", gateway: "10.0.9.1" }]));
    const taken = Array.from({ length: 6 }, () => pool.take(0)?.[0]);
    assert.deepEqual(taken, ["10.0.9.2", "10.0.9.3", "10.0.9.4", "10.0.9.5", "10.0.9.6", undefined]);
    assert.equal(pool.withMask("10.0.9.2"), "10.0.9.2/29");
    pool.release("10.0.9.4", 0);
    assert.equal(pool.take(ADDRESS_QUARANTINE_MS - 1), undefined);
    assert.deepEqual(pool.take(ADDRESS_QUARANTINE_MS), ["10.0.9.4"]);
  });

  it("keeps to the range that was asked for and gives one address of each family", () => {
    const ranged = new NetworkPool(
      network([{ subnet: "10.0.0.0/24", gateway: "10.0.0.1" }], "10.0.0.128/30"),
    );
    assert.deepEqual(ranged.take(0), ["10.0.0.128"]);
    const both = new NetworkPool(
      network([
        { subnet: "10.0.0.0/30", gateway: "10.0.0.1" },
        { subnet: "fd00::/64", gateway: "fd00::1" },
      ]),
    );
    assert.deepEqual(both.take(0), ["10.0.0.2", "fd00::2"]);
    assert.equal(both.take(0), undefined);
    assert.equal(both.reserve("fd00::2"), false);
  });
});
