/**
 * The writes of the control API as the leader makes them: each one checked transaction. The plans are in services.ts,
 * nodes.ts, networks.ts, blobs.ts and cluster.ts; here they meet the store. Called by ControlApi on the leader and by the
 * gRPC edge for the other managers.
 */
import type { Clock, Random } from "../../common/env.ts";
import type { Logger } from "../../common/log.ts";
import { rfc3339 } from "../../common/time.ts";
import type { UpdateClusterOptions, UpdateServiceOptions, Written } from "../../model/cluster-control.ts";
import type { ReplicatedLog } from "../raft/replicated-log.ts";
import type { Store, Transaction } from "../store/store.ts";
import { type BlobTable, createBlob, removeBlob, updateBlob } from "./blobs.ts";
import { clusterOf } from "../ca/authority.ts";
import { beginRotation, wantsNewRoot } from "../ca/root-rotation.ts";
import { checkClusterSpec } from "./validate/other-specs.ts";
import { updateCluster } from "./cluster.ts";
import { type PutImagePlan, putImage, removeImage } from "./images.ts";
import { createNetwork, removeNetwork } from "./networks.ts";
import { removeNode, updateNode } from "./nodes.ts";
import { createService, removeService, updateService } from "./services.ts";

/** A committed write and the Raft index at which any replica has it. */
export interface Outcome extends Written {
  readonly version: number;
}

export interface ControlWriterDeps {
  readonly store: Store;
  readonly raft: ReplicatedLog;
  readonly clock: Pick<Clock, "wallMs">;
  readonly random: Random;
  readonly log: Logger;
}

export class ControlWriter {
  readonly #deps: ControlWriterDeps;

  constructor(deps: ControlWriterDeps) {
    this.#deps = deps;
  }

  /** `id` is chosen by who asks, so that asking twice creates one. */
  createService(request: {
    readonly id: string;
    readonly spec: unknown;
    readonly registryAuth?: string | undefined;
  }): Promise<Outcome> {
    return this.#write(request.id, (tx, now) => createService(tx, { ...request, now }));
  }

  updateService(
    id: string,
    options: Omit<UpdateServiceOptions, "spec"> & { readonly spec: unknown },
  ): Promise<Outcome> {
    return this.#write(id, (tx, now) => updateService(tx, { ...options, id, now }));
  }

  removeService(id: string): Promise<Outcome> {
    return this.#write(id, (tx) => removeService(tx, id));
  }

  updateNode(id: string, version: number, spec: unknown): Promise<Outcome> {
    return this.#write(id, (tx) => updateNode(tx, { id, version, spec, raft: this.#deps.raft }));
  }

  removeNode(id: string, force: boolean): Promise<Outcome> {
    const { clock, raft } = this.#deps;
    return this.#write(id, (tx, now) => removeNode(tx, { id, force, now, raft, nowMs: clock.wallMs() }));
  }

  createNetwork(request: { readonly id: string; readonly spec: unknown }): Promise<Outcome> {
    return this.#write(request.id, (tx) => createNetwork(tx, request));
  }

  removeNetwork(id: string): Promise<Outcome> {
    return this.#write(id, (tx) => removeNetwork(tx, id));
  }

  createBlob(table: BlobTable, request: { readonly id: string; readonly spec: unknown }): Promise<Outcome> {
    return this.#write(request.id, (tx) => createBlob(tx, table, request));
  }

  updateBlob(
    table: BlobTable,
    request: { readonly id: string; readonly version: number; readonly spec: unknown },
  ): Promise<Outcome> {
    return this.#write(request.id, (tx) => updateBlob(tx, table, request));
  }

  removeBlob(table: BlobTable, id: string): Promise<Outcome> {
    return this.#write(id, (tx) => removeBlob(tx, table, id));
  }

  /** The outcome's id is that of the name's record, which may be older than the request. */
  async putImage(request: Omit<PutImagePlan, "now">): Promise<Outcome> {
    const { store, clock } = this.#deps;
    const { result, version } = await store.update((tx) =>
      putImage(tx, { ...request, now: rfc3339(clock.wallMs()) }),
    );
    return { id: result, warnings: [], version };
  }

  removeImage(id: string, force: boolean): Promise<Outcome> {
    return this.#write(id, (tx) => removeImage(tx, id, force));
  }

  updateCluster(options: Omit<UpdateClusterOptions, "spec"> & { readonly spec: unknown }): Promise<Outcome> {
    return this.#updateCluster(options);
  }

  async #updateCluster(
    options: Omit<UpdateClusterOptions, "spec"> & { readonly spec: unknown },
  ): Promise<Outcome> {
    const { random, store, clock } = this.#deps;
    const view = store.view();
    const cluster = clusterOf(view);
    const spec = checkClusterSpec(options.spec, cluster.spec);
    // Keys take time to make and transactions must not wait: the root is made first and counts only for this state.
    const rotation = wantsNewRoot(cluster, spec)
      ? await beginRotation({ cluster, nodes: view.list("node") }, spec, { random, nowMs: clock.wallMs() })
      : undefined;
    return this.#write("", (tx) => {
      const isSameRoot = clusterOf(tx).rootCa.digest === cluster.rootCa.digest;
      return updateCluster(tx, { ...options, random, rotation: isSameRoot ? rotation : undefined });
    });
  }

  async #write(
    id: string,
    plan: (tx: Transaction, now: string) => readonly string[] | undefined,
  ): Promise<Outcome> {
    const { store, clock } = this.#deps;
    const { result, version } = await store.update((tx) => plan(tx, rfc3339(clock.wallMs())));
    return { id, warnings: result ?? [], version };
  }
}
