/**
 * Takes a whole state piece by piece and hands it on when it is complete. What arrived before a break is kept until
 * another state is offered, so that the sender can go on from there. One at a time.
 */
import type { ServerDuplexStream } from "@grpc/grpc-js";
import { ClusterError } from "../../common/errors.ts";
import type { shoal } from "../../proto/messages.ts";
import { failStream } from "../../proto/rpc-errors.ts";
import type { StateEntry } from "./checkpoint-store.ts";
import { decodeConfiguration } from "./core/configs.ts";
import type { SnapshotMessage, SnapshotMeta } from "./core/messages.ts";
import { readPiece } from "./snapshot-codec.ts";

/** A state larger than this doesn't fit a manager's memory. */
const STATE_BYTES_MAX = 2 * 1024 * 1024 * 1024;

type Call = ServerDuplexStream<shoal.v1.ISnapshotPart, shoal.v1.ISnapshotAnswer>;

export interface SnapshotReceiverOptions {
  readonly clusterId: string;
  readonly raftId: number;
  readonly install: (message: SnapshotMessage, entries: readonly StateEntry[]) => Promise<void>;
}

interface Partial {
  readonly snapshotId: string;
  readonly entries: StateEntry[];
  pieceCount: number;
  bytes: number;
}

function readMeta(bytes: Uint8Array): SnapshotMeta {
  const parsed: unknown = JSON.parse(Buffer.from(bytes).toString());
  const number = (name: string): number => {
    const value: unknown =
      typeof parsed === "object" && parsed !== null ? Reflect.get(parsed, name) : undefined;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
    throw new ClusterError(
      "invalid_argument",
      `Cannot take a snapshot: want a number as "${name}", got ${String(value)}`,
    );
  };
  const config = typeof parsed === "object" && parsed !== null ? Reflect.get(parsed, "config") : undefined;
  return {
    index: number("index"),
    term: number("term"),
    configIndex: number("configIndex"),
    config: decodeConfiguration(Buffer.from(JSON.stringify(config ?? null))),
  };
}

export class SnapshotReceiver {
  readonly #options: SnapshotReceiverOptions;
  #partial: Partial | undefined;

  constructor(options: SnapshotReceiverOptions) {
    this.#options = options;
  }

  /** `isFrom` says whether the peer is the member that it says to be. */
  serve(call: Call, isFrom: (raftId: number) => boolean): void {
    this.#take(call, isFrom)
      .then(() => {
        call.write({ installed: true });
        call.end();
      })
      .catch((caught: unknown) => failStream(call, caught));
  }

  async #take(call: Call, isFrom: (raftId: number) => boolean): Promise<void> {
    let message: SnapshotMessage | undefined;
    let partial: Partial | undefined;
    // Leaving a plain for-await would destroy the stream, and the answer with it.
    const parts: AsyncIterable<shoal.v1.ISnapshotPart> = call.iterator({ destroyOnReturn: false });
    for await (const part of parts) {
      if (part.offer !== undefined && part.offer !== null) {
        message = this.#readOffer(part.offer);
        if (!isFrom(message.from)) {
          throw new ClusterError(
            "permission_denied",
            `Cannot take a snapshot: it is not from member ${message.from}`,
          );
        }
        partial = this.#begin(part.offer.snapshotId ?? "");
        call.write({ nextPiece: partial.pieceCount });
      } else if (part.piece !== undefined && part.piece !== null) {
        this.#addPiece(partial, part.piece);
      } else if (part.end !== undefined && part.end !== null && message !== undefined) {
        if (partial?.pieceCount !== part.end.pieceCount) throw outOfOrder();
        this.#partial = undefined;
        await this.#options.install(message, partial?.entries ?? []);
        return;
      }
    }
    throw new ClusterError("unavailable", "The snapshot ended early");
  }

  #readOffer(offer: shoal.v1.ISnapshotOffer): SnapshotMessage {
    const { clusterId, raftId } = this.#options;
    if (offer.clusterId !== clusterId || offer.to !== raftId) {
      throw new ClusterError("failed_precondition", `Cannot take a snapshot: it is for member ${offer.to}`);
    }
    return {
      type: "snapshot",
      from: offer.from ?? 0,
      to: raftId,
      term: offer.term ?? 0,
      snapshot: readMeta(offer.metaJson ?? new Uint8Array(0)),
    };
  }

  #begin(snapshotId: string): Partial {
    if (this.#partial?.snapshotId !== snapshotId) {
      this.#partial = { snapshotId, entries: [], pieceCount: 0, bytes: 0 };
    }
    return this.#partial;
  }

  #addPiece(partial: Partial | undefined, piece: shoal.v1.ISnapshotPiece): void {
    if (partial === undefined || this.#partial !== partial) throw outOfOrder();
    if ((piece.number ?? 0) !== partial.pieceCount) throw outOfOrder();
    const data = piece.data ?? new Uint8Array(0);
    partial.bytes += data.byteLength;
    if (partial.bytes > STATE_BYTES_MAX) {
      throw new ClusterError(
        "resource_exhausted",
        `Cannot take a snapshot: want at most ${STATE_BYTES_MAX} bytes`,
      );
    }
    for (const entry of readPiece({ crc: piece.crc ?? 0, data })) partial.entries.push(entry);
    partial.pieceCount += 1;
  }
}

function outOfOrder(): ClusterError {
  return new ClusterError("invalid_argument", "Cannot take a snapshot: its pieces are out of order");
}
