/** Unit tests of nft-table.ts: the text of transactions, and the comparison with what the kernel has. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { elementChanges, groupsOf, NftTable, tableText } from "./nft-table.ts";
import type { Nftables } from "./nftables.ts";

const some = new Map([
  [
    "m",
    new Map([
      ["1", "a"],
      ["2", "b"],
    ]),
  ],
]);

test("elementChanges() says nothing when nothing changed", () => {
  assert.deepEqual(
    elementChanges(
      "t",
      some,
      new Map([
        [
          "m",
          new Map([
            ["2", "b"],
            ["1", "a"],
          ]),
        ],
      ]),
    ),
    [],
  );
});

test("elementChanges() replaces by deleting and adding, deletions first", () => {
  const after = new Map([
    [
      "m",
      new Map([
        ["2", "c"],
        ["3", "d"],
      ]),
    ],
  ]);
  assert.deepEqual(elementChanges("t", some, after), [
    "delete element ip t m { 1, 2 }",
    "add element ip t m { 2 : c, 3 : d }",
  ]);
});

test("elementChanges() cuts long lists into bounded statements", () => {
  const many = new Map([
    ["s", new Map(Array.from({ length: 4_001 }, (_unused, index) => [String(index), ""]))],
  ]);
  assert.equal(elementChanges("t", new Map(), many).length, 3);
});

test("tableText() replaces the table in one transaction and leaves empty sets without elements", () => {
  const text = tableText(
    {
      name: "t",
      sets: [
        ["m", "map", "type a : b;"],
        ["e", "set", "type a;"],
      ],
      chains: "chain c { }",
    },
    some,
  );
  assert.match(text, /^table ip t \{ \}\ndelete table ip t\ntable ip t \{/);
  assert.match(text, /map m \{ type a : b; elements = \{ 1 : a, 2 : b \}; \}/);
  assert.match(text, /set e \{ type a; \}/);
});

test("an element is one element, whatever it is made of", () => {
  const definition = { name: "t", sets: [["m", "map", "type x;"]], chains: "" } as const;
  for (const [key, value] of [
    ["1.2.3.4 . 80 } ; flush ruleset ; add table ip x { ", ""],
    ["1.2.3.4", "2.2.2.2, 3.3.3.3 : 4.4.4.4"],
    ["1.2.3.4\nflush ruleset", ""],
    ["tcp . 80", '"eth0'],
    ["$variable", ""],
    ["", ""],
  ] as const) {
    const elements = new Map([["m", new Map([[key, value]])]]);
    assert.throws(() => tableText(definition, elements), /Element of a packet filter must be/, key);
    assert.throws(() => elementChanges("t", new Map(), elements), /Element of a packet filter must be/, key);
  }
  for (const [key, value] of [
    ["tcp . 80 . 3", "10.0.0.1 . 8080"],
    ["02:53:0a:d2:04:01", "0x51005001"],
    ["fd00::1 . udp . 53", "fd00::2 . 53"],
    ['"br-1234*"', "10.0.0.0/24"],
  ] as const)
    assert.ok(tableText(definition, new Map([["m", new Map([[key, value]])]])).includes(`${key} : ${value}`));
});

test("audit() finds one element that is gone among very many", async () => {
  let listing = "";
  const nft = {
    run: (text: string) => {
      listing = text;
      return Promise.resolve();
    },
    runElsewhere: () => Promise.resolve(listing),
  } as unknown as Nftables;
  const table = new NftTable(nft, silentLogger);
  const addressOf = (index: number): string => `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`;
  const elements = Array.from({ length: 100_000 }, (_unused, index) => {
    const key = `${addressOf(index >> 4)} . ${index & 15}`;
    return [key, `10.200.0.${index & 255}`] as const;
  });
  const definition = { name: "t", sets: [["m", "map", "type x;"]], chains: "" } as const;
  await table.set(definition, groupsOf(new Map([["m", new Map(elements)]])));
  assert.equal(await table.audit(), true);
  listing = listing.replaceAll(`${addressOf(5_000)} . `, "10.9.9.9 . ");
  assert.equal(await table.audit(), false);
  assert.equal(await table.audit(), true, "it was put back");
});
