/** Sessions over gRPC: makes the agent's streams to managers from mTLS channels, one channel for each manager address. */
import type { Client, ServiceError } from "@grpc/grpc-js";
import type {
  DispatcherConnector,
  DispatcherStream,
  DispatcherStreamHandlers,
} from "../worker/agent/agent.ts";
import type { shoal } from "../proto/messages.ts";
import { whyNot } from "../manager/ca/ca-client.ts";
import { openDuplex } from "../proto/rpc-client.ts";
import { fromServiceError } from "../proto/rpc-errors.ts";
import { dispatcherService } from "../proto/services.ts";

type FromManager = shoal.v1.DispatcherMessage.$Properties;

/** `dial` makes a channel to a manager of this cluster with the node's present certificate. */
export function grpcConnector(dial: (addr: string) => Client): DispatcherConnector {
  return (addr: string, handlers: DispatcherStreamHandlers): DispatcherStream => {
    const client = dial(addr);
    const call = openDuplex(client, dispatcherService.session);
    let hasEnded = false;
    const end = (reason: string): void => {
      if (hasEnded) return;
      hasEnded = true;
      call.cancel();
      client.close();
      handlers.ended(reason);
    };
    call.on("data", (message: FromManager) => {
      if (!hasEnded) handlers.message(message);
    });
    call.on("error", (error: ServiceError) => {
      const refused = fromServiceError(error);
      // One of those that the cluster named: as its machine starts it answers before its manager does.
      const reason =
        refused.code === "unimplemented" ? "no manager runs there, or not yet" : whyNot(addr, refused);
      // Managers don't talk to a node that was removed while it was away; it would ask for ever and seem to belong.
      if (!hasEnded && refused.details["removed"] === true)
        handlers.message({ disconnect: { reason, removed: true } });
      end(reason);
    });
    call.on("end", () => end("stream ended"));
    call.on("status", () => end("stream closed"));
    return {
      send: (message) => {
        if (!hasEnded) call.write(message);
      },
      // Not from within the caller's own turn: it may still be setting up what `ended` acts on.
      close: () => queueMicrotask(() => end("closed")),
    };
  };
}
