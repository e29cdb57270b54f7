import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as os from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { INITIAL_STATE, loadRecords, RecordFile, type ContainerRecord } from "./container-record.ts";

const RECORD: ContainerRecord = {
  id: "c1",
  name: "web",
  created: "2026-01-01T00:00:00.000000001Z",
  image: "app:1",
  imageId: "sha256:1",
  config: { Image: "app:1" },
  hostConfig: {},
  networkingConfig: null,
  mounts: [],
  state: INITIAL_STATE,
  restartCount: 0,
  isStoppedByUser: false,
  network: null,
  isNetworkOfTask: false,
};

function makeRoot(context: TestContext): string {
  const root = fs.mkdtempSync(path.join(os.tmpdir(), "shoal-records-"));
  context.after(() => fs.rmSync(root, { recursive: true }));
  return root;
}

function create(root: string, record: ContainerRecord = RECORD): { file: RecordFile; at: string } {
  const folder = path.join(root, record.id);
  fs.mkdirSync(folder);
  return { file: RecordFile.create(folder, record), at: path.join(folder, "container.json") };
}

function loadOne(root: string): ContainerRecord | undefined {
  return loadRecords(root).loaded[0]?.record;
}

test("RecordFile.change() is on disk when it returns, the last change of a field counting", (context) => {
  const root = makeRoot(context);
  const { file } = create(root);
  const running = { ...RECORD, state: { ...INITIAL_STATE, status: "running" as const, pid: 7 } };
  file.change({ state: running.state }, running);
  const renamed = { ...running, name: "web2\nwith a line" };
  file.change({ name: renamed.name }, renamed);
  assert.deepEqual(loadOne(root), renamed);
});

test("loadRecords() passes over a change that was cut short, and takes those after it", (context) => {
  const root = makeRoot(context);
  const { file, at } = create(root);
  fs.appendFileSync(at, '\n{"name":"we');
  assert.equal(loadOne(root)?.name, "web");
  file.change({ restartCount: 3 }, { ...RECORD, restartCount: 3 });
  assert.deepEqual(loadOne(root), { ...RECORD, restartCount: 3 });
});

test("loadRecords() names folders without a whole first line as broken", (context) => {
  const root = makeRoot(context);
  create(root);
  fs.mkdirSync(path.join(root, "c2"));
  fs.mkdirSync(path.join(root, "c3"));
  fs.writeFileSync(
    path.join(root, "c3/container.json"),
    JSON.stringify({ ...RECORD, id: "c3" }).slice(0, 40),
  );
  assert.deepEqual(loadRecords(root).broken, ["c2", "c3"]);
});

test("RecordFile writes the whole record anew before the file grows without end, also after a restart", (context) => {
  const root = makeRoot(context);
  const { at } = create(root);
  let record = RECORD;
  for (let count = 1; count <= 300; count++) {
    const { bytes } = loadRecords(root).loaded[0] ?? { bytes: 0 };
    record = {
      ...record,
      restartCount: count,
      state: { ...INITIAL_STATE, pid: count, error: "x".repeat(1_000) },
    };
    const { restartCount, state } = record;
    new RecordFile(path.dirname(at), bytes).change({ restartCount, state }, record);
    if (count % 10 === 0) assert.ok(fs.statSync(at).size < 70_000, `${fs.statSync(at).size} bytes`);
  }
  assert.deepEqual(loadOne(root), record);
});

test("RecordFile brings along what a full disk kept out", (context) => {
  const root = makeRoot(context);
  const { file, at } = create(root);
  const moved = `${at}.away`;
  fs.renameSync(at, moved);
  fs.mkdirSync(at);
  assert.throws(() => file.change({ name: "lost" }, { ...RECORD, name: "lost" }));
  fs.rmdirSync(at);
  fs.renameSync(moved, at);
  const record = { ...RECORD, name: "lost", restartCount: 1 };
  file.change({ restartCount: 1 }, record);
  assert.deepEqual(loadOne(root), record);
});

test("RecordFile names the folder of a disk that is full", (context) => {
  const root = makeRoot(context);
  const { file, at } = create(root);
  fs.rmSync(at);
  fs.symlinkSync("/dev/full", at);
  assert.throws(() => file.change({ restartCount: 1 }, RECORD), {
    code: "resource_exhausted",
    message: `Cannot write container: no space left on device: ${path.dirname(at)}`,
  });
});

test("RecordFile makes a lost file whole again with the change after the one that missed it", (context) => {
  const root = makeRoot(context);
  const { file, at } = create(root);
  fs.rmSync(at);
  assert.throws(() => file.change({ name: "one" }, { ...RECORD, name: "one" }), { code: "ENOENT" });
  const record = { ...RECORD, name: "one", restartCount: 2 };
  file.change({ restartCount: 2 }, record);
  assert.deepEqual(loadOne(root), record);
});
