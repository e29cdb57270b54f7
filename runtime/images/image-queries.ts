/** Answers about images in Docker's shapes: list, inspect, history. Reads only. */
import { ClusterError } from "../../common/errors.ts";
import type { ContainerConfig, Filters, JsonObject } from "../../model/engine.ts";
import { checkFilterKeys, filterFlag, IMAGE_LIST_FILTERS, labelsPass } from "../../model/filters.ts";
import { familiarForm, familiarName, parseReference } from "../../model/image-reference.ts";
import { ZERO_TIME } from "../../common/time.ts";
import { type TextPattern, textPattern } from "../text-pattern.ts";
import { untilOf } from "../until-filter.ts";
import type { ImageDocument } from "./image-documents.ts";
import type { ImageRecord } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";

function familiarNames(canonical: readonly string[]): readonly string[] {
  return canonical.map((name) => familiarForm(parseReference(name)));
}

export function createdMs(document: ImageDocument): number {
  const ms = Date.parse(document.created);
  return Number.isNaN(ms) ? Date.parse(ZERO_TIME) : ms;
}

/** Go's path.Match: "*" and "?" stop at slashes. */
function patternOf(glob: string): TextPattern {
  const source = glob
    .replace(/[.+^${}()|\\]/g, String.raw`\$&`)
    .replace(/\*/g, "[^/]*")
    .replace(/\?/g, "[^/]");
  return textPattern(
    `^${source}$`,
    (cause) =>
      new ClusterError("invalid_argument", `invalid reference pattern "${glob}": syntax error in pattern`, {
        cause,
      }),
  );
}

interface Named {
  readonly record: ImageRecord;
  readonly document: ImageDocument;
  readonly tags: readonly string[];
  readonly digests: readonly string[];
}

/** Those of `names` that a "reference" filter means; all without one. */
function meantBy(patterns: readonly TextPattern[] | undefined, names: readonly string[]): readonly string[] {
  if (patterns === undefined) return names;
  return names.filter((name) => {
    const parsed = parseReference(name);
    return patterns.some((matches) => matches(familiarForm(parsed)) || matches(familiarName(parsed)));
  });
}

/** Whether all filters but "reference" and "dangling" let the image pass. */
export function imageMatcher(
  storage: ImageStorage,
  filters: Filters,
): (image: Pick<Named, "record" | "document">) => boolean {
  const boundary = (key: string): number | undefined => {
    const reference = filters.get(key)?.[0];
    return reference === undefined ? undefined : createdMs(storage.document(storage.records.get(reference)));
  };
  const before = boundary("before");
  const since = boundary("since");
  const until = untilOf(filters, storage.env.clock.wallMs());
  return ({ document }) => {
    const created = createdMs(document);
    return (
      (before === undefined || created < before) &&
      (since === undefined || created > since) &&
      created < until &&
      labelsPass(filters, document.config.Labels ?? {})
    );
  };
}

export interface ListImagesOptions {
  readonly all: boolean;
  readonly filters: Filters;
  readonly sharedSize: boolean;
}

/** How many images share each layer, for sizes. */
/** Images that steps of a build left below another are no users of their own: they go with it. */
function layerUsers(storage: ImageStorage): ReadonlyMap<string, number> {
  const users = new Map<string, number>();
  const { records } = storage;
  const names = records.allNames();
  const parents = new Set([...records.images()].map((record) => record.parentId));
  for (const record of records.images()) {
    if (!names.has(record.id) && parents.has(record.id)) continue;
    for (const layer of record.layers) users.set(layer.chainId, (users.get(layer.chainId) ?? 0) + 1);
  }
  return users;
}

export function listImages(storage: ImageStorage, options: ListImagesOptions): readonly JsonObject[] {
  const { records } = storage;
  const { filters } = options;
  checkFilterKeys(filters, IMAGE_LIST_FILTERS);
  const isDangling = filterFlag(filters, "dangling");
  const patterns = filters.get("reference")?.map(patternOf);
  const matches = imageMatcher(storage, filters);
  const names = records.allNames();
  const parents = new Set([...records.images()].map((record) => record.parentId));
  const users = options.sharedSize ? layerUsers(storage) : undefined;
  const found: Named[] = [];
  for (const record of records.images()) {
    const { tags = [], digests = [] } = names.get(record.id) ?? {};
    const isUnnamed = tags.length + digests.length === 0;
    const isIntermediate = isUnnamed && parents.has(record.id);
    if (
      isDangling === true ? !(tags.length === 0 && !parents.has(record.id)) : isIntermediate && !options.all
    )
      continue;
    if (isDangling === false && tags.length === 0) continue;
    const shown = { tags: meantBy(patterns, tags), digests: meantBy(patterns, digests) };
    if (patterns !== undefined && shown.tags.length + shown.digests.length === 0) continue;
    const image = { record, document: storage.document(record), ...shown };
    if (matches(image)) found.push(image);
  }
  found.sort((left, right) => {
    const order = createdMs(right.document) - createdMs(left.document);
    return order === 0 ? (left.record.id < right.record.id ? -1 : 1) : order;
  });
  return found.map((image) => summary(storage, image, users));
}

