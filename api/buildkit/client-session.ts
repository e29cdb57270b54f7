/**
 * One client that answers the engine's questions: its files, credentials, secrets and SSH agents, as a builder asks for them.
 * Lives as long as the client's connection to /session.
 */
import { Duplex, type Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import type { BuildClient, ClientFolder } from "../../model/build.ts";
import { bk } from "../../proto/buildkit-messages.ts";
import { folderTar } from "./folder-tar.ts";
import { ANSWER_MS, PIECE_BYTES, SECRET_BYTES_MAX } from "./limits.ts";
import type { CallMetadata, SessionCall, SessionRpc } from "./session-rpc.ts";

const METHODS = {
  files: "/moby.filesync.v1.FileSync/DiffCopy",
  output: "/moby.filesync.v1.FileSend/DiffCopy",
  upload: "/moby.upload.v1.Upload/Pull",
  credentials: "/moby.filesync.v1.Auth/Credentials",
  secret: "/moby.buildkit.secrets.v1.Secrets/GetSecret",
  checkAgent: "/moby.sshforward.v1.SSH/CheckAgent",
  forwardAgent: "/moby.sshforward.v1.SSH/ForwardAgent",
} as const;

/** Docker Hub by the name under which its credentials are kept. */
const HUB = "registry-1.docker.io";

/** Header values are ASCII; others are sent as in a URL, with another header that says so. */
export function encodeHeader(name: string, values: readonly string[]): CallMetadata {
  const isPlain = values.every((value) => /^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/.test(value));
  if (isPlain) return { [name]: values };
  return { [name]: values.map((value) => encodeURIComponent(value)), [`${name}-encoded`]: "1" };
}

/** As the client's own matching reads them: clean and relative. */
export function cleanPattern(line: string): string {
  const isNegated = line.startsWith("!");
  const text = (isNegated ? line.slice(1) : line).trim().replace(/^\/+/, "");
  return text === "" ? "" : `${isNegated ? "!" : ""}${text}`;
}

function folderMetadata({ name, paths, excludes }: ClientFolder): CallMetadata {
  const patterns = (excludes ?? []).map(cleanPattern).filter((each) => each !== "");
  return {
    ...encodeHeader("dir-name", [name]),
    ...(paths === undefined || paths.length === 0 ? {} : encodeHeader("followpaths", paths)),
    ...(patterns.length === 0 ? {} : encodeHeader("exclude-patterns", patterns)),
  };
}

/** Both directions of a call whose messages are pieces of bytes. */
class CallStream extends Duplex {
  readonly #call: SessionCall;
  readonly #incoming: AsyncGenerator<Buffer>;

  constructor(call: SessionCall) {
    super({ allowHalfOpen: true });
    this.#call = call;
    this.#incoming = call.messages();
    // Told to whoever reads or writes, who may not have begun yet or have what they wanted.
    this.on("error", () => undefined);
  }

  override _read(): void {
    this.#incoming.next().then(
      ({ value, done }) => {
        if (done === true) this.push(null);
        else {
          const { data } = bk.BytesMessage.decode(value);
          if (data.byteLength === 0) this._read();
          else this.push(data);
        }
      },
      (caught: unknown) => this.destroy(ClusterError.from(caught)),
    );
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    void this.#send(chunk, done);
  }

  async #send(chunk: Buffer, done: (error?: Error | null) => void): Promise<void> {
    let error: Error | null = null;
    try {
      for (let at = 0; at < chunk.byteLength; at += PIECE_BYTES) {
        const data = chunk.subarray(at, at + PIECE_BYTES);
        await this.#call.send(bk.BytesMessage.encode({ data } as never).finish());
      }
    } catch (caught) {
      error = ClusterError.from(caught);
    }
    done(error);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#call.end();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#call.cancel();
    done(error);
  }
}

export class ClientSession implements BuildClient {
  readonly id: string;
  readonly #rpc: SessionRpc;
  readonly #methods: ReadonlySet<string>;
  /** Secrets are asked for once for each step that mounts them. */
  readonly #answered = new Map<string, Promise<string | undefined>>();

  constructor(id: string, rpc: SessionRpc, methods: ReadonlySet<string>) {
    this.id = id;
    this.#rpc = rpc;
    this.#methods = methods;
  }

  onClose(listener: () => void): void {
    this.#rpc.onClose(listener);
  }

  get isOpen(): boolean {
    return this.#rpc.isOpen;
  }

