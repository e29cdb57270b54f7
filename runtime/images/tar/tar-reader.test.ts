import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ClusterError } from "../../../common/errors.ts";
import { tarOf, type TestMember } from "../testing/archives.ts";
import { TarReader } from "./tar-reader.ts";

test("TarReader reads sparse files and refuses maps that lie", () => {
  const map = "2\n0\n3\n8\n2\n";
  const pax = (records: string): TestMember => ({ name: "pax", content: records, mode: 0 });
  const record = (key: string, value: string): string => {
    const rest = ` ${key}=${value}\n`;
    return `${rest.length + 2}${rest}`;
  };
  const body = Buffer.concat([Buffer.from(map.padEnd(512, "\0")), Buffer.from("abcde")]);
  const build = (realSize: string): Buffer => {
    const records = [
      record("GNU.sparse.major", "1"),
      record("GNU.sparse.minor", "0"),
      record("GNU.sparse.name", "holes"),
      record("GNU.sparse.realsize", realSize),
    ].join("");
    const tar = tarOf([pax(records), { name: "x", content: body }]);
    tar.write("x", 156);
    let sum = 0;
    tar.fill(" ", 148, 156);
    for (const byte of tar.subarray(0, 512)) sum += byte;
    tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    return tar;
  };
  const found: string[] = [];
  const sink = {
    entry: (entry: { readonly name: string; readonly size: number }): unknown =>
      found.push(`${entry.name} ${entry.size}`),
    data: (chunk: Buffer, offset: number): unknown => found.push(`${offset} ${chunk.toString()}`),
    entryEnd: (): void => {},
  };
  const reader = new TarReader(sink);
  reader.feed(build("99"));
  reader.finish();
  assert.deepEqual(found, ["holes 99", "0 abc", "8 de"]);
  assert.throws(() => new TarReader(sink).feed(build("09")), /sparse map is out of order or outside/);
});

test("TarReader.finish() forgives missing zeros at the end and nothing else", () => {
  const tar = tarOf([
    { name: "a", content: "first" },
    { name: "b", content: "second" },
  ]);
  const ends: number[] = [];
  const read = (length: number): void => {
    const reader = new TarReader({ entry: () => {}, data: () => {}, entryEnd: () => ends.push(length) });
    reader.feed(tar.subarray(0, length));
    reader.finish();
  };
  const contentEnd = 3 * 512 + "second".length;
  for (const length of [contentEnd, contentEnd + 1, 4 * 512, 4 * 512 + 512]) read(length);
  assert.equal(ends.length, 8);
  for (const length of [contentEnd - 1, 3 * 512 - 1, 4 * 512 + 1]) {
    assert.throws(() => read(length), /unexpected EOF/);
  }
});

test("TarReader takes or refuses any bytes, in any pieces, and writes nothing wrong", () => {
  const good = tarOf([
    { name: "a/" },
    { name: "a/b", content: "content" },
    { name: "l", type: "symlink", linkName: "a" },
    { name: "n".repeat(150), content: "x" },
  ]);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 6 }),
      fc.integer({ min: 1, max: 2000 }),
      (changes, pieceBytes) => {
        const tar = Buffer.from(good);
        for (const [at, byte] of changes) tar[at] = byte;
        const reader = new TarReader({ entry: () => {}, data: () => {}, entryEnd: () => {} });
        try {
          for (let at = 0; at < tar.length; at += pieceBytes) reader.feed(tar.subarray(at, at + pieceBytes));
          reader.finish();
        } catch (caught) {
          assert.ok(caught instanceof ClusterError);
        }
      },
    ),
  );
});
