/**
 * Images coming and going: pulls for clients, `ensure` for tasks (here, else from peers, else from the registry), pushes. The
 * same image is brought once however many ask at a time; it goes on while anybody still waits for it.
 */
import { ClusterError } from "../../common/errors.ts";
import type { BlobPeers, ImageDescription, ProgressLine, PullOptions } from "../../model/engine.ts";
import {
  canonicalForm,
  canonicalName,
  familiarForm,
  isTag,
  parseReference,
  withDefaultTag,
  type ImageReference,
} from "../../model/image-reference.ts";
import { HOST_PLATFORM, parsePlatformText } from "../../model/platforms.ts";
import { HttpCaller } from "../registry/http-call.ts";
import { pullFromPeers, type PeerPull } from "../registry/peer-pull.ts";
import { parseRegistryAuth, type RegistryCredentials } from "../registry/registry-auth.ts";
import type { RegistryConfig } from "../registry/registry-config.ts";
import { listTags, pullFromRegistry, type RegistryAccess } from "../registry/registry-pull.ts";
import { pushToRegistry } from "../registry/registry-push.ts";
import { noSuchImage, type ImageRecord } from "./image-records.ts";
import type { ImageStorage } from "./image-storage.ts";
import { progressOf } from "./progress.ts";

type Report = (line: ProgressLine) => void;

/** An image on its way, with everybody who waits for it. */
interface Flight {
  readonly listeners: Set<Report>;
  readonly stop: AbortController;
  readonly done: Promise<ImageRecord>;
  waiting: number;
}

/** Where an image may be brought from. */
type Origin = "registry" | "peers" | "anywhere";

interface EnsureOptions {
  readonly registryAuth?: string;
  readonly platform?: string;
  readonly peersOnly?: boolean;
  readonly report?: Report;
}

interface Wanted {
  readonly reference: ImageReference;
  readonly platform: string;
  readonly credentials: RegistryCredentials;
}

export class ImageTransfers {
  readonly #storage: ImageStorage;
  readonly #config: RegistryConfig;
  readonly #caller = new HttpCaller();
  #peers: BlobPeers | undefined;
  readonly #flights = new Map<string, Flight>();
  /** Images that are arriving and may be asked for by peers already, by the digest of their manifest or index. */
  readonly #offered = new Map<string, ImageDescription>();

  constructor(storage: ImageStorage, config: RegistryConfig) {
    this.#storage = storage;
    this.#config = config;
  }

  get caller(): HttpCaller {
    return this.#caller;
  }

  setPeers(peers: BlobPeers | undefined): void {
    this.#peers = peers;
  }

  /** An image that is arriving, with the blobs that are here or on their way: asking for others would be in vain. */
  offered(digest: string): ImageDescription | undefined {
    const image = this.#offered.get(digest);
    if (image === undefined) return undefined;
    const { content, partial } = this.#storage;
    const blobs = image.blobs.filter(({ digest }) => content.has(digest) || partial.has(digest));
    return { ...image, blobs };
  }

  #access(credentials: RegistryCredentials): RegistryAccess {
    return { config: this.#config, caller: this.#caller, credentials };
  }

  pull(options: PullOptions, signal: AbortSignal): AsyncIterable<ProgressLine> {
    const own = new AbortController();
    return progressOf(
      async (report) => {
        const credentials = parseRegistryAuth(options.registryAuth);
        const platform = options.platform ?? "";
        const all = AbortSignal.any([signal, own.signal]);
        for (const reference of await this.#meant(parseReference(options.reference), credentials, all)) {
          await this.#join({ reference, platform, credentials }, "registry", report, all);
        }
      },
      () => own.abort(),
    );
  }

