/**
 * Other nodes of the cluster as sources of images. Nodes are asked directly over mTLS; those that don't answer in time are
 * passed over, since another node may have the image. Only managers are asked what a name means.
 */
import { Readable } from "node:stream";
import type { Client, ServiceError } from "@grpc/grpc-js";
import { ClusterError } from "../common/errors.ts";
import type { ResolvedImage } from "../model/dispatch.ts";
import type { BlobPeers, ImageDescription, PeerImage } from "../model/engine.ts";
import { tryParseReference } from "../model/image-reference.ts";
import type { shoal } from "../proto/messages.ts";
import { callUnary, openServerStream } from "../proto/rpc-client.ts";
import { fromServiceError } from "../proto/rpc-errors.ts";
import { nodeService } from "../proto/services.ts";
import { parseDescription, parseResolved } from "./image-answers.ts";

type BlobChunk = shoal.v1.BlobChunk.$Properties;

const ASK_TIMEOUT_MS = 2_000;
/** Nodes asked at once; the first wave that knows the image ends the search. */
const ASK_COUNT_MAX = 16;
/**
 * Nodes asked in one search. In a large fleet that is a sample: managers name some that have the image, and who pulls the
 * same image asks others a second later.
 */
const SEARCH_COUNT_MAX = 64;
const CHANNEL_COUNT_MAX = 32;

export interface PeerAddress {
  readonly nodeId: string;
  /** "host:port" of its mTLS port. */
  readonly rpcAddress: string;
}

export interface BlobPeersDeps {
  /** The other nodes as of now. */
  readonly peers: () => readonly PeerAddress[];
  /** "host:port" of the other managers. */
  readonly managers: () => readonly string[];
  /** What this node, as a manager, knows of a name; undefined on workers. */
  readonly resolveHere: (reference: string) => Promise<ResolvedImage | undefined>;
  /** `manager`: the server must be one. */
  readonly dial: (addr: string, options: { readonly manager?: boolean }) => Client;
}

export class ClusterBlobPeers implements BlobPeers {
  readonly #deps: BlobPeersDeps;
  /** Insertion order is order of use; the oldest is closed when there are too many. */
  readonly #channels = new Map<string, Client>();

  constructor(deps: BlobPeersDeps) {
    this.#deps = deps;
  }

  async resolve(reference: string, signal: AbortSignal): Promise<ResolvedImage | undefined> {
    const own = await this.#deps.resolveHere(reference);
    if (own?.isKept === true) return own;
    // A digest means the same to all: one answer will do.
    if (tryParseReference(reference)?.digest !== undefined) {
      return own ?? this.#firstAnswer(reference, signal);
    }
    const asked = this.#deps.managers().map((manager) => this.#resolveAt(manager, reference, signal));
    // It stands whatever the others say, and one of them may be on a host that is gone.
    const kept = await firstOf(asked, (answer) => answer?.isKept === true);
    signal.throwIfAborted();
    if (kept !== undefined) return kept;
    const answers = [own, ...(await Promise.all(asked))].filter((each) => each !== undefined);
    return answers.reduce<ResolvedImage | undefined>(
      (newest, each) => (newest === undefined || newest.taggedAt < each.taggedAt ? each : newest),
      undefined,
    );
  }

