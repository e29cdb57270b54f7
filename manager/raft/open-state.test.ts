/** A member's folders as older programs, newer ones and killed ones leave them. */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { crc32 } from "node:zlib";
import { ClassicLevel } from "classic-level";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { EntryKind } from "./core/messages.ts";
import { EntryEncoder } from "./entry-codec.ts";
import { LevelCheckpoints } from "./level-checkpoints.ts";
import { type OpenedState, openState, type StartMode } from "./open-state.ts";
import { SEGMENT_HEADER_BYTES } from "./wal-format.ts";

const SELF = { raftId: 7, nodeId: "n7", addr: "127.0.0.1:1", isLearner: false };
const META = { index: 2, term: 1, config: [SELF], configIndex: 1 };

interface Root {
  readonly raft: string;
  readonly state: string;
}

/** Opens, hands over what was found, closes. */
async function open(
  root: Root,
  look: (opened: OpenedState) => Promise<void> | void,
  as: { readonly raftId?: number; readonly mode?: StartMode } = {},
): Promise<void> {
  const { disk, random } = realEnv;
  const checkpoints = await LevelCheckpoints.open({ folder: root.state, encryptionKey: undefined, random });
  try {
    const opened = await openState({
      disk,
      random,
      log: silentLogger,
      folder: root.raft,
      identity: { clusterId: "c", nodeId: SELF.nodeId, raftId: as.raftId ?? SELF.raftId },
      encryptionKey: undefined,
      segmentBytes: 64 * 1024,
      checkpoints,
      encoder: new EntryEncoder(),
      mode: as.mode ?? { kind: "bootstrap", members: [SELF] },
    });
    try {
      await look(opened);
    } finally {
      await opened.wal.close();
    }
  } finally {
    await checkpoints.close();
  }
}

/** Changes the checkpoint behind its back. */
async function withLevel(root: Root, work: (db: ClassicLevel) => Promise<void>): Promise<void> {
  const db = new ClassicLevel(root.state);
  await work(db);
  await db.close();
}

function newRoot(t: TestContext): Root {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-open-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return { raft: path.join(folder, "raft"), state: path.join(folder, "state") };
}

/** A member with a checkpoint at 2 and entry 3 in its log, all of the first versions: none is named but in the log. */
async function oldRoot(t: TestContext): Promise<Root> {
  const root = newRoot(t);
  await open(root, async ({ wal }) => {
    const entries = [1, 2, 3].map((index) => {
      return { index, term: 1, kind: EntryKind.normal, payload: Buffer.from(`entry ${index}`) };
    });
    await wal.append({ hardState: { term: 1, vote: 7, commit: 3 }, base: undefined, entries });
  });
  await withLevel(root, async (db) => {
    await db.clear();
    await db.put("m", JSON.stringify({ ...META, generation: 0 }));
    await db.put("s000000000000/node/a", "first");
    await db.put("s000000000000/node/b", "second");
  });
  writeFileSync(path.join(root.raft, "CURRENT"), JSON.stringify({ walNumber: 1, isRecovering: false }));
  return root;
}

function found(opened: OpenedState): string {
  const state = opened.state.map(([key, value]) => `${key}=${Buffer.from(value).toString()}`).join(" ");
  const { entries, isRecovering } = opened.restored;
  return `${opened.checkpointIndex} ${state} ${entries.at(-1)?.index} ${isRecovering}`;
}

const WHOLE = "2 node/a=first node/b=second 3 false";

test("a checkpoint of the first version is taken as it is, and has a digest from then on", async (t) => {
  const root = await oldRoot(t);
  await open(root, (opened) => assert.equal(found(opened), WHOLE));
  await open(root, (opened) => assert.equal(found(opened), WHOLE));
  await withLevel(root, (db) => db.put("s000000000000/node/b", "changed"));
  await open(root, (opened) => {
    assert.deepEqual(opened.state, [], "what was changed behind its back is found now");
    assert.equal(opened.restored.isRecovering, true);
  });
});

test("a checkpoint whose version says that there is a digest must have one", async (t) => {
  const root = await oldRoot(t);
  await withLevel(root, (db) => db.put("m", JSON.stringify({ version: 2, ...META, generation: 0 })));
  await open(root, (opened) => assert.equal(opened.restored.isRecovering, true));
});