  /** What a pull of a name means: one image, or without a tag every one that the repository has. */
  async #meant(
    reference: ImageReference,
    credentials: RegistryCredentials,
    signal: AbortSignal,
  ): Promise<readonly ImageReference[]> {
    if (reference.tag !== undefined || reference.digest !== undefined) return [reference];
    const tags = await listTags(this.#access(credentials), reference, signal);
    return tags.map((tag) => ({ ...reference, tag }));
  }

  /** Image id of `reference`, which is brought here if it must be. */
  async ensure(reference: string, options: EnsureOptions, signal: AbortSignal): Promise<string> {
    const known = this.#storage.records.find(reference);
    if (known !== undefined) return known.id;
    return this.#brought(reference, options.peersOnly === true ? "peers" : "anywhere", options, signal);
  }

  /** As ensure, but asks the registry even if the image is here. */
  refresh(
    reference: string,
    options: Omit<EnsureOptions, "peersOnly">,
    signal: AbortSignal,
  ): Promise<string> {
    return this.#brought(reference, "registry", options, signal);
  }

  async #brought(
    reference: string,
    from: Origin,
    { registryAuth, platform = "", report = () => {} }: EnsureOptions,
    signal: AbortSignal,
  ): Promise<string> {
    const wanted: Wanted = {
      reference: withDefaultTag(parseReference(reference)),
      platform,
      credentials: parseRegistryAuth(registryAuth),
    };
    return (await this.#join(wanted, from, report, signal)).id;
  }

  /** Waits for a flight to `wanted`, begun if there is none. Leaving early ends it only when nobody else waits. */
  async #join(wanted: Wanted, from: Origin, report: Report, signal: AbortSignal): Promise<ImageRecord> {
    signal.throwIfAborted();
    // Not shared between users: what one may see another may not.
    const { username, identityToken, registryToken } = wanted.credentials;
    const key = [
      canonicalForm(wanted.reference),
      wanted.platform,
      from,
      username,
      identityToken,
      registryToken,
    ].join("|");
    const flight = this.#flights.get(key) ?? this.#begin(key, wanted, from);
    flight.listeners.add(report);
    flight.waiting++;
    const leave = Promise.withResolvers<never>();
    const onAbort = (): void => leave.reject(new ClusterError("cancelled", "context canceled"));
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await Promise.race([flight.done, leave.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
      flight.listeners.delete(report);
      flight.waiting--;
      if (flight.waiting === 0) flight.stop.abort();
    }
  }

  #begin(key: string, wanted: Wanted, from: Origin): Flight {
    const listeners = new Set<Report>();
    const stop = new AbortController();
    const report: Report = (line) => {
      for (const each of listeners) each(line);
    };
    // On the next turn, so that whoever began it listens by then.
    const done = Promise.resolve().then(() => this.#bring(wanted, from, report, stop.signal));
    const flight: Flight = { listeners, stop, done, waiting: 0 };
    this.#flights.set(key, flight);
    const forget = (): void => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    };
    done.then(forget, forget);
    return flight;
  }

  async #bring(wanted: Wanted, from: Origin, report: Report, signal: AbortSignal): Promise<ImageRecord> {
    const { reference } = wanted;
    const platform = wanted.platform === "" ? HOST_PLATFORM : parsePlatformText(wanted.platform);
    const isKeptOnly = from === "registry";
    const found = await this.#fromPeers({ reference, platform, report, signal, isKeptOnly });
    if (found !== undefined && !(found instanceof ClusterError)) return found;
    // That a node has the image, and this machine no room for it, says more than that nobody else has it.
    const noRoom = found?.code === "resource_exhausted" ? found : undefined;
    if (from === "peers") {
      throw (
        noRoom ?? new ClusterError("not_found", `No node of the cluster has image ${familiarForm(reference)}`)
      );
    }
    const access = this.#access(wanted.credentials);
    const [peers, offer] = [this.#peers, this.#offer()];
    try {
      return await pullFromRegistry(this.#storage, {
        reference,
        platform,
        access,
        report,
        signal,
        peers,
        offer,
      });
    } catch (caught) {
      throw noRoom ?? caught;
    }
  }

  #offer(): (image: ImageDescription | undefined) => void {
    let digests: readonly string[] = [];
    return (image) => {
      for (const digest of digests) this.#offered.delete(digest);
      if (image === undefined) return;
      digests = [image.manifest.digest, ...(image.index === undefined ? [] : [image.index.digest])];
      for (const digest of digests) this.#offered.set(digest, image);
    };
  }

  /** The error where nodes have the image and it could not be had from them; undefined where none has it. */
  async #fromPeers(
    wanted: Omit<PeerPull, "peers" | "offer">,
  ): Promise<ImageRecord | ClusterError | undefined> {
    const peers = this.#peers;
    if (peers === undefined) return undefined;
    try {
      return await pullFromPeers(this.#storage, { ...wanted, peers, offer: this.#offer() });
    } catch (caught) {
      wanted.signal.throwIfAborted();
      const error = ClusterError.from(caught);
      const image = canonicalForm(wanted.reference);
      this.#storage.log.warn("image did not come from peers", { image, error });
      return error;
    }
  }

  push(
    options: { readonly reference: string; readonly tag?: string; readonly registryAuth?: string },
    signal: AbortSignal,
  ): AsyncIterable<ProgressLine> {
    const own = new AbortController();
    return progressOf(
      async (report) => {
        const all = AbortSignal.any([signal, own.signal]);
        const access = this.#access(parseRegistryAuth(options.registryAuth));
        for (const { reference, record } of this.#pushed(options.reference, options.tag ?? "")) {
          await pushToRegistry(this.#storage, { reference, record, access, report, signal: all });
        }
      },
      () => own.abort(),
    );
  }

  /** What a push means: one tag, or all of a repository. */
  #pushed(
    name: string,
    tag: string,
  ): readonly { readonly reference: ImageReference; readonly record: ImageRecord }[] {
    const { records } = this.#storage;
    const parsed = parseReference(name);
    if (parsed.digest !== undefined) {
      throw new ClusterError("invalid_argument", "cannot push a digest reference");
    }
    const wanted = tag === "" ? parsed.tag : tag;
    if (wanted !== undefined) {
      if (!isTag(wanted)) throw new ClusterError("invalid_argument", "invalid tag format");
      const reference = { ...parsed, tag: wanted };
      const record = records.find(canonicalForm(reference));
      if (record === undefined) {
        throw new ClusterError(
          "not_found",
          `An image does not exist locally with the tag: ${familiarForm(parsed)}`,
          {
            cause: noSuchImage(name),
          },
        );
      }
      return [{ reference, record }];
    }
    const all = [...records.images()].flatMap((record) =>
      records
        .tagsOf(record.id)
        .map(parseReference)
        .filter((each) => canonicalName(each) === canonicalName(parsed))
        .map((reference) => ({ reference, record })),
    );
    if (all.length > 0) return all;
    throw new ClusterError(
      "not_found",
      `An image does not exist locally with the tag: ${familiarForm(parsed)}`,
    );
  }

  stop(): void {
    for (const flight of this.#flights.values()) flight.stop.abort();
    this.#caller.close();
  }
}
