/**
 * The image keeper with model nodes under a random history: images put under names, nodes that lose power, come back with
 * their disk or an empty one, are drained, removed, and changes of leader. No copy is let go before enough others are there,
 * none is counted that never was, and once nothing changes any more there are as many as wanted wherever one can be had.
 */
import assert from "node:assert/strict";
import { it } from "node:test";
import fc from "fast-check";
import { IMAGE_COPY_COUNT } from "../../model/cluster-images.ts";
import { type ClusterImage, NodeState, type StoreEvent } from "../../model/objects.ts";
import { putImage, removeImage } from "../controlapi/images.ts";
import { IMAGE_NODE_PATIENCE_MS } from "../limits.ts";
import { ModelCluster } from "../testing/model-cluster.ts";

const NODE_COUNT = 6;
const NAME_COUNT = 3;
const FETCH_MS_MAX = 400;
const SETTLE_MS = IMAGE_NODE_PATIENCE_MS * 2;

const node = fc.nat(NODE_COUNT - 1);
const name = fc.nat(NAME_COUNT - 1);
const step = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("put" as const), node, name }) },
  fc.record({ kind: fc.constant("unname" as const), name }),
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("kill" as const), node }) },
  fc.record({ kind: fc.constant("revive" as const), node, isWiped: fc.boolean() }),
  fc.record({ kind: fc.constant("drain" as const), node, isDrained: fc.boolean() }),
  fc.record({ kind: fc.constant("remove" as const), node }),
  fc.record({ kind: fc.constant("lead" as const) }),
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("wait" as const), ms: fc.nat(IMAGE_NODE_PATIENCE_MS * 2) }),
  },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** Nodes that fetch what they are told to keep from any that runs and has it, and drop what they are told no more. */
class Nodes {
  readonly cluster: ModelCluster;
  readonly ids: string[] = [];
  /** Digests on each node's disk, which outlives its power. */
  readonly #disks = new Map<string, Set<string>>();
  readonly #alive = new Set<string>();
  /** "node digest" of every copy that ever was. */
  readonly #everHad = new Set<string>();
  readonly #fetching = new Set<string>();

