/** The packet filter of this machine's bridges: published ports, way out, isolation. Pure: text from records. */
import type { Elements, TableDefinition } from "./nft-table.ts";
import { DNS_PORT } from "./dns-server.ts";
import type { PublishedPort } from "./local-ports.ts";

export interface BridgeFacts {
  readonly device: string;
  readonly subnet: string;
  readonly gateway: string;
  readonly isInternal: boolean;
  /** Containers may talk to each other. */
  readonly isOpenInside: boolean;
  readonly isMasqueraded: boolean;
  /** Port of the network's name server on its gateway; containers ask 53. */
  readonly dnsPort: number;
  /** Absent without IPv6. */
  readonly ipv6Subnet?: string;
}

export interface PublishFacts {
  readonly address: string;
  /** Of containers that have one. */
  readonly ipv6Address?: string;
  readonly ports: readonly PublishedPort[];
}

/** What both families have alike. */
const BRIDGE_SETS: TableDefinition["sets"] = [
  ["bridges", "set", "type ifname;"],
  ["internal", "set", "type ifname;"],
  ["open", "set", "type ifname . ifname;"],
];
const FORWARD = `
  chain forward { type filter hook forward priority filter; policy accept;
    oifname @bridges tcp flags syn tcp option maxseg size set rt mtu
    iifname @bridges tcp flags syn tcp option maxseg size set rt mtu
    iifname . oifname @open accept
    oifname @internal drop
    iifname @internal drop
    ct state established,related accept
    oifname @bridges ct status dnat accept
    oifname @bridges drop
  }`;

/**
 * What local processes send to 127.0.0.1 is turned to containers on its way out. A packet with that address that comes in over
 * a wire is a neighbour's forgery, which the kernel drops when it routes it: its address must not have been changed before.
 */
export function localDefinition(table: string): TableDefinition {
  return {
    name: table,
    sets: [
      ...BRIDGE_SETS,
      ["ways_out", "set", "type ipv4_addr; flags interval;"],
      ["at_all", "map", "typeof meta l4proto . th dport : ip daddr . th dport;"],
      ["at_one", "map", "typeof ip daddr . meta l4proto . th dport : ip daddr . th dport;"],
      ["names", "map", "typeof ip daddr . th dport : ip daddr . th dport;"],
    ],
    chains: `
  chain untracked { type filter hook prerouting priority raw; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
  }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @at_one
    dnat ip to meta l4proto . th dport map @at_all
  }
  chain arriving { type nat hook prerouting priority dstnat; policy accept;
    iifname @bridges meta l4proto { tcp, udp } dnat ip to ip daddr . th dport map @names
    ip daddr != 127.0.0.0/8 fib daddr type local jump publish
  }
  chain local { type nat hook output priority -100; policy accept;
    fib daddr type local jump publish
  }
  chain leaving { type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ip saddr 127.0.0.0/8 masquerade
    oifname @bridges ct status dnat ip saddr @ways_out masquerade
    oifname != @bridges ip saddr @ways_out masquerade
  }${FORWARD}`,
  };
}

/**
 * The same for IPv6. Nothing but the container's own listens behind `::1`: the kernel can't turn that into another machine's address, so
 * what a local process sends there comes to the socket that holds the port, which relays it.
 */
export function localDefinition6(table: string): TableDefinition {
  return {
    name: table,
    family: "ip6",
    sets: [
      ...BRIDGE_SETS,
      ["ways_out", "set", "type ipv6_addr; flags interval;"],
      ["at_all", "map", "typeof meta l4proto . th dport : ip6 daddr . th dport;"],
      ["at_one", "map", "typeof ip6 daddr . meta l4proto . th dport : ip6 daddr . th dport;"],
    ],
    chains: `
  chain publish {
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at_one
    dnat ip6 to meta l4proto . th dport map @at_all
  }
  chain arriving { type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump publish
  }
  chain local { type nat hook output priority -100; policy accept;
    ip6 daddr != ::1 fib daddr type local jump publish
  }
  chain leaving { type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ct status dnat ip6 saddr @ways_out masquerade
    oifname != @bridges ip6 saddr @ways_out masquerade
  }${FORWARD}`,
  };
}

function quoted(device: string): string {
  return `"${device}"`;
}

function bridgeElements(
  bridges: readonly BridgeFacts[],
  subnetOf: (bridge: BridgeFacts) => string,
): readonly (readonly [string, ReadonlyMap<string, string>])[] {
  const internal = bridges.filter((bridge) => bridge.isInternal);
  const open = bridges.filter((bridge) => bridge.isOpenInside);
  const out = bridges.filter((bridge) => bridge.isMasqueraded && !bridge.isInternal);
  return [
    ["bridges", new Map(bridges.map((bridge) => [quoted(bridge.device), ""]))],
    ["internal", new Map(internal.map((bridge) => [quoted(bridge.device), ""]))],
    ["open", new Map(open.map(({ device }) => [`${quoted(device)} . ${quoted(device)}`, ""]))],
    ["ways_out", new Map(out.map((bridge) => [subnetOf(bridge), ""]))],
  ];
}

export function localElements(bridges: readonly BridgeFacts[], published: readonly PublishFacts[]): Elements {
  const atAll = new Map<string, string>();
  const atOne = new Map<string, string>();
  for (const { address, ports } of published) {
    for (const port of ports) {
      if (port.hostIp.includes(":")) continue;
      const target = `${address} . ${port.containerPort}`;
      if (port.hostIp === "0.0.0.0") atAll.set(`${port.protocol} . ${port.hostPort}`, target);
      else atOne.set(`${port.hostIp} . ${port.protocol} . ${port.hostPort}`, target);
    }
  }
  return new Map([
    ...bridgeElements(bridges, (bridge) => bridge.subnet),
    ["at_all", atAll],
    ["at_one", atOne],
    [
      "names",
      new Map(bridges.map(({ gateway, dnsPort }) => [`${gateway} . ${DNS_PORT}`, `${gateway} . ${dnsPort}`])),
    ],
  ]);
}

export function localElements6(
  bridges: readonly BridgeFacts[],
  published: readonly PublishFacts[],
): Elements {
  const atAll = new Map<string, string>();
  const atOne = new Map<string, string>();
  for (const { ipv6Address, ports } of published) {
    if (ipv6Address === undefined) continue;
    for (const port of ports) {
      const target = `${ipv6Address} . ${port.containerPort}`;
      if (port.hostIp === "::" || port.isDual === true)
        atAll.set(`${port.protocol} . ${port.hostPort}`, target);
      else if (port.hostIp.includes(":"))
        atOne.set(`${port.hostIp} . ${port.protocol} . ${port.hostPort}`, target);
    }
  }
  const own = bridges.filter((bridge) => bridge.ipv6Subnet !== undefined);
  return new Map([
    ...bridgeElements(own, (bridge) => bridge.ipv6Subnet ?? ""),
    ["at_all", atAll],
    ["at_one", atOne],
  ]);
}
