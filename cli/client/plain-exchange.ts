/**
 * One HTTP/1.1 request with one whole answer over a fresh plain connection, written out by hand. Most commands ask for
 * a little JSON and end; for them node:http costs more to load than the request takes. Streams, uploads, hijacked
 * connections and TLS go through node:http (api-client.ts).
 */
import { getSystemErrorName } from "node:util";
import { ClusterError } from "../../common/errors.ts";
import type { Endpoint } from "./endpoint.ts";

export interface PlainRequest {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly signal?: AbortSignal;
}

export interface PlainAnswer {
  readonly status: number;
  readonly body: Buffer;
}

const HEAD_BYTES_MAX = 64 * 1024;
const HEAD_END = "\r\n\r\n";

/** The server's bytes are no HTTP answer, or end too early. */
function broken(what: string): NodeJS.ErrnoException {
  return Object.assign(new Error(what), { code: "ECONNRESET" });
}

function readChunked(content: Buffer): Buffer {
  const parts: Buffer[] = [];
  let at = 0;
  for (;;) {
    const lineEnd = content.indexOf("\r\n", at);
    const size = lineEnd < 0 ? Number.NaN : Number.parseInt(content.toString("latin1", at, lineEnd), 16);
    const start = lineEnd + 2;
    if (!(size >= 0) || start + size > content.length) throw broken("the answer ended early");
    if (size === 0) return Buffer.concat(parts);
    parts.push(content.subarray(start, start + size));
    at = start + size + 2;
  }
}

/** Reads a whole answer; 1xx answers before it are skipped. Throws an error with code ECONNRESET where it is cut short. */
export function parseAnswer(received: Buffer, method: string): PlainAnswer {
  const headEnd = received.indexOf(HEAD_END);
  const head = received.toString("latin1", 0, headEnd < 0 ? 0 : headEnd);
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1] ?? Number.NaN);
  if (Number.isNaN(status)) throw broken("the answer is not HTTP");
  const content = received.subarray(headEnd + HEAD_END.length);
  if (status < 200) return parseAnswer(content, method);
  if (status === 204 || status === 304 || method === "HEAD") return { status, body: Buffer.alloc(0) };
  if (/\r\ntransfer-encoding:[^\r]*chunked/i.test(head)) return { status, body: readChunked(content) };
  const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
  if (length === undefined) return { status, body: content };
  if (content.length < Number(length)) throw broken("the answer ended early");
  return { status, body: content.subarray(0, Number(length)) };
}

/** Resolves with the answer, whatever its status. Rejects with the socket's error, or with the signal's reason. */
export async function plainExchange(endpoint: Endpoint, request: PlainRequest): Promise<PlainAnswer> {
  const { method, path, headers, body, signal } = request;
  signal?.throwIfAborted();
  const head = [
    `${method} ${path} HTTP/1.1`,
    `Host: ${endpoint.kind === "unix" ? "localhost" : `${endpoint.host}:${endpoint.port}`}`,
    "Connection: close",
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ].join("\r\n");
  if (/[^\x21-\x7e]/.test(path) || /[^\t\x20-\x7e\r\n]/.test(head) || head.length > HEAD_BYTES_MAX) {
    throw new ClusterError(
      "invalid_argument",
      `Cannot send ${method} ${JSON.stringify(path)}: not a valid request`,
    );
  }
  const bytes = Buffer.concat([Buffer.from(`${head}${HEAD_END}`, "latin1"), body ?? Buffer.alloc(0)]);
  const received = await (signal === undefined && endpoint.kind === "unix"
    ? sendOverPipe(endpoint.path, bytes)
    : sendOverSocket(endpoint, bytes, signal));
  return parseAnswer(received, method);
}

/** Sends, and collects what comes until the other side closes. */
async function sendOverSocket(endpoint: Endpoint, bytes: Buffer, signal?: AbortSignal): Promise<Buffer> {
  const { connect } = await import("node:net");
  return await new Promise((resolve, reject) => {
    const socket =
      endpoint.kind === "unix"
        ? connect(endpoint.path)
        : connect({ host: endpoint.host, port: endpoint.port, noDelay: true });
    const chunks: Buffer[] = [];
    const onAbort = (): void => {
      socket.destroy(signal?.reason instanceof Error ? signal.reason : undefined);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    socket.on("error", reject);
    socket.on("close", () => {
      signal?.removeEventListener("abort", onAbort);
      resolve(Buffer.concat(chunks));
    });
    socket.write(bytes);
  });
}

/** The part of Node's own pipe and stream bindings that is used here; what node:net itself stands on. */
interface PipeBinding {
  readonly Pipe: new (kind: number) => PipeHandle;
  readonly PipeConnectWrap: new () => { oncomplete?: (status: number) => void };
  readonly constants: { readonly SOCKET: number };
}
interface StreamBinding {
  readonly WriteWrap: new () => { oncomplete?: (status: number) => void };
  readonly streamBaseState: Int32Array;
  readonly kReadBytesOrError: number;
}
interface PipeHandle {
  onread?: (content: ArrayBuffer | undefined) => void;
  connect(request: object, path: string): number;
  readStart(): number;
  writeBuffer(request: object, content: Uint8Array): number;
  close(): void;
}

const END_OF_FILE = -4095;

/** Undefined: this Node has no such bindings (any more). */
function pipeBindings(): { pipe: PipeBinding; stream: StreamBinding } | undefined {
  const { binding } = process as unknown as { binding?: (name: string) => unknown };
  try {
    const pipe = binding?.("pipe_wrap") as PipeBinding | undefined;
    const stream = binding?.("stream_wrap") as StreamBinding | undefined;
    const isKnown =
      typeof pipe?.Pipe === "function" &&
      typeof pipe.PipeConnectWrap === "function" &&
      typeof stream?.WriteWrap === "function" &&
      stream.streamBaseState instanceof Int32Array;
    return isKnown ? { pipe, stream } : undefined;
  } catch {
    return undefined;
  }
}

function systemError(status: number, path: string): NodeJS.ErrnoException {
  const code = getSystemErrorName(status);
  return Object.assign(new Error(`connect ${code} ${path}`), { code });
}

/**
 * The same over Node's pipe binding: node:net and the streams under it take a fifth of a short command's whole time to
 * load. A Node without these bindings takes the ordinary way.
 */
async function sendOverPipe(path: string, bytes: Buffer): Promise<Buffer> {
  const bindings = pipeBindings();
  if (bindings === undefined) return await sendOverSocket({ kind: "unix", path, text: path }, bytes);
  const { pipe, stream } = bindings;
  return await new Promise((resolve, reject) => {
    const handle = new pipe.Pipe(pipe.constants.SOCKET);
    const chunks: Buffer[] = [];
    const fail = (status: number): void => {
      handle.close();
      reject(systemError(status, path));
    };
    handle.onread = (content) => {
      const count = stream.streamBaseState[stream.kReadBytesOrError] ?? END_OF_FILE;
      if (count > 0 && content !== undefined) chunks.push(Buffer.from(content, 0, count));
      if (count >= 0) return;
      if (count !== END_OF_FILE) return fail(count);
      handle.close();
      resolve(Buffer.concat(chunks));
    };
    const connected = new pipe.PipeConnectWrap();
    connected.oncomplete = (status) => {
      if (status < 0) return fail(status);
      const write = new stream.WriteWrap();
      // A refused write shows on the reading side too, together with what the daemon still said.
      write.oncomplete = () => {};
      handle.readStart();
      handle.writeBuffer(write, bytes);
    };
    const status = handle.connect(connected, path);
    if (status < 0) fail(status);
  });
}
