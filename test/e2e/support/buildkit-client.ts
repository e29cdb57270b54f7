/**
 * A client of BuildKit's protocol, small and willing to misbehave: calls over a connection that it upgrades at /grpc, and a
 * session at /session on which it answers the engine's questions. For machines without the buildx plugin, and for what that
 * never does.
 */
import { once } from "node:events";
import {
  type ClientHttp2Session,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
  connect,
  performServerHandshake,
} from "node:http2";
import { connect as connectSocket, type Socket } from "node:net";
import { must } from "../../../common/assert.ts";
import { bk, type buildkit } from "../../../proto/buildkit-messages.ts";
import { PACKET } from "../../../api/buildkit/folder-tar.ts";
import { frameMessage, MessageReader } from "../../../api/buildkit/session-rpc.ts";

const BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge";
const CONTROL = "/moby.buildkit.v1.Control";
const GO_FOLDER = 0x8000_0000;
const GO_SYMLINK = 0x0800_0000;

export interface TestFile {
  readonly path: string;
  readonly content?: string | Buffer;
  readonly linkname?: string;
  /** Go's, instead of what the rest says. */
  readonly mode?: number;
  /** Said instead of the content's. */
  readonly size?: number;
}

export function folder(path: string): TestFile {
  return { path, mode: GO_FOLDER + 0o755 };
}

export function link(path: string, linkname: string): TestFile {
  return { path, linkname, mode: GO_SYMLINK + 0o777 };
}

export interface SessionAnswers {
  /** By the name under which the engine asks. */
  readonly folders?: Readonly<Record<string, readonly TestFile[]>>;
  readonly secrets?: Readonly<Record<string, string>>;
  readonly credentials?: Readonly<Record<string, { readonly username: string; readonly secret: string }>>;
}

export interface RpcResult {
  readonly messages: readonly Buffer[];
  readonly status: string;
  readonly text: string;
  readonly details: readonly { readonly type: string; readonly value: unknown }[];
}

export class RpcError extends Error {
  readonly result: RpcResult;

  constructor(result: RpcResult) {
    super(`${result.status}: ${result.text}`);
    this.result = result;
  }
}

/** Sends the head of an upgrade; rejects with the answer if that is not 101. */
export async function upgrade(
  socketPath: string,
  path: string,
  headers: readonly string[] = ["Upgrade: h2c"],
): Promise<Socket> {
  const socket = connectSocket(socketPath);
  await once(socket, "connect");
  return upgradeOn(socket, path, headers);
}

/** The same on a connection that is open. */
export async function upgradeOn<T extends Socket>(
  socket: T,
  path: string,
  headers: readonly string[] = ["Upgrade: h2c"],
): Promise<T> {
  socket.write([`POST ${path} HTTP/1.1`, "Host: x", "Connection: Upgrade", ...headers, "", ""].join("\r\n"));
  let received = Buffer.alloc(0);
  for (;;) {
    const piece: unknown = socket.read();
    if (piece === null) {
      if (socket.readableEnded) throw new Error(received.toString("utf8"));
      await Promise.race([once(socket, "readable"), once(socket, "end")]);
      continue;
    }
    received = Buffer.concat([received, piece as Buffer]);
    const end = received.indexOf("\r\n\r\n");
    if (end < 0) continue;
    if (!received.toString("latin1").startsWith("HTTP/1.1 101 ")) {
      socket.destroy();
      throw new Error(received.toString("utf8"));
    }
    if (received.byteLength > end + 4) socket.unshift(received.subarray(end + 4));
    return socket;
  }
}

function detailsOf(trailers: IncomingHttpHeaders): RpcResult["details"] {
  const text = trailers["grpc-status-details-bin"];
  if (typeof text !== "string") return [];
  return bk.RpcStatus.decode(Buffer.from(text, "base64")).details.map(({ typeUrl, value }) => ({
    type: typeUrl ?? "",
    value: JSON.parse(Buffer.from(value ?? new Uint8Array()).toString("utf8")) as unknown,
  }));
}

/** What the engine asked the session for, as it did. */
export interface Asked {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
}

