import assert from "node:assert/strict";
import { test } from "node:test";
import type { ImageDescription } from "../../model/engine.ts";
import { NodeState } from "../../model/objects.ts";
import { call, type Harness, startApi } from "./api-harness.ts";

const NAME = "docker.io/library/web:1";
const MANIFEST = `sha256:${"a".repeat(64)}`;
const CONFIG = `sha256:${"b".repeat(64)}`;

const DESCRIPTION: ImageDescription = {
  reference: NAME,
  imageId: CONFIG,
  manifest: {
    digest: MANIFEST,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    sizeBytes: 400,
  },
  blobs: [{ digest: CONFIG, mediaType: "", sizeBytes: 1_000 }],
  platform: { os: "linux", architecture: "amd64" },
  repoDigests: [],
  taggedAt: "",
};

function addNode(api: Harness, id: string): void {
  api.swarm.store.put("node", {
    id,
    spec: { Role: "worker", Availability: "active", Labels: {} },
    description: {
      Hostname: `host-${id}`,
      Platform: {},
      Resources: { NanoCPUs: 1, MemoryBytes: 1 },
      Engine: { EngineVersion: "" },
    },
    status: { state: NodeState.ready, message: "", addr: "" },
    rpcAddress: "",
    dataPathAddress: "",
    certificateRole: "worker",
  });
}

/** A manager, its image "web:1", and two more nodes of which "other1" has it too. */
async function started(context: Parameters<typeof startApi>[0]): Promise<Harness> {
  const api = await startApi(context);
  await api.swarm.init();
  addNode(api, "other1");
  addNode(api, "other2");
  api.swarm.images.set(`${api.swarm.current.nodeId} ${NAME}`, DESCRIPTION);
  api.swarm.images.set(`other1 ${NAME}`, DESCRIPTION);
  return api;
}

function linesOf(text: string): readonly Readonly<Record<string, unknown>>[] {
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

function putCopies(api: Harness, nodeIds: readonly string[]): void {
  const [image] = api.swarm.store.list("image");
  assert.ok(image);
  const holders = nodeIds.map((nodeId) => ({ nodeId, isComplete: true }));
  api.swarm.store.put("image", { id: image.id, spec: image.spec, holders });
}

test("a push answers with each copy as it comes and ends when there are enough", async (context) => {
  const api = await started(context);
  const pushing = call(api, "POST /shoal/v1/images?name=web:1");
  while (api.swarm.store.list("image").length === 0) await new Promise((resolve) => setImmediate(resolve));
  putCopies(api, [api.swarm.current.nodeId, "other1"]);
  putCopies(api, [api.swarm.current.nodeId, "other1", "other2"]);
  const answer = await pushing;
  assert.equal(answer.status, 200);
  const lines = linesOf(answer.text);
  assert.equal(lines[0]?.["status"], `The cluster knows web:1 as ${MANIFEST}`);
  assert.equal(lines.filter((line) => line["status"] === "Copy complete").length, 3);
  const [image] = api.swarm.store.list("image");
  assert.deepEqual(lines.at(-1)?.["aux"], { ID: image?.id, Name: "web:1", Digest: MANIFEST, Size: 1_000 });
  const list = JSON.parse((await call(api, "GET /shoal/v1/images")).text) as readonly Record<
    string,
    unknown
  >[];
  assert.equal(list[0]?.["Name"], "web:1");
  assert.deepEqual(list[0]?.["Platform"], { OS: "linux", Architecture: "amd64" });
  assert.equal(list[0]?.["PushedAt"], list[0]?.["CreatedAt"], "records of before this was noted");
  const one = JSON.parse((await call(api, "GET /shoal/v1/images/web:1")).text) as Record<string, unknown>;
  assert.deepEqual((one["Copies"] as readonly unknown[]).at(1), {
    NodeID: "other1",
    Node: "host-other1",
    State: "complete",
  });
});

test("a push takes the image of the node that is named", async (context) => {
  const api = await started(context);
  api.swarm.images.delete(`${api.swarm.current.nodeId} ${NAME}`);
  assert.equal((await call(api, "POST /shoal/v1/images?name=web:1")).status, 404);
  const pushing = call(api, "POST /shoal/v1/images?name=web:1&node=host-other1");
  while (api.swarm.store.list("image").length === 0) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(api.swarm.store.list("image")[0]?.holders[0]?.nodeId, "other1");
  putCopies(api, [api.swarm.current.nodeId, "other1", "other2"]);
  assert.equal((await pushing).status, 200);
});

test("a name in the cluster is pinned without a registry, and no other", async (context) => {
  const api = await started(context);
  const pushing = call(api, "POST /shoal/v1/images?name=web:1");
  while (api.swarm.store.list("image").length === 0) await new Promise((resolve) => setImmediate(resolve));
  putCopies(api, [api.swarm.current.nodeId, "other1", "other2"]);
  await pushing;
  const found = JSON.parse((await call(api, "GET /distribution/web:1/json")).text) as unknown;
  assert.deepEqual(found, {
    Descriptor: { mediaType: DESCRIPTION.manifest.mediaType, digest: MANIFEST, size: 400 },
    Platforms: [{ architecture: "amd64", os: "linux" }],
  });
  const before = await call(api, "GET /distribution/web:2/json");
  assert.notEqual((JSON.parse(before.text) as Record<string, unknown>)["Platforms"], null);
  assert.ok(!before.text.includes(MANIFEST));
  assert.equal((await call(api, "DELETE /shoal/v1/images/web:1")).status, 204);
  assert.ok(!(await call(api, "GET /distribution/web:1/json")).text.includes(MANIFEST));
});

test("bad names and unknown parameters are 400, unknown images and nodes 404, no manager 503", async (context) => {
  const api = await started(context);
  for (const [line, status, message] of [
    ["POST /shoal/v1/images", 400, /parameter "name" must be the name of an image, got none/],
    ["POST /shoal/v1/images?name=UPPER", 400, /must be lowercase/],
    [`POST /shoal/v1/images?name=web@${MANIFEST}`, 400, /cannot push a digest reference/],
    ["POST /shoal/v1/images?name=web:1&tag=2", 400, /unknown parameter "tag", want name, node/],
    ["POST /shoal/v1/images?name=web:1&node=nobody", 404, /node nobody not found/],
    ["POST /shoal/v1/images?name=none:1", 404, /No such image: docker.io\/library\/none:1/],
    ["GET /shoal/v1/images?all=1", 400, /unknown parameter "all", want none/],
    ["GET /shoal/v1/images/none:1", 404, /No such image in the cluster: none:1/],
    ["DELETE /shoal/v1/images/none:1", 404, /No such image in the cluster: none:1/],
    ["DELETE /shoal/v1/images/web:1?noprune=1", 400, /unknown parameter "noprune", want force/],
    ["GET /shoal/v1/nodes/nobody/images", 404, /node nobody not found/],
  ] as const) {
    const answer = await call(api, line);
    assert.equal(answer.status, status, line);
    assert.match((JSON.parse(answer.text) as { message: string }).message, message, line);
  }
  assert.equal(api.swarm.store.list("image").length, 0);
  const said = JSON.parse((await call(api, "GET /shoal/v1/nodes/host-other1/images")).text) as unknown;
  assert.deepEqual(said, { NodeID: "other1", Reported: false, Images: [] });
  api.swarm.current = { ...api.swarm.current, localNodeState: "inactive" };
  const worker = await startApi(context);
  assert.equal((await call(worker, "POST /shoal/v1/images?name=web:1")).status, 503);
});
