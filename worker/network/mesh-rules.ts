/**
 * The packet filter of the mesh, as text: published ports, egress, isolation, and the way back of replies. Pure. All that
 * changes with services and tasks is in sets and maps; the chains follow from the node's own addresses alone.
 */
import { DNS_PORT } from "../../runtime/network/dns-server.ts";
import type { TableDefinition } from "../../runtime/network/nft-table.ts";
import { SLOT_CLASSES } from "./slots.ts";

export interface MeshShape {
  /** Of the nft table. */
  readonly table: string;
  readonly vxlan: string;
  /** What all names of task links begin with. */
  readonly linkPrefix: string;
  /** The cluster's pool, this node's block and its own address in it. */
  readonly pool: string;
  readonly subnet: string;
  readonly address: string;
  readonly dataPathPort: number;
  /** Marks of the way back: the fixed bits and their mask. */
  readonly markBase: number;
  readonly markMask: number;
  /** Port of the name server, once it is there; tasks ask 53. */
  readonly dnsPort: number | undefined;
  /** What a backend on another node sees as the client's address. */
  readonly clientAddress: "client" | "node";
}

function hex(value: number): string {
  return `0x${(value >>> 0).toString(16)}`;
}

/** First matching class wins; a miss goes on to the next rule. */
function publishRules(): string {
  const spread = SLOT_CLASSES.filter((size) => size > 1).map(
    (size) => `    dnat ip to meta l4proto . th dport . numgen inc mod ${size} map @publish${size}`,
  );
  return [
    "    dnat ip to meta l4proto . th dport map @host",
    "    dnat ip to meta l4proto . th dport map @publish1",
    ...spread,
  ].join("\n");
}

function slotSets(): TableDefinition["sets"] {
  return SLOT_CLASSES.map((size) => {
    const slot = size === 1 ? "" : ` . numgen inc mod ${size}`;
    return [`publish${size}`, "map", `typeof meta l4proto . th dport${slot} : ip daddr . th dport;`] as const;
  });
}

function chains(shape: MeshShape): string {
  const { vxlan, pool, subnet, address, dataPathPort } = shape;
  const tasks = `"${shape.linkPrefix}*"`;
  const mark = `& ${hex(shape.markMask)} == ${hex(shape.markBase)}`;
  const redirectNames =
    shape.dnsPort === undefined
      ? ""
      : `    ip daddr ${address} meta l4proto { tcp, udp } th dport ${DNS_PORT} dnat to ${address}:${shape.dnsPort}`;
  // A client that is itself a node may be the one that the backend runs on: its own address coming in over the tunnel
  // would be refused there as a forgery, so nodes are always seen as this node.
  const hidden = shape.clientAddress === "node" ? "" : "ip saddr @vteps ";
  // A client may use one port of its own towards several nodes at once. Where such connections meet at one task they are
  // told apart by the node they came through, and the later one is given another port towards the task.
  const tellApart = `iifname "${vxlan}" ct original zone set ether saddr map @zones`;
  const hideClient = `    oifname "${vxlan}" ${hidden}ip daddr ${pool} ct status dnat snat to ${address}`;
  return `
  chain untracked_in { type filter hook prerouting priority raw; policy accept;
    iifname { "${vxlan}", ${tasks} } ip daddr 127.0.0.0/8 drop
    udp dport ${dataPathPort} ip saddr @vteps notrack
    ${tellApart}
  }
  chain untracked_out { type filter hook output priority raw; policy accept;
    udp dport ${dataPathPort} ip daddr @vteps notrack
  }
  chain way_back { type filter hook prerouting priority mangle; policy accept;
    iifname "${vxlan}" ct state new ct mark set ether saddr map @via
    iifname ${tasks} ct direction reply ct mark ${mark} meta mark set ct mark
  }
  chain way_back_local { type route hook output priority mangle; policy accept;
    ct direction reply ct mark ${mark} meta mark set ct mark
  }
  chain way_out { type filter hook postrouting priority mangle; policy accept;
    oifname "${vxlan}" meta mark ${mark} meta mark set 0
  }
  chain publish {
${publishRules()}
  }
  chain arriving { type nat hook prerouting priority dstnat; policy accept;
${redirectNames}
    iifname != "${vxlan}" fib daddr type local jump publish
  }
  chain local { type nat hook output priority -100; policy accept;
    fib daddr type local jump publish
  }
  chain gone_in { type filter hook prerouting priority -90; policy accept;
    ip daddr @gone meta l4proto tcp reject with tcp reset
    ip daddr @gone reject with icmp type host-unreachable
  }
  chain leaving { type nat hook postrouting priority srcnat; policy accept;
    ip saddr 127.0.0.0/8 ip daddr ${pool} snat to ${address}
    ip saddr . ip daddr @self snat to ${address}
${hideClient}
    oifname { "${vxlan}", ${tasks} } return
    ip saddr ${subnet} masquerade
  }
  chain forward { type filter hook forward priority filter; policy accept;
    oifname { "${vxlan}", ${tasks} } tcp flags syn tcp option maxseg size set rt mtu
    iifname { "${vxlan}", ${tasks} } tcp flags syn tcp option maxseg size set rt mtu
    ct state established,related accept
    iifname ${tasks} ip saddr @sealed reject with icmp type admin-prohibited
    oifname { "${vxlan}", ${tasks} } ct status dnat accept
    iifname ${tasks} oifname { "${vxlan}", ${tasks} } reject with icmp type admin-prohibited
    iifname "${vxlan}" oifname != ${tasks} drop
    iifname != "${vxlan}" oifname ${tasks} drop
  }
  chain input { type filter hook input priority filter; policy accept;
    udp dport ${dataPathPort} ip saddr != @vteps drop
    iifname "${vxlan}" ct state new meta l4proto != icmp drop
  }`;
}

export function meshDefinition(shape: MeshShape): TableDefinition {
  return {
    name: shape.table,
    sets: [
      ["vteps", "set", "type ipv4_addr;"],
      ["via", "map", "type ether_addr : mark;"],
      ["zones", "map", "typeof ether saddr : ct original zone;"],
      ["host", "map", "typeof meta l4proto . th dport : ip daddr . th dport;"],
      ...slotSets(),
      ["self", "set", "type ipv4_addr . ipv4_addr;"],
      ["sealed", "set", "type ipv4_addr;"],
      ["gone", "set", "type ipv4_addr; flags timeout;"],
    ],
    chains: chains(shape),
  };
}
