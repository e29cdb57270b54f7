/** The gRPC services of proto/*.proto as grpc-js definitions. */
import type { MethodDefinition } from "@grpc/grpc-js";
import { type shoal, v1 } from "./messages.ts";
import { method } from "./service-definition.ts";

type M = typeof shoal.v1;
/** What encode() of a generated class takes. */
type Shape<K extends keyof M> = M[K] extends { encode(message: infer S, ...rest: never[]): unknown }
  ? S
  : never;

const DISPATCHER = "shoal.v1.Dispatcher";
const NODE = "shoal.v1.Node";
const RAFT = "shoal.v1.Raft";
const CA = "shoal.v1.Ca";
const CONTROL = "shoal.v1.Control";

export const dispatcherService: {
  readonly session: MethodDefinition<Shape<"AgentMessage">, Shape<"DispatcherMessage">>;
} = {
  session: method<Shape<"AgentMessage">, Shape<"DispatcherMessage">>(
    { service: DISPATCHER, name: "Session" },
    { request: v1.AgentMessage, response: v1.DispatcherMessage },
    { requestStream: true, responseStream: true },
  ),
};

export const nodeService: {
  readonly resolveImage: MethodDefinition<Shape<"ResolveImageRequest">, Shape<"ResolveImageResponse">>;
  readonly describeImage: MethodDefinition<Shape<"DescribeImageRequest">, Shape<"DescribeImageResponse">>;
  readonly fetchBlob: MethodDefinition<Shape<"FetchBlobRequest">, Shape<"BlobChunk">>;
  readonly taskLogs: MethodDefinition<Shape<"TaskLogsRequest">, Shape<"TaskLogLine">>;
} = {
  resolveImage: method<Shape<"ResolveImageRequest">, Shape<"ResolveImageResponse">>(
    { service: NODE, name: "ResolveImage" },
    { request: v1.ResolveImageRequest, response: v1.ResolveImageResponse },
  ),
  describeImage: method<Shape<"DescribeImageRequest">, Shape<"DescribeImageResponse">>(
    { service: NODE, name: "DescribeImage" },
    { request: v1.DescribeImageRequest, response: v1.DescribeImageResponse },
  ),
  fetchBlob: method<Shape<"FetchBlobRequest">, Shape<"BlobChunk">>(
    { service: NODE, name: "FetchBlob" },
    { request: v1.FetchBlobRequest, response: v1.BlobChunk },
    { responseStream: true },
  ),
  taskLogs: method<Shape<"TaskLogsRequest">, Shape<"TaskLogLine">>(
    { service: NODE, name: "TaskLogs" },
    { request: v1.TaskLogsRequest, response: v1.TaskLogLine },
    { responseStream: true },
  ),
};

export const raftService: {
  readonly messages: MethodDefinition<Shape<"RaftBatch">, Shape<"RaftBatch">>;
  readonly snapshot: MethodDefinition<Shape<"SnapshotPart">, Shape<"SnapshotAnswer">>;
} = {
  messages: method<Shape<"RaftBatch">, Shape<"RaftBatch">>(
    { service: RAFT, name: "Messages" },
    { request: v1.RaftBatch, response: v1.RaftBatch },
    { requestStream: true, responseStream: true },
  ),
  snapshot: method<Shape<"SnapshotPart">, Shape<"SnapshotAnswer">>(
    { service: RAFT, name: "Snapshot" },
    { request: v1.SnapshotPart, response: v1.SnapshotAnswer },
    { requestStream: true, responseStream: true },
  ),
};

export const caService: {
  readonly getRootCertificate: MethodDefinition<
    Shape<"GetRootCertificateRequest">,
    Shape<"GetRootCertificateResponse">
  >;
  readonly issueCertificate: MethodDefinition<Shape<"IssueCertificateRequest">, Shape<"IssuedCertificate">>;
  readonly renewCertificate: MethodDefinition<Shape<"RenewCertificateRequest">, Shape<"IssuedCertificate">>;
} = {
  getRootCertificate: method<Shape<"GetRootCertificateRequest">, Shape<"GetRootCertificateResponse">>(
    { service: CA, name: "GetRootCertificate" },
    { request: v1.GetRootCertificateRequest, response: v1.GetRootCertificateResponse },
  ),
  issueCertificate: method<Shape<"IssueCertificateRequest">, Shape<"IssuedCertificate">>(
    { service: CA, name: "IssueCertificate" },
    { request: v1.IssueCertificateRequest, response: v1.IssuedCertificate },
  ),
  renewCertificate: method<Shape<"RenewCertificateRequest">, Shape<"IssuedCertificate">>(
    { service: CA, name: "RenewCertificate" },
    { request: v1.RenewCertificateRequest, response: v1.IssuedCertificate },
  ),
};

