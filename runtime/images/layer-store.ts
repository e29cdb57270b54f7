/**
 * Brings layers into place: unpacked by ChainID, each made once however many ask, several at a time, finished in order
 * from the lowest. Where the bytes come from (blob, registry, peer, archive) is the caller's.
 */
import path from "node:path";
import { must } from "../../common/assert.ts";
import type { SnapshotStore } from "../snapshots/snapshot-store.ts";
import type { ContentStore } from "./content-store.ts";
import type { AppliedLayer } from "./layer-jobs.ts";
import type { WorkerPool } from "./worker-pool.ts";

export interface LayerIdentity {
  readonly digest: string;
  readonly diffId: string;
  readonly chainId: string;
}

/** A layer in its staging folder, not finished with its parents. */
export interface StagedLayer {
  readonly staging: string;
  readonly applied: AppliedLayer;
}

/** Unpacks one layer into a staging folder of the snapshot store; on failure nothing of it may stay. */
export type StageLayer = (layer: LayerIdentity, index: number) => Promise<StagedLayer>;

export class LayerStore {
  readonly #pool: WorkerPool;
  readonly #content: ContentStore;
  readonly #snapshots: SnapshotStore;
  /** Layers on their way, by chain id. */
  readonly #flights = new Map<string, Promise<void>>();

  constructor(parts: {
    readonly pool: WorkerPool;
    readonly content: ContentStore;
    readonly snapshots: SnapshotStore;
  }) {
    this.#pool = parts.pool;
    this.#content = parts.content;
    this.#snapshots = parts.snapshots;
  }

  /** Makes all of `layers` (lowest first) present. The caller holds a lease on their chain ids. */
  async ensure(
    layers: readonly LayerIdentity[],
    stage: StageLayer = (layer) => this.stageBlob(layer),
  ): Promise<void> {
    const flights = layers.map((_, index) => this.#flight(layers, index, stage));
    const results = await Promise.allSettled(flights);
    const failed = results.find((each) => each.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }

  #flight(layers: readonly LayerIdentity[], index: number, stage: StageLayer): Promise<void> {
    const layer = must(layers[index], "index is inside the list");
    if (this.#snapshots.has(layer.chainId)) return Promise.resolve();
    const running = this.#flights.get(layer.chainId);
    // Who began it may have left, or had a worse source: that is no failure of those who only waited.
    if (running !== undefined) return running.catch(() => this.#flight(layers, index, stage));
    const flight = this.#make(layers, index, stage).finally(() => this.#flights.delete(layer.chainId));
    this.#flights.set(layer.chainId, flight);
    return flight;
  }

  async #make(layers: readonly LayerIdentity[], index: number, stage: StageLayer): Promise<void> {
    const layer = must(layers[index], "index is inside the list");
    const [staged, parent] = await Promise.allSettled([
      stage(layer, index),
      index === 0 ? Promise.resolve() : this.#flight(layers, index - 1, stage),
    ]);
    if (staged.status === "rejected") throw staged.reason;
    try {
      if (parent.status === "rejected") throw parent.reason;
      await this.#finish(staged.value, layers, index);
    } catch (caught) {
      this.#snapshots.discardStaging(staged.value.staging);
      throw caught;
    }
  }

  async #finish(staged: StagedLayer, layers: readonly LayerIdentity[], index: number): Promise<void> {
    const layer = must(layers[index], "index is inside the list");
    const unpacked = must(staged.applied.layer, "a staged layer was unpacked");
    const { impliedFolders, pendingLinks } = unpacked;
    if (impliedFolders.length + pendingLinks.length > 0) {
      const lower = this.#snapshots.folders(layers.slice(0, index).map((each) => each.chainId));
      const folder = path.join(staged.staging, "fs");
      await this.#pool.run({ kind: "settle", folder, lower, impliedFolders, pendingLinks });
    }
    this.#snapshots.commitLayer(staged.staging, {
      chainId: layer.chainId,
      parentChainId: layers[index - 1]?.chainId ?? "",
      diffId: layer.diffId,
      contentBytes: unpacked.contentBytes,
    });
  }

  /** Unpacks a blob that is in the content store. */
  stageBlob(layer: LayerIdentity): Promise<StagedLayer> {
    return this.stage((folder) =>
      this.#pool.run({
        kind: "apply",
        input: { kind: "file", path: this.#content.pathOf(layer.digest) },
        knownDigest: layer.digest,
        expectedDiffId: layer.diffId,
        folder,
      }),
    );
  }

  /** Runs `apply` on a new staging folder's fs/ and throws the folder away if that fails. */
  async stage(apply: (folder: string) => Promise<AppliedLayer>): Promise<StagedLayer> {
    const staging = this.#snapshots.newStaging();
    try {
      return { staging, applied: await apply(path.join(staging, "fs")) };
    } catch (caught) {
      this.#snapshots.discardStaging(staging);
      throw caught;
    }
  }
}
