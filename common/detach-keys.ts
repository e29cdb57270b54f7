/**
 * Keys that let go of a process's terminal and leave it running. The command line looks for them in what is typed, the
 * daemon in what clients of the API send.
 */
import { ClusterError } from "./errors.ts";

const DEFAULT_KEYS = "ctrl-p,ctrl-q";

/** "ctrl-p,ctrl-q" or "a,b,ctrl-@" to bytes; the default if empty. Throws for an unknown key. */
export function parseDetachKeys(given = ""): Uint8Array {
  const text = given === "" ? DEFAULT_KEYS : given;
  const bytes = text.split(",").map((key) => {
    if (key.length === 1) return key.charCodeAt(0);
    const control = /^ctrl-([a-z@[\]\\^_])$/i.exec(key)?.[1];
    if (control === undefined)
      throw new ClusterError(
        "invalid_argument",
        `Invalid detach keys (${text}) provided: want a list like ctrl-p,ctrl-q or ctrl-x,a, got "${key}"`,
      );
    return control.toUpperCase().charCodeAt(0) & 0x1f;
  });
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
    const pass: number[] = [];
    for (const byte of bytes) {
      if (byte === this.#keys[this.#matched]) {
        this.#matched += 1;
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
