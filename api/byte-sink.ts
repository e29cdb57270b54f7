/**
 * A response body or a bare connection that is written with back-pressure. A write never throws: a client that left is
 * no error.
 */
import type { Writable } from "node:stream";

export class ByteSink {
  readonly #out: Writable;

  constructor(out: Writable) {
    this.#out = out;
  }

  /** Resolves when more may be written; false once the other side is gone. */
  async write(chunk: Uint8Array | string): Promise<boolean> {
    const out = this.#out;
    if (out.destroyed || out.writableEnded) return false;
    if (out.write(chunk)) return true;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        out.off("drain", done).off("close", done).off("error", done);
        resolve();
      };
      out.on("drain", done).on("close", done).on("error", done);
    });
    return !out.destroyed;
  }

  /** One JSON object and Docker's line end. */
  line(value: unknown): Promise<boolean> {
    return this.write(`${JSON.stringify(value)}\r\n`);
  }

  end(): void {
    if (!this.#out.destroyed && !this.#out.writableEnded) this.#out.end();
  }
}
