/**
 * Connections that the kernel tracks in one namespace: forgetting those of an endpoint that is gone, by one request that the
 * kernel filters itself, and counting them for tests and audits.
 */
import { addressBytes, bytesToAddress } from "./addresses.ts";
import { addressBytes6 } from "./addresses6.ts";
import { ClusterError } from "../../common/errors.ts";
import type { NetworkNamespace } from "./namespace.ts";
import { NETLINK_NETFILTER } from "./netlink-socket.ts";
import { decodeAttributes, nested, attribute, u8, u32 } from "./netlink-wire.ts";
import type { Request } from "./netlink-wire.ts";
import { ENOENT } from "./routing.ts";

const CTNETLINK = 1;
const GET_FLOWS = (CTNETLINK << 8) | 1;
const DELETE_FLOWS = (CTNETLINK << 8) | 2;
const AF_INET = 2;
const AF_INET6 = 10;
const [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER] = [1, 2, 25];
const [CTA_TUPLE_IP, CTA_TUPLE_PROTO] = [1, 2];
const [CTA_IP_SOURCE, CTA_IP_DESTINATION, CTA_IPV6_SOURCE] = [1, 2, 3];
const CTA_PROTO_NUMBER = 1;
const [CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS] = [1, 2];
/** Which fields of a tuple are compared. */
const [FILTER_SOURCE, FILTER_PROTOCOL] = [1, 8];
const PROTOCOLS = { tcp: 6, udp: 17 } as const;
const HEADER = Buffer.from([AF_INET, 0, 0, 0]);

export interface FlowFilter {
  /** Who answers: the endpoint behind a virtual address or published port. */
  readonly replySource: string;
  readonly protocol?: keyof typeof PROTOCOLS;
}

function flowDeletion(filter: FlowFilter): Request {
  const protocol = filter.protocol === undefined ? undefined : PROTOCOLS[filter.protocol];
  const flags = FILTER_SOURCE | (protocol === undefined ? 0 : FILTER_PROTOCOL);
  const isIpv6 = filter.replySource.includes(":");
  const source = isIpv6
    ? attribute(CTA_IPV6_SOURCE, addressBytes6(filter.replySource))
    : attribute(CTA_IP_SOURCE, addressBytes(filter.replySource));
  const body = Buffer.concat([
    isIpv6 ? Buffer.from([AF_INET6, 0, 0, 0]) : HEADER,
    nested(
      CTA_TUPLE_REPLY,
      nested(CTA_TUPLE_IP, source),
      ...(protocol === undefined ? [] : [nested(CTA_TUPLE_PROTO, u8(CTA_PROTO_NUMBER, protocol))]),
    ),
    nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, 0), u32(CTA_FILTER_REPLY_FLAGS, flags)),
  ]);
  return { type: DELETE_FLOWS, flags: 0, body, action: `forget connections to ${filter.replySource}` };
}

/** Forgets all flows that match. Open connections are not told: the next packet starts a new flow. */
export function deleteFlows(namespace: NetworkNamespace, filter: FlowFilter): void {
  namespace.netfilter.send([flowDeletion(filter)], { tolerate: [ENOENT] });
}

/** Forgets the flows of these endpoints off this thread, on a socket that nobody else uses. */
export async function deleteFlowsElsewhere(
  namespace: NetworkNamespace,
  replySources: readonly string[],
): Promise<void> {
  const socket = namespace.openSocket(NETLINK_NETFILTER);
  try {
    const requests = replySources.map((replySource) => flowDeletion({ replySource }));
    await socket.sendElsewhere(requests, { tolerate: [ENOENT] });
  } finally {
    socket.close();
  }
}

export interface Flow {
  readonly source: string;
  readonly destination: string;
  readonly replySource: string;
  readonly protocol: number;
}

/** All IPv4 flows. For tests and audits: the table may be large. */
export function listFlows(namespace: NetworkNamespace): Flow[] {
  const replies = namespace.netfilter.dump({
    type: GET_FLOWS,
    flags: 0,
    body: HEADER,
    action: "list connections",
  });
  return replies.map((reply) => {
    const attributes = decodeAttributes(reply.body, HEADER.length);
    const original = decodeTuple(attributes.get(CTA_TUPLE_ORIG));
    const answer = decodeTuple(attributes.get(CTA_TUPLE_REPLY));
    return { ...original, replySource: answer.source };
  });
}

function decodeTuple(bytes: Buffer | undefined): Omit<Flow, "replySource"> {
  if (bytes === undefined) throw new ClusterError("internal", "Cannot read a connection without addresses");
  const tuple = decodeAttributes(bytes);
  const ip = decodeAttributes(tuple.get(CTA_TUPLE_IP) ?? Buffer.alloc(0));
  const protocol = decodeAttributes(tuple.get(CTA_TUPLE_PROTO) ?? Buffer.alloc(0));
  return {
    source: bytesToAddress(ip.get(CTA_IP_SOURCE) ?? Buffer.alloc(4)),
    destination: bytesToAddress(ip.get(CTA_IP_DESTINATION) ?? Buffer.alloc(4)),
    protocol: protocol.get(CTA_PROTO_NUMBER)?.[0] ?? 0,
  };
}
