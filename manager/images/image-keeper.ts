/**
 * The loop that keeps enough copies of every image that was put into the cluster: chooses nodes, notes which of them have
 * the image by now, and chooses others when one is lost, drained or removed. The nodes themselves fetch (they are told
 * through their sessions). Runs on the leader only.
 */
import type { Component } from "../../common/env.ts";
import { type ClusterImage, type Node, NodeState, type StoreEvent } from "../../model/objects.ts";
import { canonicalName, parseReference } from "../../model/image-reference.ts";
import type { StoreView } from "../../model/store-view.ts";
import { IMAGE_KEEP_DEBOUNCE_MS, IMAGE_NODE_PATIENCE_MS } from "../limits.ts";
import type { NodeImages } from "../node-images.ts";
import { type LoopDeps, ReconcileLoop } from "../reconcile-loop.ts";
import { type Keeper, planHolders } from "./image-copies.ts";

export class ImageKeeper implements Component {
  readonly #deps: LoopDeps;
  readonly #images: NodeImages;
  readonly #loop: ReconcileLoop;
  /** Since when (monotonic) a node is not ready. A new leader counts from its own start. */
  readonly #missedSinceMs = new Map<string, number>();
  #unsubscribe: (() => void) | undefined;
  #imageCount = 0;

  constructor(deps: LoopDeps, images: NodeImages) {
    this.#deps = deps;
    this.#images = images;
    this.#loop = new ReconcileLoop(deps, {
      name: "image keeper",
      tables: ["image", "node"],
      debounceMs: IMAGE_KEEP_DEBOUNCE_MS,
      handler: {
        load: (view) => this.#load(view),
        observe: (event) => this.#observe(event),
        reconcile: (signal) => this.#reconcile(signal),
      },
    });
  }

  start(): void {
    this.#loop.start();
    this.#unsubscribe = this.#images.onReport(() => {
      if (this.#imageCount > 0) this.#loop.wake();
    });
  }

  stop(): Promise<void> {
    this.#unsubscribe?.();
    return this.#loop.stop();
  }

  #load(view: StoreView): void {
    this.#imageCount = view.list("image").length;
    this.#missedSinceMs.clear();
    for (const node of view.list("node")) this.#noteState(node);
  }

  #observe(event: StoreEvent): boolean {
    if (event.table === "image") {
      if (event.action === "create") this.#imageCount += 1;
      if (event.action === "remove") this.#imageCount -= 1;
      return event.action !== "remove";
    }
    if (event.table !== "node") return false;
    if (event.action === "remove") {
      this.#missedSinceMs.delete(event.object.id);
      return this.#imageCount > 0;
    }
    this.#noteState(event.object);
    const { object, previous } = event;
    const isChanged =
      object.status.state !== previous?.status.state ||
      object.spec.Availability !== previous.spec.Availability;
    return isChanged && this.#imageCount > 0;
  }

  #noteState(node: Node): void {
    if (node.status.state === NodeState.ready) this.#missedSinceMs.delete(node.id);
    else if (!this.#missedSinceMs.has(node.id)) {
      this.#missedSinceMs.set(node.id, this.#deps.clock.monotonicMs());
    }
  }

  async #reconcile(signal: AbortSignal): Promise<void> {
    const { store, log } = this.#deps;
    const view = store.view();
    const images = view.list("image");
    if (images.length === 0) return;
    const nodes = view.list("node");
    const kept = keptImages(images);
    await store.batch(
      images.map((image) => image.id),
      (tx, id) => {
        const image = tx.get("image", id);
        if (image === undefined) return;
        const holders = planHolders(image.holders, this.#keepersOf(image, nodes, kept));
        if (holders === image.holders) return;
        for (const { nodeId } of holders) {
          if (!image.holders.some((each) => each.nodeId === nodeId)) note(kept, image, nodeId);
        }
        tx.update("image", { ...image, holders });
      },
      { signal, failed: (id, error) => log.error("image keeper could not write", { imageId: id, error }) },
    );
    this.#wakeWhenPatienceEnds();
  }

  #keepersOf(image: ClusterImage, nodes: readonly Node[], kept: KeptImages): ReadonlyMap<string, Keeper> {
    const siblings = kept.byRepository.get(repositoryOf(image)) ?? new Set();
    const nowMs = this.#deps.clock.monotonicMs();
    return new Map(
      nodes.map((node) => {
        const isReady = node.status.state === NodeState.ready;
        const isDrained = node.spec.Availability === "drain";
        const sinceMs = this.#missedSinceMs.get(node.id) ?? nowMs;
        return [
          node.id,
          {
            nodeId: node.id,
            isUsable: isReady && !isDrained,
            isMissed: !isReady && !isDrained && nowMs - sinceMs < IMAGE_NODE_PATIENCE_MS,
            hasImage: this.#images.has(node.id, image.spec.Digest),
            keepsSibling: siblings.has(node.id),
            keptCount: kept.counts.get(node.id) ?? 0,
          },
        ];
      }),
    );
  }

  #wakeWhenPatienceEnds(): void {
    const nowMs = this.#deps.clock.monotonicMs();
    const ends = [...this.#missedSinceMs.values()]
      .map((sinceMs) => sinceMs + IMAGE_NODE_PATIENCE_MS)
      .filter((endMs) => endMs > nowMs);
    if (ends.length > 0) this.#loop.wakeAt(Math.min(...ends));
  }
}

interface KeptImages {
  /** By node. */
  readonly counts: Map<string, number>;
  /** Nodes by repository. */
  readonly byRepository: Map<string, Set<string>>;
}

function repositoryOf(image: ClusterImage): string {
  return canonicalName(parseReference(image.spec.Name));
}

function note(kept: KeptImages, image: ClusterImage, nodeId: string): void {
  kept.counts.set(nodeId, (kept.counts.get(nodeId) ?? 0) + 1);
  const repository = repositoryOf(image);
  const nodes = kept.byRepository.get(repository) ?? new Set();
  kept.byRepository.set(repository, nodes.add(nodeId));
}

function keptImages(images: readonly ClusterImage[]): KeptImages {
  const kept: KeptImages = { counts: new Map(), byRepository: new Map() };
  for (const image of images) for (const { nodeId } of image.holders) note(kept, image, nodeId);
  return kept;
}