  constructor(cluster: ModelCluster) {
    this.cluster = cluster;
    cluster.onEvent((event) => this.#observe(event));
  }

  async add(): Promise<void> {
    const id = await this.cluster.addNode();
    this.ids.push(id);
    this.#disks.set(id, new Set());
    this.#alive.add(id);
    this.#sayAll(id);
  }

  isAlive(id: string): boolean {
    return this.#alive.has(id);
  }

  has(id: string, digest: string): boolean {
    return this.#disks.get(id)?.has(digest) === true;
  }

  /** A copy that can be fetched. */
  isThere(digest: string): boolean {
    return [...this.#alive].some((id) => this.has(id, digest));
  }

  arrive(id: string, digest: string): void {
    this.#disks.get(id)?.add(digest);
    this.#everHad.add(`${id} ${digest}`);
    this.cluster.images.report(id, { added: [digest] });
  }

  kill(id: string): void {
    this.#alive.delete(id);
  }

  revive(id: string, isWiped: boolean): void {
    this.#alive.add(id);
    if (isWiped) this.#disks.set(id, new Set());
    this.#sayAll(id);
    this.#obey();
  }

  /** All have sessions with the new leader a moment later. */
  meetLeader(): void {
    for (const id of this.#alive) this.#sayAll(id);
    this.#obey();
  }

  forget(id: string): void {
    this.#alive.delete(id);
    this.#disks.delete(id);
    this.cluster.images.forget(id);
  }

  #sayAll(id: string): void {
    this.cluster.clock.after(this.cluster.random.below(300) + 1, () => {
      if (this.#alive.has(id))
        this.cluster.images.report(id, { full: true, added: [...(this.#disks.get(id) ?? [])] });
    });
  }

  #observe(event: StoreEvent): void {
    if (event.table !== "image") return;
    if (event.action !== "remove") this.#check(event.object, event.previous);
    this.#obey();
  }

  #check(image: ClusterImage, previous: ClusterImage | undefined): void {
    const { Digest: digest } = image.spec;
    const complete = image.holders.filter((holder) => holder.isComplete);
    for (const { nodeId } of complete) {
      assert(this.#everHad.has(`${nodeId} ${digest}`), `${nodeId} never had ${image.spec.Name}`);
    }
    if (previous?.spec.Digest !== digest) return;
    const kept = new Set(image.holders.map((holder) => holder.nodeId));
    for (const { nodeId } of previous.holders) {
      if (kept.has(nodeId) || !this.#disks.has(nodeId)) continue;
      const count = complete.length;
      assert(
        count >= IMAGE_COPY_COUNT,
        `${nodeId} lets go of ${image.spec.Name}, which ${count} others have`,
      );
    }
  }

  #wantedOn(id: string): Set<string> {
    const images = this.cluster.store.view().list("image");
    const kept = images.filter(({ holders }) => holders.some((holder) => holder.nodeId === id));
    return new Set(kept.map(({ spec }) => spec.Digest));
  }

  #obey(): void {
    for (const id of this.#alive) {
      const wanted = this.#wantedOn(id);
      for (const digest of this.#disks.get(id) ?? []) {
        if (wanted.has(digest)) continue;
        this.#disks.get(id)?.delete(digest);
        this.cluster.images.report(id, { removed: [digest] });
      }
      for (const digest of wanted) if (!this.has(id, digest)) this.#fetch(id, digest);
    }
  }

  #fetch(id: string, digest: string): void {
    const key = `${id} ${digest}`;
    if (this.#fetching.has(key)) return;
    this.#fetching.add(key);
    this.cluster.clock.after(this.cluster.random.below(FETCH_MS_MAX) + 1, () => {
      this.#fetching.delete(key);
      if (!this.#alive.has(id) || this.has(id, digest) || !this.#wantedOn(id).has(digest)) return;
      if (this.isThere(digest)) this.arrive(id, digest);
      else this.#fetch(id, digest);
    });
  }
}

class History {
  readonly #nodes: Nodes;
  #digestCount = 0;

  constructor(nodes: Nodes) {
    this.#nodes = nodes;
  }

  async perform(each: Step): Promise<void> {
    const nodes = this.#nodes;
    const { cluster } = nodes;
    const id = "node" in each ? (nodes.ids[each.node] ?? "") : "";
    switch (each.kind) {
      case "put":
        if (nodes.isAlive(id)) await this.#put(id, each.name);
        return;
      case "unname":
        return cluster.write((tx) => {
          const image = tx.list("image").find(({ spec }) => spec.Name === nameOf(each.name));
          if (image !== undefined) removeImage(tx, image.id, false);
        });
      case "kill":
        if (!nodes.isAlive(id)) return;
        nodes.kill(id);
        return cluster.killNode(id);
      case "revive":
        if (nodes.isAlive(id)) return;
        await cluster.reviveNode(id);
        nodes.revive(id, each.isWiped);
        return;
      case "drain":
        return cluster.changeNode(id, (old) => ({
          ...old,
          spec: { ...old.spec, Availability: each.isDrained ? "drain" : "active" },
        }));
      case "remove":
        if (nodes.isAlive(id)) return;
        nodes.ids.splice(each.node, 1);
        nodes.forget(id);
        await cluster.write((tx) => tx.remove("node", id));
        return nodes.add();
      case "lead":
        await cluster.failOver();
        nodes.meetLeader();
        return;
      case "wait":
        await cluster.advance(each.ms);
    }
  }

  async #put(nodeId: string, at: number): Promise<void> {
    this.#digestCount += 1;
    const Digest = `sha256:${String(this.#digestCount).padStart(64, "0")}`;
    const size = { MediaType: "", ManifestBytes: 1, SizeBytes: 1, ImageID: Digest };
    const spec = { Name: nameOf(at), Digest, ...size };
    this.#nodes.arrive(nodeId, Digest);
    await this.#nodes.cluster.write((tx) => {
      putImage(tx, { id: `image${this.#digestCount}`, spec, nodeId, now: "" });
    });
  }
}

function nameOf(at: number): string {
  return `docker.io/library/web:${at}`;
}

/** What is wrong with the copies of an image, or undefined. */
function lacking(nodes: Nodes, image: ClusterImage): string | undefined {
  const { Digest, Name } = image.spec;
  if (!nodes.isThere(Digest)) return undefined;
  const usable = nodes.cluster.store
    .view()
    .list("node")
    .filter(({ spec, status }) => status.state === NodeState.ready && spec.Availability !== "drain");
  const wanted = Math.min(usable.length, IMAGE_COPY_COUNT);
  const good = image.holders.filter(
    ({ isComplete, nodeId }) =>
      isComplete && nodes.has(nodeId, Digest) && usable.some((each) => each.id === nodeId),
  );
  return good.length === wanted ? undefined : `${Name} has ${good.length} copies, want ${wanted}`;
}

it(
  "ImageKeeper keeps enough copies through whatever happens to nodes and leaders",
  { timeout: 300_000 },
  async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1 }),
        fc.array(step, { minLength: 5, maxLength: 25 }),
        async (seed, steps) => {
          const cluster = new ModelCluster({ seed });
          const nodes = new Nodes(cluster);
          cluster.start();
          for (let count = 0; count < NODE_COUNT; count += 1) await nodes.add();
          const history = new History(nodes);
          for (const each of steps) await history.perform(each);
          await cluster.advance(SETTLE_MS);
          const wrong = cluster.store
            .view()
            .list("image")
            .map((image) => lacking(nodes, image));
          assert.deepEqual(
            wrong.filter((text) => text !== undefined),
            [],
          );
          await cluster.stop();
        },
      ),
      { numRuns: 60 },
    );
  },
);
