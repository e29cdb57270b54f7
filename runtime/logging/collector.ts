/** A connection to what collects logs, whatever it speaks. Implementations: stream-collector.ts, datagram-collector.ts. */

/** Lines as they go out. */
export interface Outgoing {
  /** Datagrams, or pieces of a stream. */
  readonly units: readonly Uint8Array[];
  /** What the receiver answers once it has them. Absent: nothing. */
  readonly answer?: Uint8Array;
}

export interface Collector {
  /**
   * How long a connection must live on after a send() for that to count, in milliseconds: a receiver that is killed takes along what it has
   * not read yet. 0 where the receiver answers.
   */
  readonly settleMs: number;
  /** Resolves when it is on its way, or answered if it asks for that. Rejects when the connection is gone. One at a time. */
  send(outgoing: Outgoing): Promise<void>;
  /** Resolves when the other machine has all that was sent, as far as can be told. Rejects when the connection is gone. */
  arrived(): Promise<void>;
  /** Of the connection. */
  readonly loss: Loss;
  close(): void;
}

/**
 * Something that may go away for good: a connection, a forwarder. Work is guarded by it rather than raced against a promise, which would keep
 * what each of a million races left behind for as long as it lives.
 */
export class Loss {
  #reason: Error | undefined;
  readonly #waiting = new Set<(reason: Error) => void>();

  /** Later reasons than the first don't count. */
  happened(reason: Error): void {
    this.#reason ??= reason;
    for (const reject of this.#waiting) reject(this.#reason);
    this.#waiting.clear();
  }

  /** What comes of the work, or the reason of the loss if that comes first. */
  guard<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#reason === undefined) this.#waiting.add(reject);
      else reject(this.#reason);
      work.then(resolve, reject).finally(() => this.#waiting.delete(reject));
    });
  }
}
