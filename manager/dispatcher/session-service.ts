/** The gRPC edge of sessions: turns streams into what the dispatcher takes, and sends agents on to the leader. */
import type { ServerDuplexStream } from "@grpc/grpc-js";
import type { PeerIdentity } from "../../proto/rpc.ts";
import type { Dispatcher, FromAgent, ToAgent } from "./dispatcher.ts";

export interface SessionServiceDeps {
  /** The dispatcher while this member leads, else undefined. */
  readonly dispatcher: () => Dispatcher | undefined;
  /** "host:port" of the known leader, or "". */
  readonly leaderAddress: () => string;
}

/** Handles one Session stream of the node `peer` at `remoteAddress` ("address:port"). */
export function serveSession(
  deps: SessionServiceDeps,
  call: ServerDuplexStream<FromAgent, ToAgent>,
  context: { readonly peer: PeerIdentity; readonly remoteAddress: string },
): void {
  const dispatcher = deps.dispatcher();
  if (dispatcher === undefined) {
    const leaderAddr = deps.leaderAddress();
    const reason =
      leaderAddr === ""
        ? "this manager knows no leader: more than half of the managers must be online and reach each other"
        : "this manager does not lead";
    call.write({ disconnect: { reason, leaderAddr } });
    call.end();
    return;
  }
  let hasEnded = false;
  const remoteHost = context.remoteAddress.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  const session = dispatcher.open(
    context.peer.nodeId,
    {
      send: (message) => {
        if (!hasEnded) call.write(message);
      },
      get backlogCount(): number {
        return call.writableLength;
      },
      end: () => {
        if (!hasEnded) call.end();
      },
    },
    remoteHost,
  );
  const ended = (): void => {
    if (hasEnded) return;
    hasEnded = true;
    session.ended();
    call.end();
  };
  call.on("data", (message: FromAgent) => {
    if (!hasEnded) session.receive(message);
  });
  call.on("end", ended);
  call.on("error", ended);
  call.on("close", ended);
  call.on("cancelled", ended);
}
