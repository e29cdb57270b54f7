/** The check of LevelDB's tables: each byte of one counts. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { ClassicLevel } from "classic-level";
import { findTableDamage } from "./level-tables.ts";

const KEY_COUNT = 200;

/** A database whose log was made a table by a second opening; gives the table's name. */
async function makeTable(folder: string, options: { readonly compression: boolean }): Promise<string> {
  for (const round of [1, 2]) {
    const level = new ClassicLevel<string, string>(folder, options);
    await level.open();
    for (let index = 0; index < KEY_COUNT && round === 1; index += 1)
      await level.put(`key ${index}`, `value ${index}`.repeat(10));
    await level.close();
  }
  return readdirSync(folder).find((each) => each.endsWith(".ldb")) ?? "";
}

function emptyFolder(t: TestContext): string {
  const root = mkdtempSync(path.join(tmpdir(), "shoal-tables-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  return path.join(root, "state");
}

test("damage is found at every byte of a table that means something", async (t) => {
  const folder = emptyFolder(t);
  const name = await makeTable(folder, { compression: false });
  const file = path.join(folder, name);
  const bytes = readFileSync(file);
  assert.equal(await findTableDamage(folder), undefined);
  const missed: number[] = [];
  for (let at = 0; at < bytes.length; at += at < bytes.length - 2_000 ? 97 : 1) {
    const damaged = Buffer.from(bytes);
    damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
    writeFileSync(file, damaged);
    if ((await findTableDamage(folder)) === undefined) missed.push(at);
  }
  // The footer pads its two handles with bytes that nobody reads.
  const padding = [bytes.length - 48, bytes.length - 8] as const;
  assert.deepEqual(
    missed.filter((at) => at < padding[0] || at >= padding[1] || bytes[at] !== 0),
    [],
  );
});

test("a table that was cut short is damage, one with something behind its end is not", async (t) => {
  const folder = emptyFolder(t);
  const name = await makeTable(folder, { compression: false });
  const file = path.join(folder, name);
  const bytes = readFileSync(file);
  writeFileSync(file, Buffer.concat([bytes, Buffer.from("more")]));
  assert.equal(await findTableDamage(folder), undefined);
  for (const length of [bytes.length - 1, bytes.length / 2, 10, 0]) {
    writeFileSync(file, bytes.subarray(0, length));
    assert.equal(
      await findTableDamage(folder),
      `bytes of the table "${name}" are not those that were written`,
      `${length}`,
    );
  }
});

test("tables of many manifest records are found, also behind compactions", async (t) => {
  const folder = emptyFolder(t);
  for (let round = 0; round < 12; round += 1) {
    const level = new ClassicLevel<string, string>(folder, { compression: false });
    await level.open();
    for (let index = 0; index < KEY_COUNT; index += 1)
      await level.put(`key ${index}/${round % 3}`, `${round}`);
    if (round % 5 === 4) await level.compactRange("a", "z");
    await level.close();
    assert.equal(await findTableDamage(folder), undefined);
  }
  const tables = readdirSync(folder).filter((each) => each.endsWith(".ldb"));
  for (const name of tables) {
    const file = path.join(folder, name);
    const bytes = readFileSync(file);
    writeFileSync(file, bytes.subarray(0, bytes.length / 2));
    assert.match((await findTableDamage(folder)) ?? "", new RegExp(name));
    writeFileSync(file, bytes);
  }
});

test("of compressed tables the index is checked, and an intact one is no damage", async (t) => {
  const folder = emptyFolder(t);
  const name = await makeTable(folder, { compression: true });
  assert.equal(await findTableDamage(folder), undefined);
  const file = path.join(folder, name);
  const bytes = readFileSync(file);
  // The footer is the last 48 bytes, the index before it.
  bytes.writeUInt8(bytes.readUInt8(bytes.length - 60) ^ 1, bytes.length - 60);
  writeFileSync(file, bytes);
  assert.notEqual(await findTableDamage(folder), undefined);
});

test("no database is no damage, and what LevelDB itself will refuse is left to it", async (t) => {
  const folder = emptyFolder(t);
  assert.equal(await findTableDamage(folder), undefined);
  await makeTable(folder, { compression: false });
  for (const text of ["MANIFEST-000000\n", ""]) {
    writeFileSync(path.join(folder, "CURRENT"), text);
    assert.equal(await findTableDamage(folder), undefined);
  }
});
