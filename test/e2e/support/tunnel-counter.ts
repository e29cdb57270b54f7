/** Counts what two hosts of a dev cluster send each other through tunnels, where the wire is: on the bridge between them. */
import assert from "node:assert/strict";
import { mustRun } from "../../../dev/run-command.ts";
import { namespaceName } from "../../../dev/switch-network.ts";

const VXLAN_PORT = 4789;
const TABLE = "tunnel_counter";

export class TunnelCounter {
  readonly #nft: readonly string[];

  private constructor(cluster: string) {
    this.#nft = ["nsenter", `--net=/run/netns/${namespaceName(cluster, "switch")}`, "nft"];
  }

  /** Counts from now on, in both directions, until the cluster is gone or another counter is started. */
  static async start(cluster: string, one: string, other: string): Promise<TunnelCounter> {
    const counter = new TunnelCounter(cluster);
    const rule = (from: string, to: string): string =>
      `    ip saddr ${from} ip daddr ${to} udp dport ${VXLAN_PORT} counter`;
    const input = [
      `add table bridge ${TABLE}`,
      `delete table bridge ${TABLE}`,
      `table bridge ${TABLE} {`,
      "  chain forward {",
      "    type filter hook forward priority -300; policy accept;",
      rule(one, other),
      rule(other, one),
      "  }",
      "}",
      "",
    ].join("\n");
    await mustRun([...counter.#nft, "-f", "-"], { input });
    return counter;
  }

  /** Packets so far. */
  async read(): Promise<number> {
    const text = await mustRun([...this.#nft, "list", "table", "bridge", TABLE]);
    const counts = [...text.matchAll(/counter packets (\d+)/g)].map((match) => Number(match[1]));
    assert.equal(counts.length, 2, text);
    return counts.reduce((sum, count) => sum + count, 0);
  }
}
