/** One try to send a whole state to a member; grpc-transport.ts tries again, and the receiver keeps what it has. */
import type { ClientDuplexStream } from "@grpc/grpc-js";
import { ClusterError } from "../../common/errors.ts";
import type { shoal } from "../../proto/messages.ts";
import { openDuplex } from "../../proto/rpc-client.ts";
import { raftService } from "../../proto/services.ts";
import type { SnapshotMessage } from "./core/messages.ts";
import type { RaftClient } from "./peer-stream.ts";
import type { StateSnapshot } from "./replicated-log.ts";
import { snapshotPieces } from "./snapshot-codec.ts";

type Call = ClientDuplexStream<shoal.v1.ISnapshotPart, shoal.v1.ISnapshotAnswer>;

export interface SnapshotToSend {
  readonly clusterId: string;
  readonly snapshotId: string;
  readonly message: SnapshotMessage;
  readonly state: StateSnapshot;
  readonly signal: AbortSignal;
}

/** Answers in order; rejects once the call failed. */
class Answers {
  readonly #call: Call;
  readonly #arrived: shoal.v1.ISnapshotAnswer[] = [];
  #wake: (() => void) | undefined;
  #failure: ClusterError | undefined;

  constructor(call: Call, signal: AbortSignal) {
    this.#call = call;
    call.on("data", (answer: shoal.v1.ISnapshotAnswer) => {
      this.#arrived.push(answer);
      this.#wake?.();
    });
    call.on("error", (error) =>
      this.#fail(new ClusterError("unavailable", "The snapshot broke off", { cause: error })),
    );
    call.on("end", () => this.#fail(new ClusterError("unavailable", "The snapshot ended early")));
    signal.addEventListener("abort", () => {
      this.#fail(new ClusterError("cancelled", "The snapshot was given up"));
      call.cancel();
    });
  }

  async next(): Promise<shoal.v1.ISnapshotAnswer> {
    while (true) {
      const answer = this.#arrived.shift();
      if (answer !== undefined) return answer;
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async write(part: shoal.v1.ISnapshotPart): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#call.write(part)) return;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      this.#call.once("drain", resolve);
    });
  }

  #fail(error: ClusterError): void {
    this.#failure ??= error;
    this.#wake?.();
  }
}

export async function sendSnapshotOnce(client: RaftClient, send: SnapshotToSend): Promise<void> {
  const { message, snapshotId, clusterId } = send;
  const call = openDuplex(client, raftService.snapshot);
  const answers = new Answers(call, send.signal);
  try {
    await answers.write({
      offer: {
        clusterId,
        from: message.from,
        to: message.to,
        term: message.term,
        metaJson: Buffer.from(JSON.stringify(message.snapshot)),
        snapshotId,
      },
    });
    const nextPiece = (await answers.next()).nextPiece ?? 0;
    let pieceCount = 0;
    for (const piece of snapshotPieces(send.state.entries())) {
      pieceCount += 1;
      if (piece.number >= nextPiece) await answers.write({ piece });
    }
    await answers.write({ end: { pieceCount } });
    const last = await answers.next();
    if (last.installed !== true) throw new ClusterError("unavailable", "The snapshot was not installed");
  } finally {
    call.end();
    call.cancel();
  }
}
