/** Waiting until a stream takes more. */

/** What both Node's streams and those of tar-stream have. */
export interface Draining {
  once(event: "drain" | "close" | "error", listener: (error?: Error) => void): unknown;
  off(event: "drain" | "close" | "error", listener: (error?: Error) => void): unknown;
}

/** Resolves as well when the stream has closed, rejects with its error. Leaves no listener behind. */
export function drained(stream: Draining): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error?: Error): void => {
      stream.off("drain", done);
      stream.off("close", done);
      stream.off("error", done);
      if (error instanceof Error) reject(error);
      else resolve();
    };
    stream.once("drain", done);
    stream.once("close", done);
    stream.once("error", done);
  });
}
