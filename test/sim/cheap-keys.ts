/**
 * Keys and signatures of the simulated cluster's CA: drawn from the seed, of constant size, and cheap; whoever knows the
 * public key could forge them. Put in the place of the platform's own while the whole cluster is simulated, so that the
 * production code of the CA runs as it is. The platform works on them in threads of its own: virtual time waits for it.
 */
import { createECDH, createHash, createPrivateKey, createPublicKey, webcrypto } from "node:crypto";
import type { SeededRandom } from "../../common/testing/seeded-random.ts";

const CURVE = { name: "ECDSA", namedCurve: "P-256" } as const;
const COORDINATE_BYTES = 32;

interface State {
  random: SeededRandom | undefined;
  isInstalled: boolean;
  pending: number;
  /** To be called when nothing is pending. */
  waiting: (() => void) | undefined;
  queue: Promise<unknown>;
}

const state: State = {
  random: undefined,
  isInstalled: false,
  pending: 0,
  waiting: undefined,
  queue: Promise.resolve(),
};
/** Text of the public key's point, for keys that came by here. */
const points = new WeakMap<object, string>();

/** While the platform works virtual time must stand still: true, and `resume` is called later. */
export function waitForCrypto(resume: () => void): boolean {
  if (state.pending === 0) return false;
  state.waiting = resume;
  return true;
}

/** What waits for the result runs first; it may begin the next. */
function resumeWorld(): void {
  const { waiting } = state;
  if (state.pending > 0 || waiting === undefined) return;
  state.waiting = undefined;
  waiting();
}

/** From now on keys come from `random`. */
export function useCheapKeys(random: SeededRandom): void {
  state.random = random;
  if (state.isInstalled) return;
  state.isInstalled = true;
  const { subtle } = webcrypto;
  const generate = subtle.importKey.bind(subtle);
  replace("importKey", (original) => async (...args) => {
    const key = (await original(...args)) as object;
    const point = pointOf(args[0], args[1]);
    if (point !== undefined) points.set(key, point);
    return key;
  });
  replace("generateKey", () => () => newPair(generate));
  replace("sign", () => (_algorithm, key, data) => Promise.resolve(signature(key, data)));
  replace("verify", () => (_algorithm, key, given, data) => {
    return Promise.resolve(Buffer.from(given as ArrayBuffer).equals(Buffer.from(signature(key, data))));
  });
  for (const name of ["exportKey", "digest"]) replace(name, (original) => original);
}

type Call = (...args: readonly unknown[]) => Promise<unknown>;

/** One call after the other, so that they end in the order in which they began, and all of them counted. */
function replace(name: string, make: (original: Call) => Call): void {
  const { subtle } = webcrypto;
  const original = (Reflect.get(subtle, name) as Call).bind(subtle);
  const call = make(original);
  const value = (...args: readonly unknown[]): Promise<unknown> => {
    state.pending += 1;
    const result = state.queue.then(() => call(...args));
    const ended = (): void => {
      state.pending -= 1;
      if (state.pending === 0) setImmediate(resumeWorld);
    };
    state.queue = result.then(ended, ended);
    return result;
  };
  Object.defineProperty(subtle, name, { value, configurable: true });
}

async function newPair(importKey: webcrypto.SubtleCrypto["importKey"]): Promise<webcrypto.CryptoKeyPair> {
  const { random } = state;
  if (random === undefined) throw new Error("cheap keys need a source of randomness");
  const scalar = Buffer.from(random.bytes(COORDINATE_BYTES));
  scalar[0] = (scalar[0] ?? 0) & 0x7f;
  const pair = createECDH("prime256v1");
  pair.setPrivateKey(scalar);
  const point = pair.getPublicKey();
  const open = {
    kty: "EC",
    crv: "P-256",
    x: point.subarray(1, 1 + COORDINATE_BYTES).toString("base64url"),
    y: point.subarray(1 + COORDINATE_BYTES).toString("base64url"),
  };
  const secret = { ...open, d: scalar.toString("base64url") };
  const privateKey = await importKey("jwk", secret, CURVE, true, ["sign"]);
  const publicKey = await importKey("jwk", open, CURVE, true, ["verify"]);
  for (const key of [privateKey, publicKey]) points.set(key, `${open.x}.${open.y}`);
  return { privateKey, publicKey };
}

function pointOf(format: unknown, bytes: unknown): string | undefined {
  if (format !== "pkcs8" && format !== "spki") return undefined;
  const der = { key: Buffer.from(bytes as ArrayBuffer), format: "der", type: format } as const;
  const key = createPublicKey(
    format === "pkcs8" ? createPrivateKey({ ...der, type: "pkcs8" }) : { ...der, type: "spki" },
  );
  const { x = "", y = "" } = key.export({ format: "jwk" });
  return `${x}.${y}`;
}

/** Two numbers of full length, so that their encoding always has the same. */
function signature(key: unknown, data: unknown): ArrayBuffer {
  const point = points.get(key as object);
  if (point === undefined) throw new Error("cheap keys know this key not");
  const bytes = createHash("sha512")
    .update(point)
    .update(Buffer.from(data as ArrayBuffer))
    .digest();
  for (const at of [0, COORDINATE_BYTES]) bytes[at] = ((bytes[at] ?? 0) & 0x7f) | 0x40;
  return Uint8Array.from(bytes).buffer;
}