  close(): void {
    this.#rpc.close();
  }

  /** Aborted when the client is gone, too: nobody else would ever answer. */
  #signal(signal: AbortSignal): AbortSignal {
    return AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]);
  }

  folder(part: ClientFolder, onBytes: (bytes: number) => void, signal: AbortSignal): Readable {
    if (!this.#methods.has(METHODS.files)) throw missing("offers no folders");
    return folderTar(this.#rpc.open(METHODS.files, folderMetadata(part), signal), onBytes);
  }

  /** What the client reads from its stdin, under the name it gave to that. */
  upload(url: URL, signal: AbortSignal): Readable {
    if (!this.#methods.has(METHODS.upload)) throw missing("offers no upload");
    const metadata = { urlpath: url.pathname, urlhost: url.host };
    const stream = new CallStream(this.#rpc.open(METHODS.upload, metadata, signal));
    // One empty message says that it may begin.
    stream.end();
    return stream;
  }

  /** A call on which the client takes what a build made; `index` is the exporter's place in the request. */
  output(index: number, signal: AbortSignal): SessionCall {
    if (!this.#methods.has(METHODS.output)) throw missing("takes no files");
    return this.#rpc.open(METHODS.output, { "buildkit-attachable-exporter-id": String(index) }, signal);
  }

  /** The same, as a stream of bytes. */
  outputStream(index: number, signal: AbortSignal): Duplex {
    return new CallStream(this.output(index, signal));
  }

  registryAuth(domain: string, signal: AbortSignal): Promise<string | undefined> {
    const known = this.#answered.get(domain);
    if (known !== undefined) return known;
    const asked = this.#credentials(domain, signal);
    this.#answered.set(domain, asked);
    asked.catch(() => this.#answered.delete(domain));
    return asked;
  }

  async #credentials(domain: string, signal: AbortSignal): Promise<string | undefined> {
    if (!this.#methods.has(METHODS.credentials)) return undefined;
    const host = domain === "docker.io" ? HUB : domain;
    const request = bk.CredentialsRequest.encode({ host } as never).finish();
    const answer = await this.#rpc.unary(METHODS.credentials, request, this.#signal(signal));
    const { username, secret } = bk.CredentialsResponse.decode(answer);
    if (secret === "") return undefined;
    // Without a name it is a token that stands for the account.
    const auth = username === "" ? { identitytoken: secret } : { username, password: secret };
    const address = domain === "docker.io" ? "https://index.docker.io/v1/" : domain;
    return Buffer.from(JSON.stringify({ ...auth, serveraddress: address })).toString("base64url");
  }

  async secret(id: string, signal: AbortSignal): Promise<Uint8Array | undefined> {
    if (!this.#methods.has(METHODS.secret)) return undefined;
    const request = bk.SecretRequest.encode({ id } as never).finish();
    const answer = await this.#rpc.unary(METHODS.secret, request, this.#signal(signal)).catch(absent);
    if (answer === undefined) return undefined;
    const { data } = bk.SecretResponse.decode(answer);
    if (data.byteLength > SECRET_BYTES_MAX) {
      throw new ClusterError(
        "invalid_argument",
        `Cannot mount secret "${id}": want at most ${SECRET_BYTES_MAX} bytes, got ${data.byteLength}`,
      );
    }
    return data;
  }

  async sshAgent(id: string, signal: AbortSignal): Promise<(() => Duplex) | undefined> {
    if (!this.#methods.has(METHODS.checkAgent)) return undefined;
    const request = bk.CheckAgentRequest.encode({ id } as never).finish();
    const answer = await this.#rpc
      .unary(METHODS.checkAgent, request, this.#signal(signal))
      .catch(unknownAgent);
    if (answer === undefined) return undefined;
    const metadata = { "buildkit.ssh.id": id };
    return () => new CallStream(this.#rpc.open(METHODS.forwardAgent, metadata, signal));
  }
}

function missing(what: string): ClusterError {
  return new ClusterError("failed_precondition", `Cannot build: the client's session ${what}`);
}

/** The client has none of that name. */
function absent(caught: unknown): undefined {
  if (caught instanceof ClusterError && caught.code === "not_found") return undefined;
  throw caught;
}

/** Clients have no code of its own for it. */
function unknownAgent(caught: unknown): undefined {
  if (caught instanceof ClusterError && caught.code !== "unavailable" && caught.code !== "cancelled")
    return undefined;
  throw caught;
}
