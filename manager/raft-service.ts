/** Puts the Raft transport's handlers on the node's server, and tells it whose words it hears. */
import { must } from "../common/assert.ts";
import { certificateRoleOf } from "../model/node-role.ts";
import type { StoreView } from "../model/store-view.ts";
import type { CallContext, ServiceHandlers } from "../proto/rpc-server.ts";
import type { raftService } from "../proto/services.ts";
import type { GrpcTransport, Speaker } from "./raft/grpc-transport.ts";

export function raftHandlers(
  transport: GrpcTransport,
  view: () => StoreView,
): ServiceHandlers<typeof raftService> {
  const speaker = ({ peer }: CallContext): Speaker => {
    const { nodeId, serial } = must(peer, "managers have a certificate");
    return {
      nodeId,
      // By that very certificate: this replica may be behind, and one that was promoted again has a new one.
      isDemoted: () => {
        const node = view().get("node", nodeId);
        return node?.certificateSerial === serial && certificateRoleOf(node) === "worker";
      },
    };
  };
  return {
    messages: { duplex: (call, context) => transport.serveMessages(call, speaker(context)) },
    snapshot: { duplex: (call, context) => transport.serveSnapshot(call, speaker(context)) },
  };
}
