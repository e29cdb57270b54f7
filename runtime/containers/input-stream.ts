/** stdin of a process as a Writable over a native connection; finds detach keys on its way. */
import { Writable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import { FrameType, type NativeConnection } from "./native-frames.ts";

const PIECE_BYTES_MAX = 32 * 1024;

/** "ctrl-p,ctrl-q" or "a,b,ctrl-@" to bytes; throws for an unknown key. */
export function parseDetachKeys(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const key of text.split(",")) {
    if (key.length === 1) {
      bytes.push(key.charCodeAt(0));
      continue;
    }
    const match = /^ctrl-([a-z@[\]\\^_])$/i.exec(key);
    if (match?.[1] === undefined)
      throw new ClusterError(
        "invalid_argument",
        `Invalid detach keys (${text}) provided: want a list like ctrl-p,ctrl-q or ctrl-x,a, got "${key}"`,
      );
    bytes.push(match[1].toUpperCase().charCodeAt(0) & 0x1f);
  }
  return Uint8Array.from(bytes);
}

/** Cuts the keys out of what is typed: bytes that turn out not to be the sequence are passed on. */
export class DetachScanner {
  readonly #keys: Uint8Array;
  #matched = 0;

  constructor(keys: Uint8Array) {
    this.#keys = keys;
  }

  /** What to pass on of `bytes`, and whether the keys were typed in full. */
  scan(bytes: Uint8Array): { readonly pass: Uint8Array; readonly isDetached: boolean } {
    if (this.#keys.length === 0) return { pass: bytes, isDetached: false };
    const pass: number[] = [];
    for (const byte of bytes) {
      if (byte === this.#keys[this.#matched]) {
        this.#matched++;
        if (this.#matched === this.#keys.length) return { pass: Uint8Array.from(pass), isDetached: true };
        continue;
      }
      pass.push(...this.#keys.subarray(0, this.#matched));
      this.#matched = byte === this.#keys[0] ? 1 : 0;
      if (this.#matched === 0) pass.push(byte);
    }
    return { pass: Uint8Array.from(pass), isDetached: false };
  }
}

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
