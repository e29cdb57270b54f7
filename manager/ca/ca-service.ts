/** The gRPC edge of the CA on every manager: answers what any replica knows, passes the rest on to the leader. */
import { ClusterError } from "../../common/errors.ts";
import type { StoreView } from "../../model/store-view.ts";
import { callUnary } from "../../proto/rpc-client.ts";
import type { ServiceHandlers } from "../../proto/rpc-server.ts";
import type { Audience, PeerIdentity } from "../../proto/rpc.ts";
import { caService } from "../../proto/services.ts";
import type { LeaderLink } from "../leader-link.ts";
import { type Authority, clusterOf } from "./authority.ts";
import { parseJoinToken } from "./join-tokens.ts";

export interface CaServiceDeps {
  readonly view: () => StoreView;
  readonly authority: Authority;
  readonly link: LeaderLink;
}

export const CA_AUDIENCE: { readonly [K in keyof typeof caService]: Audience } = {
  getRootCertificate: "anyone",
  issueCertificate: "anyone",
  renewCertificate: "renewing",
};

export function caHandlers(deps: CaServiceDeps): ServiceHandlers<typeof caService> {
  const { authority, link } = deps;
  return {
    getRootCertificate: {
      unary: () => ({ certificate: clusterOf(deps.view()).rootCa.certificate }),
    },
    issueCertificate: {
      unary: (request, { signal }) => {
        const { csr, token, availability, addr } = request;
        const wanted = {
          csr: csr ?? new Uint8Array(),
          token: token ?? "",
          availability: availability ?? "",
          addr: addr ?? "",
        };
        // Anyone may ask: what can be no token is not passed on to the leader.
        parseJoinToken(wanted.token);
        return link.run(
          {
            local: () => authority.issue(wanted),
            remote: (client, attempt) =>
              callUnary(client, caService.issueCertificate, request, { signal: attempt.signal }),
          },
          signal,
        );
      },
    },
    renewCertificate: {
      unary: (request, { peer, signal }) => {
        const nodeId = renewedNode(peer, request.onBehalfOf ?? "");
        const csr = request.csr ?? new Uint8Array();
        return link.run(
          {
            local: () => authority.renew(nodeId, csr),
            remote: (client, attempt) =>
              callUnary(
                client,
                caService.renewCertificate,
                { csr, onBehalfOf: nodeId },
                { signal: attempt.signal },
              ),
          },
          signal,
        );
      },
    },
  };
}

/** Only a manager may ask for another node, since only a manager passes requests on. */
function renewedNode(peer: PeerIdentity | undefined, onBehalfOf: string): string {
  if (peer === undefined) throw new ClusterError("unauthenticated", "Renewal needs a certificate");
  if (onBehalfOf === "" || onBehalfOf === peer.nodeId) return peer.nodeId;
  if (peer.role === "manager" && peer.hasExpired !== true) return onBehalfOf;
  throw new ClusterError("permission_denied", `Node "${peer.nodeId}" may renew only its own certificate`);
}
