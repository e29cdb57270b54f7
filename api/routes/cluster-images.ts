/**
 * Images that the cluster itself keeps, under /shoal/v1/images: putting one in from any node, listing and removing them, and
 * what each node has. Names are given by managers only; docs/images.md says who may be trusted with what.
 */
import { ClusterError, hasCode } from "../../common/errors.ts";
import type { ClusterControl } from "../../model/cluster-control.ts";
import { IMAGE_COPY_COUNT, imageByName } from "../../model/cluster-images.ts";
import type { ImageDescription, JsonObject, ProgressLine } from "../../model/engine.ts";
import {
  canonicalForm,
  familiarForm,
  normalizeReference,
  parseReference,
  withDefaultTag,
} from "../../model/image-reference.ts";
import { type ClusterImage, NodeState } from "../../model/objects.ts";
import type { ImageSpec } from "../../model/specs.ts";
import type { StoreView } from "../../model/store-view.ts";
import { humanSize } from "../../model/units.ts";
import { managerOf, type ApiContext } from "../context.ts";
import { badParameter } from "../error-body.ts";
import type { Exchange } from "../exchange.ts";
import { lookupNode, nodeName } from "../lookup.ts";
import { writeProgress } from "../progress.ts";
import { get, post, remove, type Route } from "./table.ts";

/** Without another copy in this time a push ends and leaves the rest to the cluster. */
const COPY_WAIT_MS = 120_000;

/** What is not known is a mistake here: nothing but our own clients asks. */
function checkKeys(exchange: Exchange, known: readonly string[]): void {
  const unknown = [...exchange.query.params.keys()].find((key) => !known.includes(key));
  if (unknown === undefined) return;
  const wanted = known.length === 0 ? "none" : known.join(", ");
  throw badParameter(`unknown parameter "${unknown}", want ${wanted}`);
}

function nameOfNode(view: StoreView, nodeId: string): string {
  const node = view.get("node", nodeId);
  return node === undefined ? "" : nodeName(node);
}

function imageJson(view: StoreView, image: ClusterImage): JsonObject {
  const { spec, holders } = image;
  return {
    ID: image.id,
    Name: familiarForm(parseReference(spec.Name)),
    Digest: spec.Digest,
    ImageID: spec.ImageID,
    Size: spec.SizeBytes,
    Platform: { OS: spec.Platform?.OS ?? "", Architecture: spec.Platform?.Architecture ?? "" },
    CreatedAt: image.createdAt,
    UpdatedAt: image.updatedAt,
    PushedAt: image.pushedAt ?? image.createdAt,
    Copies: holders.map(({ nodeId, isComplete }) => ({
      NodeID: nodeId,
      Node: nameOfNode(view, nodeId),
      State: isComplete ? "complete" : "fetching",
    })),
  };
}

async function list(exchange: Exchange, context: ApiContext): Promise<void> {
  checkKeys(exchange, []);
  const view = await managerOf(context).view(exchange.signal);
  const images = view.list("image").toSorted((left, right) => (left.spec.Name < right.spec.Name ? -1 : 1));
  exchange.send(
    200,
    images.map((image) => imageJson(view, image)),
  );
}

function lookupImage(view: StoreView, wanted: string): ClusterImage {
  const image = view.get("image", wanted) ?? imageByName(view, normalizeReference(wanted));
  if (image !== undefined) return image;
  throw new ClusterError("not_found", `No such image in the cluster: ${wanted}`);
}

async function inspect(exchange: Exchange, context: ApiContext): Promise<void> {
  checkKeys(exchange, []);
  const view = await managerOf(context).view(exchange.signal);
  exchange.send(200, imageJson(view, lookupImage(view, exchange.param("name"))));
}

async function removeImage(exchange: Exchange, context: ApiContext): Promise<void> {
  checkKeys(exchange, ["force"]);
  const control = managerOf(context);
  const view = await control.view(exchange.signal);
  const { id } = lookupImage(view, exchange.param("name"));
  await control.removeImage(id, exchange.query.flag("force"));
  exchange.empty(204);
}

function specOf(name: string, image: ImageDescription): ImageSpec {
  const { manifest, blobs, imageId, platform } = image;
  return {
    Name: name,
    Digest: manifest.digest,
    MediaType: manifest.mediaType,
    ManifestBytes: manifest.sizeBytes,
    SizeBytes: blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0),
    ImageID: imageId,
    ...(platform === undefined ? {} : { Platform: { OS: platform.os, Architecture: platform.architecture } }),
  };
}

/** Copies that are whole on usable nodes, and how many there are to be. */
function copiesOf(
  view: StoreView,
  id: string,
): { readonly complete: readonly string[]; readonly wanted: number } {
  const usable = view
    .list("node")
    .filter((node) => node.status.state === NodeState.ready && node.spec.Availability !== "drain")
    .map((node) => node.id);
  const holders = view.get("image", id)?.holders ?? [];
  const complete = holders.filter((each) => each.isComplete && usable.includes(each.nodeId));
  return {
    complete: complete.map((each) => each.nodeId),
    wanted: Math.min(IMAGE_COPY_COUNT, usable.length),
  };
}

