/** stdin of a process as a Writable over a native connection; finds detach keys on its way. */
import { Writable } from "node:stream";
import type { DetachScanner } from "../../common/detach-keys.ts";
import { FrameType, type NativeConnection } from "./native-frames.ts";

const PIECE_BYTES_MAX = 32 * 1024;

export interface InputOptions {
  /** Resolves when the process's monitor is there. */
  readonly connection: Promise<NativeConnection>;
  readonly scanner: DetachScanner | undefined;
  readonly onDetach: () => void;
  /** What the writer's end means: closes the process's stdin, or ends the attachment alone. */
  readonly onEnd: (connection: NativeConnection) => void;
}

export function inputStream(options: InputOptions): Writable {
  const pass = async (bytes: Uint8Array): Promise<void> => {
    const connection = await options.connection;
    const { pass: rest, isDetached } = options.scanner?.scan(bytes) ?? { pass: bytes, isDetached: false };
    for (let at = 0; at < rest.byteLength; at += PIECE_BYTES_MAX) {
      const isRoomy = connection.send(FrameType.stdin, rest.subarray(at, at + PIECE_BYTES_MAX));
      if (!isRoomy && !connection.isClosed)
        await new Promise<void>((resolve) => connection.onDrained(resolve));
    }
    if (isDetached) options.onDetach();
  };
  // What is typed at a process that is gone goes nowhere.
  const passOrDrop = (bytes: Uint8Array): Promise<void> => pass(bytes).catch(() => undefined);
  const end = (): Promise<void> => options.connection.then(options.onEnd, () => undefined);
  return new Writable({
    write(chunk: Uint8Array, _encoding, done): void {
      void passOrDrop(chunk).finally(done);
    },
    final(done): void {
      void end().finally(done);
    },
  });
}
