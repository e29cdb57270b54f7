/** gRPC method definitions over the generated codecs, without proto-loader: it would double the cost of each message. */
import type { MethodDefinition } from "@grpc/grpc-js";

/** What a generated message class offers. */
export interface Codec<Shape> {
  readonly encode: (message: Shape) => { finish(): Uint8Array };
  readonly decode: (bytes: Uint8Array) => Shape;
}

export interface MethodOptions {
  readonly requestStream?: boolean;
  readonly responseStream?: boolean;
}

/**
 * A method of `service` ("shoal.v1.Dispatcher") named `name`. Request and response are generated classes; the types are
 * those that their encode() takes, so that plain objects can be sent; they come from what the method is declared to be.
 */
export function method<Request, Response>(
  path: { readonly service: string; readonly name: string },
  codecs: { readonly request: Codec<NoInfer<Request>>; readonly response: Codec<NoInfer<Response>> },
  options: MethodOptions = {},
): MethodDefinition<Request, Response> {
  const { request, response } = codecs;
  return {
    path: `/${path.service}/${path.name}`,
    originalName: path.name,
    requestStream: options.requestStream ?? false,
    responseStream: options.responseStream ?? false,
    requestSerialize: (value: Request): Buffer => asBuffer(request.encode(value).finish()),
    requestDeserialize: (bytes: Buffer): Request => request.decode(bytes),
    responseSerialize: (value: Response): Buffer => asBuffer(response.encode(value).finish()),
    responseDeserialize: (bytes: Buffer): Response => response.decode(bytes),
  };
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
