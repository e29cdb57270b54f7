/**
 * The gRPC services of proto/*.proto as grpc-js definitions, over the generated codecs and without proto-loader: it would
 * double the cost of each message.
 */
import type { MethodDefinition } from "@grpc/grpc-js";
import { type shoal, v1 } from "./messages.ts";

type Messages = typeof shoal.v1;
/** What encode() of a generated class takes, so that plain objects can be sent. */
type Shape<Name extends keyof Messages> = Messages[Name] extends {
  encode(message: infer S, ...rest: never[]): unknown;
}
  ? S
  : never;

interface Codec {
  readonly encode: (message: unknown) => { finish(): Uint8Array };
  readonly decode: (bytes: Uint8Array) => unknown;
}

/** Messages of the request and of the answer; which of them come as a stream, if any do. */
type Call = readonly [request: keyof Messages, answer: keyof Messages, streams?: "answers" | "both"];

type Service<Calls extends Readonly<Record<string, Call>>> = {
  readonly [Name in keyof Calls]: MethodDefinition<Shape<Calls[Name][0]>, Shape<Calls[Name][1]>>;
};

/** `service`: "shoal.v1.Dispatcher". `calls` by their names in the .proto file, which begin with a capital there. */
function define<Calls extends Readonly<Record<string, Call>>>(service: string, calls: Calls): Service<Calls> {
  const methods = Object.entries(calls).map(([key, call]) => {
    const name = `${key.charAt(0).toUpperCase()}${key.slice(1)}`;
    return [key, method({ service, name }, call)] as const;
  });
  return Object.fromEntries(methods) as Service<Calls>;
}

function method(
  path: { readonly service: string; readonly name: string },
  [requestName, answerName, streams]: Call,
): MethodDefinition<unknown, unknown> {
  const request = v1[requestName] as Codec;
  const answer = v1[answerName] as Codec;
  return {
    path: `/${path.service}/${path.name}`,
    originalName: path.name,
    requestStream: streams === "both",
    responseStream: streams !== undefined,
    requestSerialize: (value) => asBuffer(request.encode(value).finish()),
    requestDeserialize: (bytes) => request.decode(bytes),
    responseSerialize: (value) => asBuffer(answer.encode(value).finish()),
    responseDeserialize: (bytes) => answer.decode(bytes),
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const DISPATCHER = {
  session: ["AgentMessage", "DispatcherMessage", "both"],
} as const;

const NODE = {
  resolveImage: ["ResolveImageRequest", "ResolveImageResponse"],
  describeImage: ["DescribeImageRequest", "DescribeImageResponse"],
  fetchBlob: ["FetchBlobRequest", "BlobChunk", "answers"],
  taskLogs: ["TaskLogsRequest", "TaskLogLine", "answers"],
} as const;

const RAFT = {
  messages: ["RaftBatch", "RaftBatch", "both"],
  snapshot: ["SnapshotPart", "SnapshotAnswer", "both"],
} as const;

const CA = {
  getRootCertificate: ["GetRootCertificateRequest", "GetRootCertificateResponse"],
  issueCertificate: ["IssueCertificateRequest", "IssuedCertificate"],
  renewCertificate: ["RenewCertificateRequest", "IssuedCertificate"],
} as const;

const CONTROL = {
  createService: ["CreateRequest", "WriteResponse"],
  updateService: ["UpdateServiceRequest", "WriteResponse"],
  removeService: ["RemoveRequest", "WriteResponse"],
  updateNode: ["UpdateRequest", "WriteResponse"],
  removeNode: ["RemoveRequest", "WriteResponse"],
  createNetwork: ["CreateRequest", "WriteResponse"],
  removeNetwork: ["RemoveRequest", "WriteResponse"],
  createSecret: ["CreateRequest", "WriteResponse"],
  updateSecret: ["UpdateRequest", "WriteResponse"],
  removeSecret: ["RemoveRequest", "WriteResponse"],
  createConfig: ["CreateRequest", "WriteResponse"],
  updateConfig: ["UpdateRequest", "WriteResponse"],
  removeConfig: ["RemoveRequest", "WriteResponse"],
  putImage: ["PutImageRequest", "WriteResponse"],
  removeImage: ["RemoveRequest", "WriteResponse"],
  listNodeImages: ["ListNodeImagesRequest", "ListNodeImagesResponse"],
  listImageNodes: ["ListImageNodesRequest", "ListImageNodesResponse"],
  updateCluster: ["UpdateClusterRequest", "WriteResponse"],
  joinRaft: ["JoinRaftRequest", "JoinRaftResponse"],
  leaveRaft: ["LeaveRaftRequest", "WriteResponse"],
} as const;

export const dispatcherService: Service<typeof DISPATCHER> = define("shoal.v1.Dispatcher", DISPATCHER);
export const nodeService: Service<typeof NODE> = define("shoal.v1.Node", NODE);
export const raftService: Service<typeof RAFT> = define("shoal.v1.Raft", RAFT);
export const caService: Service<typeof CA> = define("shoal.v1.Ca", CA);
export const controlService: Service<typeof CONTROL> = define("shoal.v1.Control", CONTROL);
