/** How long certificates live and when they are renewed. Pure; used by the CA and by every node's renewal. */
import type { Node } from "../../model/objects.ts";
import type { ClusterSpec } from "../../model/specs.ts";

const NANOS_PER_MS = 1e6;
const DEFAULT_LIFE_MS = 90 * 24 * 3_600_000;
/** Renewal falls at a random point of this part of the life, so that nodes that joined together don't renew together. */
const RENEW_FROM = 0.5;
const RENEW_UNTIL = 0.8;

/** Life of a node's certificate that the cluster's spec asks for. */
export function certificateLifeMs(spec: ClusterSpec): number {
  const nanos = spec.CAConfig?.NodeCertExpiry ?? 0;
  return nanos > 0 ? nanos / NANOS_PER_MS : DEFAULT_LIFE_MS;
}

/** When the last certificate that is known to have been issued to the node expires, Unix ms; 0 if none is known. */
export function lastCertificateEndMs(node: Pick<Node, "certificateUntil">): number {
  return node.certificateUntil === undefined ? 0 : Date.parse(node.certificateUntil);
}

/** When a node that is removed now may be forgotten, Unix ms: what was issued to it, also under another spec, is over then. */
export function banishedUntilMs(
  spec: ClusterSpec,
  node: Pick<Node, "certificateUntil">,
  nowMs: number,
): number {
  // Of what was issued before nodes had the date, nothing is known but what is usual.
  const lifeMs = certificateLifeMs(spec);
  const unknownMs = node.certificateUntil === undefined ? Math.max(lifeMs, DEFAULT_LIFE_MS) : lifeMs;
  return Math.max(nowMs + unknownMs, lastCertificateEndMs(node));
}

/** How long to wait from now until the certificate shall be renewed; 0 when that time has passed, or its life not begun. */
export function renewAfterMs(
  life: { readonly fromMs: number; readonly untilMs: number },
  now: { readonly wallMs: number; readonly random: { float(): number } },
): number {
  if (now.wallMs < life.fromMs) return 0;
  const part = RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * now.random.float();
  return Math.max(0, life.fromMs + (life.untilMs - life.fromMs) * part - now.wallMs);
}
