/**
 * Replacing the cluster's root without a moment in which nodes don't trust each other. From the start on certificates are
 * signed by the new root's key and carry its cross-signed certificate, so that nodes which know only the former root
 * trust them too; every node is told to renew and gets both roots. When the last one has, the former root is dropped.
 */
import type { Component } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import { mustRenewCertificate } from "../../model/node-role.ts";
import { type Cluster, type Node, NodeState } from "../../model/objects.ts";
import type { ClusterSpec } from "../../model/specs.ts";
import type { Store } from "../store/store.ts";
import {
  type CertificateDeps,
  certificateDigest,
  checkRoot,
  createRoot,
  crossSign,
  type KeyedCertificate,
  tlsInfoOf,
} from "./certificates.ts";
import { createJoinToken } from "./join-tokens.ts";
import { splitPem } from "../../proto/rpc-identity.ts";

/** True if the spec asks for another root than the cluster has. */
export function wantsNewRoot(cluster: Cluster, spec: ClusterSpec): boolean {
  const wanted = spec.CAConfig;
  const before = cluster.spec.CAConfig;
  const brought = (wanted?.SigningCACert ?? "").trim();
  if (brought !== "" && brought !== splitPem(cluster.rootCa.certificate)[0]?.trim()) return true;
  return (wanted?.ForceRotate ?? 0) > (before?.ForceRotate ?? 0);
}

/** Names that a text about a rotation tells; the others it counts. */
const NAMES_MAX = 5;

/** A rotation may stay open for as long as a machine is off, so who holds it open must not have to be guessed. */
function openRotation(cluster: Cluster, nodes: readonly Node[]): ClusterError {
  const late = nodes.filter((node) => mustRenewCertificate(cluster, node));
  const names = late.slice(0, NAMES_MAX).map(({ id, description, status }) => {
    const hostname = description?.Hostname ?? "";
    const isDown = status.state === NodeState.down;
    return `${hostname === "" ? id : `${hostname} (${id})`}${isDown ? ", which is down" : ""}`;
  });
  const more = late.length > NAMES_MAX ? ` and ${late.length - NAMES_MAX} more` : "";
  return new ClusterError(
    "failed_precondition",
    `Cannot rotate the root: a rotation is in progress and must end first; ${late.length} of ${nodes.length} nodes must renew their certificates yet${late.length === 0 ? "" : `: ${names.join("; ")}${more}`}. A node that does not come back can be removed`,
    { details: { nodeIds: late.map(({ id }) => id).join(",") } },
  );
}

/** The root and TLS parts of the cluster object at the start of a rotation. Throws while another is open. */
export async function beginRotation(
  { cluster, nodes }: { readonly cluster: Cluster; readonly nodes: readonly Node[] },
  spec: ClusterSpec,
  deps: CertificateDeps,
): Promise<Pick<Cluster, "rootCa" | "tlsInfo">> {
  if (cluster.rootCa.rotationInProgress === true) throw openRotation(cluster, nodes);
  const next = await nextRoot(spec, deps);
  const former: KeyedCertificate = { certificate: cluster.rootCa.certificate, key: cluster.rootCa.key };
  const digest = certificateDigest(next.certificate);
  return {
    rootCa: {
      certificate: next.certificate + former.certificate,
      key: next.key,
      digest: `sha256:${digest}`,
      joinTokens: {
        worker: createJoinToken(digest, deps.random),
        manager: createJoinToken(digest, deps.random),
      },
      rotationInProgress: true,
      crossSigned: await crossSign({ next: next.certificate, former }, deps),
    },
    tlsInfo: tlsInfoOf(next.certificate),
  };
}

function nextRoot(spec: ClusterSpec, deps: CertificateDeps): Promise<KeyedCertificate> {
  const { SigningCACert = "", SigningCAKey = "" } = spec.CAConfig ?? {};
  if (SigningCACert === "") return createRoot(deps);
  if (SigningCAKey === "") {
    throw new ClusterError(
      "invalid_argument",
      "A signing CA certificate needs its key, external CAs are not supported",
    );
  }
  return Promise.resolve(checkRoot({ certificate: SigningCACert, key: SigningCAKey }, deps.nowMs));
}

export interface RotationKeeperDeps {
  readonly store: Store;
  readonly log: Logger;
}

/** Ends a rotation when every node has a certificate of the new root. Runs on the leader. */
export class RotationKeeper implements Component {
  readonly #deps: RotationKeeperDeps;
  #cancel: (() => void) | undefined;
  #isWriting = false;

  constructor(deps: RotationKeeperDeps) {
    this.#deps = deps;
  }

  start(): void {
    const { watch } = this.#deps.store.viewAndWatch({ tables: ["cluster", "node"] }, () => this.#check());
    this.#cancel = watch.cancel;
    this.#check();
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #check(): void {
    const { store, log } = this.#deps;
    const view = store.view();
    const cluster = view.list("cluster")[0];
    if (cluster?.rootCa.rotationInProgress !== true || this.#isWriting || this.#cancel === undefined) return;
    if (view.list("node").some((node) => mustRenewCertificate(cluster, node))) return;
    this.#isWriting = true;
    store
      .update((tx) => {
        const current = tx.get("cluster", cluster.id);
        if (current?.rootCa.rotationInProgress !== true) return;
        if (tx.list("node").some((node) => mustRenewCertificate(current, node))) return;
        const { rotationInProgress: _done, crossSigned: _cross, ...rootCa } = current.rootCa;
        const certificate = splitPem(rootCa.certificate)[0] ?? rootCa.certificate;
        tx.update("cluster", { ...current, rootCa: { ...rootCa, certificate } });
        log.info("root rotation complete", { digest: rootCa.digest });
      })
      .catch((error: unknown) => log.warn("root rotation could not be ended yet", { error }))
      .finally(() => {
        this.#isWriting = false;
      });
  }
}
