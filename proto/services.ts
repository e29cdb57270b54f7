/** The gRPC services of proto/*.proto as grpc-js definitions. */
import type { MethodDefinition } from "@grpc/grpc-js";
import { type shoal, v1 } from "./messages.ts";
import { method } from "./service-definition.ts";

type M = typeof shoal.v1;
/** What encode() of a generated class takes. */
type Shape<K extends keyof M> = M[K] extends { encode(message: infer S, ...rest: never[]): unknown }
  ? S
  : never;

/** By the names of what is asked and answered. */
type Method<Request extends keyof M, Response extends keyof M> = MethodDefinition<
  Shape<Request>,
  Shape<Response>
>;

const DISPATCHER = "shoal.v1.Dispatcher";
const NODE = "shoal.v1.Node";
const RAFT = "shoal.v1.Raft";
const CA = "shoal.v1.Ca";
const CONTROL = "shoal.v1.Control";

export const dispatcherService: {
  readonly session: Method<"AgentMessage", "DispatcherMessage">;
} = {
  session: method(
    { service: DISPATCHER, name: "Session" },
    { request: v1.AgentMessage, response: v1.DispatcherMessage },
    { requestStream: true, responseStream: true },
  ),
};

export const nodeService: {
  readonly resolveImage: Method<"ResolveImageRequest", "ResolveImageResponse">;
  readonly describeImage: Method<"DescribeImageRequest", "DescribeImageResponse">;
  readonly fetchBlob: Method<"FetchBlobRequest", "BlobChunk">;
  readonly taskLogs: Method<"TaskLogsRequest", "TaskLogLine">;
} = {
  resolveImage: method(
    { service: NODE, name: "ResolveImage" },
    { request: v1.ResolveImageRequest, response: v1.ResolveImageResponse },
  ),
  describeImage: method(
    { service: NODE, name: "DescribeImage" },
    { request: v1.DescribeImageRequest, response: v1.DescribeImageResponse },
  ),
  fetchBlob: method(
    { service: NODE, name: "FetchBlob" },
    { request: v1.FetchBlobRequest, response: v1.BlobChunk },
    { responseStream: true },
  ),
  taskLogs: method(
    { service: NODE, name: "TaskLogs" },
    { request: v1.TaskLogsRequest, response: v1.TaskLogLine },
    { responseStream: true },
  ),
};

export const raftService: {
  readonly messages: Method<"RaftBatch", "RaftBatch">;
  readonly snapshot: Method<"SnapshotPart", "SnapshotAnswer">;
} = {
  messages: method(
    { service: RAFT, name: "Messages" },
    { request: v1.RaftBatch, response: v1.RaftBatch },
    { requestStream: true, responseStream: true },
  ),
  snapshot: method(
    { service: RAFT, name: "Snapshot" },
    { request: v1.SnapshotPart, response: v1.SnapshotAnswer },
    { requestStream: true, responseStream: true },
  ),
};

export const caService: {
  readonly getRootCertificate: Method<"GetRootCertificateRequest", "GetRootCertificateResponse">;
  readonly issueCertificate: Method<"IssueCertificateRequest", "IssuedCertificate">;
  readonly renewCertificate: Method<"RenewCertificateRequest", "IssuedCertificate">;
} = {
  getRootCertificate: method(
    { service: CA, name: "GetRootCertificate" },
    { request: v1.GetRootCertificateRequest, response: v1.GetRootCertificateResponse },
  ),
  issueCertificate: method(
    { service: CA, name: "IssueCertificate" },
    { request: v1.IssueCertificateRequest, response: v1.IssuedCertificate },
  ),
  renewCertificate: method(
    { service: CA, name: "RenewCertificate" },
    { request: v1.RenewCertificateRequest, response: v1.IssuedCertificate },
  ),
};

type Create = Method<"CreateRequest", "WriteResponse">;
type Update = Method<"UpdateRequest", "WriteResponse">;
type Remove = Method<"RemoveRequest", "WriteResponse">;

function create(name: string): Create {
  const codecs = { request: v1.CreateRequest, response: v1.WriteResponse };
  return method({ service: CONTROL, name }, codecs);
}

function update(name: string): Update {
  const codecs = { request: v1.UpdateRequest, response: v1.WriteResponse };
  return method({ service: CONTROL, name }, codecs);
}

function remove(name: string): Remove {
  const codecs = { request: v1.RemoveRequest, response: v1.WriteResponse };
  return method({ service: CONTROL, name }, codecs);
}

export const controlService: {
  readonly createService: Create;
  readonly updateService: Method<"UpdateServiceRequest", "WriteResponse">;
  readonly removeService: Remove;
  readonly updateNode: Update;
  readonly removeNode: Remove;
  readonly createNetwork: Create;
  readonly removeNetwork: Remove;
  readonly createSecret: Create;
  readonly updateSecret: Update;
  readonly removeSecret: Remove;
  readonly createConfig: Create;
  readonly updateConfig: Update;
  readonly removeConfig: Remove;
  readonly putImage: Method<"PutImageRequest", "WriteResponse">;
  readonly removeImage: Remove;
  readonly listNodeImages: Method<"ListNodeImagesRequest", "ListNodeImagesResponse">;
  readonly listImageNodes: Method<"ListImageNodesRequest", "ListImageNodesResponse">;
  readonly updateCluster: Method<"UpdateClusterRequest", "WriteResponse">;
  readonly joinRaft: Method<"JoinRaftRequest", "JoinRaftResponse">;
  readonly leaveRaft: Method<"LeaveRaftRequest", "WriteResponse">;
} = {
  createService: create("CreateService"),
  updateService: method(
    { service: CONTROL, name: "UpdateService" },
    { request: v1.UpdateServiceRequest, response: v1.WriteResponse },
  ),
  removeService: remove("RemoveService"),
  updateNode: update("UpdateNode"),
  removeNode: remove("RemoveNode"),
  createNetwork: create("CreateNetwork"),
  removeNetwork: remove("RemoveNetwork"),
  createSecret: create("CreateSecret"),
  updateSecret: update("UpdateSecret"),
  removeSecret: remove("RemoveSecret"),
  createConfig: create("CreateConfig"),
  updateConfig: update("UpdateConfig"),
  removeConfig: remove("RemoveConfig"),
  putImage: method(
    { service: CONTROL, name: "PutImage" },
    { request: v1.PutImageRequest, response: v1.WriteResponse },
  ),
  removeImage: remove("RemoveImage"),
  listNodeImages: method(
    { service: CONTROL, name: "ListNodeImages" },
    { request: v1.ListNodeImagesRequest, response: v1.ListNodeImagesResponse },
  ),
  listImageNodes: method(
    { service: CONTROL, name: "ListImageNodes" },
    { request: v1.ListImageNodesRequest, response: v1.ListImageNodesResponse },
  ),
  updateCluster: method(
    { service: CONTROL, name: "UpdateCluster" },
    { request: v1.UpdateClusterRequest, response: v1.WriteResponse },
  ),
  joinRaft: method(
    { service: CONTROL, name: "JoinRaft" },
    { request: v1.JoinRaftRequest, response: v1.JoinRaftResponse },
  ),
  leaveRaft: method(
    { service: CONTROL, name: "LeaveRaft" },
    { request: v1.LeaveRaftRequest, response: v1.WriteResponse },
  ),
};
