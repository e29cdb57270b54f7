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
  /** Resolves when the other machine has it all. Rejects when the connection is gone. One at a time. */
  send(outgoing: Outgoing): Promise<void>;
  /** Rejects when the connection is gone, with the reason. */
  readonly lost: Promise<never>;
  close(): void;
}

/** How a collector is told that it is gone, once. */
export class Loss {
  readonly promise: Promise<never>;
  readonly #reject: (reason: Error) => void;

  constructor() {
    const { promise, reject } = Promise.withResolvers<never>();
    // Nobody may be waiting.
    promise.catch(() => undefined);
    this.promise = promise;
    this.#reject = reject;
  }

  /** Later reasons than the first don't count. */
  happened(reason: Error): void {
    this.#reject(reason);
  }
}
