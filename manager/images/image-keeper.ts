/**
 * The loop that keeps enough copies of every image that was put into the cluster: chooses nodes, notes which of them
 * have the image by now, and chooses others when one is lost, drained or removed, or does not come to have it. The
 * nodes themselves fetch (they are told through their sessions). Runs on the leader only.
 */
import { type ClusterImage, type Node, NodeState, type StoreEvent } from "../../model/objects.ts";
import { IMAGE_COPY_COUNT } from "../../model/cluster-images.ts";
import { canonicalName, parseReference } from "../../model/image-reference.ts";
import type { StoreView } from "../../model/store-view.ts";
import { IMAGE_FETCH_PATIENCE_MS, IMAGE_KEEP_DEBOUNCE_MS, IMAGE_NODE_PATIENCE_MS } from "../limits.ts";
import type { NodeImages } from "../node-images.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import { type Keepers, type KeeperState, planHolders } from "./image-copies.ts";

/** What is the same for all images in one look at the nodes. */
interface NodeFacts {
  readonly isUsable: boolean;
  readonly isMissed: boolean;
}

export class ImageKeeper extends ReconcileLoop {
  readonly #images: NodeImages;
  /** Since when (monotonic) a node is not ready. A new leader counts from its own start. */
  readonly #missedSinceMs = new Map<string, number>();
  /** Since when (monotonic) a holder lacks an image, by image and node. A new leader counts from its own start. */
  readonly #fetchingSinceMs = new Map<string, ReadonlyMap<string, number>>();
  /** Images to look at, by id. */
  readonly #dirty = new Set<string>();
  /** A node may have come to be usable since images that lack copies were looked at. */
  #hasNewRoom = false;
  #unsubscribe: (() => void) | undefined;

  constructor(deps: LoopDeps, images: NodeImages) {
    super(deps, {
      name: "image keeper",
      tables: ["image", "node"],
      debounceMs: IMAGE_KEEP_DEBOUNCE_MS,
    });
    this.#images = images;
  }