test("what a newer program wrote is refused by its version and left as it is", async (t) => {
  const root = await oldRoot(t);
  await withLevel(root, (db) => db.put("m", JSON.stringify({ version: 3, unheardOf: true })));
  const nothing = (): void => undefined;
  const newer = (want: number, got: number): RegExp =>
    new RegExp(`Cannot read .*: want format version ${want} or lower, got ${got}: a newer program wrote it`);
  await assert.rejects(open(root, nothing), newer(2, 3));
  await withLevel(root, async (db) => {
    assert.equal(await db.get("m"), '{"version":3,"unheardOf":true}');
    assert.equal(await db.get("s000000000000/node/a"), "first");
    await db.put("m", JSON.stringify({ ...META, generation: 0 }));
  });

  const current = path.join(root.raft, "CURRENT");
  writeFileSync(current, '{"version":2,"segments":[]}');
  await assert.rejects(open(root, nothing), newer(1, 2));
  assert.equal(readFileSync(current, "utf8"), '{"version":2,"segments":[]}');
  writeFileSync(current, JSON.stringify({ walNumber: 1, isRecovering: false }));

  const log = path.join(root.raft, "wal-1");
  const segment = path.join(log, readdirSync(log).find((name) => name.endsWith(".wal")) ?? "");
  const bytes = readFileSync(segment);
  const setVersion = (version: number): void => {
    bytes.writeUInt16LE(version, 8);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4)), SEGMENT_HEADER_BYTES - 4);
    writeFileSync(segment, bytes);
  };
  setVersion(9);
  await assert.rejects(open(root, nothing), newer(1, 9));
  setVersion(1);
  await open(root, (opened) => assert.equal(found(opened), WHOLE));
});

/** Puts a wrong byte where `text` stands in the log. */
function damage(root: Root, text: string): void {
  const log = path.join(root.raft, "wal-1");
  for (const name of readdirSync(log)) {
    const file = path.join(log, name);
    const bytes = readFileSync(file);
    const offset = bytes.indexOf(text);
    if (offset === -1) continue;
    bytes.writeUInt8(bytes.readUInt8(offset) ^ 1, offset);
    writeFileSync(file, bytes);
    return;
  }
  assert.fail(`the log holds "${text}"`);
}

test("a damaged log's entries behind the checkpoint are not committed: they may be what was replaced", async (t) => {
  const root = await oldRoot(t);
  await open(root, async ({ wal }) => {
    const replacement = { index: 3, term: 2, kind: EntryKind.normal, payload: Buffer.from("replacement") };
    await wal.append({ hardState: { term: 2, vote: 0, commit: 2 }, base: undefined, entries: [replacement] });
    await wal.append({ hardState: { term: 2, vote: 0, commit: 3 }, base: undefined, entries: [] });
  });
  damage(root, "replacement");
  const look = ({ restored }: OpenedState): void => {
    const { applied, entries, hardState, isRecovering } = restored;
    assert.deepEqual(
      entries.map(({ index, term }) => [index, term]),
      [
        [1, 1],
        [2, 1],
        [3, 1],
      ],
      "entry 3 is the one of before",
    );
    assert.deepEqual([applied, hardState, isRecovering], [2, { term: 2, vote: 0, commit: 2 }, true]);
  };
  await open(root, look);
  await open(root, look, { mode: { kind: "restart" } });
});

test("a damaged CURRENT is told by its path", async (t) => {
  const root = await oldRoot(t);
  writeFileSync(path.join(root.raft, "CURRENT"), '{"walNumb');
  await assert.rejects(
    open(root, () => undefined),
    /Cannot open the raft state: ".*CURRENT" is damaged/,
  );
});

test("what a killed process left half-made is removed at the next start", async (t) => {
  const root = await oldRoot(t);
  const torn = path.join(root.raft, "CURRENT.4711.tmp");
  writeFileSync(torn, '{"walNu');
  const rebuilt = path.join(root.raft, "wal-2");
  mkdirSync(rebuilt);
  writeFileSync(path.join(rebuilt, "000000000001.wal"), "half");
  await open(root, (opened) => assert.equal(found(opened), WHOLE));
  assert.deepEqual([existsSync(torn), existsSync(rebuilt)], [false, false]);
});