type Create = MethodDefinition<Shape<"CreateRequest">, Shape<"WriteResponse">>;
type Update = MethodDefinition<Shape<"UpdateRequest">, Shape<"WriteResponse">>;
type Remove = MethodDefinition<Shape<"RemoveRequest">, Shape<"WriteResponse">>;

function create(name: string): Create {
  const codecs = { request: v1.CreateRequest, response: v1.WriteResponse };
  return method<Shape<"CreateRequest">, Shape<"WriteResponse">>({ service: CONTROL, name }, codecs);
}

function update(name: string): Update {
  const codecs = { request: v1.UpdateRequest, response: v1.WriteResponse };
  return method<Shape<"UpdateRequest">, Shape<"WriteResponse">>({ service: CONTROL, name }, codecs);
}

function remove(name: string): Remove {
  const codecs = { request: v1.RemoveRequest, response: v1.WriteResponse };
  return method<Shape<"RemoveRequest">, Shape<"WriteResponse">>({ service: CONTROL, name }, codecs);
}

export const controlService: {
  readonly createService: Create;
  readonly updateService: MethodDefinition<Shape<"UpdateServiceRequest">, Shape<"WriteResponse">>;
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
  readonly putImage: MethodDefinition<Shape<"PutImageRequest">, Shape<"WriteResponse">>;
  readonly removeImage: Remove;
  readonly listNodeImages: MethodDefinition<Shape<"ListNodeImagesRequest">, Shape<"ListNodeImagesResponse">>;
  readonly listImageNodes: MethodDefinition<Shape<"ListImageNodesRequest">, Shape<"ListImageNodesResponse">>;
  readonly updateCluster: MethodDefinition<Shape<"UpdateClusterRequest">, Shape<"WriteResponse">>;
  readonly joinRaft: MethodDefinition<Shape<"JoinRaftRequest">, Shape<"JoinRaftResponse">>;
  readonly leaveRaft: MethodDefinition<Shape<"LeaveRaftRequest">, Shape<"WriteResponse">>;
} = {
  createService: create("CreateService"),
  updateService: method<Shape<"UpdateServiceRequest">, Shape<"WriteResponse">>(
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
  putImage: method<Shape<"PutImageRequest">, Shape<"WriteResponse">>(
    { service: CONTROL, name: "PutImage" },
    { request: v1.PutImageRequest, response: v1.WriteResponse },
  ),
  removeImage: remove("RemoveImage"),
  listNodeImages: method<Shape<"ListNodeImagesRequest">, Shape<"ListNodeImagesResponse">>(
    { service: CONTROL, name: "ListNodeImages" },
    { request: v1.ListNodeImagesRequest, response: v1.ListNodeImagesResponse },
  ),
  listImageNodes: method<Shape<"ListImageNodesRequest">, Shape<"ListImageNodesResponse">>(
    { service: CONTROL, name: "ListImageNodes" },
    { request: v1.ListImageNodesRequest, response: v1.ListImageNodesResponse },
  ),
  updateCluster: method<Shape<"UpdateClusterRequest">, Shape<"WriteResponse">>(
    { service: CONTROL, name: "UpdateCluster" },
    { request: v1.UpdateClusterRequest, response: v1.WriteResponse },
  ),
  joinRaft: method<Shape<"JoinRaftRequest">, Shape<"JoinRaftResponse">>(
    { service: CONTROL, name: "JoinRaft" },
    { request: v1.JoinRaftRequest, response: v1.JoinRaftResponse },
  ),
  leaveRaft: method<Shape<"LeaveRaftRequest">, Shape<"WriteResponse">>(
    { service: CONTROL, name: "LeaveRaft" },
    { request: v1.LeaveRaftRequest, response: v1.WriteResponse },
  ),
};
