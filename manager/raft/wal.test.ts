/** The log on disk, against crashes and damage of every kind, on a disk in memory. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { FakeDisk } from "../../common/testing/fake-disk.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { type Entry, EntryKind } from "./core/messages.ts";
import { readVote } from "./vote-file.ts";
import { Wal, type WalOptions } from "./wal.ts";
import { type CheckedRecord, checkRecord, encodeRecord, SEGMENT_HEADER_BYTES } from "./wal-format.ts";
import { recoverWal } from "./wal-recovery.ts";

const IDENTITY = { clusterId: "c1", nodeId: "n1", raftId: 7 };
const HARD = { term: 3, vote: 2, commit: 0 };

function entry(index: number, term: number, bytes = 40): Entry {
  return { index, term, kind: EntryKind.normal, payload: Buffer.alloc(bytes, index) };
}

function setUp(
  seed = 1,
  extra: Partial<WalOptions> = {},
): { readonly disk: FakeDisk; readonly options: WalOptions } {
  const random = new SeededRandom(seed);
  const disk = new FakeDisk(new FakeClock(), random);
  const options = {
    disk,
    random,
    folder: "/wal",
    identity: IDENTITY,
    encryptionKey: undefined,
    segmentBytes: 2048,
  };
  return { disk, options: { ...options, ...extra } };
}

async function fill(options: WalOptions, count: number): Promise<Wal> {
  const { wal } = await Wal.open(options);
  await wal.append({ hardState: HARD, base: { index: 0, term: 0 }, entries: [] });
  for (let index = 1; index <= count; index += 1) {
    await wal.append({ hardState: undefined, base: undefined, entries: [entry(index, 1)] });
  }
  return wal;
}

function offsets(bytes: Uint8Array): number[] {
  const buffer = Buffer.from(bytes);
  const found: number[] = [];
  let offset = SEGMENT_HEADER_BYTES;
  while (offset + 16 <= buffer.byteLength && buffer.readUInt32LE(offset) !== 0) {
    found.push(offset);
    offset += Math.ceil((16 + buffer.readUInt32LE(offset)) / 8) * 8;
  }
  return found;
}

test("Wal gives back over many segments what was appended, and goes on behind it", async () => {
  const { options } = setUp();
  await (await fill(options, 60)).close();
  const { recovered, wal } = await Wal.open(options);
  assert.equal(recovered.corruption, undefined);
  assert.ok(recovered.segments.length > 2);
  assert.deepEqual(recovered.hardState, HARD);
  assert.deepEqual(
    recovered.entries.map((each) => each.index),
    Array.from({ length: 60 }, (_, at) => at + 1),
  );
  await wal.append({ hardState: undefined, base: undefined, entries: [entry(61, 1)] });
  await wal.close();
  assert.equal((await recoverWal(options.disk, "/wal", options)).entries.length, 61);
});

test("Wal replays overwrites in the order in which they were written", async () => {
  const { options } = setUp();
  const wal = await fill(options, 5);
  await wal.append({ hardState: undefined, base: undefined, entries: [entry(3, 2), entry(4, 2)] });
  await wal.append({ hardState: undefined, base: undefined, entries: [entry(4, 3)] });
  await wal.close();
  const { entries } = await recoverWal(options.disk, "/wal", options);
  assert.deepEqual(
    entries.map((each) => each.term),
    [1, 1, 2, 3],
  );
});

test("Wal uses compacted segments again, and never takes their old content for new", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 1);
  for (let index = 2; index <= 400; index += 1) {
    await wal.append({ hardState: undefined, base: undefined, entries: [entry(index, 1, (index * 7) % 90)] });
    if (index % 10 === 0) await wal.compact(index - 5);
    if (index % 13 === 0)
      assert.equal((await recoverWal(disk, "/wal", options)).corruption, undefined, `${index}`);
  }
  assert.ok(disk.usedBytes < 6 * 2048, `${disk.usedBytes} bytes`);
  const { entries, hardState } = await recoverWal(disk, "/wal", options);
  assert.equal(entries.at(-1)?.index, 400);
  assert.deepEqual(hardState, HARD, "the vote outlives the segment that it was written to");
});

test("Wal cuts a torn tail and keeps what was durable, whatever a crash leaves of the last write", async () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const { disk, options } = setUp(seed);
    const wal = await fill(options, 10);
    disk.faults.isStalled = true;
    const big = Array.from({ length: 12 }, (_, at) => entry(11 + at, 1, 90));
    wal.append({ hardState: { ...HARD, term: 4 }, base: undefined, entries: big }).catch(() => undefined);
    await new Promise((resolve) => setImmediate(resolve));
    disk.crash();
    disk.faults.isStalled = false;
    const { recovered, wal: again } = await Wal.open(options);
    assert.equal(recovered.corruption, undefined, `seed ${seed}`);
    const last = recovered.entries.at(-1)?.index;
    assert.ok(last === 10 || last === 22, `seed ${seed}: ${last}`);
    await again.append({ hardState: undefined, base: undefined, entries: [entry((last ?? 0) + 1, 4)] });
    const after = await recoverWal(disk, "/wal", options);
    assert.deepEqual([after.corruption, after.entries.at(-1)?.index], [undefined, (last ?? 0) + 1]);
  }
});

test("Wal never cuts at damage with valid records behind it, and still knows the newest vote", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 6);
  await wal.append({ hardState: { term: 9, vote: 5, commit: 3 }, base: undefined, entries: [] });
  await wal.close();
  const [path = ""] = disk.paths();
  disk.rot(path, (offsets(disk.peek(path))[3] ?? 0) + 40, 2);
  const { recovered } = await Wal.open(options);
  assert.match(recovered.corruption ?? "", /is damaged at byte/);
  assert.deepEqual(
    recovered.entries.map((each) => each.index),
    [1, 2],
  );
  assert.deepEqual(recovered.hardState, { term: 9, vote: 5, commit: 3 });
});

test("Wal finds a flipped bit anywhere but in its last record", async () => {
  const { options } = setUp();
  await (await fill(options, 30)).close();
  const healthy = options.disk as FakeDisk;
  const paths = healthy.paths().filter((path) => path.endsWith(".wal"));
  await fc.assert(
    fc.asyncProperty(fc.nat(paths.length - 1), fc.nat(2047), fc.nat(7), async (segment, offset, bit) => {
      const path = paths[segment] ?? "";
      const bytes = healthy.peek(path);
      const records = offsets(bytes);
      const isLast = segment === paths.length - 1;
      fc.pre(offset < bytes.byteLength && (!isLast || offset < (records.at(-1) ?? 0)));
      const before = await recoverWal(healthy, "/wal", options);
      healthy.rot(path, offset, bit);
      const after = await recoverWal(healthy, "/wal", options).catch(() => undefined);
      healthy.rot(path, offset, bit);
      // Either it is noticed, or it hit a byte that means nothing (padding, the unused end of a full segment).
      const isSame = after?.entries.length === before.entries.length;
      assert.ok(after === undefined || after.corruption !== undefined || isSame);
      if (isSame && after?.corruption === undefined) {
        assert.deepEqual(
          after?.entries.map((each) => Buffer.from(each.payload).toString("hex")),
          before.entries.map((each) => Buffer.from(each.payload).toString("hex")),
        );
      }
    }),
    { numRuns: 300 },
  );
});

test("Wal that was sealed finds damage in its last entry, and nothing is lost if the seal itself is damaged", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 6);
  await wal.seal();
  await wal.seal();
  await wal.close();
  const [path = ""] = disk.paths();
  const records = offsets(disk.peek(path));
  assert.equal(records.length, 8, "one for the start, six entries, one seal");
  const recovered = async (offset: number): Promise<readonly [boolean, number, boolean]> => {
    disk.rot(path, offset, 3);
    const { corruption, entries, isTailCut } = await recoverWal(disk, "/wal", options);
    disk.rot(path, offset, 3);
    return [corruption !== undefined, entries.length, isTailCut];
  };
  const [last = 0, seal = 0] = records.slice(-2);
  assert.deepEqual(await recovered(last + 40), [true, 5, false], "an entry is missed");
  assert.deepEqual(await recovered(seal + 16), [false, 6, true], "the seal is not");
  const { wal: again } = await Wal.open(options);
  await again.append({ hardState: undefined, base: undefined, entries: [entry(7, 1)] });
  assert.equal((await recoverWal(disk, "/wal", options)).entries.length, 7);
});

test("Wal that was sealed knows the vote even if the record that brought it is damaged", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 3);
  const voted = { term: 9, vote: 1, commit: 2 };
  await wal.append({ hardState: voted, base: undefined, entries: [] });
  await wal.seal();
  await wal.close();
  const [path = ""] = disk.paths();
  disk.rot(path, (offsets(disk.peek(path)).at(-2) ?? 0) + 20, 3);
  const { corruption, hardState } = await recoverWal(disk, "/wal", options);
  assert.match(corruption ?? "", /is damaged at byte/);
  assert.deepEqual(hardState, voted);
});

test("Wal knows the newest vote wherever one byte of it is damaged, or its file cut short", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 25);
  const voted = { term: 9, vote: 1, commit: 2 };
  await wal.append({ hardState: voted, base: undefined, entries: [] });
  await wal.append({ hardState: undefined, base: undefined, entries: [entry(26, 1)] });
  await wal.close();
  const path = disk.paths().findLast((each) => each.endsWith(".wal")) ?? "";
  const known = async (): Promise<readonly [number, number]> => {
    const { hardState } = await recoverWal(disk, "/wal", options);
    return [hardState.term, hardState.vote];
  };
  const records = offsets(disk.peek(path));
  assert.ok(records.length > 3, "the vote and what follows it are in the last segment, behind other records");
  for (const offset of [40, (records.at(-2) ?? 0) + 20, (records.at(-1) ?? 0) + 20]) {
    disk.rot(path, offset, 3);
    assert.deepEqual(await known(), [9, 1], `byte ${offset}`);
    disk.rot(path, offset, 3);
  }
  for (let offset = 0; offset < 1024; offset += 4) {
    disk.rot("/wal/VOTE", offset, 3);
    assert.deepEqual(await known(), [9, 1], `byte ${offset} of the other copy`);
    disk.rot("/wal/VOTE", offset, 3);
  }
  const file = await disk.open(path);
  await file.truncate(SEGMENT_HEADER_BYTES);
  await file.close();
  assert.deepEqual(await known(), [9, 1], "cut short");
  await disk.remove(path);
  assert.deepEqual(await known(), [9, 1], "gone");
});

test("Wal notes a vote again where its second copy is missing, damaged or another member's", async () => {
  const { disk, options } = setUp();
  await (await fill(options, 2)).close();
  const noted = async (): Promise<unknown> => readVote(disk, "/wal", IDENTITY.raftId);
  const goOn = async (index: number): Promise<void> => {
    const { wal } = await Wal.open(options);
    await wal.append({ hardState: undefined, base: undefined, entries: [entry(index, 1)] });
    await wal.close();
  };
  assert.deepEqual(await noted(), { term: 3, vote: 2 });
  assert.equal(await readVote(disk, "/wal", 8), undefined);
  disk.rot("/wal/VOTE", 9, 0);
  assert.equal(await noted(), undefined);
  await goOn(3);
  assert.deepEqual(await noted(), { term: 3, vote: 2 });
  await disk.remove("/wal/VOTE");
  await goOn(4);
  assert.deepEqual(await noted(), { term: 3, vote: 2 });
});

test("Wal on a full disk still notes a vote, in the log and in its second copy", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 1);
  await new Promise((resolve) => setImmediate(resolve));
  disk.faults.capacityBytes = disk.usedBytes;
  for (let term = 4; term < 9; term += 1)
    await wal.append({ hardState: { term, vote: 1, commit: 0 }, base: undefined, entries: [] });
  assert.deepEqual(await readVote(disk, "/wal", IDENTITY.raftId), { term: 8, vote: 1 });
  await wal.close();
});

test("Wal takes a file that was cut short for damaged, not for torn", async () => {
  const { disk, options } = setUp();
  await (await fill(options, 6)).close();
  const [path = ""] = disk.paths();
  const records = offsets(disk.peek(path));
  const file = await disk.open(path);
  await file.truncate(records.at(-1) ?? 0);
  await file.close();
  const { corruption, entries } = await recoverWal(disk, "/wal", options);
  assert.match(corruption ?? "", /has \d+ of 2048 bytes/);
  assert.equal(entries.length, 5);
});

test("Wal refuses a missing segment", async () => {
  const { disk, options } = setUp();
  await (await fill(options, 60)).close();
  await disk.remove(disk.paths()[1] ?? "");
  const { corruption } = await recoverWal(disk, "/wal", options);
  assert.match(corruption ?? "", /a segment before .* is missing/);
});

test("Wal of another cluster or member is refused", async () => {
  const { options } = setUp();
  await (await fill(options, 3)).close();
  const other = { ...options, identity: { ...IDENTITY, raftId: 8 } };
  await assert.rejects(Wal.open(other), /want cluster "c1" member 8, got cluster "c1" member 7/);
});

test("Wal on a full disk rejects with ENOSPC, loses nothing, and goes on when there is room", async () => {
  const { disk, options } = setUp();
  const wal = await fill(options, 1);
  await new Promise((resolve) => setImmediate(resolve));
  disk.faults.capacityBytes = disk.usedBytes;
  let index = 2;
  const append = (): Promise<void> =>
    wal.append({ hardState: undefined, base: undefined, entries: [entry(index, 1)] });
  await assert.rejects(async () => {
    for (; index < 200; index += 1) await append();
  }, /ENOSPC/);
  await assert.rejects(append(), /ENOSPC/);
  disk.faults.capacityBytes = Number.MAX_SAFE_INTEGER;
  await append();
  const { corruption, entries } = await recoverWal(disk, "/wal", options);
  assert.deepEqual([corruption, entries.at(-1)?.index], [undefined, index]);
});

test("Wal that is encrypted shows nothing of its entries and opens only with its key", async () => {
  const encryptionKey = new Uint8Array(32).fill(7);
  const { disk, options } = setUp(1, { encryptionKey });
  const { wal } = await Wal.open(options);
  const secret = Buffer.from("a very secret payload");
  await wal.append({ hardState: HARD, base: undefined, entries: [{ ...entry(1, 1), payload: secret }] });
  await wal.close();
  for (const path of disk.paths()) assert.equal(Buffer.from(disk.peek(path)).includes(secret), false);
  const { entries } = await recoverWal(disk, "/wal", options);
  assert.equal(Buffer.from(entries[0]?.payload ?? []).toString(), secret.toString());
  const wrong = { ...options, encryptionKey: new Uint8Array(32).fill(8) };
  await assert.rejects(recoverWal(disk, "/wal", wrong), /the key does not fit/);
  await assert.rejects(recoverWal(disk, "/wal", { ...options, encryptionKey: undefined }), /got no key/);
});

test("Wal holds each record whole, whatever sizes follow each other", async () => {
  const { options } = setUp(1, { segmentBytes: 1024 * 1024 });
  const { wal } = await Wal.open(options);
  const sizes = [40, 200_000, 1, 60_000, 0, 130_000, 7];
  const written = sizes.map((bytes, at) => entry(at + 1, 1, bytes));
  for (const each of written) await wal.append({ hardState: undefined, base: undefined, entries: [each] });
  await wal.close();
  const { recovered } = await Wal.open(options);
  assert.equal(recovered.corruption, undefined);
  assert.deepEqual(recovered.entries, written);
});

test("Wal takes no bytes for a record that no program wrote, whatever their checksum is", () => {
  const keys = { seed: 5, key: undefined };
  const parts = { hardState: HARD, base: undefined, block: undefined };
  const { bytes } = encodeRecord(parts, {
    keys,
    chain: 1,
    nonce: () => new Uint8Array(12),
    room: (count) => Buffer.alloc(count),
  });
  const record = (flags: number): CheckedRecord | undefined => {
    bytes.writeUInt32LE(flags, 12);
    const body = bytes.readUInt32LE(0);
    bytes.writeUInt32LE(crc32(bytes.subarray(8, 16 + body), crc32(bytes.subarray(0, 4), keys.seed)), 4);
    return checkRecord(bytes, 0, keys.seed);
  };
  assert.equal(record(0)?.bytes, bytes.byteLength);
  assert.equal(record(1)?.bytes, bytes.byteLength);
  assert.equal(record(2), undefined);
});
