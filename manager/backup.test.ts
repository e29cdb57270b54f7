import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import { before, test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { hasCode } from "../common/errors.ts";
import { realEnv } from "../common/real-env.ts";
import type { Cluster } from "../model/objects.ts";
import { readBackup, writeBackup } from "./backup.ts";
import { createCluster } from "./ca/new-cluster.ts";
import { PLAIN_CLUSTER } from "./testing/plain-cluster.ts";
import type { StateEntry } from "./raft/checkpoint-store.ts";

let cluster: Cluster;
let file: Buffer;

before(async () => {
  const { newCluster } = await createCluster({ ...PLAIN_CLUSTER, env: realEnv });
  cluster = { ...newCluster.cluster, version: 1, createdAt: "", updatedAt: "" } as Cluster;
  const entries: StateEntry[] = [
    [`cluster/${cluster.id}`, Buffer.from(JSON.stringify(cluster))],
    ["secret/s", Buffer.from('{"id":"s"}')],
  ];
  file = writeBackup({ cluster, entries, index: 7, term: 2, takenAt: "" });
});

function refused(bytes: Uint8Array, text: RegExp): void {
  assert.throws(
    () => readBackup(bytes),
    (error) => hasCode(error, "invalid_argument") && text.test(error.message),
  );
}

/** The file with its text changed and, if asked, signed anew. */
function edited(change: (text: string) => string, key?: Parameters<typeof sign>[2]): Buffer {
  const text = gunzipSync(file).toString();
  const end = text.lastIndexOf("\n") + 1;
  const body = Buffer.from(change(text.slice(0, end)));
  const signature =
    key === undefined
      ? text.slice(end)
      : JSON.stringify({ signature: sign("sha256", body, key).toString("base64") });
  return gzipSync(Buffer.concat([body, Buffer.from(signature)]));
}

test("readBackup() gives back what writeBackup() was given", () => {
  const { index, term, entries, cluster: found } = readBackup(file);
  assert.deepEqual([index, term, found.id], [7, 2, cluster.id]);
  assert.deepEqual(
    entries.map(([key]) => key),
    [`cluster/${cluster.id}`, "secret/s"],
  );
});

test("readBackup() refuses a file that was cut, wherever", () => {
  for (let share = 0; share < 1; share += 0.05)
    refused(file.subarray(0, Math.floor(file.byteLength * share)), /must be a whole backup/);
  // Lines are missing, but the compression is whole.
  refused(
    edited((text) => text.slice(0, text.lastIndexOf("[") - 1)),
    /must be a whole backup/,
  );
});

test("readBackup() refuses a file that was changed, or that another cluster's root signed", () => {
  const change = (text: string): string => text.replace('"index":7', '"index":8');
  refused(edited(change), /its signature does not match/);
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  refused(edited(change, privateKey), /its signature does not match/);
  refused(
    edited((text) => text.replace("secret/s", "secret/t")),
    /its signature does not match/,
  );
});

test("readBackup() names what is no backup, and one of a newer version", () => {
  refused(Buffer.from("plain text"), /it cannot be read/);
  refused(gzipSync('{"format":"tar"}\n{}'), /this is another kind of file/);
  refused(
    edited((text) => text.replace('"version":1', '"version":2')),
    /its version is 2, this program reads 1/,
  );
  refused(gzipSync('{"format":"shoal-backup","version":1}\n{"signature":""}'), /it holds no cluster/);
});
