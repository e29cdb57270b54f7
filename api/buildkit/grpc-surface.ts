/** The gRPC server of /grpc: connections that were upgraded come in, methods are added by those who answer them. */
import {
  Server,
  ServerCredentials,
  type Metadata,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
  type StatusObject,
} from "@grpc/grpc-js";
import type { Duplex } from "node:stream";
import { drained } from "./drained.ts";
import { MESSAGE_BYTES_MAX, STREAM_COUNT_MAX } from "./limits.ts";

/** The part of a generated class that both directions need. */
export interface Codec<Shape, Message> {
  readonly encode: (message: Shape) => { finish(): Uint8Array };
  readonly decode: (bytes: Uint8Array) => Message;
}

export interface CallContext {
  readonly metadata: Metadata;
  /** Aborted when the caller gives up or its connection breaks. */
  readonly signal: AbortSignal;
}

export interface Method<Request, Answer> {
  /** "/package.Service/Method". */
  readonly path: string;
  readonly request: { readonly decode: (bytes: Uint8Array) => Request };
  readonly answer: { readonly encode: (message: never) => { finish(): Uint8Array } };
  readonly run: (request: Request, context: CallContext) => Promise<Answer> | Answer;
}

export type ToStatus = (caught: unknown, metadata: Metadata) => Partial<StatusObject>;

type Cancellable = { readonly metadata: Metadata; on(event: "cancelled", listener: () => void): unknown };

function contextOf(call: Cancellable): CallContext {
  const controller = new AbortController();
  call.on("cancelled", () => controller.abort());
  return { metadata: call.metadata, signal: controller.signal };
}

export class GrpcSurface {
  readonly #server = new Server({
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": -1,
    "grpc.max_concurrent_streams": STREAM_COUNT_MAX,
    "grpc.enable_channelz": 0,
  });
  readonly #injector = this.#server.createConnectionInjector(ServerCredentials.createInsecure());
  readonly #toStatus: ToStatus;

  constructor(toStatus: ToStatus) {
    this.#toStatus = toStatus;
  }

  /** HTTP/2 begins with the next byte. */
  accept(socket: Duplex): void {
    this.#injector.injectConnection(socket);
  }

  unary<Request, Answer>({ path, request, answer, run }: Method<Request, Answer>): void {
    this.#server.register(
      path,
      (call: ServerUnaryCall<Request, Answer>, callback: sendUnaryData<Answer>) => {
        const answerCall = async (): Promise<void> => {
          try {
            const value = await run(call.request, contextOf(call));
            callback(null, value);
          } catch (caught) {
            callback(this.#toStatus(caught, call.metadata));
          }
        };
        void answerCall();
      },
      (value) => Buffer.from(answer.encode(value as never).finish()),
      (bytes) => request.decode(bytes),
      "unary",
    );
  }

  /** `run` returns what is streamed; its reader sets the pace. */
  stream<Request, Answer>({ path, request, answer, run }: Method<Request, AsyncIterable<Answer>>): void {
    this.#server.register(
      path,
      (call: ServerWritableStream<Request, Answer>) => {
        // Of a connection that broke; the signal says so too.
        call.on("error", () => undefined);
        const send = async (): Promise<void> => {
          const context = contextOf(call);
          for await (const each of await run(call.request, context)) {
            if (context.signal.aborted) return;
            if (!call.write(each)) await drained(call);
          }
        };
        send().then(
          () => call.end(),
          (caught: unknown) => call.emit("error", this.#toStatus(caught, call.metadata)),
        );
      },
      (value) => Buffer.from(answer.encode(value as never).finish()),
      (bytes) => request.decode(bytes),
      "serverStream",
    );
  }
}
