/**
 * Term and vote once more, beside the log. Of all that a log holds a vote alone can't be fetched again from the others, and
 * one damaged byte may take many records with it: the header of a segment, or where a file was cut. A member that came back
 * in an older term could give its vote twice, or help an outvoted leader to commit.
 *
 * Two slots in a file that never grows, so that a full disk is no reason not to vote; they are written in turn, so that the
 * one before outlives a torn write. A slot is `f64 raft id, f64 term, f64 vote, u32 version, u32 crc`. Used by wal.ts and
 * wal-recovery.ts.
 */
import { crc32 } from "node:zlib";
import type { Disk, DiskFile } from "../../common/env.ts";
import type { HardState } from "./core/messages.ts";
import { refuseNewerFormat } from "./format-version.ts";

const VOTE_FILE = "VOTE";
/** What a disk writes whole. */
const SLOT_BYTES = 512;
const SLOT_COUNT = 2;
/** Every version keeps itself and the checksum where they are. */
const FORMAT_VERSION = 1;
const VERSION_AT = 24;
const CRC_AT = 28;

export type Vote = Pick<HardState, "term" | "vote">;

function encodeSlot(raftId: number, { term, vote }: Vote): Buffer {
  const slot = Buffer.alloc(SLOT_BYTES);
  [raftId, term, vote].forEach((value, at) => slot.writeDoubleLE(value, at * 8));
  slot.writeUInt32LE(FORMAT_VERSION, VERSION_AT);
  slot.writeUInt32LE(crc32(slot.subarray(0, CRC_AT)), CRC_AT);
  return slot;
}

/** Undefined if the slot is damaged, empty or another member's. */
function decodeSlot(slot: Buffer, raftId: number): Vote | undefined {
  if (slot.byteLength < CRC_AT + 4 || crc32(slot.subarray(0, CRC_AT)) !== slot.readUInt32LE(CRC_AT))
    return undefined;
  refuseNewerFormat("the raft log's vote", slot.readUInt32LE(VERSION_AT), FORMAT_VERSION);
  if (slot.readDoubleLE(0) !== raftId) return undefined;
  return { term: slot.readDoubleLE(8), vote: slot.readDoubleLE(16) };
}

/** The newer of two: terms grow, and within a term a vote is given once. */
export function newerVote(a: Vote, b: Vote): Vote {
  if (a.term !== b.term) return a.term > b.term ? a : b;
  return a.vote === 0 ? b : a;
}

function isSame(a: Vote, b: Vote): boolean {
  return a.term === b.term && a.vote === b.vote;
}

async function readSlots(disk: Disk, path: string, raftId: number): Promise<readonly (Vote | undefined)[]> {
  const bytes = (await disk.exists(path)) ? Buffer.from(await disk.readFile(path)) : Buffer.alloc(0);
  return Array.from({ length: SLOT_COUNT }, (_, slot) =>
    decodeSlot(bytes.subarray(slot * SLOT_BYTES, (slot + 1) * SLOT_BYTES), raftId),
  );
}

function newestOf(slots: readonly (Vote | undefined)[]): Vote | undefined {
  return slots.reduce((newest, each) => {
    if (newest === undefined || each === undefined) return newest ?? each;
    return newerVote(newest, each);
  }, undefined);
}

/** The newest vote noted in the log's folder; undefined if there is none, or none that is whole. */
export async function readVote(disk: Disk, folder: string, raftId: number): Promise<Vote | undefined> {
  return newestOf(await readSlots(disk, `${folder}/${VOTE_FILE}`, raftId));
}

export class VoteFile {
  readonly #disk: Disk;
  readonly #folder: string;
  readonly #raftId: number;
  #file: DiskFile | undefined;
  #nextSlot = 0;
  #noted: Vote | undefined;

  constructor(disk: Disk, folder: string, raftId: number) {
    this.#disk = disk;
    this.#folder = folder;
    this.#raftId = raftId;
  }

  isNoted(vote: Vote): boolean {
    return this.#noted !== undefined && isSame(this.#noted, vote);
  }

  /** Durable when it resolves. Rejects with ENOSPC if there is no room for the file; then it may be tried again. */
  async note(vote: Vote): Promise<void> {
    const file = (this.#file ??= await this.#open());
    await file.write(this.#nextSlot * SLOT_BYTES, encodeSlot(this.#raftId, vote));
    this.#nextSlot = (this.#nextSlot + 1) % SLOT_COUNT;
    this.#noted = { term: vote.term, vote: vote.vote };
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }

  async #open(): Promise<DiskFile> {
    const path = `${this.#folder}/${VOTE_FILE}`;
    const slots = await readSlots(this.#disk, path, this.#raftId);
    const newest = newestOf(slots);
    this.#nextSlot = newest === undefined ? 0 : (slots.indexOf(newest) + 1) % SLOT_COUNT;
    const file = await this.#disk.open(path, { create: true, synced: true });
    try {
      if ((await file.length()) < SLOT_BYTES * SLOT_COUNT) {
        await file.write(0, new Uint8Array(SLOT_BYTES * SLOT_COUNT));
        await file.sync();
        await this.#disk.syncFolder(this.#folder);
        this.#nextSlot = 0;
      }
    } catch (caught) {
      await file.close();
      throw caught;
    }
    return file;
  }
}
