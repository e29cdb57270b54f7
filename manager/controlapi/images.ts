/** Naming images of the cluster and taking names away: plans of transactions. Who keeps copies is the image keeper's. */
import { ClusterError } from "../../common/errors.ts";
import { imageByName } from "../../model/cluster-images.ts";
import { CLUSTER_IMAGE_COUNT_MAX } from "../limits.ts";
import type { Transaction } from "../store/store.ts";
import { existing } from "./lookup.ts";
import { checkImageSpec } from "./validate/other-specs.ts";

export interface PutImagePlan {
  /** Used for a name that is new. */
  readonly id: string;
  readonly spec: unknown;
  /** The node that has the image. */
  readonly nodeId: string;
}

/** Returns the id of the record: that of the name, if the cluster has it already. */
export function putImage(tx: Transaction, plan: PutImagePlan): string {
  const spec = checkImageSpec(plan.spec);
  existing(tx, "node", plan.nodeId);
  const origin = { nodeId: plan.nodeId, isComplete: true };
  const present = imageByName(tx, spec.Name);
  if (present === undefined) {
    const count = tx.list("image").length;
    if (count >= CLUSTER_IMAGE_COUNT_MAX) {
      throw new ClusterError(
        "resource_exhausted",
        `the cluster keeps at most ${CLUSTER_IMAGE_COUNT_MAX} images: remove some with \`shoal image rm --cluster\``,
      );
    }
    tx.create("image", { id: plan.id, spec, holders: [origin] });
    return plan.id;
  }
  if (present.spec.Digest !== spec.Digest) tx.update("image", { ...present, spec, holders: [origin] });
  // The same image again: copies that are there stay.
  else if (!present.holders.some((holder) => holder.nodeId === plan.nodeId && holder.isComplete)) {
    const others = present.holders.filter((holder) => holder.nodeId !== plan.nodeId);
    tx.update("image", { ...present, spec, holders: [origin, ...others] });
  }
  return present.id;
}

export function removeImage(tx: Transaction, id: string): undefined {
  existing(tx, "image", id);
  tx.remove("image", id);
  return undefined;
}