function summary(
  storage: ImageStorage,
  image: Named,
  users: ReadonlyMap<string, number> | undefined,
): JsonObject {
  const { record, document } = image;
  const shared = record.layers.reduce((sum, layer) => {
    const isShared = (users?.get(layer.chainId) ?? 0) > 1;
    return sum + (isShared ? (storage.snapshots.layer(layer.chainId)?.contentBytes ?? 0) : 0);
  }, 0);
  return {
    Containers: -1,
    Created: Math.floor(createdMs(document) / 1000),
    Id: record.id,
    Labels: document.config.Labels ?? null,
    ParentId: record.parentId,
    RepoDigests: [...familiarNames(image.digests)],
    RepoTags: [...familiarNames(image.tags)],
    SharedSize: users === undefined ? -1 : shared,
    Size: record.contentBytes,
    VirtualSize: record.contentBytes,
  };
}

/** Every field that old clients read, with Docker's empty values. */
export function fullConfig(config: ContainerConfig): JsonObject {
  const base = {
    Hostname: "",
    Domainname: "",
    User: "",
    AttachStdin: false,
    AttachStdout: false,
    AttachStderr: false,
    Tty: false,
    OpenStdin: false,
    StdinOnce: false,
    Env: null,
    Cmd: null,
    Image: "",
    Volumes: null,
    WorkingDir: "",
    Entrypoint: null,
    OnBuild: null,
    Labels: null,
  };
  // Both are JSON: the config came from a JSON document.
  return { ...base, ...(config as JsonObject) };
}

export function inspectImage(storage: ImageStorage, reference: string): JsonObject {
  const { records, snapshots } = storage;
  const record = records.get(reference);
  const document = storage.document(record);
  const folders = snapshots.has(record.layers.at(-1)?.chainId ?? "")
    ? snapshots.folders(record.layers.map((layer) => layer.chainId).filter((each) => snapshots.has(each)))
    : [];
  const [upper = "", ...lower] = folders;
  return {
    Id: record.id,
    RepoTags: [...familiarNames(records.tagsOf(record.id))],
    RepoDigests: [...familiarNames(records.digestsOf(record.id))],
    Parent: record.parentId,
    Comment: document.comment === "" ? (document.history.at(-1)?.comment ?? "") : document.comment,
    Created: document.created,
    Container: document.container,
    ContainerConfig: fullConfig((document.containerConfig ?? {}) as ContainerConfig),
    DockerVersion: document.dockerVersion,
    Author: document.author,
    Config: fullConfig(document.config),
    Architecture: document.architecture,
    ...(document.variant === "" ? {} : { Variant: document.variant }),
    Os: document.os,
    Size: record.contentBytes,
    VirtualSize: record.contentBytes,
    GraphDriver: {
      Name: "overlay2",
      Data: { UpperDir: upper, ...(lower.length === 0 ? {} : { LowerDir: lower.join(":") }) },
    },
    RootFS: { Type: "layers", Layers: [...document.diffIds] },
    Metadata: { LastTagTime: record.lastTaggedAt === "" ? ZERO_TIME : record.lastTaggedAt },
  };
}

export function imageHistory(storage: ImageStorage, reference: string): readonly JsonObject[] {
  const { records, snapshots } = storage;
  const record = records.get(reference);
  const document = storage.document(record);
  let layerIndex = 0;
  const rows = document.history.map((entry) => {
    const layer = entry.empty_layer === true ? undefined : record.layers[layerIndex++];
    const bytes = layer === undefined ? 0 : (snapshots.layer(layer.chainId)?.contentBytes ?? 0);
    return {
      Id: "<missing>",
      Created: Math.floor((Date.parse(entry.created ?? ZERO_TIME) || 0) / 1000),
      CreatedBy: entry.created_by ?? "",
      Tags: null as readonly string[] | null,
      Size: bytes,
      Comment: entry.comment ?? "",
    };
  });
  rows.reverse();
  let ancestor: ImageRecord | undefined = record;
  for (const row of rows) {
    if (ancestor === undefined) break;
    row.Id = ancestor.id;
    const tags = familiarNames(records.tagsOf(ancestor.id));
    row.Tags = tags.length === 0 ? null : tags;
    ancestor = ancestor.parentId === "" ? undefined : records.image(ancestor.parentId);
  }
  return rows;
}
