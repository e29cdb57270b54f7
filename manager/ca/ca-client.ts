/**
 * The machine's side of the CA: getting into a cluster with a join token, and renewing the certificate. The daemon calls
 * it; it keeps nothing: what it returns is to be stored by the caller (mode 0600).
 */
import { assert } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import type { NodeAvailability } from "../../model/specs.ts";
import type { shoal } from "../../proto/messages.ts";
import { callUnary, mayAnotherAnswer, withManager } from "../../proto/rpc-client.ts";
import type { NodeIdentity } from "../../proto/rpc.ts";
import { caService } from "../../proto/services.ts";
import { certificateDigest, createRequest } from "./certificates.ts";
import { parseJoinToken, tokenMatchesRoot } from "./join-tokens.ts";
import { splitPem } from "../../proto/rpc-identity.ts";

const ROOT_DEADLINE_MS = 5_000;
const ISSUE_DEADLINE_MS = 20_000;

export interface JoinClusterRequest {
  /** "host:port" of managers, tried in order until one answers. */
  readonly remoteAddrs: readonly string[];
  readonly token: string;
  readonly availability: NodeAvailability;
  /** Advertised address without port. */
  readonly addr: string;
  readonly signal?: AbortSignal;
}

/**
 * Makes a key, proves the token and returns this machine's place in the cluster. The role is the token's.
 * Rejects with invalid_argument for a token of a wrong form or of another cluster, permission_denied for a wrong secret,
 * unavailable when no manager answers.
 */
export async function joinCluster(request: JoinClusterRequest): Promise<NodeIdentity> {
  parseJoinToken(request.token);
  if (request.remoteAddrs.length === 0) {
    throw new ClusterError("invalid_argument", "Join needs the address of a manager, got none");
  }
  const { csr, key } = await createRequest();
  return firstThatAnswers(request.remoteAddrs, async (address) => {
    const rootCa = await fetchRoot(address, request);
    const issued = await withManager(address, { rootCa }, (client) =>
      callUnary(
        client,
        caService.issueCertificate,
        { csr, token: request.token, availability: request.availability, addr: request.addr },
        { deadlineMs: ISSUE_DEADLINE_MS, signal: request.signal },
      ),
    );
    return toIdentity(issued, key);
  });
}

export interface RenewCertificateRequest {
  readonly identity: NodeIdentity;
  /** "host:port" of managers, tried in order until one answers. */
  readonly managers: readonly string[];
  readonly signal?: AbortSignal;
}

/** A new certificate, with the role that the cluster wants this node to have now. The old one stays valid. */
export async function renewCertificate(request: RenewCertificateRequest): Promise<NodeIdentity> {
  const { csr, key } = await createRequest();
  return firstThatAnswers(request.managers, async (address) => {
    const issued = await withManager(address, request.identity, (client) =>
      callUnary(
        client,
        caService.renewCertificate,
        { csr },
        { deadlineMs: ISSUE_DEADLINE_MS, signal: request.signal },
      ),
    );
    return toIdentity(issued, key);
  });
}

/** What `authority` of this machine's own manager makes for it: Authority.signOwn(). */
export async function renewOwnCertificate(
  nodeId: string,
  authority: { signOwn(nodeId: string, csr: Uint8Array): Promise<shoal.v1.IssuedCertificate.$Properties> },
): Promise<NodeIdentity> {
  const { csr, key } = await createRequest();
  return toIdentity(await authority.signOwn(nodeId, csr), key);
}

/** The root that a manager shows, once its digest is that of the token. */
async function fetchRoot(address: string, request: JoinClusterRequest): Promise<string> {
  const answer = await withManager(address, { unverified: true }, (client) =>
    callUnary(
      client,
      caService.getRootCertificate,
      {},
      { deadlineMs: ROOT_DEADLINE_MS, signal: request.signal },
    ),
  );
  const root = splitPem(answer.certificate ?? "").find((pem) =>
    tokenMatchesRoot(request.token, certificateDigest(pem)),
  );
  if (root !== undefined) return root;
  throw new ClusterError(
    "invalid_argument",
    `Join token is of another cluster: the root certificate that ${address} shows does not match its digest`,
  );
}

/** Why an address was of no use, in the operator's words instead of the gRPC library's. */
export function whyNot(address: string, error: ClusterError): string {
  if (error.code === "unimplemented")
    return `the node at ${address} is a worker; give the address of a manager`;
  return error.message
    .replace(/^No connection established\. Last error: (Error: )?/, "")
    .replace(/\.? Resolution note:\s*$/, "")
    .replace(/certificate (is not yet valid|has expired)$/, "$&: is the clock of this machine right?");
}

/** Goes on to the next address only when one can't serve now; a refusal is final. */
async function firstThatAnswers<T>(
  addresses: readonly string[],
  run: (address: string) => Promise<T>,
): Promise<T> {
  let last: ClusterError | undefined;
  let why = "no address is known";
  for (const address of addresses) {
    try {
      return await run(address);
    } catch (caught) {
      last = ClusterError.from(caught);
      if (!mayAnotherAnswer(last)) throw last;
      why = whyNot(address, last);
    }
  }
  throw new ClusterError(
    "unavailable",
    `No manager answers at ${addresses.join(", ") || "any address"}: ${why}`,
    { retryable: true, ...(last === undefined ? {} : { cause: last }) },
  );
}

function toIdentity(issued: shoal.v1.IssuedCertificate.$Properties, key: string): NodeIdentity {
  const { nodeId, clusterId, certificate, rootCa, role } = issued;
  assert(role === "manager" || role === "worker", "an issued certificate has a role");
  assert(nodeId && clusterId && certificate && rootCa, "an issued certificate is complete");
  return { nodeId, clusterId, role, certificate, key, rootCa };
}
