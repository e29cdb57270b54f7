/** Looking up images that were put into the cluster. Used by managers and by the API in front of them. */
import type { ClusterImage } from "./objects.ts";
import type { StoreView } from "./store-view.ts";

/** The record of a canonical name with tag. Tags differ by case, the store's index of names does not. */
export function imageByName(view: StoreView, name: string): ClusterImage | undefined {
  return view.list("image", { kind: "name", name }).find((image) => image.spec.Name === name);
}
