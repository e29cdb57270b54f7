/**
 * Takes apart Docker's multiplexed streams: frames of [stream, 0, 0, 0, length(4, big endian)] and payload, cut anywhere
 * by the network. Used for logs, attach and exec without a terminal.
 */
import { ClusterError } from "../../common/errors.ts";

export interface Frame {
  /** 0 stdin echo, 1 stdout, 2 stderr, 3 an error of the daemon. */
  readonly stream: 0 | 1 | 2 | 3;
  readonly payload: Buffer;
}

const HEADER_BYTES = 8;
const FRAME_BYTES_MAX = 64 * 1024 * 1024;

/** Yields whole frames. Throws on a header that cannot be one, so that a raw stream is not taken for frames silently. */
export async function* readFrames(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Frame, void, undefined> {
  let pending = Buffer.alloc(0);
  for await (const chunk of chunks) {
    pending = pending.length === 0 ? Buffer.from(chunk) : Buffer.concat([pending, chunk]);
    let offset = 0;
    while (pending.length - offset >= HEADER_BYTES) {
      const stream = pending[offset] ?? 255;
      const length = pending.readUInt32BE(offset + 4);
      if (stream > 3 || length > FRAME_BYTES_MAX) {
        throw new ClusterError(
          "internal",
          `Cannot read stream: frame header expected, got byte ${stream} and length ${length}`,
        );
      }
      if (pending.length - offset - HEADER_BYTES < length) break;
      const start = offset + HEADER_BYTES;
      yield { stream: stream as Frame["stream"], payload: pending.subarray(start, start + length) };
      offset = start + length;
    }
    pending = pending.subarray(offset);
  }
}
