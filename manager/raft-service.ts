/** Puts the Raft transport's handlers on the node's server. */
import type { handleBidiStreamingCall } from "@grpc/grpc-js";
import type { ServiceHandlers } from "../proto/rpc-server.ts";
import type { raftService } from "../proto/services.ts";
import type { GrpcTransport } from "./raft/grpc-transport.ts";

export function raftHandlers(transport: GrpcTransport): ServiceHandlers<typeof raftService> {
  const { service } = transport;
  return {
    messages: {
      duplex: (call) => (service["messages"] as handleBidiStreamingCall<unknown, unknown>)(call),
    },
    snapshot: {
      duplex: (call) => (service["snapshot"] as handleBidiStreamingCall<unknown, unknown>)(call),
    },
  };
}
