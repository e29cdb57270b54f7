/**
 * Blobs that are still arriving, offered to peers as far as they have come: a hundred nodes that start the same image then
 * feed each other instead of waiting for the first. Unverified until whole, which the reader's own check makes harmless.
 */
import { open, type FileHandle } from "node:fs/promises";
import { Readable } from "node:stream";

interface Arriving {
  readonly path: string;
  readonly sizeBytes: number;
  availableBytes: number;
  state: "arriving" | "whole" | "failed";
  readonly waiting: Set<() => void>;
}

export interface ArrivingBlob {
  /** So many bytes more are in the file. */
  progress(bytes: number): void;
  end(isWhole: boolean): void;
}

const READ_BYTES = 256 * 1024;
/** Progress is told in steps of about that. */
const AHEAD_BYTES = 1024 * 1024;
/**
 * Two nodes may each wait for the other's next bytes of the same blob. Who waits longer than this is sent away and asks
 * another source, in the end the registry.
 */
const WAIT_MS = 2_000;

export class PartialBlobs {
  readonly #blobs = new Map<string, Arriving>();
  readonly #waitMs: number;

  constructor(waitMs: number = WAIT_MS) {
    this.#waitMs = waitMs;
  }

  start(digest: string, path: string, sizeBytes: number): ArrivingBlob {
    const blob: Arriving = { path, sizeBytes, availableBytes: 0, state: "arriving", waiting: new Set() };
    this.#blobs.set(digest, blob);
    const wake = (): void => {
      for (const each of blob.waiting) each();
      blob.waiting.clear();
    };
    return {
      progress: (bytes) => {
        blob.availableBytes += bytes;
        wake();
      },
      end: (isWhole) => {
        blob.state = isWhole ? "whole" : "failed";
        if (isWhole) blob.availableBytes = sizeBytes;
        if (this.#blobs.get(digest) === blob) this.#blobs.delete(digest);
        wake();
      },
    };
  }

  /** Whether enough is there to begin with. */
  has(digest: string): boolean {
    return this.#blobs.has(digest);
  }

  /** undefined when no such blob is arriving, or not nearly as far as `offset`: another source has more. */
  async open(
    digest: string,
    offset: number,
  ): Promise<{ readonly sizeBytes: number; readonly content: Readable } | undefined> {
    const blob = this.#blobs.get(digest);
    if (blob === undefined || offset > blob.availableBytes + AHEAD_BYTES) return undefined;
    // Opened at once: the file is renamed when it is whole.
    const file = await open(blob.path, "r").catch(() => undefined);
    if (file === undefined) return undefined;
    return {
      sizeBytes: blob.sizeBytes,
      content: Readable.from(follow(blob, file, { offset, waitMs: this.#waitMs }), { objectMode: false }),
    };
  }
}

/** False if nothing came for a while. */
function hasMore(blob: Arriving, waitMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const wake = (): void => {
      clearTimeout(timer);
      resolve(true);
    };
    const timer = setTimeout(() => {
      blob.waiting.delete(wake);
      resolve(false);
    }, waitMs);
    blob.waiting.add(wake);
  });
}

async function* follow(
  blob: Arriving,
  file: FileHandle,
  { offset, waitMs }: { readonly offset: number; readonly waitMs: number },
): AsyncGenerator<Buffer> {
  try {
    let at = offset;
    while (at < blob.sizeBytes) {
      const length = Math.min(READ_BYTES, blob.availableBytes - at);
      if (length > 0) {
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, at);
        if (bytesRead === 0) throw new Error("blob is shorter than it should be");
        at += bytesRead;
        yield buffer.subarray(0, bytesRead);
        continue;
      }
      if (blob.state !== "arriving") throw new Error("blob did not arrive");
      if (!(await hasMore(blob, waitMs))) throw new Error("blob does not go on");
    }
  } finally {
    await file.close();
  }
}
