/** What follows from the list of nodes alone: tunnel ends, their addresses on the mesh, marks and tables of the way back. Pure. */
import { isIPv4 } from "node:net";
import type { MeshAssignment, PeerNode } from "../../model/dispatch.ts";
import { blockSize, firstHost, macOf, parseBlock } from "../../runtime/network/addresses.ts";

/** Marks have the cluster's bits above, and the node's number below. */
const NODE_BITS = 12;
export const MARK_MASK = 0xfffff000;
const MARK_PREFIX = 0x51;

export interface TunnelEnd {
  readonly nodeId: string;
  /** Underlay address. */
  readonly dataPathAddress: string;
  readonly meshSubnet: string;
  /** The node's own address on the mesh: next hop of all routes to it. */
  readonly address: string;
  readonly mac: string;
  /** Mark of connections that came through this node; also the number of the routing table back to it. */
  readonly mark: number;
  /** Connection tracking zone of what came through this node: 1..4095, the same for all daemons. */
  readonly zone: number;
}

/** The fixed upper bits of all marks of one daemon; `number` has 12 bits. */
export function markBase(number: number): number {
  return ((MARK_PREFIX << 24) | (number << NODE_BITS)) >>> 0;
}

/** Hardware address of a node's tunnel end, which every node can work out. */
export function tunnelMac(address: string): string {
  return macOf(address, "02:53");
}

/** Which block of the pool a node has, as 1..4095. */
function nodeNumber(pool: string, subnet: string): number {
  const block = parseBlock(subnet);
  const index = (block.base - parseBlock(pool).base) / blockSize(block);
  return (Math.abs(Math.trunc(index)) % (2 ** NODE_BITS - 1)) + 1;
}

function tunnelEnd(peer: PeerNode, pool: string, base: number): TunnelEnd {
  const address = firstHost(parseBlock(peer.meshSubnet));
  const zone = nodeNumber(pool, peer.meshSubnet);
  return {
    nodeId: peer.nodeId,
    dataPathAddress: peer.dataPathAddress,
    meshSubnet: peer.meshSubnet,
    address,
    mac: tunnelMac(address),
    mark: (base | zone) >>> 0,
    zone,
  };
}

/**
 * Peers that have all that a tunnel needs; a node that is just joining may lack its block or address for a moment. The
 * tunnels are IPv4's: a node that says another address costs nobody else their mesh.
 */
export function tunnelEnds(mesh: MeshAssignment, base: number): TunnelEnd[] {
  return mesh.peers
    .filter((peer) => peer.meshSubnet !== "" && isIPv4(peer.dataPathAddress))
    .map((peer) => tunnelEnd(peer, mesh.pool, base));
}
