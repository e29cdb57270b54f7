/** What a name means in the cluster, as a manager answers it to nodes: they trust nobody else about names. */
import type { ClusterControl } from "../model/cluster-control.ts";
import { imageByName } from "../model/cluster-images.ts";
import type { ResolvedImage } from "../model/dispatch.ts";
import type { ImageEngine } from "../model/engine.ts";
import { canonicalForm, tryParseReference, withDefaultTag } from "../model/image-reference.ts";
import type { ClusterImage } from "../model/objects.ts";
import type { StoreView } from "../model/store-view.ts";

/** Without a quorum names go on to mean what this manager last heard. */
const FRESH_VIEW_WAIT_MS = 1_000;

/** An image of the cluster, else one that this manager has under the name. Undefined: the cluster knows nothing of it. */
export async function resolveClusterImage(
  control: Pick<ClusterControl, "view" | "staleView">,
  images: Pick<ImageEngine, "describe">,
  asked: { readonly reference: string; readonly nodeId: string },
): Promise<ResolvedImage | undefined> {
  const parsed = tryParseReference(asked.reference);
  if (parsed === undefined) return undefined;
  const view = await control.view(AbortSignal.timeout(FRESH_VIEW_WAIT_MS)).catch(() => control.staleView());
  const name = canonicalForm(withDefaultTag(parsed));
  const record = parsed.digest === undefined ? imageByName(view, name) : imageByDigest(view, parsed.digest);
  if (record !== undefined) {
    const holders = record.holders.filter((holder) => holder.isComplete);
    return { digest: record.spec.Digest, holders: holders.map((holder) => holder.nodeId) };
  }
  const own = images.describe(name);
  return own === undefined ? undefined : { digest: own.manifest.digest, holders: [asked.nodeId] };
}

function imageByDigest(view: StoreView, digest: string): ClusterImage | undefined {
  return view.list("image").find((image) => image.spec.Digest === digest);
}
