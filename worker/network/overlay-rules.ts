/** The packet filter inside an overlay's namespace: virtual addresses as slot maps, and quick refusals. Pure. */
import type { TableDefinition } from "../../runtime/network/nft-table.ts";
import { SLOT_CLASSES } from "./slots.ts";

/** Alone in its namespace: the name clashes with nobody. */
export const OVERLAY_TABLE = "shoal";

function slotSets(): TableDefinition["sets"] {
  return SLOT_CLASSES.map((size) => {
    const slot = size === 1 ? "" : ` . numgen inc mod ${size}`;
    return [`vip${size}`, "map", `typeof ip daddr${slot} : ip daddr;`] as const;
  });
}

function vipRules(): string {
  return SLOT_CLASSES.map((size) => {
    const slot = size === 1 ? "" : ` . numgen inc mod ${size}`;
    return `    dnat to ip daddr${slot} map @vip${size}`;
  }).join("\n");
}

/** `gateway` is the network's, which every node's namespace has for itself. */
export function overlayDefinition(gateway: string): TableDefinition {
  return {
    name: OVERLAY_TABLE,
    sets: [
      ...slotSets(),
      ["self", "set", "type ipv4_addr . ipv4_addr;"],
      ["gone", "set", "type ipv4_addr; flags timeout;"],
    ],
    chains: `
  chain virtual { type nat hook prerouting priority dstnat; policy accept;
${vipRules()}
  }
  chain gone_in { type filter hook prerouting priority -90; policy accept;
    ip daddr @gone meta l4proto tcp reject with tcp reset
    ip daddr @gone reject with icmp type host-unreachable
  }
  chain hairpin { type nat hook postrouting priority srcnat; policy accept;
    ip saddr . ip daddr @self snat to ${gateway}
  }
  chain forward { type filter hook forward priority filter; policy accept;
    tcp flags syn tcp option maxseg size set rt mtu
  }
  chain input { type filter hook input priority filter; policy accept;
    ct state established,related accept
    iifname "lo" accept
    ip daddr ${gateway} icmp type echo-request accept
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }`,
  };
}
