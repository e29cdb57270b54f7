import assert from "node:assert/strict";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { compressRotated } from "../containers/log-compression.ts";
import { LOCAL_FORMAT } from "../containers/log-formats.ts";
import { LogTail, type LogPosition } from "./log-tail.ts";

/** A record as the monitor writes them. */
function record(text: string): Buffer {
  const line = Buffer.from(`${text}\n`);
  const body = Buffer.concat([Buffer.from("\x0a\x06stdout\x10\x01\x1a"), Buffer.from([line.length]), line]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body, length]);
}

async function spool(t: TestContext): Promise<string> {
  const folder = await fs.mkdtemp(path.join(tmpdir(), "shoal-tail-"));
  t.after(() => fs.rm(folder, { recursive: true }));
  return path.join(folder, "container.log");
}

/** All that there is, and where it ends. */
async function readAll(
  file: string,
  position?: LogPosition,
): Promise<{
  readonly texts: readonly string[];
  readonly end: LogPosition | undefined;
  readonly gaps: number;
}> {
  let gaps = 0;
  const tail = new LogTail({ path: file, format: LOCAL_FORMAT, position, onGap: () => gaps++ });
  const texts: string[] = [];
  let end = position;
  for (let batch = await tail.read(); batch !== undefined; batch = await tail.read()) {
    texts.push(...batch.lines.map((line) => Buffer.from(line.data).toString().trim()));
    end = batch.end;
  }
  await tail.close();
  return { texts, end, gaps };
}

test("LogTail goes on where another has ended, through rotated and compressed files", async (t) => {
  const file = await spool(t);
  await fs.writeFile(file, Buffer.concat([record("1"), record("2")]));
  const first = await readAll(file);
  assert.deepEqual(first.texts, ["1", "2"]);
  await fs.appendFile(file, record("3"));
  await fs.rename(file, `${file}.1`);
  await fs.writeFile(file, record("4"));
  await compressRotated(file);
  const { texts, gaps } = await readAll(file, first.end);
  assert.deepEqual([texts, gaps], [["3", "4"], 0]);
});

test("LogTail tells of a file that went before it was read, and begins with the oldest that is left", async (t) => {
  const file = await spool(t);
  await fs.writeFile(file, record("1"));
  const { end } = await readAll(file);
  await fs.rename(file, `${file}.2`);
  await fs.writeFile(`${file}.1`, record("3"));
  await fs.rm(`${file}.2`);
  await fs.writeFile(file, record("4"));
  const { texts, gaps } = await readAll(file, end);
  assert.deepEqual([texts, gaps], [["3", "4"], 1]);
});

test("LogTail begins at the end of a file that a loss of power has made shorter than what was sent of it", async (t) => {
  const file = await spool(t);
  await fs.writeFile(file, record("1"));
  const { end } = await readAll(file);
  assert.ok(end !== undefined);
  const tail = new LogTail({
    path: file,
    format: LOCAL_FORMAT,
    position: { ...end, offset: end.offset + 100 },
    onGap: () => assert.fail(),
  });
  assert.equal(await tail.read(), undefined);
  await fs.appendFile(file, record("2"));
  const batch = await tail.read();
  assert.deepEqual(
    batch?.lines.map((line) => Buffer.from(line.data).toString()),
    ["2\n"],
  );
  await tail.close();
});

test("LogTail waits for the rest of a record", async (t) => {
  const file = await spool(t);
  const whole = record("cut");
  await fs.writeFile(file, whole.subarray(0, 10));
  assert.deepEqual((await readAll(file)).texts, []);
  await fs.appendFile(file, whole.subarray(10));
  assert.deepEqual((await readAll(file)).texts, ["cut"]);
});
