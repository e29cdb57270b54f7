/**
 * Bounds on who may stand at a TLS port of a node: connections that have not proved a certificate, from one address and in
 * all, how long they may stay, and how many one node may have. Used by the port for nodes and the API; it judges nobody's rights.
 */
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";

/** Handshakes under way and machines that join. A fleet behind one address that joins at once comes again. */
const STRANGER_COUNT_MAX = 2_048;
const STRANGERS_FROM_ONE_ADDRESS_MAX = 256;
/** Joining is two calls that take 20 s at most each. */
const STRANGER_LIFE_MS = 60_000;
/** A node has a few channels to each other node; what it lost may be open here until keepalive ends it. */
const CONNECTIONS_OF_ONE_NODE_MAX = 64;

export class Doorman {
  /** Address and port of connections without a proven certificate. */
  readonly #strangers = new Set<string>();
  readonly #strangersByAddress = new Map<string, number>();
  readonly #connectionsByNode = new Map<string, number>();

  /** A TCP connection, before its handshake: ended when there are too many. */
  arrived(socket: Socket): void {
    const { remoteAddress: address = "" } = socket;
    const ofAddress = this.#strangersByAddress.get(address) ?? 0;
    if (this.#strangers.size >= STRANGER_COUNT_MAX || ofAddress >= STRANGERS_FROM_ONE_ADDRESS_MAX) {
      socket.destroy();
      return;
    }
    const key = keyOf(socket);
    this.#strangers.add(key);
    this.#strangersByAddress.set(address, ofAddress + 1);
    socket.once("close", () => this.#left(key, address));
  }

  /** The handshake is over. False: there were too many of this node, and the connection was ended. */
  admits(socket: TLSSocket, nodeId: string | undefined): boolean {
    if (nodeId === undefined) {
      const patience = setTimeout(() => socket.destroy(), STRANGER_LIFE_MS);
      socket.once("close", () => clearTimeout(patience));
      return true;
    }
    this.proved(socket);
    const count = this.#connectionsByNode.get(nodeId) ?? 0;
    if (count >= CONNECTIONS_OF_ONE_NODE_MAX) {
      socket.destroy();
      return false;
    }
    this.#connectionsByNode.set(nodeId, count + 1);
    socket.once("close", () => decrement(this.#connectionsByNode, nodeId));
    return true;
  }

  /** A certificate was proved: the connection is no stranger's any more. */
  proved(socket: TLSSocket): void {
    this.#left(keyOf(socket), socket.remoteAddress ?? "");
  }

  #left(key: string, address: string): void {
    if (this.#strangers.delete(key)) decrement(this.#strangersByAddress, address);
  }
}

function keyOf(socket: Pick<Socket, "remoteAddress" | "remotePort">): string {
  return `${socket.remoteAddress} ${socket.remotePort}`;
}

function decrement(counts: Map<string, number>, key: string): void {
  const left = (counts.get(key) ?? 1) - 1;
  if (left === 0) counts.delete(key);
  else counts.set(key, left);
}
