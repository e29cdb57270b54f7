/** Output of a process as an async iterable that holds its source back while the reader is slow. */
import type { NativeConnection } from "./native-frames.ts";

const WAITING_BYTES_MAX = 256 * 1024;

export interface OutputChunk {
  readonly stream: "stdout" | "stderr";
  readonly data: Uint8Array;
}

export class OutputStream implements AsyncIterable<OutputChunk> {
  readonly #chunks: OutputChunk[] = [];
  #waitingBytes = 0;
  #isEnded = false;
  #isPaused = false;
  #wake: (() => void) | undefined;
  #source: NativeConnection | undefined;

  /** The connection to pause while too much waits. */
  set source(connection: NativeConnection) {
    this.#source = connection;
    // What came before may have been too much already.
    if (this.#isPaused && !this.#isEnded) connection.pause();
  }

  push(stream: "stdout" | "stderr", data: Uint8Array): void {
    if (this.#isEnded || data.byteLength === 0) return;
    this.#chunks.push({ stream, data });
    this.#waitingBytes += data.byteLength;
    if (this.#waitingBytes >= WAITING_BYTES_MAX && !this.#isPaused) {
      this.#isPaused = true;
      this.#source?.pause();
    }
    this.#wake?.();
  }

  /** What comes from now on is dropped, so it holds nobody back. */
  end(): void {
    this.#isEnded = true;
    this.#source?.resume();
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<OutputChunk, void> {
    while (true) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#waitingBytes -= chunk.data.byteLength;
        if (this.#isPaused && this.#waitingBytes < WAITING_BYTES_MAX / 2) {
          this.#isPaused = false;
          this.#source?.resume();
        }
        yield chunk;
        continue;
      }
      if (this.#isEnded) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