  async #firstAnswer(reference: string, signal: AbortSignal): Promise<ResolvedImage | undefined> {
    for (const manager of this.#deps.managers()) {
      const answer = await this.#resolveAt(manager, reference, signal);
      signal.throwIfAborted();
      if (answer !== undefined) return answer;
    }
    return undefined;
  }

  async #resolveAt(
    manager: string,
    reference: string,
    signal: AbortSignal,
  ): Promise<ResolvedImage | undefined> {
    try {
      const channel = this.#channel(manager, { manager: true });
      const options = { deadlineMs: ASK_TIMEOUT_MS, signal };
      const { imageJson } = await callUnary(channel, nodeService.resolveImage, { reference }, options);
      return parseResolved(imageJson);
    } catch {
      return undefined;
    }
  }

  async find(
    reference: string,
    likely: readonly string[],
    signal: AbortSignal,
  ): Promise<readonly PeerImage[]> {
    const digest = tryParseReference(reference)?.digest;
    const peers = this.#inOrder(likely);
    const all: PeerImage[] = [];
    for (let start = 0; start < Math.min(peers.length, SEARCH_COUNT_MAX); start += ASK_COUNT_MAX) {
      signal.throwIfAborted();
      const wave = peers.slice(start, start + ASK_COUNT_MAX);
      const answers = await Promise.all(wave.map((peer) => this.#describeAt(peer, reference, signal)));
      const found = answers.filter((each) => each !== undefined);
      all.push(...found);
      if (found.some(({ image }) => image.manifest.digest === digest || image.index?.digest === digest))
        break;
    }
    return all;
  }

  /** Those that are likely to have it first, the others in an order that differs each time: load spreads. */
  #inOrder(likely: readonly string[]): readonly string[] {
    const wanted = new Set(likely);
    const first: string[] = [];
    const rest: string[] = [];
    for (const { nodeId, rpcAddress } of this.#deps.peers()) {
      if (rpcAddress !== "") (wanted.has(nodeId) ? first : rest).push(rpcAddress);
    }
    return [...shuffled(first), ...shuffled(rest)];
  }

  async #describeAt(peer: string, reference: string, signal: AbortSignal): Promise<PeerImage | undefined> {
    try {
      const options = { deadlineMs: ASK_TIMEOUT_MS, signal };
      const channel = this.#channel(peer, {});
      const { imageJson } = await callUnary(channel, nodeService.describeImage, { reference }, options);
      const image = parseDescription(imageJson);
      return image === undefined ? undefined : { peer, image };
    } catch {
      return undefined;
    }
  }

  /**
   * What the node `nodeId` has under `reference`; rejects with not_found if it has none, unavailable if it can't be
   * asked.
   */
  async describeAt(nodeId: string, reference: string, signal: AbortSignal): Promise<ImageDescription> {
    const address = this.#deps.peers().find((peer) => peer.nodeId === nodeId)?.rpcAddress ?? "";
    if (address === "") {
      throw new ClusterError("unavailable", `Node "${nodeId}" can't be reached: it has no session`);
    }
    const { imageJson } = await callUnary(
      this.#channel(address, {}),
      nodeService.describeImage,
      { reference },
      { signal },
    );
    const image = parseDescription(imageJson);
    if (image !== undefined) return image;
    throw new ClusterError("internal", `Node "${nodeId}" answered with something else than an image`);
  }

  fetch(
    peer: string,
    part: { readonly digest: string; readonly offset: number; readonly length: number },
    signal: AbortSignal,
  ): Promise<Readable> {
    const call = openServerStream(this.#channel(peer, {}), nodeService.fetchBlob, part);
    // A call that is given up before anybody reads reports it with nobody to hear.
    call.on("error", () => {});
    const cancel = (): void => call.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    const content = async function* (): AsyncGenerator<Uint8Array> {
      try {
        for await (const chunk of call as AsyncIterable<BlobChunk>) {
          if (chunk.data) yield chunk.data;
        }
      } catch (caught) {
        const { code, message } = fromServiceError(caught as ServiceError);
        throw new ClusterError(code, `Cannot fetch "${part.digest}" from ${peer}: ${message}`, {
          cause: caught,
          retryable: true,
        });
      }
    };
    const stream = Readable.from(content(), { objectMode: false });
    stream.once("close", () => {
      signal.removeEventListener("abort", cancel);
      call.cancel();
    });
    return Promise.resolve(stream);
  }

  close(): void {
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }

  #channel(address: string, options: { readonly manager?: boolean }): Client {
    const key = `${address} ${options.manager === true}`;
    const known = this.#channels.get(key);
    if (known !== undefined) {
      this.#channels.delete(key);
      this.#channels.set(key, known);
      return known;
    }
    const [oldest] = this.#channels;
    if (this.#channels.size >= CHANNEL_COUNT_MAX && oldest !== undefined) {
      oldest[1].close();
      this.#channels.delete(oldest[0]);
    }
    const channel = this.#deps.dial(address, options);
    this.#channels.set(key, channel);
    return channel;
  }
}

/** The first to come of which `isWanted` holds; undefined once all have come without. */
function firstOf<T>(asked: readonly Promise<T>[], isWanted: (answer: T) => boolean): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const checked = asked.map(async (each) => {
      const answer = await each;
      if (isWanted(answer)) resolve(answer);
    });
    Promise.all(checked).then(() => resolve(undefined), reject);
  });
}

function shuffled<T>(items: readonly T[]): T[] {
  const result = [...items];
  for (let index = result.length - 1; index > 0; index -= 1) {
    const other = Math.floor(Math.random() * (index + 1));
    const [a, b] = [result[index], result[other]];
    if (a === undefined || b === undefined) continue;
    [result[index], result[other]] = [b, a];
  }
  return result;
}
