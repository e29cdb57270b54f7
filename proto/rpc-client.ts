/**
 * The calling side of the mTLS edge: channels to other nodes that present our certificate and accept only a node of the
 * same cluster (and a manager, or one certain node, where asked). One-shot calls as promises; errors as ClusterErrors.
 */
import type { PeerCertificate } from "node:tls";
import {
  Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ChannelOptions,
  ChannelCredentials,
  experimental,
  Metadata,
  type MethodDefinition,
} from "@grpc/grpc-js";
import { ClusterError } from "../common/errors.ts";
import type { NodeIdentity } from "./rpc.ts";
import { fromServiceError } from "./rpc-errors.ts";
import { LiveIdentity, peerIdentity } from "./rpc-identity.ts";

/** Largest message in either direction. Snapshots, blobs and logs go in pieces far below it. */
export const MESSAGE_BYTES_MAX: number = 16 * 1024 * 1024;
const KEEPALIVE_MS = 2_000;
const KEEPALIVE_TIMEOUT_MS = 2_000;
const RECONNECT_FIRST_MS = 50;
const RECONNECT_MAX_MS = 1_000;
const UNARY_DEADLINE_MS = 20_000;

/** For a machine that has no certificate yet. `unverified` is only for fetching the root whose digest the token carries. */
export type Anonymous = { readonly rootCa: string } | { readonly unverified: true };

export interface DialOptions {
  /** The server must be a manager. */
  readonly manager?: boolean;
  /** The server must be this node. */
  readonly nodeId?: string;
  /** Overrides for a channel with needs of its own (Raft, blobs). */
  readonly channel?: ChannelOptions;
}

/** Opens a channel to `address` ("host:port"; IPv6 in brackets). It connects at the first call and reconnects by itself. */
export function dial(
  address: string,
  identity: NodeIdentity | LiveIdentity | Anonymous,
  options: DialOptions = {},
): Client {
  return new Client(address, credentials(identity, options), {
    // Addresses are no names: a fixed TLS name avoids a lookup of the certificate by IP address.
    "grpc.ssl_target_name_override": "shoal.internal",
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.initial_reconnect_backoff_ms": RECONNECT_FIRST_MS,
    "grpc.min_reconnect_backoff_ms": RECONNECT_FIRST_MS,
    "grpc.max_reconnect_backoff_ms": RECONNECT_MAX_MS,
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": MESSAGE_BYTES_MAX,
    ...options.channel,
  });
}

/** A channel to the manager at `address` (to node `nodeId` alone, where given), for as long as `run` takes. */
export async function withManager<T>(
  address: string,
  identity: NodeIdentity | LiveIdentity | Anonymous,
  run: (client: Client) => Promise<T>,
  options: Pick<DialOptions, "nodeId"> = {},
): Promise<T> {
  const client = dial(address, identity, { ...options, manager: true });
  try {
    return await run(client);
  } finally {
    client.close();
  }
}

function credentials(
  identity: NodeIdentity | LiveIdentity | Anonymous,
  options: DialOptions,
): ChannelCredentials {
  if ("unverified" in identity) {
    return ChannelCredentials.createSsl(null, null, null, { rejectUnauthorized: false });
  }
  if (identity instanceof LiveIdentity) {
    return experimental.createCertificateProviderChannelCredentials(identity, identity, {
      checkServerIdentity: (_host, certificate) =>
        refusal(certificate, { ...options, clusterId: identity.current.clusterId }),
    });
  }
  const roots = Buffer.from(identity.rootCa);
  if (!("certificate" in identity)) {
    return ChannelCredentials.createSsl(roots, null, null, {
      checkServerIdentity: (_host, certificate) => refusal(certificate, options),
    });
  }
  return ChannelCredentials.createSsl(roots, Buffer.from(identity.key), Buffer.from(identity.certificate), {
    checkServerIdentity: (_host, certificate) =>
      refusal(certificate, { ...options, clusterId: identity.clusterId }),
  });
}

function refusal(
  certificate: PeerCertificate,
  wanted: DialOptions & { readonly clusterId?: string },
): Error | undefined {
  const peer = peerIdentity(certificate);
  if (peer === undefined) return new Error("Server's certificate is not that of a node");
  if (wanted.clusterId !== undefined && peer.clusterId !== wanted.clusterId) {
    return new Error(
      `Server must be of cluster "${wanted.clusterId}", its certificate says "${peer.clusterId}"`,
    );
  }
  if (wanted.manager === true && peer.role !== "manager") {
    return new Error(`Server must be a manager, its certificate says "${peer.role}"`);
  }
  if (wanted.nodeId !== undefined && peer.nodeId !== wanted.nodeId) {
    return new Error(`Server must be node "${wanted.nodeId}", its certificate says "${peer.nodeId}"`);
  }
  return undefined;
}

/** Whether what an address didn't do another may: it was not reached, or is no manager, or none any more. */
export function mayAnotherAnswer(error: ClusterError): boolean {
  return error.code === "unavailable" || error.code === "deadline_exceeded" || error.code === "unimplemented";
}

export interface CallOptions {
  /** Default 20 s. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal | undefined;
  readonly metadata?: Metadata;
}

/**
 * Resolves once a connection stands, so that the server has shown its certificate; rejects with unavailable after
 * `waitMs`.
 */
export function connect(client: Client, waitMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    client.waitForReady(deadlineOf({ deadlineMs: waitMs }), (error) => {
      if (error === undefined) resolve();
      else reject(new ClusterError("unavailable", `no connection within ${waitMs} ms`, { cause: error }));
    });
  });
}

/** One request, one answer. Rejects with a ClusterError. */
export function callUnary<Request, Response>(
  client: Client,
  method: MethodDefinition<Request, Response>,
  request: Request,
  options: CallOptions = {},
): Promise<Response> {
  return new Promise((resolve, reject) => {
    if (options.signal?.aborted === true) {
      reject(new ClusterError("cancelled", `Call of ${method.path} was cancelled before it began`));
      return;
    }
    const onAbort = (): void => call.cancel();
    const call = client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      request,
      options.metadata ?? new Metadata(),
      { deadline: new Date(deadlineOf(options)) },
      (error, response) => {
        options.signal?.removeEventListener("abort", onAbort);
        if (error !== null) reject(fromServiceError(error));
        else if (response === undefined) {
          reject(new ClusterError("internal", `Call of ${method.path} must have an answer, got none`));
        } else resolve(response);
      },
    );
    options.signal?.addEventListener("abort", onAbort, { once: true });
  });
}

function deadlineOf(options: CallOptions): number {
  return Date.now() + (options.deadlineMs ?? UNARY_DEADLINE_MS);
}

/** A stream of both directions. Errors come as the stream's "error" event; fromServiceError() reads them. */
export function openDuplex<Request, Response>(
  client: Pick<Client, "makeBidiStreamRequest">,
  method: MethodDefinition<Request, Response>,
  metadata: Metadata = new Metadata(),
): ClientDuplexStream<Request, Response> {
  return client.makeBidiStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    metadata,
  );
}

/** One request, many answers. */
export function openServerStream<Request, Response>(
  client: Client,
  method: MethodDefinition<Request, Response>,
  request: Request,
  metadata: Metadata = new Metadata(),
): ClientReadableStream<Response> {
  return client.makeServerStreamRequest(
    method.path,
    method.requestSerialize,
    method.responseDeserialize,
    request,
    metadata,
  );
}
