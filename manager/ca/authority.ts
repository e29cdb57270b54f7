/**
 * The certificate authority as the leader runs it: checks tokens, creates nodes, issues and renews certificates, makes
 * new tokens. State is in the cluster object and the node objects; all that it keeps is the root that it read last.
 */
import type { Clock, Random } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { newObjectId } from "../../common/ids.ts";
import type { Logger } from "../../common/log.ts";
import { rfc3339 } from "../../common/time.ts";
import { certificateRoleOf } from "../../model/node-role.ts";
import { type Cluster, type Node, NodeState } from "../../model/objects.ts";
import type { NodeAvailability, NodeRole } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import type { shoal } from "../../proto/messages.ts";
import type { Store } from "../store/store.ts";
import { certificateLifeMs, lastCertificateEndMs } from "./certificate-life.ts";
import { issueCertificate, type Issuer, type KeyedCertificate, openIssuer } from "./certificates.ts";
import { parseJoinToken, tokensEqual } from "./join-tokens.ts";
import { splitPem } from "../../proto/rpc-identity.ts";

type Issued = shoal.v1.IssuedCertificate.$Properties;

export interface AuthorityDeps {
  readonly store: Store;
  readonly clock: Pick<Clock, "wallMs">;
  readonly random: Random;
  readonly log: Logger;
}

export interface IssueRequest {
  readonly csr: Uint8Array;
  readonly token: string;
  readonly availability: string;
  readonly addr: string;
}

/** The least that a cluster can ask for: what the leader didn't make shall soon be replaced by what it makes. */
const OWN_LIFE_MS = 3_600_000;
/** IP address or name of a host; empty where none was given. */
const ADDRESS = /^[\w.:%-]{0,255}$/;
const AVAILABILITIES: readonly string[] = ["active", "pause", "drain"];

export class Authority {
  readonly #deps: AuthorityDeps;
  #issuer: { readonly root: string; readonly opened: Promise<Issuer> } | undefined;

  constructor(deps: AuthorityDeps) {
    this.#deps = deps;
  }

  /** A machine that knows a join token becomes a node. */
  async issue(request: IssueRequest): Promise<Issued> {
    const { store, random, log } = this.#deps;
    const cluster = clusterOf(store.view());
    const role = roleOfToken(cluster, request.token);
    const availability = parseAvailability(request.availability);
    if (!ADDRESS.test(request.addr)) {
      const got = request.addr.slice(0, 80);
      throw new ClusterError("invalid_argument", `Address of a node must be without port, got "${got}"`);
    }
    const nodeId = newObjectId(random);
    const issued = await this.#sign(cluster, { nodeId, role, csr: request.csr });
    await store.update((tx) => {
      // The token may have been rotated while the certificate was made.
      roleOfToken(clusterOf(tx), request.token);
      tx.create("node", {
        id: nodeId,
        spec: { Labels: {}, Role: role, Availability: availability },
        status: {
          state: NodeState.unknown,
          message: "Waiting for the node's first session",
          addr: request.addr,
        },
        rpcAddress: "",
        dataPathAddress: "",
        certificateRole: role,
        specReplacedVersion: 0,
        certificateSerial: issued.serial,
        certificateUntil: rfc3339(issued.untilMs),
        certificateIssuer: issued.issuer,
        ...(issued.hasFormerRoot ? { trustsFormerRoot: true } : {}),
      });
    });
    log.info("node joined", { nodeId, role });
    return issued.message;
  }

