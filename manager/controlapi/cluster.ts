/** Updating the cluster: spec, join tokens, unlock key. A plan of a transaction. */
import type { Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { UpdateClusterOptions } from "../../model/cluster-control.ts";
import type { Cluster } from "../../model/objects.ts";
import { wantsNewRoot } from "../ca/root-rotation.ts";
import { createJoinToken } from "../ca/join-tokens.ts";
import type { ClusterSpec } from "../../model/specs.ts";
import { newUnlockKey } from "../member-file.ts";
import type { Transaction } from "../store/store.ts";
import { clusterOf } from "../ca/authority.ts";
import { checkVersion } from "./lookup.ts";
import { checkClusterSpec } from "./validate/other-specs.ts";

export interface UpdateClusterPlan extends Omit<UpdateClusterOptions, "spec"> {
  readonly spec: unknown;
  readonly random: Pick<Random, "bytes">;
  /** Made for exactly this state of the root, when the spec asks for another one. */
  readonly rotation?: Pick<Cluster, "rootCa" | "tlsInfo"> | undefined;
}

export function updateCluster(tx: Transaction, plan: UpdateClusterPlan): undefined {
  const cluster = clusterOf(tx);
  checkVersion(cluster, plan.version);
  const spec = checkClusterSpec(plan.spec, cluster.spec);
  const wantsRotation = wantsNewRoot(cluster, spec);
  if (wantsRotation && plan.rotation === undefined) {
    throw new ClusterError("conflict", "The root was changed by someone else meanwhile", { retryable: true });
  }
  tx.update("cluster", {
    ...cluster,
    ...(wantsRotation ? plan.rotation : { rootCa: { ...cluster.rootCa, joinTokens: tokens(cluster, plan) } }),
    spec: withoutSigningKey(spec),
    unlockKey: unlockKey({ ...cluster, spec }, plan),
  });
  return undefined;
}

/** The key is in rootCa, which no client is shown. */
function withoutSigningKey(spec: ClusterSpec): ClusterSpec {
  if (spec.CAConfig === undefined) return spec;
  const { SigningCAKey: _key, SigningCACert: _cert, ...rest } = spec.CAConfig;
  return { ...spec, CAConfig: rest };
}

function tokens(cluster: Cluster, plan: UpdateClusterPlan): Cluster["rootCa"]["joinTokens"] {
  const { joinTokens, digest } = cluster.rootCa;
  const fresh = (): string => createJoinToken(digest.replace(/^sha256:/, ""), plan.random);
  return {
    worker: plan.rotateWorkerToken ? fresh() : joinTokens.worker,
    manager: plan.rotateManagerToken ? fresh() : joinTokens.manager,
  };
}

/** Managers seal their disks' key by it when they see it; see autolock.ts. */
function unlockKey(cluster: Cluster, plan: UpdateClusterPlan): string {
  if (cluster.spec.EncryptionConfig?.AutoLockManagers !== true) return "";
  if (cluster.unlockKey !== "" && !plan.rotateManagerUnlockKey) return cluster.unlockKey;
  return newUnlockKey(plan.random);
}
