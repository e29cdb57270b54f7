import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ClusterError } from "../../../common/errors.ts";
import { tarOf } from "../testing/archives.ts";
import { TarReader } from "./tar-reader.ts";

function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  return `${rest.length + 2}${rest}`;
}

/** A file of form 1.0 that says it has `realSize` bytes: `map`, then `content`. */
function sparseTar(map: string, content: string, realSize: string): Buffer {
  const records = [
    record("GNU.sparse.major", "1"),
    record("GNU.sparse.minor", "0"),
    record("GNU.sparse.name", "holes"),
    record("GNU.sparse.realsize", realSize),
  ].join("");
  const mapBytes = Math.ceil(map.length / 512) * 512;
  const body = Buffer.concat([Buffer.from(map.padEnd(mapBytes, "\0")), Buffer.from(content)]);
  const tar = tarOf([
    { name: "pax", content: records, mode: 0 },
    { name: "x", content: body },
  ]);
  tar.write("x", 156);
  let sum = 0;
  tar.fill(" ", 148, 156);
  for (const byte of tar.subarray(0, 512)) sum += byte;
  tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return tar;
}

test("TarReader reads sparse files and refuses maps that lie", () => {
  const map = "2\n0\n3\n8\n2\n";
  const found: string[] = [];
  const sink = {
    entry: (entry: { readonly name: string; readonly size: number }): unknown =>
      found.push(`${entry.name} ${entry.size}`),
    data: (chunk: Buffer, offset: number): unknown => found.push(`${offset} ${chunk.toString()}`),
    entryEnd: (): void => {},
  };
  const reader = new TarReader(sink);
  reader.feed(sparseTar(map, "abcde", "99"));
  reader.finish();
  assert.deepEqual(found, ["holes 99", "0 abc", "8 de"]);
  const refused = (tar: Buffer, message: RegExp): void =>
    assert.throws(() => new TarReader(sink).feed(tar), message);
  refused(sparseTar(map, "abcde", "09"), /sparse map is out of order or outside/);
  refused(sparseTar("2000000\n", "", "99"), /too many holes/);
  refused(sparseTar(`3\n${"1".repeat(2000)}`, "", "99"), /"sparse map" must be a number/);
  refused(sparseTar("", "abcde", "99"), /"sparse map" must be a number/);
  refused(sparseTar("2\n0\n3\n", "", "99"), /"sparse map" must be a number/);
});

test("TarReader reads a map of very many pieces, block by block", () => {
  const count = 300_000;
  const places = Array.from({ length: count }, (_, index) => `${index * 2}\n1\n`);
  const tar = sparseTar(`${count}\n${places.join("")}`, "y".repeat(count), String(2 * count));
  const seen: number[] = [];
  const reader = new TarReader({
    entry: () => {},
    data: (_, offset) => seen.push(offset),
    entryEnd: () => {},
  });
  reader.feed(tar);
  reader.finish();
  assert.equal(seen.length, count);
  assert.ok(seen.every((offset, index) => offset === index * 2));
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