  /** A new certificate for a node, with the role that it shall have now. */
  async renew(nodeId: string, csr: Uint8Array): Promise<Issued> {
    const { store, log } = this.#deps;
    const role = certificateRoleOf(nodeOf(store.view(), nodeId));
    const issued = await this.#sign(clusterOf(store.view()), { nodeId, role, csr });
    await store.update((tx) => {
      const node = nodeOf(tx, nodeId);
      if (certificateRoleOf(node) !== role) {
        throw new ClusterError(
          "unavailable",
          `Role of node "${nodeId}" changed while its certificate was made`,
          {
            retryable: true,
          },
        );
      }
      const { trustsFormerRoot: _before, ...rest } = node;
      tx.update("node", {
        ...rest,
        certificateRole: role,
        certificateSerial: issued.serial,
        certificateUntil: rfc3339(Math.max(issued.untilMs, lastCertificateEndMs(node))),
        certificateIssuer: issued.issuer,
        ...(issued.hasFormerRoot ? { trustsFormerRoot: true } : {}),
      });
    });
    log.info("certificate renewed", { nodeId, role });
    return issued.message;
  }

  /**
   * A certificate that the manager makes for itself, for an hour, from what is on its disk. Where all managers were off
   * until theirs had expired none would talk to another, none would lead, and none could ever renew them. It gives away
   * nothing: who has the root's key can sign what it likes. Nothing is written; others may take the manager for removed.
   */
  async signOwn(nodeId: string, csr: Uint8Array): Promise<Issued> {
    const cluster = clusterOf(this.#deps.store.view());
    const { message } = await this.#sign(cluster, { nodeId, role: "manager", csr }, OWN_LIFE_MS);
    return message;
  }

  /** A rotation asks for as many certificates as there are nodes, all of one root. */
  #issuerOf({ certificate, key }: KeyedCertificate): Promise<Issuer> {
    const root = certificate + key;
    if (this.#issuer?.root !== root) this.#issuer = { root, opened: openIssuer({ certificate, key }) };
    return this.#issuer.opened;
  }

  async #sign(
    cluster: Cluster,
    node: { readonly nodeId: string; readonly role: NodeRole; readonly csr: Uint8Array },
    lifeMs = certificateLifeMs(cluster.spec),
  ): Promise<{
    readonly message: Issued;
    readonly serial: string;
    readonly untilMs: number;
    readonly issuer: string;
    readonly hasFormerRoot: boolean;
  }> {
    const { clock, random } = this.#deps;
    const { rootCa } = cluster;
    // During a rotation the bundle holds the new root first, and the key is the new one's.
    const roots = splitPem(rootCa.certificate);
    const newest = roots[0] ?? rootCa.certificate;
    const { certificate, serial, untilMs } = await issueCertificate({
      random,
      nowMs: clock.wallMs(),
      issuer: await this.#issuerOf({ certificate: newest, key: rootCa.key }),
      csr: node.csr,
      subject: { nodeId: node.nodeId, role: node.role, clusterId: cluster.id },
      lifeMs,
    });
    return {
      message: {
        nodeId: node.nodeId,
        clusterId: cluster.id,
        role: node.role,
        certificate: certificate + (rootCa.crossSigned ?? ""),
        rootCa: rootCa.certificate,
      },
      serial,
      untilMs,
      issuer: rootCa.digest,
      hasFormerRoot: roots.length > 1,
    };
  }
}

export function clusterOf(view: StoreView): Cluster {
  const cluster = view.list("cluster")[0];
  if (cluster === undefined) {
    throw new ClusterError("unavailable", "The cluster's state has not arrived yet", { retryable: true });
  }
  return cluster;
}

function nodeOf(view: StoreView, nodeId: string): Node {
  const node = view.get("node", nodeId);
  if (node !== undefined) return node;
  throw new ClusterError("permission_denied", `Node "${nodeId}" is not part of the cluster`, {
    details: { nodeId, removed: true },
  });
}

function roleOfToken(cluster: Cluster, token: string): NodeRole {
  parseJoinToken(token);
  const { worker, manager } = cluster.rootCa.joinTokens;
  if (tokensEqual(token, manager)) return "manager";
  if (tokensEqual(token, worker)) return "worker";
  throw new ClusterError("permission_denied", "A valid join token is necessary to join this cluster");
}

function parseAvailability(text: string): NodeAvailability {
  if (text === "") return "active";
  if (AVAILABILITIES.includes(text)) return text as NodeAvailability;
  throw new ClusterError("invalid_argument", `invalid Availability: "${text}"`);
}
