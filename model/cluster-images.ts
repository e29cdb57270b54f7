/** Looking up images that were put into the cluster. Used by managers and by the API in front of them. */
import type { ClusterImage } from "./objects.ts";
import type { StoreView } from "./store-view.ts";

/** Nodes that keep a copy of each image: two may be lost at once, and one while a copy is being replaced. */
export const IMAGE_COPY_COUNT = 3;

/** The record of a canonical name with tag. Tags differ by case, the store's index of names does not. */
export function imageByName(view: StoreView, name: string): ClusterImage | undefined {
  return view.list("image", { kind: "name", name }).find((image) => image.spec.Name === name);
}
