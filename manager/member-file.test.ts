import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { test, type TestContext } from "node:test";
import { hasCode } from "../common/errors.ts";
import { realEnv } from "../common/real-env.ts";
import { MemberFile, newMember, newUnlockKey } from "./member-file.ts";

async function folder(context: TestContext): Promise<string> {
  const made = await mkdtemp(path.join(tmpdir(), "shoal-member-"));
  context.after(() => rm(made, { recursive: true, force: true }));
  return made;
}

test("MemberFile gives back what was written, and is not locked without an unlock key", async (t) => {
  const file = new MemberFile(realEnv, await folder(t));
  assert.equal(await file.exists(), false);
  const member = newMember(realEnv.random, "n1");
  await file.write(member, "");
  assert.equal(await file.isLocked(), false);
  const read = await file.read(undefined);
  assert.deepEqual([read.raftId, read.nodeId], [member.raftId, "n1"]);
  assert.deepEqual(Buffer.from(read.encryptionKey), Buffer.from(member.encryptionKey));
});

test("MemberFile opens only with the right unlock key, and doesn't hold the key in the clear", async (t) => {
  const where = await folder(t);
  const file = new MemberFile(realEnv, where);
  const member = newMember(realEnv.random, "n1");
  const unlockKey = newUnlockKey(realEnv.random);
  assert.match(unlockKey, /^SWMKEY-1-[A-Za-z0-9+/]{43}$/);
  await file.write(member, unlockKey);
  assert.equal(await file.isLocked(), true);
  const text = await readFile(path.join(where, "member.json"), "utf8");
  assert.ok(!text.includes(Buffer.from(member.encryptionKey).toString("base64")));
  await assert.rejects(file.read(undefined), (error) => hasCode(error, "failed_precondition"));
  await assert.rejects(file.read(newUnlockKey(realEnv.random)), (error) => {
    return hasCode(error, "permission_denied") && error.message.includes("invalid key provided");
  });
  const read = await file.read(unlockKey);
  assert.deepEqual(Buffer.from(read.encryptionKey), Buffer.from(member.encryptionKey));
});

test("newMember() draws Raft ids that are positive and safe", () => {
  for (let index = 0; index < 100; index += 1) {
    const { raftId } = newMember(realEnv.random, "n");
    assert.ok(Number.isSafeInteger(raftId) && raftId > 0, String(raftId));
  }
});

test("MemberFile refuses what a newer program wrote, naming both versions", async (t) => {
  const where = await folder(t);
  await writeFile(path.join(where, "member.json"), '{"version":2,"keys":[]}');
  const file = new MemberFile(realEnv, where);
  await assert.rejects(
    file.read(undefined),
    /want format version 1 or lower, got 2: a newer program wrote it/,
  );
});

test("MemberFile names the file that is missing or damaged", async (t) => {
  const where = await folder(t);
  const file = new MemberFile(realEnv, where);
  await assert.rejects(file.read(undefined), /"[^"]*member.json" must be there, it holds the state's key/);
  await writeFile(path.join(where, "member.json"), '{"version":1,"raftI');
  await assert.rejects(file.read(undefined), /Cannot read "[^"]*member.json": it is not a member file/);
});
