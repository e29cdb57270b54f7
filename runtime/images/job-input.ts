/** The bytes of a job inside its worker: a file, the main thread's stream, or a folder packed as a layer. */
import { createReadStream } from "node:fs";
import type { MessagePort } from "node:worker_threads";
import { ClusterError } from "../../common/errors.ts";
import { packCopy } from "../build/copy-plan.ts";
import type { JobInput, PieceMessage, UsedMessage } from "./layer-jobs.ts";
import { packLayer } from "./layer-pack.ts";

const FILE_READ_BYTES = 1024 * 1024;

/** Pieces that come through `port`; each is acknowledged when the reader asks for the next. */
async function* portPieces(port: MessagePort): AsyncGenerator<Buffer> {
  const waiting: PieceMessage[] = [];
  let wake: (() => void) | undefined;
  const onMessage = (message: PieceMessage): void => {
    waiting.push(message);
    wake?.();
  };
  port.on("message", onMessage);
  try {
    for (;;) {
      const message = waiting.shift();
      if (message === undefined) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      if (message.kind === "end") return;
      if (message.kind === "error") throw new ClusterError("unavailable", message.message);
      yield Buffer.from(message.bytes.buffer, message.bytes.byteOffset, message.bytes.byteLength);
      const used: UsedMessage = { bytes: message.bytes.byteLength };
      port.postMessage(used);
    }
  } finally {
    port.off("message", onMessage);
    port.close();
  }
}

export function inputPieces(
  input: JobInput,
  port: MessagePort | undefined,
): AsyncIterable<Buffer> | Iterable<Buffer> {
  switch (input.kind) {
    case "file":
      return createReadStream(input.path, { highWaterMark: FILE_READ_BYTES });
    case "folder":
      return packLayer(input.path, input.mtimeMax === undefined ? {} : { mtimeMax: input.mtimeMax });
    case "copy":
      return packCopy(input.request);
    case "stream":
      if (port === undefined) throw new ClusterError("internal", "Job with a stream has no port");
      return portPieces(port);
  }
}
