import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClusterImage } from "../../model/objects.ts";
import { IMAGE_FETCH_PATIENCE_MS, IMAGE_NODE_PATIENCE_MS } from "../limits.ts";
import { ModelCluster } from "../testing/model-cluster.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;

class Fixture {
  readonly cluster = new ModelCluster();
  /** Nodes that fetch what they are told to keep, and say so. */
  readonly #fetching = new Set<string>();

  async nodes(count: number): Promise<readonly string[]> {
    this.cluster.start();
    this.cluster.onEvent((event) => {
      if (event.table !== "image" || event.action === "remove") return;
      for (const { nodeId } of event.object.holders) if (this.#fetching.has(nodeId)) this.say(nodeId, true);
    });
    const ids: string[] = [];
    for (let index = 0; index < count; index += 1) ids.push(await this.addNode());
    return ids;
  }

  async addNode(): Promise<string> {
    const id = await this.cluster.addNode();
    this.say(id, false);
    this.#fetching.add(id);
    return id;
  }

  /** As a session does, a moment later. */
  say(nodeId: string, hasImage: boolean): void {
    this.cluster.clock.after(1, () =>
      this.cluster.images.report(nodeId, { full: true, added: hasImage ? [DIGEST] : [] }),
    );
  }

  stopsFetching(nodeId: string): void {
    this.#fetching.delete(nodeId);
  }

  fetches(nodeId: string): void {
    this.#fetching.add(nodeId);
  }

  async put(nodeId: string): Promise<void> {
    const name = "docker.io/library/web:1";
    const spec = {
      Name: name,
      Digest: DIGEST,
      MediaType: "",
      ManifestBytes: 1,
      SizeBytes: 1,
      ImageID: DIGEST,
    };
    this.say(nodeId, true);
    await this.cluster.write((tx) =>
      tx.create("image", { id: "image1", spec, holders: [{ nodeId, isComplete: true }] }),
    );
  }

  get image(): ClusterImage {
    const image = this.cluster.store.view().get("image", "image1");
    assert.ok(image);
    return image;
  }

  get complete(): readonly string[] {
    return this.image.holders.filter((each) => each.isComplete).map((each) => each.nodeId);
  }
}

test("ImageKeeper has three nodes keep an image that was put on one", async () => {
  const fixture = new Fixture();
  const [first = ""] = await fixture.nodes(5);
  await fixture.put(first);
  await fixture.cluster.until("three copies", () => fixture.complete.length === 3);
  assert.equal(fixture.image.holders.length, 3);
  assert.equal(fixture.image.holders[0]?.nodeId, first);
  await fixture.cluster.stop();
});

test("ImageKeeper replaces a lost node after its patience, also under a new leader, and not one that comes back", async () => {
  const fixture = new Fixture();
  const [first = ""] = await fixture.nodes(5);
  await fixture.put(first);
  await fixture.cluster.until("three copies", () => fixture.complete.length === 3);
  await fixture.cluster.killNode(first);
  await fixture.cluster.advance(IMAGE_NODE_PATIENCE_MS / 2);
  await fixture.cluster.reviveNode(first);
  await fixture.cluster.advance(IMAGE_NODE_PATIENCE_MS * 2);
  assert.ok(fixture.complete.includes(first), "it was not replaced");
  await fixture.cluster.killNode(first);
  await fixture.cluster.failOver();
  await fixture.cluster.until(
    "another copy",
    () => fixture.complete.length === 3 && !fixture.complete.includes(first),
    IMAGE_NODE_PATIENCE_MS * 2,
  );
  await fixture.cluster.stop();
});

test("ImageKeeper moves copies off drained and removed nodes", async () => {
  const fixture = new Fixture();
  const [first = ""] = await fixture.nodes(5);
  await fixture.put(first);
  await fixture.cluster.until("three copies", () => fixture.complete.length === 3);
  const [, second = ""] = fixture.complete;
  await fixture.cluster.changeNode(first, (node) => ({
    ...node,
    spec: { ...node.spec, Availability: "drain" },
  }));
  await fixture.cluster.until("the drained node is free", () => !fixture.complete.includes(first));
  assert.equal(fixture.complete.length, 3);
  await fixture.cluster.write((tx) => tx.remove("node", second));
  await fixture.cluster.until(
    "a copy for that of the removed node",
    () => fixture.complete.length === 3 && !fixture.complete.includes(second),
  );
  await fixture.cluster.stop();
});

test("ImageKeeper asks another node where one does not come to have the image, e.g. for want of room", async () => {
  const fixture = new Fixture();
  const [first = "", second = "", ...others] = await fixture.nodes(4);
  for (const id of others) fixture.stopsFetching(id);
  await fixture.put(first);
  await fixture.cluster.until("two copies", () => fixture.complete.length === 2);
  await fixture.cluster.advance(IMAGE_FETCH_PATIENCE_MS / 2);
  assert.equal(fixture.image.holders.length, 3);
  const waits = fixture.image.holders.find((each) => !each.isComplete)?.nodeId;
  const [spare = ""] = others.filter((id) => id !== waits);
  fixture.fetches(spare);
  await fixture.cluster.advance(IMAGE_FETCH_PATIENCE_MS / 2);
  await fixture.cluster.until("a third copy", () => fixture.complete.length === 3, 1_000);
  assert.deepEqual(fixture.complete.toSorted(), [first, second, spare].toSorted());
  assert.equal(fixture.image.holders.length, 3, "the one that did not come to have it is let go");
  await fixture.cluster.stop();
});

test("ImageKeeper gives a new node the copy that nobody was left for when another one left", async () => {
  const fixture = new Fixture();
  const [first = "", drained = "", lost = ""] = await fixture.nodes(3);
  await fixture.put(first);
  await fixture.cluster.until("three copies", () => fixture.complete.length === 3);
  await fixture.cluster.changeNode(drained, (node) => ({
    ...node,
    spec: { ...node.spec, Availability: "drain" },
  }));
  await fixture.cluster.killNode(lost);
  await fixture.cluster.advance(IMAGE_NODE_PATIENCE_MS * 2);
  for (let count = 0; count < 2; count += 1) {
    const added = await fixture.addNode();
    await fixture.cluster.until("a copy on the new node", () => fixture.complete.includes(added));
  }
  assert.equal(fixture.complete.includes(drained), false);
  await fixture.cluster.stop();
});

test("ImageKeeper writes nothing while nothing changes, and nothing at all without images", async () => {
  const fixture = new Fixture();
  const [first = ""] = await fixture.nodes(4);
  const before = fixture.cluster.store.view().version;
  for (let round = 0; round < 10; round += 1) {
    fixture.say(first, round % 2 === 0);
    await fixture.cluster.advance(1_000);
  }
  assert.equal(fixture.cluster.store.view().version, before);
  await fixture.put(first);
  await fixture.cluster.until("three copies", () => fixture.complete.length === 3);
  const settled = fixture.image.version;
  for (const { nodeId } of fixture.image.holders) fixture.say(nodeId, true);
  await fixture.cluster.advance(60_000);
  assert.equal(fixture.image.version, settled);
  await fixture.cluster.stop();
});
