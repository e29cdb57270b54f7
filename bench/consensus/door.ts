/**
 * A member's door for clients: etcd's Put, Txn and Range over gRPC on cleartext HTTP/2, so that h2load sends the same bytes
 * to both systems. It answers like etcd with headers, a message and trailers.
 */
import net from "node:net";
import type { RaftNode } from "../../manager/raft/node.ts";
import { GrpcConnection } from "./grpc-connection.ts";
import type { KvMap } from "./kv-map.ts";
import { fieldsOf } from "./wire.ts";

const SERVICE = "/etcdserverpb.KV/";
const EMPTY = Buffer.alloc(0);

/** The value of the key that a RangeRequest names. */
function read(state: KvMap, message: Buffer): Buffer {
  for (const { body, number } of fieldsOf(message)) {
    if (number === 1) return Buffer.from(state.map.get(body.toString("latin1")) ?? []);
  }
  return EMPTY;
}

export function serveClients(node: RaftNode, state: KvMap, port: number): void {
  const answerEmpty = (): Buffer => EMPTY;
  const handle = (path: string, message: Buffer): Promise<Buffer> | undefined => {
    switch (path) {
      case `${SERVICE}Put`:
      case `${SERVICE}Txn`:
        return node.propose(message).then(answerEmpty);
      case `${SERVICE}Range`:
        return node.readBarrier().then(() => read(state, message));
      default:
        return undefined;
    }
  };
  const server = net.createServer((socket) => new GrpcConnection(socket, handle));
  server.listen(port, "127.0.0.1");
}
