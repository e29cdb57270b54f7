/**
 * Backups of a cluster's state: one gzipped file of lines, each a key and its document, ending in a signature by the
 * cluster's root. Taken from one consistent state while the cluster runs. It holds the root's key and all secrets, so
 * whoever has the file has the cluster. Makes and reads the bytes; where they go is the caller's.
 */
import { createPublicKey, sign, verify, X509Certificate } from "node:crypto";
import { gunzipSync, gzipSync } from "node:zlib";
import type { Env } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import { newObjectId } from "../common/ids.ts";
import type { Cluster } from "../model/objects.ts";
import type { NodeAvailability } from "../model/specs.ts";
import type { NodeIdentity } from "../proto/rpc.ts";
import { certificateLifeMs } from "./ca/certificate-life.ts";
import { createRequest, issueCertificate, openIssuer } from "./ca/certificates.ts";
import type { StateEntry } from "./raft/checkpoint-store.ts";
import { splitPem } from "../proto/rpc-identity.ts";

const FORMAT = "shoal-backup";
const VERSION = 1;
/** Unpacked. 100,000 objects are about 200 MB. */
const BACKUP_BYTES_MAX = 2 ** 31 - 1;
const CLUSTER_PREFIX = "cluster/";

interface Header {
  readonly format: string;
  readonly version: number;
  readonly clusterId: string;
  /** Raft index and term of the state. */
  readonly index: number;
  readonly term: number;
  readonly takenAt: string;
}

export interface BackupState extends Pick<Header, "index" | "term" | "takenAt"> {
  readonly cluster: Cluster;
  readonly entries: Iterable<StateEntry>;
}

export interface Backup {
  readonly index: number;
  readonly term: number;
  readonly cluster: Cluster;
  readonly entries: readonly StateEntry[];
}

export function writeBackup(state: BackupState): Buffer {
  const { index, term, takenAt, cluster } = state;
  const header: Header = { format: FORMAT, version: VERSION, clusterId: cluster.id, index, term, takenAt };
  const lines = [JSON.stringify(header)];
  for (const [key, value] of state.entries) {
    lines.push(JSON.stringify([key, Buffer.from(value).toString("base64")]));
  }
  const body = Buffer.from(`${lines.join("\n")}\n`);
  const signature = sign("sha256", body, cluster.rootCa.key).toString("base64");
  return gzipSync(Buffer.concat([body, Buffer.from(JSON.stringify({ signature }))]));
}

function damaged(what: string, cause?: unknown): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Cannot restore: the file must be a whole backup of a cluster, ${what}`,
    cause === undefined ? {} : { cause },
  );
}

/** Throws invalid_argument for a file that is none, was cut or was changed. */
export function readBackup(bytes: Uint8Array): Backup {
  try {
    const text = gunzipSync(bytes, { maxOutputLength: BACKUP_BYTES_MAX });
    const end = text.lastIndexOf("\n") + 1;
    const [first = "", ...rest] = text.subarray(0, end).toString().trimEnd().split("\n");
    const header = JSON.parse(first) as Partial<Header>;
    if (header.format !== FORMAT) throw damaged("this is another kind of file");
    if (header.version !== VERSION)
      throw damaged(`its version is ${header.version}, this program reads ${VERSION}`);
    const entries = rest.map((line): StateEntry => {
      const [key, value] = JSON.parse(line) as [string, string];
      return [key, Buffer.from(value, "base64")];
    });
    const cluster = clusterIn(entries);
    const { signature } = JSON.parse(text.subarray(end).toString()) as { signature: string };
    const root = splitPem(cluster.rootCa.certificate)[0] ?? "";
    const key = createPublicKey(new X509Certificate(root).publicKey.export({ format: "pem", type: "spki" }));
    const isSigned = verify("sha256", text.subarray(0, end), key, Buffer.from(signature, "base64"));
    if (!isSigned) throw damaged("its signature does not match");
    return { index: header.index ?? 0, term: header.term ?? 0, cluster, entries };
  } catch (error) {
    throw error instanceof ClusterError ? error : damaged("it cannot be read", error);
  }
}

function clusterIn(entries: readonly StateEntry[]): Cluster {
  const found = entries.find(([key]) => key.startsWith(CLUSTER_PREFIX));
  if (found === undefined) throw damaged("it holds no cluster");
  return JSON.parse(Buffer.from(found[1]).toString()) as Cluster;
}

export interface RestoreOptions {
  readonly env: Pick<Env, "clock" | "random">;
  readonly file: Uint8Array;
  readonly availability: NodeAvailability;
}

/** What a Manager in mode "restore" starts from. */
export interface RestoredCluster {
  readonly backup: Backup;
  readonly availability: NodeAvailability;
}

/**
 * Makes this machine a new node of the backed-up cluster, its only manager. The former nodes are lost until they join
 * anew.
 */
export async function restoreCluster(
  options: RestoreOptions,
): Promise<{ readonly identity: NodeIdentity; readonly restored: RestoredCluster }> {
  const backup = readBackup(options.file);
  const { random, clock } = options.env;
  const { rootCa, id: clusterId, spec } = backup.cluster;
  const { csr, key } = await createRequest();
  const subject = { nodeId: newObjectId(random), role: "manager", clusterId } as const;
  const { certificate } = await issueCertificate({
    random,
    nowMs: clock.wallMs(),
    issuer: await openIssuer({
      certificate: splitPem(rootCa.certificate)[0] ?? rootCa.certificate,
      key: rootCa.key,
    }),
    csr,
    subject,
    lifeMs: certificateLifeMs(spec),
  });
  return {
    identity: {
      ...subject,
      certificate: certificate + (rootCa.crossSigned ?? ""),
      key,
      rootCa: rootCa.certificate,
    },
    restored: { backup, availability: options.availability },
  };
}
