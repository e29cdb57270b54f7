/**
 * One netlink socket of one network namespace: requests with acknowledgement, batches, dumps. Requests are synchronous
 * (tens of microseconds); those that make the kernel wait (deleting links) have an asynchronous way on a socket of their own.
 * Opened by namespace.ts inside the namespace; never changes a namespace itself.
 */
import { ClusterError } from "../../common/errors.ts";
import {
  closeFile,
  kernelError,
  openNetlinkSocket,
  receiveBytes,
  receiveBytesElsewhere,
  sendBytes,
  sendBytesElsewhere,
} from "./libc.ts";
import { decodeReplies, encodeRequest, NLM_F_ACK, NLM_F_DUMP } from "./netlink-wire.ts";
import type { Reply, Request } from "./netlink-wire.ts";

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const RECEIVE_BYTES = 1 << 20;
const DATAGRAM_BYTES = 64 * 1024;
/** A reply that takes longer than this is lost: the kernel answers inside send. */
const REPLY_TIMEOUT_MS = 5_000;
/** Requests in one send: their acknowledgements must fit the receive buffer together. */
const BATCH_MAX = 256;

export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;

/** Collects the acknowledgements of a batch; remembers the first refusal. */
class Acknowledgements {
  readonly #requests: readonly Request[];
  readonly #firstSequence: number;
  readonly #tolerated: (request: Request, errno: number) => boolean;
  #pending: number;
  failure: ClusterError | undefined;

  constructor(
    requests: readonly Request[],
    firstSequence: number,
    tolerated: (request: Request, errno: number) => boolean,
  ) {
    this.#requests = requests;
    this.#firstSequence = firstSequence;
    this.#tolerated = tolerated;
    this.#pending = requests.length;
  }

  get isComplete(): boolean {
    return this.#pending === 0;
  }

  take(reply: Reply): void {
    const request = this.#requests[reply.sequence - this.#firstSequence];
    if (request === undefined || reply.type !== NLMSG_ERROR) return;
    this.#pending -= 1;
    const errno = -reply.body.readInt32LE(0);
    if (errno === 0 || this.#tolerated(request, errno)) return;
    this.failure ??= kernelError(request.action, errno);
  }
}

export interface SendOptions {
  /** Refusals that are as good as success. */
  readonly tolerate?: readonly number[];
}

/** Of this thread: a reply is taken apart before anything else can be received. */
const received = Buffer.allocUnsafeSlow(DATAGRAM_BYTES);

export class NetlinkSocket {
  readonly #fd: number;
  #sequence = 0;
  #isClosed = false;
  #isBusy = false;

  /** Opens in the calling thread's present namespace. */
  constructor(protocol: number) {
    this.#fd = openNetlinkSocket(protocol, RECEIVE_BYTES, REPLY_TIMEOUT_MS);
  }

  /**
   * Sends all, in order, and waits for the answers. Every request is tried, also after a refused one;
   * the first refusal that is not tolerated is thrown at the end.
   */
  send(requests: readonly Request[], options: SendOptions = {}): void {
    let failure: ClusterError | undefined;
    for (let start = 0; start < requests.length; start += BATCH_MAX) {
      const batch = this.#prepare(requests.slice(start, start + BATCH_MAX), options);
      sendBytes(this.#fd, batch.bytes);
      while (!batch.acknowledgements.isComplete) {
        for (const reply of this.#receive()) batch.acknowledgements.take(reply);
      }
      failure ??= batch.acknowledgements.failure;
    }
    if (failure !== undefined) throw failure;
  }

  /** Like send, off this thread. Only one at a time, and no other call meanwhile: use a socket of its own. */
  async sendElsewhere(requests: readonly Request[], options: SendOptions = {}): Promise<void> {
    this.#claim();
    try {
      const batch = this.#prepare(requests.slice(0, BATCH_MAX), options);
      await sendBytesElsewhere(this.#fd, batch.bytes);
      const buffer = Buffer.allocUnsafeSlow(DATAGRAM_BYTES);
      while (!batch.acknowledgements.isComplete) {
        const length = await receiveBytesElsewhere(this.#fd, buffer);
        for (const reply of decodeReplies(buffer.subarray(0, length))) batch.acknowledgements.take(reply);
      }
      if (batch.acknowledgements.failure !== undefined) throw batch.acknowledgements.failure;
    } finally {
      this.#isBusy = false;
    }
  }

  /** All objects of a dump request. Started again (bounded) when the kernel says that it changed meanwhile. */
  dump(request: Request): Reply[] {
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const replies = this.#dumpOnce(request);
      if (replies !== undefined) return replies;
    }
    throw new ClusterError("unavailable", `Cannot ${request.action}: it kept changing while it was read`, {
      retryable: true,
    });
  }

  /** The one object that a get request answers with. */
  get(request: Request): Reply {
    this.#sequence += 1;
    const sequence = this.#sequence;
    sendBytes(this.#fd, encodeRequest(request, sequence, 0));
    for (;;) {
      for (const reply of this.#receive()) {
        if (reply.sequence !== sequence) continue;
        if (reply.type !== NLMSG_ERROR) return reply;
        throw kernelError(request.action, -reply.body.readInt32LE(0));
      }
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    closeFile(this.#fd);
  }

  #prepare(
    requests: readonly Request[],
    options: SendOptions,
  ): { bytes: Buffer; acknowledgements: Acknowledgements } {
    const tolerate = options.tolerate ?? [];
    const firstSequence = this.#sequence + 1;
    const messages = requests.map((request) => encodeRequest(request, ++this.#sequence, NLM_F_ACK));
    return {
      bytes: Buffer.concat(messages),
      acknowledgements: new Acknowledgements(requests, firstSequence, (_request, errno) =>
        tolerate.includes(errno),
      ),
    };
  }

  #dumpOnce(request: Request): Reply[] | undefined {
    const NLM_F_DUMP_INTR = 0x10;
    this.#sequence += 1;
    const sequence = this.#sequence;
    sendBytes(this.#fd, encodeRequest(request, sequence, NLM_F_DUMP));
    const found: Reply[] = [];
    let isTorn = false;
    for (;;) {
      for (const reply of this.#receive()) {
        if (reply.sequence !== sequence) continue;
        isTorn ||= (reply.flags & NLM_F_DUMP_INTR) !== 0;
        if (reply.type === NLMSG_DONE) return isTorn ? undefined : found;
        if (reply.type === NLMSG_ERROR) throw kernelError(request.action, -reply.body.readInt32LE(0));
        found.push(reply);
      }
    }
  }

  #receive(): Reply[] {
    const length = receiveBytes(this.#fd, received);
    return decodeReplies(received.subarray(0, length));
  }

  #claim(): void {
    if (this.#isBusy) throw new ClusterError("internal", "Cannot use a netlink socket twice at a time");
    this.#isBusy = true;
  }
}
