/**
 * The write-ahead log: votes and entries, in zero-filled segment files that are used again once compacted away. One
 * synced write per append(); the caller has at most one out at a time. Written by node.ts only.
 *
 * A segment is prepared under a spare name, so that a segment with its final name is always whole and only the last one
 * can have a torn tail. An error of a write or sync leaves the file unknown and is passed on as it is: the caller ends
 * the process, except for ENOSPC, after which the same append may be tried again.
 */
import { assert } from "../../common/assert.ts";
import type { Disk, DiskFile, Random } from "../../common/env.ts";
import type { Entry, HardState } from "./core/messages.ts";
import { EntryEncoder } from "./entry-codec.ts";
import {
  encodeRecord,
  encodeSegmentHeader,
  recordBytesMax,
  type RecordParts,
  SEGMENT_HEADER_BYTES,
  segmentKeys,
  type SegmentHeader,
  type SegmentKeys,
  type WalBase,
  type WalIdentity,
} from "./wal-format.ts";
import { VoteFile } from "./vote-file.ts";
import { recoverWal, type RecoveredWal, segmentName, type SegmentRange } from "./wal-recovery.ts";

/** Zeros are written in pieces of this size. */
const FILL_BYTES = 1024 * 1024;
/** Records up to this size are made in one place: a few hundred proposals. */
const SCRATCH_BYTES = 128 * 1024;
/** Spare segments kept for reuse; more are deleted. */
const SPARE_COUNT_MAX = 2;

export interface WalOptions {
  readonly disk: Disk;
  readonly random: Pick<Random, "bytes">;
  readonly folder: string;
  readonly identity: WalIdentity;
  /** 32 bytes for AES-256-GCM, or none. */
  readonly encryptionKey: Uint8Array | undefined;
  readonly segmentBytes: number;
}

export interface WalAppend {
  readonly hardState: HardState | undefined;
  /** Written when a snapshot replaces the log up to there. */
  readonly base: WalBase | undefined;
  readonly entries: readonly Entry[];
}

interface OpenSegment {
  readonly file: DiskFile;
  readonly header: SegmentHeader;
  readonly keys: SegmentKeys;
  readonly lengthBytes: number;
  readonly path: string;
}

export class Wal {
  readonly #options: WalOptions;
  readonly #encoder: EntryEncoder;
  readonly #votes: VoteFile;
  #current: OpenSegment | undefined;
  /** Where the next record goes in the current segment. */
  #offset = SEGMENT_HEADER_BYTES;
  #chain = 0;
  /** Whether the last record is one of seal(), before which nothing can be lost unnoticed. */
  #isSealed = true;
  #sealing: Promise<void> | undefined;
  #hardState: HardState = { term: 0, vote: 0, commit: 0 };
  #lastIndex = 0;
  /** Full segments, oldest first. */
  #full: SegmentRange[] = [];
  #spares: string[] = [];
  #spareNumber = 0;
  #preparing: Promise<void> | undefined;
  #isClosed = false;
  readonly #scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);

  private constructor(options: WalOptions, encoder: EntryEncoder) {
    this.#options = options;
    this.#encoder = encoder;
    this.#votes = new VoteFile(options.disk, options.folder, options.identity.raftId);
  }

  /** Opens or makes the log. With `recovered.corruption` set, the log must not be appended to: see rebuild(). */
  static async open(
    options: WalOptions,
    encoder: EntryEncoder = new EntryEncoder(),
  ): Promise<{ readonly wal: Wal; readonly recovered: RecoveredWal }> {
    const { disk, folder } = options;
    await disk.makeFolder(folder);
    const recovered = await recoverWal(disk, folder, options);
    const wal = new Wal(options, encoder);
    if (recovered.corruption === undefined) await wal.#resume(recovered);
    return { wal, recovered };
  }

