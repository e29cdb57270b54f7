/**
 * Waits for the end of a rotation of the root and says who is waited for: a line for each change. A node that is off keeps a
 * rotation open for as long as it is off, so it must be named. Used by `swarm ca --rotate`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { ApiClient } from "../client/api-client.ts";
import type { ApiNode, ApiSwarm } from "../client/types.ts";
import type { Output } from "../command.ts";
import { isPassing, PASSING_ERRORS_MS } from "./passing-errors.ts";

const POLL_MS = 200;
/** Nodes that a line names; the others it counts. */
const NAMES_MAX = 5;

/** How far a rotation is, as a line: nodes whose certificate another key than the new root's has signed are late. */
export function rotationLine(swarm: Pick<ApiSwarm, "TLSInfo">, nodes: readonly ApiNode[]): string {
  const issuer = swarm.TLSInfo?.CertIssuerPublicKey;
  const late = nodes.filter((node) => node.Description?.TLSInfo?.CertIssuerPublicKey !== issuer);
  const counts = `${nodes.length - late.length} of ${nodes.length} nodes have new certificates`;
  if (late.length === 0) return counts;
  const names = late.slice(0, NAMES_MAX).map((node) => {
    const isDown = node.Status.State === "down";
    return `${node.Description?.Hostname ?? ""} (${node.ID})${isDown ? ", which is down" : ""}`;
  });
  const more = late.length > NAMES_MAX ? ` and ${late.length - NAMES_MAX} more` : "";
  const hint = late.some((node) => node.Status.State === "down")
    ? "; one that does not come back: 'shoal node rm --force NODE'"
    : "";
  return `${counts}, waiting for ${names.join("; ")}${more}${hint}`;
}

export interface RotationWaitOptions {
  readonly client: ApiClient;
  /** Where the lines go; undefined: nowhere. */
  readonly out: Output | undefined;
  readonly signal: AbortSignal;
}

/** Resolves with the cluster when no rotation is open. Aborted it says that the rotation goes on. */
export async function waitForRotation({ client, out, signal }: RotationWaitOptions): Promise<ApiSwarm> {
  let last = "";
  let failingSince: number | undefined;
  const onAbort = (): void => out?.write("The rotation goes on in the background.\n");
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      try {
        const swarm = await client.get<ApiSwarm>("/swarm", { signal });
        if (swarm.RootRotationInProgress !== true) return swarm;
        const line = rotationLine(swarm, await client.get<ApiNode[]>("/nodes", { signal }));
        failingSince = undefined;
        if (line !== last) out?.write(`${line}\n`);
        last = line;
      } catch (caught) {
        failingSince ??= performance.now();
        if (!isPassing(caught) || performance.now() - failingSince > PASSING_ERRORS_MS) throw caught;
      }
      await sleep(POLL_MS, undefined, { signal });
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
