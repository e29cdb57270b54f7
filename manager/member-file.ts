/**
 * What a member keeps beside its Raft state: its Raft id, and the key that encrypts log and checkpoints. With autolock the
 * key itself is encrypted by the cluster's unlock key, which is then nowhere on this disk. One file, written atomically.
 */
import { createCipheriv, createDecipheriv, scryptSync } from "node:crypto";
import type { Disk, Random } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import { parseVersioned } from "./raft/format-version.ts";

export interface MemberSecrets {
  readonly raftId: number;
  readonly nodeId: string;
  /** 32 bytes. */
  readonly encryptionKey: Uint8Array;
}

interface StoredMember {
  readonly version: typeof FORMAT_VERSION;
  readonly raftId: number;
  readonly nodeId: string;
  /** Base64; the key as it is, or sealed. */
  readonly key: string;
  readonly sealed?: { readonly salt: string; readonly nonce: string; readonly tag: string };
}

const FORMAT_VERSION = 1;
const KEY_BYTES = 32;
const SALT_BYTES = 16;
const NONCE_BYTES = 12;
const FILE_MODE = 0o600;
/** The unlock key has 256 random bits, so that a costly derivation would add nothing. */
const SCRYPT = { N: 1024, r: 8, p: 1 } as const;
const UNLOCK_KEY_PREFIX = "SWMKEY-1-";

/** A new unlock key in Docker's form: 43 characters of base64 without padding after the prefix. */
export function newUnlockKey(random: Pick<Random, "bytes">): string {
  return UNLOCK_KEY_PREFIX + Buffer.from(random.bytes(KEY_BYTES)).toString("base64").replace(/=+$/, "");
}

/** A random Raft id: never used before, below 2^53. */
export function newRaftId(random: Pick<Random, "below">): number {
  return 1 + random.below(2 ** 31) * 2 ** 21 + random.below(2 ** 21);
}

export function newMember(random: Random, nodeId: string): MemberSecrets {
  return { raftId: newRaftId(random), nodeId, encryptionKey: random.bytes(KEY_BYTES) };
}

export class MemberFile {
  readonly #disk: Disk;
  readonly #random: Pick<Random, "bytes">;
  readonly #path: string;

  constructor(env: { readonly disk: Disk; readonly random: Pick<Random, "bytes"> }, folder: string) {
    this.#disk = env.disk;
    this.#random = env.random;
    this.#path = `${folder}/member.json`;
  }

  exists(): Promise<boolean> {
    return this.#disk.exists(this.#path);
  }

  /** True if only the unlock key opens it. */
  async isLocked(): Promise<boolean> {
    return (await this.exists()) && (await this.#load()).sealed !== undefined;
  }

  /** Rejects with failed_precondition if it is locked and no key is given, permission_denied for a wrong key. */
  async read(unlockKey: string | undefined): Promise<MemberSecrets> {
    const stored = await this.#load();
    const { raftId, nodeId, sealed } = stored;
    if (sealed === undefined) return { raftId, nodeId, encryptionKey: Buffer.from(stored.key, "base64") };
    if (unlockKey === undefined || unlockKey === "") {
      throw new ClusterError(
        "failed_precondition",
        "Swarm is encrypted and needs to be unlocked before it can be used",
        { details: { locked: true } },
      );
    }
    return { raftId, nodeId, encryptionKey: unseal(stored.key, sealed, unlockKey) };
  }

  /** `unlockKey` empty: the key is stored as it is. */
  async write(member: MemberSecrets, unlockKey: string): Promise<void> {
    const { raftId, nodeId, encryptionKey } = member;
    const stored: StoredMember =
      unlockKey === ""
        ? { version: FORMAT_VERSION, raftId, nodeId, key: Buffer.from(encryptionKey).toString("base64") }
        : { version: FORMAT_VERSION, raftId, nodeId, ...this.#seal(encryptionKey, unlockKey) };
    const bytes = new TextEncoder().encode(`${JSON.stringify(stored)}\n`);
    await this.#disk.writeFileAtomic(this.#path, bytes, FILE_MODE);
  }

  #seal(key: Uint8Array, unlockKey: string): Pick<StoredMember, "key" | "sealed"> {
    const salt = this.#random.bytes(SALT_BYTES);
    const nonce = this.#random.bytes(NONCE_BYTES);
    const cipher = createCipheriv("aes-256-gcm", derive(unlockKey, salt), nonce);
    const text = Buffer.concat([cipher.update(key), cipher.final()]);
    return {
      key: text.toString("base64"),
      sealed: {
        salt: Buffer.from(salt).toString("base64"),
        nonce: Buffer.from(nonce).toString("base64"),
        tag: cipher.getAuthTag().toString("base64"),
      },
    };
  }

  async #load(): Promise<StoredMember> {
    if (!(await this.exists())) {
      throw new ClusterError(
        "failed_precondition",
        `Cannot open the manager's state: "${this.#path}" must be there, it holds the state's key`,
      );
    }
    const parsed = parseVersioned(await this.#disk.readFile(this.#path), {
      what: `"${this.#path}"`,
      known: FORMAT_VERSION,
    });
    if (isStoredMember(parsed)) return parsed;
    throw new ClusterError("failed_precondition", `Cannot read "${this.#path}": it is not a member file`);
  }
}

function derive(unlockKey: string, salt: Uint8Array): Buffer {
  return scryptSync(unlockKey, salt, KEY_BYTES, SCRYPT);
}

function unseal(key: string, sealed: NonNullable<StoredMember["sealed"]>, unlockKey: string): Uint8Array {
  const salt = Buffer.from(sealed.salt, "base64");
  const decipher = createDecipheriv(
    "aes-256-gcm",
    derive(unlockKey, salt),
    Buffer.from(sealed.nonce, "base64"),
  );
  decipher.setAuthTag(Buffer.from(sealed.tag, "base64"));
  try {
    return Buffer.concat([decipher.update(Buffer.from(key, "base64")), decipher.final()]);
  } catch (error) {
    throw new ClusterError("permission_denied", "swarm could not be unlocked: invalid key provided", {
      cause: error,
    });
  }
}

function isStoredMember(value: unknown): value is StoredMember {
  return (
    typeof value === "object" &&
    value !== null &&
    "version" in value &&
    value.version === FORMAT_VERSION &&
    "raftId" in value &&
    Number.isSafeInteger(value.raftId) &&
    "nodeId" in value &&
    typeof value.nodeId === "string" &&
    "key" in value &&
    typeof value.key === "string"
  );
}
