/** Checkpoints in LevelDB against damage of its files. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { realEnv } from "../../common/real-env.ts";
import type { LoadedCheckpoint } from "./checkpoint-store.ts";
import { LevelCheckpoints } from "./level-checkpoints.ts";

/** Long enough that LevelDB's log has several blocks: it passes over the damaged one and goes on with the next. */
const PADDING = ".".repeat(2_000);
const ENCRYPTION_KEY = new Uint8Array(32).fill(5);

function setUp(t: TestContext): { readonly folder: string; readonly open: () => Promise<LevelCheckpoints> } {
  const root = mkdtempSync(path.join(tmpdir(), "shoal-checkpoints-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const folder = path.join(root, "state");
  const { random } = realEnv;
  return { folder, open: () => LevelCheckpoints.open({ folder, encryptionKey: ENCRYPTION_KEY, random }) };
}

const meta = (index: number): { index: number; term: number; config: []; configIndex: number } => ({
  index,
  term: 1,
  config: [],
  configIndex: 0,
});

/** The changes of one write: a new key, and now and then an old one less. */
function change(index: number): {
  readonly put: readonly [string, string];
  readonly removes: readonly string[];
} {
  const removes = index % 5 === 0 ? [`task/${index - 2}`] : [];
  return { put: [`task/${index}`, `value ${index}${PADDING}`], removes };
}

async function fill(checkpoints: LevelCheckpoints, count: number): Promise<void> {
  for (let index = 1; index <= count; index += 1) {
    const { put, removes } = change(index);
    await checkpoints.write(meta(index), { puts: [[put[0], Buffer.from(put[1])]], removes });
  }
}

/** What fill() leaves after so many writes. */
function stateAt(count: number): Record<string, string> {
  const state = new Map<string, string>();
  for (let index = 1; index <= count; index += 1) {
    const { put, removes } = change(index);
    state.set(...put);
    for (const key of removes) state.delete(key);
  }
  return Object.fromEntries(state);
}

function contents(loaded: LoadedCheckpoint | undefined): Record<string, string> {
  return Object.fromEntries(
    loaded?.entries.map(([key, value]) => [key, Buffer.from(value).toString()]) ?? [],
  );
}

test("LevelCheckpoints gives back what was written, also over restarts and snapshots", async (t) => {
  const { open } = setUp(t);
  let checkpoints = await open();
  await fill(checkpoints, 23);
  await checkpoints.close();
  checkpoints = await open();
  const loaded = await checkpoints.load();
  assert.equal(loaded?.meta.index, 23);
  assert.deepEqual(contents(loaded), stateAt(23));
  await checkpoints.replace(meta(40), [["node/a", Buffer.from("1")]]);
  await checkpoints.write(meta(41), { puts: [["node/b", Buffer.from("2")]], removes: [] });
  await checkpoints.close();
  checkpoints = await open();
  assert.deepEqual((await checkpoints.load())?.entries.map(([key]) => key).join(), "node/a,node/b");
  await checkpoints.close();
});

/**
 * Four opens leave three tables and a log of which the next one makes the fourth, with which a compaction begins by
 * itself.
 */
async function fillTables(open: () => Promise<LevelCheckpoints>): Promise<void> {
  for (const round of ["a", "b", "c", "d"]) {
    const checkpoints = await open();
    await checkpoints.load();
    for (let index = 1; index <= 40; index += 1)
      await checkpoints.write(meta(index), {
        puts: [[`task/${round}${index}`, Buffer.from("1")]],
        removes: [],
      });
    await checkpoints.close();
  }
}

test("LevelCheckpoints puts a damaged table aside before LevelDB works on it, which would end the process", async (t) => {
  const { folder, open } = setUp(t);
  await fillTables(open);
  const [name = "", ...others] = readdirSync(folder).filter((each) => each.endsWith(".ldb"));
  assert.equal(others.length, 2);
  // A key that is now behind all others, until the next one that is written in full.
  const bytes = readFileSync(path.join(folder, name));
  const at = bytes.indexOf("s000000000000/");
  bytes.writeUInt8(bytes.readUInt8(at) ^ 0x80, at);
  writeFileSync(path.join(folder, name), bytes);

  const checkpoints = await open();
  await assert.rejects(checkpoints.load(), {
    message:
      `Cannot load the state: bytes of the table "${name}" are not those that were written; ` +
      `it was put aside as "${folder}.damaged"`,
  });
  await checkpoints.replace(meta(50), [["node/a", Buffer.from("1")]]);
  await checkpoints.close();
});

test("a table that no manifest names, as a kill in a compaction leaves one, is no damage", async (t) => {
  const { folder, open } = setUp(t);
  await fillTables(open);
  writeFileSync(path.join(folder, "000999.ldb"), "half a ta");
  const checkpoints = await open();
  assert.equal((await checkpoints.load())?.entries.length, 160);
  await checkpoints.close();
});

test("LevelCheckpoints never gives a state that is not the one written, whichever byte is flipped", async (t) => {
  const { folder, open } = setUp(t);
  for (const kind of ["log", "ldb", "MANIFEST", "CURRENT"]) {
    for (const share of [0.1, 0.35, 0.6, 0.85]) {
      rmSync(folder, { recursive: true, force: true });
      let checkpoints = await open();
      await fill(checkpoints, 40);
      await checkpoints.close();
      // A second opening turns the log into a table.
      if (kind === "ldb") await (await open()).close();
      const name = readdirSync(folder).find((each) => each.includes(kind) && each !== "LOG") ?? "";
      const file = path.join(folder, name);
      const bytes = readFileSync(file);
      const at = Math.floor(bytes.byteLength * share);
      bytes.writeUInt8(bytes.readUInt8(at) ^ 0x10, at);
      writeFileSync(file, bytes);

      checkpoints = await open();
      const loaded = await checkpoints.load().catch((caught: unknown) => String(caught));
      // An older one is as good: the write-ahead log goes on from there, or it is seen that it doesn't reach so far back.
      if (typeof loaded === "object")
        assert.deepEqual(contents(loaded), stateAt(loaded.meta.index), `${kind} ${share}`);
      else if (loaded !== undefined) assert.match(loaded, /put aside as/, `${kind} ${share}`);
      // Whatever it was, a fetched state can be put in its place.
      await checkpoints.replace(meta(50), [["node/a", Buffer.from("1")]]);
      await checkpoints.close();
      checkpoints = await open();
      assert.equal((await checkpoints.load())?.entries.length, 1);
      await checkpoints.close();
    }
  }
});
