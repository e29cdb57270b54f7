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
  readonly describeImage: MethodDefinition<Shape<"DescribeImageRequest">, Shape<"DescribeImageResponse">>;
  readonly fetchBlob: MethodDefinition<Shape<"FetchBlobRequest">, Shape<"BlobChunk">>;
  readonly taskLogs: MethodDefinition<Shape<"TaskLogsRequest">, Shape<"TaskLogLine">>;
} = {
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
