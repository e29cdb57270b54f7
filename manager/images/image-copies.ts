/**
 * Which nodes shall keep an image of the cluster: enough of those that can serve it, and the last that has it never let
 * go. Pure; image-keeper.ts writes it to the store.
 */
import type { ImageHolder } from "../../model/objects.ts";
import { IMAGE_COPY_COUNT } from "../../model/cluster-images.ts";

/** A node of the cluster, as one that keeps an image. */
export interface KeeperState {
  readonly nodeId: string;
  /** Ready and not drained. */
  readonly isUsable: boolean;
  /** Not usable for so short a time that it may well be restarting: it is neither replaced nor given more. */
  readonly isMissed: boolean;
  /** Told to keep it for so long, and still without it, that its disk may be full: another one is asked beside it. */
  readonly isStalled: boolean;
  /** Whether it has the image; undefined while it has not said. */
  readonly hasImage: boolean | undefined;
}

/** As one that may come to keep it. */
export interface Keeper extends KeeperState {
  /** It keeps another image of the repository: most layers will be there. */
  readonly keepsSibling: boolean;
  /** Images that it keeps already. */
  readonly keptCount: number;
}

/** The nodes of the cluster as keepers of one image. All of them are looked at only when a copy is missing. */
export interface Keepers {
  get(nodeId: string): KeeperState | undefined;
  values(): Iterable<Keeper>;
}

/** The holders that there should be; the given list itself if those are they. */
export function planHolders(holders: readonly ImageHolder[], nodes: Keepers): readonly ImageHolder[] {
  const present = holders
    // What a removed node had is lost.
    .filter((holder) => nodes.get(holder.nodeId) !== undefined)
    .map((holder) => ({ ...holder, isComplete: nodes.get(holder.nodeId)?.hasImage ?? holder.isComplete }));
  const planned = withoutSurplus([...present, ...additions(present, nodes)], nodes);
  return isSame(holders, planned) ? holders : planned;
}

function additions(present: readonly ImageHolder[], nodes: Keepers): ImageHolder[] {
  const isStalled = (holder: ImageHolder): boolean =>
    !holder.isComplete && nodes.get(holder.nodeId)?.isStalled === true;
  // Where nobody can serve it, those that are to fetch it can't be blamed, and others would fare no better.
  const isBlamed = present.some(isStalled) && hasSource(present, nodes);
  const counted = present.filter((holder) => {
    const node = nodes.get(holder.nodeId);
    return node?.isMissed === true || (node?.isUsable === true && !(isBlamed && isStalled(holder)));
  }).length;
  const missing = IMAGE_COPY_COUNT - counted;
  if (missing <= 0) return [];
  const held = new Set(present.map((holder) => holder.nodeId));
  return [...nodes.values()]
    .filter((node) => node.isUsable && !held.has(node.nodeId))
    .sort(byPreference)
    .slice(0, missing)
    .map((node) => ({ nodeId: node.nodeId, isComplete: node.hasImage === true }));
}

function hasSource(present: readonly ImageHolder[], nodes: Keepers): boolean {
  return (
    present.some((holder) => holder.isComplete && nodes.get(holder.nodeId)?.isUsable === true) ||
    [...nodes.values()].some((node) => node.isUsable && node.hasImage === true)
  );
}

/** Nodes that have the image need not fetch it, siblings share layers; else those that keep the fewest. */
function byPreference(left: Keeper, right: Keeper): number {
  const [leftHas, rightHas] = [left.hasImage === true, right.hasImage === true];
  if (leftHas !== rightHas) return leftHas ? -1 : 1;
  if (left.keepsSibling !== right.keepsSibling) return left.keepsSibling ? -1 : 1;
  return left.keptCount - right.keptCount || (left.nodeId < right.nodeId ? -1 : 1);
}

/** Once enough usable nodes have the image, nobody else needs to; until then whoever may have it is kept. */
function withoutSurplus(holders: readonly ImageHolder[], nodes: Keepers): readonly ImageHolder[] {
  const safe = holders.filter((holder) => holder.isComplete && nodes.get(holder.nodeId)?.isUsable === true);
  return safe.length < IMAGE_COPY_COUNT ? holders : safe.slice(0, IMAGE_COPY_COUNT);
}

function isSame(left: readonly ImageHolder[], right: readonly ImageHolder[]): boolean {
  return (
    left.length === right.length &&
    left.every((holder, index) => {
      const other = right[index];
      return holder.nodeId === other?.nodeId && holder.isComplete === other.isComplete;
    })
  );
}