  override start(): void {
    super.start();
    this.#unsubscribe = this.#images.onReport((nodeId) => {
      if (this.#noteHolder(nodeId)) this.wake();
    });
  }

  override stop(): Promise<void> {
    this.#unsubscribe?.();
    return super.stop();
  }

  protected override load(view: StoreView): void {
    this.#dirty.clear();
    for (const image of view.list("image")) this.#dirty.add(image.id);
    this.#fetchingSinceMs.clear();
    this.#missedSinceMs.clear();
    for (const node of view.list("node")) this.#noteState(node);
  }

  protected override observe(event: StoreEvent): boolean {
    if (event.table === "image") {
      if (event.action === "remove") {
        this.#dirty.delete(event.object.id);
        this.#fetchingSinceMs.delete(event.object.id);
      } else this.#dirty.add(event.object.id);
      return event.action !== "remove";
    }
    if (event.table !== "node") return false;
    const { object, previous } = event;
    if (event.action === "remove") {
      this.#missedSinceMs.delete(object.id);
      return this.#noteHolder(object.id);
    }
    this.#noteState(object);
    const isChanged =
      object.status.state !== previous?.status.state ||
      object.spec.Availability !== previous.spec.Availability;
    // Most clusters keep none, and a thousand nodes that come are no reason to look at each other.
    if (!isChanged || this.deps.store.view().list("image").length === 0) return false;
    this.#noteHolder(object.id);
    this.#hasNewRoom = true;
    return true;
  }

  /** Notes images that the node holds. True if any image is to be looked at. */
  #noteHolder(nodeId: string): boolean {
    for (const image of this.deps.store.view().list("image")) {
      if (image.holders.some((holder) => holder.nodeId === nodeId)) this.#dirty.add(image.id);
    }
    return this.#dirty.size > 0;
  }

  /** Notes images that lack copies, which may find a keeper in a new node. */
  #noteLacking(view: StoreView, facts: ReadonlyMap<string, NodeFacts>): void {
    for (const { id, holders } of view.list("image")) {
      const usable = holders.filter((holder) => facts.get(holder.nodeId)?.isUsable === true);
      if (usable.length < IMAGE_COPY_COUNT) this.#dirty.add(id);
    }
  }

  #noteState(node: Node): void {
    if (node.status.state === NodeState.ready) this.#missedSinceMs.delete(node.id);
    else if (!this.#missedSinceMs.has(node.id)) {
      this.#missedSinceMs.set(node.id, this.deps.clock.monotonicMs());
    }
  }

  protected override async reconcile(signal: AbortSignal): Promise<void> {
    const { store, log } = this.deps;
    for (const nodeId of this.#patienceEnded()) this.#noteHolder(nodeId);
    for (const [id, fetching] of this.#fetchingSinceMs) if (this.#hasStalled(fetching)) this.#dirty.add(id);
    const view = store.view();
    for (const id of this.#dirty) this.#noteFetching(view, id);
    this.#wakeWhenPatienceEnds();
    if (this.#dirty.size === 0 && !this.#hasNewRoom) return;
    const facts = this.#factsOf(view);
    if (this.#hasNewRoom) this.#noteLacking(view, facts);
    this.#hasNewRoom = false;
    const ids = [...this.#dirty];
    this.#dirty.clear();
    const kept = new KeptImages(view);
    await store.batch(
      ids,
      (tx, id) => {
        const image = tx.get("image", id);
        if (image === undefined) return;
        const holders = planHolders(image.holders, this.#keepersOf(image, facts, kept));
        if (holders === image.holders) return;
        for (const { nodeId } of holders) kept.note(image, nodeId);
        tx.update("image", { ...image, holders });
      },
      { signal, failed: (id, error) => log.error("image keeper could not write", { imageId: id, error }) },
    );
  }

  #factsOf(view: StoreView): ReadonlyMap<string, NodeFacts> {
    const nowMs = this.deps.clock.monotonicMs();
    return new Map(
      view.list("node").map((node) => {
        const isReady = node.status.state === NodeState.ready;
        const isDrained = node.spec.Availability === "drain";
        const sinceMs = this.#missedSinceMs.get(node.id) ?? nowMs;
        const isMissed = !isReady && !isDrained && nowMs - sinceMs < IMAGE_NODE_PATIENCE_MS;
        return [node.id, { isUsable: isReady && !isDrained, isMissed }];
      }),
    );
  }

  #keepersOf(image: ClusterImage, facts: ReadonlyMap<string, NodeFacts>, kept: KeptImages): Keepers {
    const stateOf = (nodeId: string, node: NodeFacts): KeeperState => ({
      nodeId,
      ...node,
      isStalled: this.#isStalled(this.#fetchingSinceMs.get(image.id)?.get(nodeId)),
      hasImage: this.#images.has(nodeId, image.spec.Digest),
    });
    return {
      get: (nodeId) => {
        const node = facts.get(nodeId);
        return node === undefined ? undefined : stateOf(nodeId, node);
      },
      values: () => {
        const siblings = kept.siblingsOf(image);
        return [...facts].map(([nodeId, node]) => ({
          ...stateOf(nodeId, node),
          keepsSibling: siblings.has(nodeId),
          keptCount: kept.countOf(nodeId),
        }));
      },
    };
  }

  /** Nodes that have been missed for too long by now; those of before were judged then. */
  #patienceEnded(): readonly string[] {
    const nowMs = this.deps.clock.monotonicMs();
    return [...this.#missedSinceMs]
      .filter(([, sinceMs]) => nowMs - sinceMs >= IMAGE_NODE_PATIENCE_MS)
      .map(([nodeId]) => nodeId);
  }

  /** Takes down which of the image's holders lack it, and since when. */
  #noteFetching(view: StoreView, imageId: string): void {
    const before = this.#fetchingSinceMs.get(imageId);
    const nowMs = this.deps.clock.monotonicMs();
    const fetching = new Map<string, number>();
    for (const { isComplete, nodeId } of view.get("image", imageId)?.holders ?? []) {
      if (!isComplete) fetching.set(nodeId, before?.get(nodeId) ?? nowMs);
    }
    if (fetching.size > 0) this.#fetchingSinceMs.set(imageId, fetching);
    else this.#fetchingSinceMs.delete(imageId);
  }

  #isStalled(sinceMs: number | undefined): boolean {
    return sinceMs !== undefined && this.deps.clock.monotonicMs() - sinceMs >= IMAGE_FETCH_PATIENCE_MS;
  }

  #hasStalled(fetching: ReadonlyMap<string, number>): boolean {
    return [...fetching.values()].some((sinceMs) => this.#isStalled(sinceMs));
  }

  #wakeWhenPatienceEnds(): void {
    const nowMs = this.deps.clock.monotonicMs();
    const ends = [...this.#missedSinceMs.values()].map((sinceMs) => sinceMs + IMAGE_NODE_PATIENCE_MS);
    for (const fetching of this.#fetchingSinceMs.values()) {
      for (const sinceMs of fetching.values()) ends.push(sinceMs + IMAGE_FETCH_PATIENCE_MS);
    }
    const next = Math.min(...ends.filter((endMs) => endMs > nowMs));
    if (next !== Infinity) this.wakeAt(next);
  }
}

/** Who keeps what, for the choice of further keepers; counted when it is first asked for. */
class KeptImages {
  readonly #view: StoreView;
  #counts: Map<string, number> | undefined;
  /** Nodes by repository. */
  readonly #byRepository = new Map<string, Set<string>>();

  constructor(view: StoreView) {
    this.#view = view;
  }

  countOf(nodeId: string): number {
    return this.#counted().get(nodeId) ?? 0;
  }

  /** Nodes that keep an image of the same repository. */
  siblingsOf(image: ClusterImage): ReadonlySet<string> {
    this.#counted();
    return this.#byRepository.get(repositoryOf(image)) ?? new Set();
  }

  /** The node is to keep the image. */
  note(image: ClusterImage, nodeId: string): void {
    if (this.#counts === undefined || image.holders.some((holder) => holder.nodeId === nodeId)) return;
    this.#add(this.#counts, image, nodeId);
  }

  #counted(): Map<string, number> {
    if (this.#counts !== undefined) return this.#counts;
    this.#counts = new Map();
    for (const image of this.#view.list("image")) {
      for (const { nodeId } of image.holders) this.#add(this.#counts, image, nodeId);
    }
    return this.#counts;
  }

  #add(counts: Map<string, number>, image: ClusterImage, nodeId: string): void {
    counts.set(nodeId, (counts.get(nodeId) ?? 0) + 1);
    const repository = repositoryOf(image);
    const nodes = this.#byRepository.get(repository) ?? new Set();
    this.#byRepository.set(repository, nodes.add(nodeId));
  }
}

function repositoryOf(image: ClusterImage): string {
  return canonicalName(parseReference(image.spec.Name));
}
