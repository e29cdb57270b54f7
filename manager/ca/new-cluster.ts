/**
 * The first moment of a cluster: its root, ids, tokens and the first manager's certificate, made before any Raft log
 * exists. The daemon calls it at init and hands the result to the Manager, which writes it as the first transaction.
 */
import type { Env } from "../../common/env.ts";
import { newObjectId } from "../../common/ids.ts";
import type { ClusterSpec, NodeAvailability } from "../../model/specs.ts";
import type { NodeIdentity } from "../../proto/rpc.ts";
import {
  certificateDigest,
  createRequest,
  createRoot,
  issueCertificate,
  openIssuer,
  tlsInfoOf,
} from "./certificates.ts";
import { createJoinToken } from "./join-tokens.ts";
import type { Cluster } from "../../model/objects.ts";
import { newUnlockKey } from "../member-file.ts";
import { certificateLifeMs } from "./certificate-life.ts";

export interface CreateClusterOptions {
  readonly env: Pick<Env, "clock" | "random">;
  readonly spec: ClusterSpec | undefined;
  readonly availability: NodeAvailability;
  /** CIDRs; empty: 10.0.0.0/8. */
  readonly defaultAddressPool: readonly string[];
  /** 0: 24. */
  readonly subnetSize: number;
  /** 0: 4789. */
  readonly dataPathPort: number;
  readonly autoLockManagers: boolean;
}

/** What a new cluster starts with. */
export interface NewCluster {
  readonly cluster: Omit<Cluster, "version" | "createdAt" | "updatedAt">;
  readonly availability: NodeAvailability;
}

const DEFAULT_POOL = "10.0.0.0/8";
/** Apart from Docker's pools (10/8 for overlays, 172.16/12 for bridges): shared address space of RFC 6598. */
const MESH_POOL = "100.64.0.0/10";
const DEFAULT_SUBNET_SIZE = 24;
const DEFAULT_DATA_PATH_PORT = 4789;

/** Makes a cluster of one manager that exists only in what is returned. */
export async function createCluster(
  options: CreateClusterOptions,
): Promise<{ readonly identity: NodeIdentity; readonly newCluster: NewCluster }> {
  const { random, clock } = options.env;
  const deps = { random, nowMs: clock.wallMs() };
  const clusterId = newObjectId(random);
  const nodeId = newObjectId(random);
  const root = await createRoot(deps);
  const digest = certificateDigest(root.certificate);
  const { csr, key } = await createRequest();
  const spec: ClusterSpec = withAutoLock(
    { Labels: {}, ...options.spec, Name: "default" },
    options.autoLockManagers,
  );
  const subject = { nodeId, clusterId, role: "manager" } as const;
  const { certificate } = await issueCertificate({
    ...deps,
    issuer: await openIssuer(root),
    csr,
    subject,
    lifeMs: certificateLifeMs(spec),
  });
  const cluster: NewCluster["cluster"] = {
    id: clusterId,
    spec,
    rootCa: {
      certificate: root.certificate,
      key: root.key,
      digest: `sha256:${digest}`,
      joinTokens: { worker: createJoinToken(digest, random), manager: createJoinToken(digest, random) },
    },
    tlsInfo: tlsInfoOf(root.certificate),
    defaultAddressPool: options.defaultAddressPool.length === 0 ? [DEFAULT_POOL] : options.defaultAddressPool,
    subnetSize: options.subnetSize || DEFAULT_SUBNET_SIZE,
    dataPathPort: options.dataPathPort || DEFAULT_DATA_PATH_PORT,
    meshPool: MESH_POOL,
    unlockKey: options.autoLockManagers ? newUnlockKey(random) : "",
  };
  return {
    identity: { ...subject, certificate, key, rootCa: root.certificate },
    newCluster: { cluster, availability: options.availability },
  };
}

function withAutoLock(spec: ClusterSpec, autoLockManagers: boolean): ClusterSpec {
  if (!autoLockManagers) return spec;
  return { ...spec, EncryptionConfig: { ...spec.EncryptionConfig, AutoLockManagers: true } };
}
