/** What only a node of a cluster needs, loaded together when it becomes one: a machine without a cluster is spared the memory. */
export { dial } from "../proto/rpc-client.ts";
export { LiveIdentity } from "../proto/rpc-identity.ts";
export { RpcServer } from "../proto/rpc-server.ts";
export { nodeService } from "../proto/services.ts";
export { renewCertificate } from "../manager/ca/ca-client.ts";
export { tlsInfoOf } from "../manager/ca/certificates.ts";
export { ClusterBlobPeers } from "./blob-peers.ts";
export { CertificateRenewal } from "./certificate-renewal.ts";
export { grpcConnector } from "./dispatcher-connector.ts";
export { NODE_AUDIENCE, nodeServiceHandlers } from "./node-service.ts";
export { RoleChange } from "./role-change.ts";
export { WorkerNode } from "./worker-node.ts";