export class BuildkitClient {
  readonly asked: Asked[] = [];
  /** Names of files whose content was asked for. */
  readonly sent: string[] = [];
  readonly #socketPath: string;
  readonly #calls: ClientHttp2Session;
  readonly #sessions: { destroy(): void }[] = [];

  private constructor(socketPath: string, calls: ClientHttp2Session) {
    this.#socketPath = socketPath;
    this.#calls = calls;
  }

  /** On a connection that was upgraded; it opens no sessions. */
  static on(socket: Socket): BuildkitClient {
    const calls = connect("http://localhost", { createConnection: () => socket });
    calls.on("error", () => undefined);
    return new BuildkitClient("", calls);
  }

  static async open(socketPath: string): Promise<BuildkitClient> {
    const socket = await upgrade(socketPath, "/grpc");
    const calls = connect("http://localhost", { createConnection: () => socket });
    calls.on("error", () => undefined);
    return new BuildkitClient(socketPath, calls);
  }

  close(): void {
    this.#calls.destroy();
    for (const session of this.#sessions) session.destroy();
  }

  async call(
    path: string,
    request: Uint8Array,
    options: { readonly build?: string; readonly signal?: AbortSignal } = {},
  ): Promise<RpcResult> {
    const { build, signal } = options;
    const headers = {
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
      ...(build === undefined ? {} : { "buildkit-controlapi-buildid": build }),
    };
    const stream = this.#calls.request(headers, signal === undefined ? {} : { signal });
    let told: IncomingHttpHeaders = {};
    const keep = (each: IncomingHttpHeaders): void => {
      if (each["grpc-status"] !== undefined) told = each;
    };
    stream.on("response", keep).on("trailers", keep);
    stream.end(frameMessage(request));
    const reader = new MessageReader();
    const messages: Buffer[] = [];
    for await (const piece of stream as AsyncIterable<Buffer>) messages.push(...reader.push(piece));
    const status = String(told["grpc-status"] ?? "none");
    const text = decodeURIComponent(String(told["grpc-message"] ?? ""));
    const result = { messages, status, text, details: detailsOf(told) };
    if (status !== "0") throw new RpcError(result);
    return result;
  }

  /** Opens a session that answers. */
  async session(id: string, answers: SessionAnswers): Promise<void> {
    const methods = [
      "/moby.filesync.v1.FileSync/DiffCopy",
      "/moby.filesync.v1.Auth/Credentials",
      "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    ];
    const socket = await upgrade(this.#socketPath, "/session", [
      "Upgrade: h2c",
      `X-Docker-Expose-Session-Uuid: ${id}`,
      ...methods.map((each) => `X-Docker-Expose-Session-Grpc-Method: ${each}`),
    ]);
    const session = performServerHandshake(socket);
    session.on("error", () => undefined);
    session.on("stream", (stream, headers) => {
      stream.on("error", () => undefined);
      this.asked.push({ path: headers[":path"] ?? "", headers });
      // The engine hangs up on who misbehaves.
      this.#answer(stream, headers, answers).catch(() => undefined);
    });
    this.#sessions.push(session);
  }

  async #answer(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    answers: SessionAnswers,
  ): Promise<void> {
    const name = (headers[":path"] ?? "").split("/").at(-1) ?? "";
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    let status = "0";
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status }));
    const reader = new MessageReader();
    if (name === "DiffCopy") {
      await this.#sendFolder(stream, reader, filesFor(headers, answers));
      return;
    }
    const [request] = await readAll(stream, reader);
    const bytes = must(request, "a call has a request");
    if (name === "GetSecret") {
      const found = answers.secrets?.[bk.SecretRequest.decode(bytes).id];
      if (found === undefined) status = "5";
      else
        stream.write(frameMessage(bk.SecretResponse.encode({ data: Buffer.from(found) } as never).finish()));
    } else if (name === "Credentials") {
      const { host } = bk.CredentialsRequest.decode(bytes);
      const found = answers.credentials?.[host] ?? { username: "", secret: "" };
      stream.write(frameMessage(bk.CredentialsResponse.encode(found as never).finish()));
    } else status = "12";
    stream.end();
  }

  async #sendFolder(
    stream: ServerHttp2Stream,
    reader: MessageReader,
    files: readonly TestFile[],
  ): Promise<void> {
    const send = (packet: buildkit.IFilePacket): boolean =>
      stream.write(frameMessage(bk.FilePacket.encode(packet as never).finish()));
    for (const file of files) {
      const size = file.size ?? Buffer.byteLength(file.content ?? "");
      const { path, linkname = "", mode = 0o644 } = file;
      send({ type: PACKET.stat, stat: { path, mode, size, linkname, modTime: 1e18 } });
    }
    send({ type: PACKET.stat });
    for await (const piece of stream as AsyncIterable<Buffer>) {
      for (const message of reader.push(piece)) {
        const { type, id } = bk.FilePacket.decode(message);
        if (type === PACKET.end) {
          send({ type: PACKET.end });
          stream.end();
        } else if (type === PACKET.request) {
          const file = must(files[id], "a file that was told of");
          this.sent.push(file.path);
          const data = Buffer.from(file.content ?? "");
          if (data.byteLength > 0) send({ type: PACKET.content, id, data });
          send({ type: PACKET.content, id });
        }
      }
    }
  }

  /** A whole build as buildx drives it. Resolves to the exporter's answer. */
  async build(options: {
    readonly ref: string;
    readonly answers: SessionAnswers;
    readonly attrs?: Readonly<Record<string, string>>;
    readonly names?: string;
    readonly signal?: AbortSignal;
  }): Promise<Readonly<Record<string, string>>> {
    const { ref, attrs = {}, answers, names = "" } = options;
    await this.session(`session-${ref}`, answers);
    const exporters = [{ type: "moby", attrs: { name: names } }];
    const request = bk.ControlSolveRequest.encode({ ref, session: `session-${ref}`, exporters } as never);
    const aborting = options.signal === undefined ? {} : { signal: options.signal };
    const solving = this.call(`${CONTROL}/Solve`, request.finish(), aborting);
    const drive = async (): Promise<void> => {
      await this.call(`${BRIDGE}/Ping`, new Uint8Array(), { build: ref });
      const frontendOpt = { "force-network-mode": "none", filename: "Dockerfile", ...attrs };
      const wanted = bk.BridgeSolveRequest.encode({ frontend: "dockerfile.v0", frontendOpt } as never);
      let returned: Uint8Array;
      try {
        const { messages } = await this.call(`${BRIDGE}/Solve`, wanted.finish(), { build: ref });
        const { result } = bk.BridgeSolveResponse.decode(must(messages[0], "an answer"));
        returned = bk.ReturnRequest.encode({ result } as never).finish();
      } catch (caught) {
        if (!(caught instanceof RpcError)) throw caught;
        const error = { code: Number(caught.result.status), message: caught.result.text };
        returned = bk.ReturnRequest.encode({ error } as never).finish();
      }
      await this.call(`${BRIDGE}/Return`, returned, { build: ref });
    };
    // Of a build that was given up, the solve tells why.
    drive().catch(() => undefined);
    const { messages } = await solving;
    return bk.ControlSolveResponse.decode(must(messages[0], "an answer")).exporterResponse;
  }

  /** All that is told of a build, until it is over. */
  async status(ref: string): Promise<readonly buildkit.StatusResponse[]> {
    const { messages } = await this.call(
      `${CONTROL}/Status`,
      bk.StatusRequest.encode({ ref } as never).finish(),
    );
    return messages.map((each) => bk.StatusResponse.decode(each));
  }
}

async function readAll(stream: ServerHttp2Stream, reader: MessageReader): Promise<readonly Buffer[]> {
  const messages: Buffer[] = [];
  for await (const piece of stream as AsyncIterable<Buffer>) messages.push(...reader.push(piece));
  return messages;
}

function filesFor(headers: IncomingHttpHeaders, answers: SessionAnswers): readonly TestFile[] {
  const files = answers.folders?.[String(headers["dir-name"])] ?? [];
  const followed = headers["followpaths"];
  if (followed === undefined) return files;
  const paths = String(followed).split(", ");
  return files.filter(({ path }) => paths.some((each) => path === each || path.startsWith(`${each}/`)));
}