test("a first start that was killed before it counted is begun anew, by whichever member", async (t) => {
  const root = newRoot(t);
  await open(root, () => undefined, { raftId: 5 });
  rmSync(path.join(root.raft, "CURRENT"));
  await open(root, (opened) => {
    assert.equal(opened.restored.entries.length, 0);
    assert.deepEqual(opened.restored.base.config, [SELF]);
  });
});

test("a member that joins knows whom to answer to also if it is killed before it has heard anything", async (t) => {
  const root = newRoot(t);
  const peer = { raftId: 1, nodeId: "n1", addr: "127.0.0.1:9", isLearner: false };
  await open(root, () => undefined, { mode: { kind: "join", peers: [peer] } });
  await open(root, (opened) => assert.deepEqual(opened.peers, [peer]), { mode: { kind: "restart" } });
});

test("no new cluster is forced of a member that has nothing of the old one left", async (t) => {
  const root = await oldRoot(t);
  const forced: StartMode = { kind: "forceNewCluster", addr: "127.0.0.1:2", formerRaftId: SELF.raftId };
  await withLevel(root, (db) => db.clear());
  rmSync(path.join(root.raft, "wal-1"), { recursive: true });
  await assert.rejects(
    open(root, () => undefined, { mode: forced }),
    /Cannot force a new cluster: ".*raft" must hold the cluster's state, got nothing of use \(the state is missing\)/,
  );
  const fresh = newRoot(t);
  await open(fresh, () => undefined, { mode: { kind: "join", peers: [SELF] } });
  await assert.rejects(
    open(fresh, () => undefined, { mode: forced }),
    /got nothing of use \(nothing has arrived here yet\)/,
  );
});

test("a new cluster is forced of what a member has: a learner too, and one whose log ends early", async (t) => {
  const root = await oldRoot(t);
  const learner = { ...META, config: [{ ...SELF, isLearner: true }], generation: 0 };
  await withLevel(root, (db) => db.put("m", JSON.stringify(learner)));
  const mode: StartMode = { kind: "forceNewCluster", addr: "127.0.0.1:2", formerRaftId: SELF.raftId };
  const look = (opened: OpenedState): void => {
    assert.equal(opened.state.length, 2);
    const last = opened.restored.entries.at(-1);
    assert.deepEqual(JSON.parse(Buffer.from(last?.payload ?? []).toString()), [
      { ...SELF, addr: "127.0.0.1:2" },
    ]);
  };
  await open(root, look, { mode });
  // The process was killed before it answered: what was forced stays.
  await open(root, look, { mode: { kind: "restart" } });
});

test("a checkpoint from before the snapshot that the log begins with is not gone on from", async (t) => {
  const root = await oldRoot(t);
  await open(root, ({ wal }) =>
    wal.append({ hardState: undefined, base: { index: 5, term: 1 }, entries: [] }),
  );
  await open(root, ({ restored }) => assert.equal(restored.isRecovering, true));
});

test("a member whose log is gone doesn't go on from its checkpoint as if it had acknowledged no more", async (t) => {
  const root = await oldRoot(t);
  rmSync(path.join(root.raft, "wal-1"), { recursive: true });
  await open(root, ({ restored }) => assert.equal(restored.isRecovering, true));
  await open(root, ({ restored }) => assert.equal(restored.isRecovering, true));
});

test("a new cluster that is forced of a checkpoint alone begins with a term after the checkpoint's", async (t) => {
  const root = await oldRoot(t);
  await withLevel(root, (db) => db.put("m", JSON.stringify({ ...META, term: 7, generation: 0 })));
  rmSync(path.join(root.raft, "wal-1"), { recursive: true });
  const mode: StartMode = { kind: "forceNewCluster", addr: "127.0.0.1:2", formerRaftId: SELF.raftId };
  const look = ({ restored }: OpenedState): void => {
    assert.deepEqual([restored.hardState.term, restored.entries.at(-1)?.term], [8, 8]);
  };
  await open(root, look, { mode });
});