  /** Bytes of all segments in use. */
  get bytes(): number {
    let bytes = this.#current?.lengthBytes ?? 0;
    for (const segment of this.#full) bytes += segment.lengthBytes;
    return bytes;
  }

  /** Durable when it resolves. Rejects with ENOSPC before anything was written when there is no room. */
  async append(append: WalAppend): Promise<void> {
    // Without a turn of the promise queue where there is nothing to wait for: the write is on its way when this returns.
    if (this.#sealing !== undefined) await this.#sealing;
    const hardState = append.hardState ?? this.#hardState;
    if (!this.#votes.isNoted(hardState)) await this.#votes.note(hardState);
    const block = append.entries.length === 0 ? undefined : this.#encoder.encode(append.entries);
    const parts: RecordParts = { hardState: append.hardState, base: append.base, block };
    const needed = recordBytesMax(parts);
    let segment = this.#current;
    let isFirst = false;
    if (segment === undefined || this.#offset + needed > segment.lengthBytes) {
      segment = await this.#roll(needed);
      isFirst = true;
    }
    // The first record of a segment repeats the hard state, so that older segments can go.
    const whole = isFirst ? { ...parts, hardState } : parts;
    await this.#write(segment, whole);
    this.#isSealed = false;
    this.#hardState = hardState;
    this.#lastIndex = append.entries.at(-1)?.index ?? append.base?.index ?? this.#lastIndex;
  }

  /** The last record is one of seal(), which would do nothing now. */
  get isSealed(): boolean {
    return this.#isSealed;
  }

  /**
   * Writes a record without entries behind the last one, unless that is one already. The last record of a log can't be told
   * from an unfinished write if it is damaged later; with this one behind it, damage shows. For moments when nothing else
   * is to be written; append() waits for it. Left out where the segment has no room.
   */
  seal(): Promise<void> {
    const segment = this.#current;
    // Repeats the hard state: of all that is here, a vote alone can't be fetched again from the others.
    const parts: RecordParts = { hardState: this.#hardState, base: undefined, block: undefined };
    const hasRoom = segment !== undefined && this.#offset + recordBytesMax(parts) <= segment.lengthBytes;
    if (this.#isSealed || !hasRoom || this.#sealing !== undefined) return Promise.resolve();
    this.#sealing = this.#write(segment, parts)
      .then(() => {
        this.#isSealed = true;
      })
      .finally(() => {
        this.#sealing = undefined;
      });
    return this.#sealing;
  }

  /** Frees segments that hold only entries up to `index`, which must be covered by a durable checkpoint. */
  async compact(index: number): Promise<void> {
    const { disk, folder } = this.#options;
    // Oldest first, so that a crash leaves no hole.
    for (
      let oldest = this.#full[0];
      oldest !== undefined && oldest.lastIndex <= index;
      oldest = this.#full[0]
    ) {
      this.#full.shift();
      if (this.#spares.length < SPARE_COUNT_MAX && oldest.lengthBytes === this.#options.segmentBytes) {
        const spare = this.#spareName();
        await disk.rename(oldest.path, spare);
        this.#spares.push(spare);
      } else {
        await disk.remove(oldest.path);
      }
      await disk.syncFolder(folder);
    }
  }

  /** Has a spare ready in the background, so that the next roll doesn't wait for zeros. */
  prepareSpare(): void {
    if (this.#preparing !== undefined || this.#spares.length > 0 || this.#isClosed) return;
    this.#preparing = this.#makeSpare(this.#options.segmentBytes)
      .then((path) => {
        this.#spares.push(path);
      })
      // The roll that needs it tries again, and tells what is wrong.
      .catch(() => undefined)
      .finally(() => {
        this.#preparing = undefined;
      });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    // Its error went to the caller of seal().
    await this.#sealing?.catch(() => undefined);
    await this.#preparing;
    await this.#current?.file.close();
    this.#current = undefined;
    await this.#votes.close();
  }

  async #resume(recovered: RecoveredWal): Promise<void> {
    const { disk, folder } = this.#options;
    for (const name of await disk.list(folder)) {
      // Half-made or whole, a spare of the last life is made anew: it may not be full of what we think.
      if (name.endsWith(".spare")) await disk.remove(`${folder}/${name}`);
    }
    this.#hardState = recovered.hardState;
    this.#chain = recovered.chain;
    this.#lastIndex = recovered.entries.at(-1)?.index ?? recovered.base?.index ?? 0;
    this.#full = recovered.segments.slice(0, -1);
    const last = recovered.segments.at(-1);
    if (last === undefined || recovered.lastHeader === undefined) return;
    const file = await disk.open(last.path, { synced: true });
    const keys = segmentKeys(recovered.lastHeader, this.#options.encryptionKey);
    const header = recovered.lastHeader;
    this.#current = { file, header, keys, lengthBytes: last.lengthBytes, path: last.path };
    this.#offset = recovered.endOffset;
    this.#isSealed = false;
  }

  async #write(segment: OpenSegment, parts: RecordParts): Promise<void> {
    const record = encodeRecord(parts, {
      keys: segment.keys,
      chain: this.#chain,
      nonce: () => this.#options.random.bytes(12),
      room: (bytes) => this.#room(bytes),
    });
    await segment.file.write(this.#offset, record.bytes);
    this.#offset += record.bytes.byteLength;
    this.#chain = record.crc;
  }

  /** One write is out at a time, so all records but the largest are made in the same place and leave nothing to collect. */
  #room(bytes: number): Buffer {
    return bytes > this.#scratch.byteLength ? Buffer.allocUnsafe(bytes) : this.#scratch.subarray(0, bytes);
  }

  /** A new current segment with room for `needed` bytes. */
  async #roll(needed: number): Promise<OpenSegment> {
    const { disk, folder, identity, random, segmentBytes } = this.#options;
    const lengthBytes = Math.max(segmentBytes, SEGMENT_HEADER_BYTES + needed);
    const spare = await this.#takeSpare(lengthBytes);
    const previous = this.#current;
    const header: SegmentHeader = {
      identity,
      sequence:
        previous === undefined ? (this.#full.at(-1)?.sequence ?? 0) + 1 : previous.header.sequence + 1,
      chain: this.#chain,
      isEncrypted: this.#options.encryptionKey !== undefined,
      lengthBytes,
      salt: random.bytes(32),
    };
    const path = `${folder}/${segmentName(header.sequence)}`;
    const file = await disk.open(spare, { synced: true });
    await file.write(0, encodeSegmentHeader(header));
    await disk.rename(spare, path);
    await disk.syncFolder(folder);
    if (previous !== undefined) {
      await previous.file.close();
      this.#full.push({
        sequence: previous.header.sequence,
        path: previous.path,
        lengthBytes: previous.lengthBytes,
        lastIndex: this.#lastIndex,
      });
    }
    const keys = segmentKeys(header, this.#options.encryptionKey);
    const segment = { file, header, keys, lengthBytes, path };
    this.#current = segment;
    this.#offset = SEGMENT_HEADER_BYTES;
    this.prepareSpare();
    return segment;
  }

  async #takeSpare(lengthBytes: number): Promise<string> {
    await this.#preparing;
    if (lengthBytes === this.#options.segmentBytes) {
      const spare = this.#spares.pop();
      if (spare !== undefined) return spare;
    }
    return this.#makeSpare(lengthBytes);
  }

  #spareName(): string {
    this.#spareNumber += 1;
    return `${this.#options.folder}/${this.#spareNumber}.spare`;
  }

  async #makeSpare(lengthBytes: number): Promise<string> {
    const { disk } = this.#options;
    const path = this.#spareName();
    const file = await disk.open(path, { create: true });
    try {
      const zeros = new Uint8Array(Math.min(FILL_BYTES, lengthBytes));
      for (let offset = 0; offset < lengthBytes; offset += zeros.byteLength) {
        await file.write(offset, zeros.subarray(0, Math.min(zeros.byteLength, lengthBytes - offset)));
      }
      await file.sync();
    } catch (caught) {
      await file.close();
      await disk.remove(path);
      throw caught;
    }
    await file.close();
    return path;
  }
}

/**
 * Replaces a damaged log by what is still known of it, in `folder` (empty or missing). The caller switches to it and
 * removes the damaged one only after this resolves.
 */
export async function rebuildWal(options: WalOptions, content: WalAppend): Promise<Wal> {
  const { wal, recovered } = await Wal.open(options);
  assert(recovered.segments.length === 0, "a log is rebuilt in an empty folder");
  await wal.append(content);
  return wal;
}
