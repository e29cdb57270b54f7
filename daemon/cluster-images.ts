/** What a name means in the cluster, as a manager answers it to nodes: they trust nobody else about names. */
import type { ClusterControl } from "../model/cluster-control.ts";
import { imageByName } from "../model/cluster-images.ts";
import type { ResolvedImage } from "../model/dispatch.ts";
import type { ImageEngine } from "../model/engine.ts";
import { canonicalForm, tryParseReference, withDefaultTag } from "../model/image-reference.ts";

/** Without a quorum names go on to mean what this manager last heard. */
const FRESH_VIEW_WAIT_MS = 1_000;
/** Who has an image is worth less than an answer. */
const HOLDERS_WAIT_MS = 1_000;

/** An image of the cluster, else one that this manager has under the name. Undefined: the cluster knows nothing of it. */
export async function resolveClusterImage(
  control: Pick<ClusterControl, "view" | "staleView" | "imageNodes">,
  images: Pick<ImageEngine, "describe">,
  asked: { readonly reference: string; readonly nodeId: string },
): Promise<ResolvedImage | undefined> {
  const parsed = tryParseReference(asked.reference);
  if (parsed === undefined) return undefined;
  if (parsed.digest !== undefined) {
    const holders = await nodesWith(control, asked.reference);
    return { digest: parsed.digest, holders, isKept: false, taggedAt: "" };
  }
  const name = canonicalForm(withDefaultTag(parsed));
  const fresh = control.view(AbortSignal.timeout(FRESH_VIEW_WAIT_MS));
  const view = await fresh.catch(() => control.staleView());
  const record = imageByName(view, name);
  if (record !== undefined) {
    const holders = record.holders.filter((holder) => holder.isComplete).map((holder) => holder.nodeId);
    const others = await nodesWith(control, `${name}@${record.spec.Digest}`);
    return {
      digest: record.spec.Digest,
      holders: [...new Set([...holders, ...others])],
      isKept: true,
      taggedAt: record.pushedAt ?? record.updatedAt,
    };
  }
  const own = images.describe(name);
  if (own === undefined) return undefined;
  const { digest } = own.manifest;
  const others = await nodesWith(control, `${name}@${digest}`);
  return { digest, holders: [asked.nodeId, ...others], isKept: false, taggedAt: own.taggedAt };
}

function nodesWith(
  control: Pick<ClusterControl, "imageNodes">,
  reference: string,
): Promise<readonly string[]> {
  return within(control.imageNodes(reference), HOLDERS_WAIT_MS).catch(() => []);
}

function within<T>(promise: Promise<T>, waitMs: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("no answer in time")), waitMs);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