/** Tells of each copy as it becomes whole; ends when there are enough, or when none came for a while. */
async function* copyProgress(
  control: ClusterControl,
  id: string,
  signal: AbortSignal,
): AsyncGenerator<ProgressLine, boolean> {
  const patience = new AbortController();
  let timer = setTimeout(() => patience.abort(), COPY_WAIT_MS);
  const told = new Set<string>();
  const changes = changesOfCopies(control, AbortSignal.any([signal, patience.signal]));
  try {
    // The watch begins with the first question, so nothing falls between it and the view.
    for (let next = changes.next(); ; next = changes.next()) {
      // Whoever awaits it hears of a failure; nobody does when there are enough copies.
      next.catch(() => {});
      const view = control.staleView();
      const { complete, wanted } = copiesOf(view, id);
      for (const nodeId of complete) {
        if (told.has(nodeId)) continue;
        told.add(nodeId);
        clearTimeout(timer);
        timer = setTimeout(() => patience.abort(), COPY_WAIT_MS);
        yield { id: nameOfNode(view, nodeId) || nodeId, status: "Copy complete" };
      }
      if (complete.length >= wanted) return true;
      if (view.get("image", id) === undefined || (await next).done === true) return false;
    }
  } finally {
    clearTimeout(timer);
    patience.abort();
    await changes.return(undefined);
  }
}

/** One item for each change that copies may come from; ends early when there is more news than can be followed. */
async function* changesOfCopies(control: ClusterControl, signal: AbortSignal): AsyncGenerator<void> {
  try {
    for await (const { events } of control.watch(signal))
      if (events.some(({ table }) => table === "image" || table === "node")) yield;
  } catch (caught) {
    if (!hasCode(caught, "resource_exhausted")) throw caught;
  }
}

async function* pushProgress(
  control: ClusterControl,
  put: { readonly id: string; readonly spec: ImageSpec },
  signal: AbortSignal,
): AsyncGenerator<ProgressLine> {
  const { id, spec } = put;
  const name = familiarForm(parseReference(spec.Name));
  yield { status: `The cluster knows ${name} as ${spec.Digest}` };
  const hasEnough = yield* copyProgress(control, id, signal);
  if (!hasEnough) {
    const { complete, wanted } = copiesOf(control.staleView(), id);
    yield { status: `Only ${complete.length} of ${wanted} copies so far: the cluster goes on by itself` };
  }
  yield { status: `${name}: digest: ${spec.Digest} size: ${humanSize(spec.SizeBytes)}` };
  yield { aux: { ID: id, Name: name, Digest: spec.Digest, Size: spec.SizeBytes } };
}

/** Puts the image `name` of the node `node` (this one if absent) into the cluster. */
async function push(exchange: Exchange, context: ApiContext): Promise<void> {
  checkKeys(exchange, ["name", "node"]);
  const { query, signal } = exchange;
  const control = managerOf(context);
  const given = query.optional("name");
  if (given === undefined) throw badParameter('parameter "name" must be the name of an image, got none');
  const reference = parseReference(given);
  if (reference.digest !== undefined) throw badParameter("cannot push a digest reference");
  const name = canonicalForm(withDefaultTag(reference));
  const view = await control.view(signal);
  const wanted = query.optional("node");
  const nodeId = wanted === undefined ? context.swarm.state().nodeId : lookupNode(view, wanted).id;
  const spec = specOf(name, await context.swarm.describeImage(nodeId, name, signal));
  const { id } = await control.putImage(spec, nodeId);
  await writeProgress(exchange, pushProgress(control, { id, spec }, signal));
}

async function nodeImages(exchange: Exchange, context: ApiContext): Promise<void> {
  checkKeys(exchange, []);
  const control = managerOf(context);
  const node = lookupNode(await control.view(exchange.signal), exchange.param("id"));
  const images = await control.nodeImages(node.id);
  exchange.send(200, { NodeID: node.id, Reported: images !== undefined, Images: images ?? [] });
}

/** Docker's answer of /distribution/NAME/json for an image that the cluster keeps; undefined for others. */
export async function clusterDistribution(
  context: ApiContext,
  reference: string,
  signal: AbortSignal,
): Promise<JsonObject | undefined> {
  const control = context.swarm.control();
  if (control === undefined) return undefined;
  const parsed = withDefaultTag(parseReference(reference));
  if (parsed.digest !== undefined) return undefined;
  // Without a quorum names go on to mean what this manager last heard.
  const view = await control.view(signal).catch(() => control.staleView());
  const image = imageByName(view, canonicalForm(parsed));
  if (image === undefined) return undefined;
  const { MediaType, Digest, ManifestBytes, Platform } = image.spec;
  return {
    Descriptor: { mediaType: MediaType, digest: Digest, size: ManifestBytes },
    Platforms:
      Platform === undefined ? [] : [{ architecture: Platform.Architecture ?? "", os: Platform.OS ?? "" }],
  };
}

export const CLUSTER_IMAGE_ROUTES: readonly Route[] = [
  get("/shoal/v1/images", list),
  post("/shoal/v1/images", push),
  get("/shoal/v1/images/{name*}", inspect),
  remove("/shoal/v1/images/{name*}", removeImage),
  get("/shoal/v1/nodes/{id}/images", nodeImages),
];
