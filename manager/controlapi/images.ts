/** Naming images of the cluster and taking names away: plans of transactions. Who keeps copies is the image keeper's. */
import { ClusterError } from "../../common/errors.ts";
import { imageByName } from "../../model/cluster-images.ts";
import {
  canonicalForm,
  familiarForm,
  parseReference,
  tryParseReference,
  withDefaultTag,
} from "../../model/image-reference.ts";
import type { ClusterImage, Service } from "../../model/objects.ts";
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
  /** RFC 3339. */
  readonly now: string;
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
    tx.create("image", { id: plan.id, spec, pushedAt: plan.now, holders: [origin] });
    return plan.id;
  }
  if (present.spec.Digest !== spec.Digest) {
    // Who kept the last image under the name has most layers of the next.
    const former = present.holders
      .filter((holder) => holder.nodeId !== plan.nodeId)
      .map((holder) => ({ ...holder, isComplete: false }));
    tx.update("image", { ...present, spec, pushedAt: plan.now, holders: [origin, ...former] });
  }
  // The same image again: copies that are there stay.
  else if (!present.holders.some((holder) => holder.nodeId === plan.nodeId && holder.isComplete)) {
    const others = present.holders.filter((holder) => holder.nodeId !== plan.nodeId);
    tx.update("image", { ...present, spec, holders: [origin, ...others] });
  }
  return present.id;
}

/** `force`: also while services name it, whose next tasks then find it only where it happens to be. */
export function removeImage(tx: Transaction, id: string, force: boolean): undefined {
  const image = existing(tx, "image", id);
  const users = force ? [] : tx.list("service").filter((service) => names(service, image));
  if (users.length > 0) {
    const services = users.map((service) => service.spec.Name).join(", ");
    const noun = users.length === 1 ? "service" : "services";
    throw new ClusterError(
      "invalid_argument",
      `image '${familiarForm(parseReference(image.spec.Name))}' is in use by the following ${noun}: ${services}`,
      { details: { imageId: id } },
    );
  }
  tx.remove("image", id);
  return undefined;
}

function names(service: Service, image: ClusterImage): boolean {
  const parsed = tryParseReference(service.spec.TaskTemplate.ContainerSpec.Image);
  if (parsed === undefined) return false;
  if (parsed.digest !== undefined) return parsed.digest === image.spec.Digest;
  return canonicalForm(withDefaultTag(parsed)) === image.spec.Name;
}
