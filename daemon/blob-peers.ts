/**
 * Other nodes of the cluster as sources of images. Nodes are asked directly over mTLS; those that don't answer in time are
 * passed over, since a registry or another node may have the image.
 */
import { Readable } from "node:stream";
import type { Client, ServiceError } from "@grpc/grpc-js";
import { ClusterError } from "../common/errors.ts";
import type { BlobPeers, ImageDescription } from "../model/engine.ts";
import type { shoal } from "../proto/messages.ts";
import { nodeService } from "../proto/services.ts";

type BlobChunk = shoal.v1.BlobChunk.$Properties;

const ASK_TIMEOUT_MS = 2_000;
/** Nodes asked at once; a fleet of hundreds is asked in waves, and the first wave that knows the image ends the search. */
const ASK_COUNT_MAX = 16;
const CHANNEL_COUNT_MAX = 32;

const decoder = new TextDecoder();

export interface BlobPeersDeps {
  /** "host:port" of the other nodes' mTLS ports as of now. */
  readonly peers: () => readonly string[];
  readonly dial: (addr: string) => Client;
}

export class ClusterBlobPeers implements BlobPeers {
  readonly #deps: BlobPeersDeps;
  /** Insertion order is order of use; the oldest is closed when there are too many. */
  readonly #channels = new Map<string, Client>();

  constructor(deps: BlobPeersDeps) {
    this.#deps = deps;
  }

  async find(
    reference: string,
    signal: AbortSignal,
  ): Promise<readonly { readonly peer: string; readonly image: ImageDescription }[]> {
    const peers = this.#deps.peers();
    for (let start = 0; start < peers.length; start += ASK_COUNT_MAX) {
      signal.throwIfAborted();
      const wave = peers.slice(start, start + ASK_COUNT_MAX);
      const answers = await Promise.all(wave.map((peer) => this.#ask(peer, reference)));
      const found = answers.filter((each) => each !== undefined);
      if (found.length > 0) {
        return found.sort((a, b) => (a.image.taggedAt < b.image.taggedAt ? 1 : -1));
      }
    }
    return [];
  }

  fetch(
    peer: string,
    part: { readonly digest: string; readonly offset: number; readonly length: number },
    signal: AbortSignal,
  ): Promise<Readable> {
    const { digest, offset, length } = part;
    const { path, requestSerialize, responseDeserialize } = nodeService.fetchBlob;
    const call = this.#channel(peer).makeServerStreamRequest(path, requestSerialize, responseDeserialize, {
      digest,
      offset,
      length,
    });
    const cancel = (): void => call.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    const content = async function* (): AsyncGenerator<Uint8Array> {
      try {
        for await (const chunk of call as AsyncIterable<BlobChunk>) {
          if (chunk.data) yield chunk.data;
        }
      } catch (caught) {
        throw new ClusterError("unavailable", `Cannot fetch "${digest}" from ${peer}: ${String(caught)}`, {
          cause: caught,
          retryable: true,
        });
      } finally {
        signal.removeEventListener("abort", cancel);
        call.cancel();
      }
    };
    return Promise.resolve(Readable.from(content(), { objectMode: false }));
  }

  close(): void {
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }

  #ask(
    peer: string,
    reference: string,
  ): Promise<{ readonly peer: string; readonly image: ImageDescription } | undefined> {
    const { path, requestSerialize, responseDeserialize } = nodeService.describeImage;
    return new Promise((resolve) => {
      this.#channel(peer).makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        { reference },
        { deadline: Date.now() + ASK_TIMEOUT_MS },
        (error: ServiceError | null, response) => {
          if (error !== null || !response?.imageJson) resolve(undefined);
          else resolve({ peer, image: JSON.parse(decoder.decode(response.imageJson)) as ImageDescription });
        },
      );
    });
  }

  #channel(peer: string): Client {
    const known = this.#channels.get(peer);
    if (known !== undefined) {
      this.#channels.delete(peer);
      this.#channels.set(peer, known);
      return known;
    }
    const [oldest] = this.#channels;
    if (this.#channels.size >= CHANNEL_COUNT_MAX && oldest !== undefined) {
      oldest[1].close();
      this.#channels.delete(oldest[0]);
    }
    const channel = this.#deps.dial(peer);
    this.#channels.set(peer, channel);
    return channel;
  }
}
