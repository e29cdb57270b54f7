/** Raft messages to and from the wire's flat form. Used by grpc-transport.ts; malformed input throws invalid_argument. */
import { assert } from "../../common/assert.ts";
import { ClusterError } from "../../common/errors.ts";
import { type shoal, v1 } from "../../proto/messages.ts";
import type { Entry, Message } from "./core/messages.ts";
import { asBuffer, decodeEntries, type EntryEncoder } from "./entry-codec.ts";

export type WireMessage = shoal.v1.IRaftMessage;

/** Tags of length-delimited fields: RaftBatch.messages and RaftMessage.entries. */
const MESSAGES_TAG = 0x22;
const ENTRIES_TAG = 0x4a;
/** Of entries; with fewer the generated encoder is as good. */
const LARGE_BYTES = 1024;
const NO_BYTES = new Uint8Array(0);

const KINDS = {
  preVote: 1,
  preVoteReply: 2,
  vote: 3,
  voteReply: 4,
  append: 5,
  appendOk: 6,
  appendReject: 7,
  heartbeat: 8,
  heartbeatReply: 9,
  termNotice: 10,
  timeoutNow: 11,
  readRequest: 12,
  readReply: 13,
  removedNotice: 14,
} as const;

export function encodeMessage(message: Message, encoder: EntryEncoder): WireMessage {
  const { term, type } = message;
  switch (type) {
    case "preVote":
    case "vote":
      return {
        kind: KINDS[type],
        term,
        index: message.lastIndex,
        logTerm: message.lastTerm,
        flag: message.isTransfer,
        ...(message.isStranger ? { extra: 1 } : {}),
      };
    case "preVoteReply":
    case "voteReply":
      return { kind: KINDS[type], term, flag: message.granted };
    case "append":
      return {
        kind: KINDS.append,
        term,
        index: message.prevIndex,
        logTerm: message.prevTerm,
        commit: message.commit,
        ...(message.entries.length === 0 ? {} : { entries: encoder.encode(message.entries) }),
      };
    case "appendOk":
      return { kind: KINDS.appendOk, term, index: message.matchIndex };
    case "appendReject":
      return {
        kind: KINDS.appendReject,
        term,
        index: message.rejectedIndex,
        extra: message.hintIndex,
        logTerm: message.hintTerm,
        flag: message.isRecovering,
        number: message.incarnation,
      };
    case "heartbeat":
      return {
        kind: KINDS.heartbeat,
        term,
        commit: message.commit,
        number: message.round,
        index: message.lastIndex,
        extra: message.incarnation,
      };
    case "heartbeatReply":
      return {
        kind: KINDS.heartbeatReply,
        term,
        number: message.round,
        flag: message.isRecovering,
        extra: message.incarnation,
      };
    case "readRequest":
      return { kind: KINDS.readRequest, term, number: message.readId };
    case "readReply":
      return { kind: KINDS.readReply, term, number: message.readId, index: message.index };
    case "termNotice":
    case "timeoutNow":
    case "removedNotice":
      return { kind: KINDS[type], term };
    case "snapshot":
      assert(false, "a snapshot has a stream of its own");
  }
}

function fieldHead(tag: number, bytes: number): Buffer {
  const head = [tag];
  let rest = bytes;
  for (; rest >= 128; rest = Math.floor(rest / 128)) head.push((rest % 128) + 128);
  head.push(rest);
  return Buffer.from(head);
}

/**
 * The bytes that the generated encoder gives, made in one piece of memory of their size. That one doesn't know the size
 * beforehand: with a large block of entries it takes three times as much and copies the block as often.
 */
export function encodeBatch(batch: shoal.v1.IRaftBatch): Buffer {
  const messages = batch.messages ?? [];
  const isLarge = messages.some((message) => (message.entries?.byteLength ?? 0) >= LARGE_BYTES);
  if (!isLarge) return asBuffer(v1.RaftBatch.encode(batch).finish());
  const pieces: Uint8Array[] = [v1.RaftBatch.encode({ ...batch, messages: null }).finish()];
  for (const message of messages) {
    const fields = v1.RaftMessage.encode({ ...message, entries: null }).finish();
    const entries = message.entries ?? NO_BYTES;
    const entriesHead = entries.byteLength === 0 ? NO_BYTES : fieldHead(ENTRIES_TAG, entries.byteLength);
    const bytes = fields.byteLength + entriesHead.byteLength + entries.byteLength;
    pieces.push(fieldHead(MESSAGES_TAG, bytes), fields, entriesHead, entries);
  }
  return Buffer.concat(pieces);
}

/** `encoder` keeps the bytes of the entries for the log. */
export function decodeMessage(
  wire: WireMessage,
  envelope: { readonly from: number; readonly to: number },
  encoder: EntryEncoder,
): Message {
  const head = { ...envelope, term: wire.term ?? 0 };
  const index = wire.index ?? 0;
  const logTerm = wire.logTerm ?? 0;
  const commit = wire.commit ?? 0;
  const number = wire.number ?? 0;
  const flag = wire.flag ?? false;
  const extra = wire.extra ?? 0;
  const isStranger = extra !== 0;
  const kind: number = wire.kind ?? 0;
  switch (kind) {
    case KINDS.preVote:
      return { type: "preVote", ...head, lastIndex: index, lastTerm: logTerm, isTransfer: flag, isStranger };
    case KINDS.vote:
      return { type: "vote", ...head, lastIndex: index, lastTerm: logTerm, isTransfer: flag, isStranger };
    case KINDS.preVoteReply:
      return { type: "preVoteReply", ...head, granted: flag };
    case KINDS.voteReply:
      return { type: "voteReply", ...head, granted: flag };
    case KINDS.append:
      return {
        type: "append",
        ...head,
        prevIndex: index,
        prevTerm: logTerm,
        commit,
        entries: decodeBlock(wire.entries, encoder),
      };
    case KINDS.appendOk:
      return { type: "appendOk", ...head, matchIndex: index };
    case KINDS.appendReject:
      return {
        type: "appendReject",
        ...head,
        rejectedIndex: index,
        hintIndex: extra,
        hintTerm: logTerm,
        isRecovering: flag,
        incarnation: number,
      };
    case KINDS.heartbeat:
      return { type: "heartbeat", ...head, commit, round: number, lastIndex: index, incarnation: extra };
    case KINDS.heartbeatReply:
      return { type: "heartbeatReply", ...head, round: number, isRecovering: flag, incarnation: extra };
    case KINDS.termNotice:
      return { type: "termNotice", ...head };
    case KINDS.timeoutNow:
      return { type: "timeoutNow", ...head };
    case KINDS.readRequest:
      return { type: "readRequest", ...head, readId: number };
    case KINDS.readReply:
      return { type: "readReply", ...head, readId: number, index };
    case KINDS.removedNotice:
      return { type: "removedNotice", ...head };
    default:
      throw new ClusterError("invalid_argument", `Cannot read raft message: want kind 1 to 14, got ${kind}`);
  }
}

function decodeBlock(block: Uint8Array | null | undefined, encoder: EntryEncoder): readonly Entry[] {
  if (block === undefined || block === null || block.byteLength === 0) return [];
  const bytes = encoder.own(block);
  const entries = decodeEntries(bytes);
  if (entries.length > 0) {
    encoder.remember(entries, bytes);
  }
  return entries;
}
