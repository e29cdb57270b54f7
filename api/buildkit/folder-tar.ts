/**
 * A folder of the client as a tar: stats come first, contents are asked for and come as the client reads them. Entries leave
 * in the order of the stats. Small files are asked for ahead and put together in memory, large ones pass through. Names are
 * checked here; that links lead nowhere is the care of whoever unpacks.
 */
import { pack, type Header, type Pack } from "tar-stream";
import { PassThrough, type Readable } from "node:stream";
import { ClusterError } from "../../common/errors.ts";
import { bk, type buildkit } from "../../proto/buildkit-messages.ts";
import {
  AHEAD_BYTES_MAX,
  AHEAD_COUNT_MAX,
  BUFFERED_FILE_BYTES_MAX,
  FILE_COUNT_MAX,
  NAME_BYTES_MAX,
} from "./limits.ts";
import { drained, type Draining } from "./drained.ts";
import type { SessionCall } from "./session-rpc.ts";

export const PACKET = { stat: 0, request: 1, content: 2, end: 3, error: 4 } as const;

/** Bits of Go's os.FileMode. */
export const GO_MODE = {
  folder: 0x8000_0000,
  symlink: 0x0800_0000,
  device: 0x0400_0000,
  pipe: 0x0200_0000,
  socket: 0x0100_0000,
  setuid: 0x0080_0000,
  setgid: 0x0040_0000,
  charDevice: 0x0020_0000,
  sticky: 0x0010_0000,
  permissions: 0o777,
} as const;

function has(mode: number, bit: number): boolean {
  return Math.floor(mode / bit) % 2 === 1;
}

/** As the kernel has it, without the kind. */
function unixMode(mode: number): number {
  const special = (bit: number, value: number): number => (has(mode, bit) ? value : 0);
  return (
    (mode & GO_MODE.permissions) |
    special(GO_MODE.setuid, 0o4000) |
    special(GO_MODE.setgid, 0o2000) |
    special(GO_MODE.sticky, 0o1000)
  );
}

function badName(name: string): ClusterError {
  return new ClusterError(
    "invalid_argument",
    `Cannot take the client's files: names must be relative and without "..", got ${JSON.stringify(name.slice(0, 200))}`,
  );
}

export function checkName(name: string): void {
  if (name === "" || name.includes("\0")) throw badName(name);
  if (name.split("/").some((part) => part === "" || part === "." || part === "..")) throw badName(name);
}

type Kind = "file" | "directory" | "symlink" | "link" | "fifo";

/** Undefined: devices and sockets, which no context has a use for. */
function kindOf({ mode, linkname }: Pick<buildkit.FileStat, "mode" | "linkname">): Kind | undefined {
  if (has(mode, GO_MODE.folder)) return "directory";
  if (has(mode, GO_MODE.symlink)) return "symlink";
  if (has(mode, GO_MODE.pipe)) return "fifo";
  if (has(mode, GO_MODE.device) || has(mode, GO_MODE.charDevice) || has(mode, GO_MODE.socket))
    return undefined;
  return linkname === "" ? "file" : "link";
}

/** What a tar's entry takes its content by. */
interface Sink extends Draining {
  write(content: Buffer): boolean;
  end(): unknown;
}

interface Entry {
  readonly id: number;
  readonly header: Partial<Header> & Pick<Header, "name">;
  readonly sizeBytes: number;
  readonly isFile: boolean;
  state: "waiting" | "asked" | "complete";
  pieces: Buffer[];
  receivedBytes: number;
}

class FolderReceiver {
  readonly #call: SessionCall;
  readonly #pack: Pack;
  readonly #onBytes: (bytes: number) => void;
  /** In order; those that were written are gone. */
  readonly #entries: (Entry | undefined)[] = [];
  readonly #byId = new Map<number, Entry>();
  /** Place in #entries of the first that was not written. */
  #next = 0;
  /** Place in #entries of the first that was not asked for. */
  #nextAsked = 0;
  #askedBytes = 0;
  #askedCount = 0;
  #count = 0;
  #nameBytes = 0;
  #bytes = 0;
  #hasAllStats = false;
  #hasSaidEnd = false;
  /** The file that passes through. */
  #open: { readonly id: number; readonly sink: Sink } | undefined;

  constructor(call: SessionCall, tar: Pack, onBytes: (bytes: number) => void) {
    this.#call = call;
    this.#pack = tar;
    this.#onBytes = onBytes;
  }

  async run(): Promise<void> {
    for await (const message of this.#call.messages()) {
      const packet = bk.FilePacket.decode(message);
      this.#bytes += message.byteLength;
      this.#onBytes(this.#bytes);
      if (packet.type === PACKET.end) {
        this.#call.end();
        continue;
      }
      await this.#take(packet);
      await this.#advance();
    }
    if (!this.#hasSaidEnd)
      throw new ClusterError("unavailable", "The client ended its transfer of files too early");
  }

  async #take({ type, stat, id, data }: buildkit.FilePacket): Promise<void> {
    switch (type) {
      case PACKET.stat:
        if (stat === null || stat === undefined) this.#hasAllStats = true;
        else this.#addStat(stat as buildkit.FileStat);
        return;
      case PACKET.content:
        await this.#addContent(id, Buffer.from(data));
        return;
      case PACKET.error:
        throw new ClusterError(
          "failed_precondition",
          `error from sender: ${Buffer.from(data).toString("utf8")}`,
        );
      default:
        throw new ClusterError(
          "invalid_argument",
          `Cannot take the client's files: packet type ${type} is unknown`,
        );
    }
  }

  #addStat(stat: buildkit.FileStat): void {
    const id = this.#count++;
    this.#nameBytes += stat.path.length + stat.linkname.length;
    if (this.#hasAllStats || this.#count > FILE_COUNT_MAX || this.#nameBytes > NAME_BYTES_MAX) {
      throw new ClusterError(
        "resource_exhausted",
        `Cannot take the client's files: want at most ${FILE_COUNT_MAX} with ${NAME_BYTES_MAX} bytes of names`,
      );
    }
    checkName(stat.path);
    const kind = kindOf(stat);
    if (kind === undefined) return;
    if (kind === "link") checkName(stat.linkname);
    const isFile = kind === "file";
    const sizeBytes = isFile ? stat.size : 0;
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
      throw new ClusterError("invalid_argument", `Cannot take "${stat.path}": its size is ${stat.size}`);
    const entry: Entry = {
      id,
      header: {
        name: stat.path,
        type: kind,
        mode: unixMode(stat.mode),
        uid: 0,
        gid: 0,
        mtime: new Date(stat.modTime / 1e6),
        ...(kind === "symlink" || kind === "link" ? { linkname: stat.linkname } : {}),
      },
      sizeBytes,
      isFile,
      state: isFile ? "waiting" : "complete",
      pieces: [],
      receivedBytes: 0,
    };
    this.#entries.push(entry);
    if (isFile) this.#byId.set(id, entry);
  }

  async #addContent(id: number, content: Buffer): Promise<void> {
    const entry = this.#byId.get(id);
    if (entry === undefined || entry.state !== "asked")
      throw new ClusterError("invalid_argument", `Cannot take content of file ${id}: it was not asked for`);
    if (content.byteLength === 0) {
      entry.state = "complete";
      return;
    }
    entry.receivedBytes += content.byteLength;
    if (entry.sizeBytes > BUFFERED_FILE_BYTES_MAX) {
      if (entry.receivedBytes > entry.sizeBytes) throw changed(entry);
      await writeTo(this.#open?.id === id ? this.#open.sink : this.#openEntry(entry), content);
      return;
    }
    // It may have grown since it was looked at.
    if (entry.receivedBytes > 2 * BUFFERED_FILE_BYTES_MAX) throw changed(entry);
    entry.pieces.push(content);
  }

  #openEntry(entry: Entry): Sink {
    const sink = this.#pack.entry({ ...entry.header, size: entry.sizeBytes });
    this.#open = { id: entry.id, sink: sink as unknown as Sink };
    return this.#open.sink;
  }

  async #advance(): Promise<void> {
    await this.#ask();
    const first = this.#next;
    for (;;) {
      const entry = this.#entries[this.#next];
      if (entry?.state !== "complete") break;
      await this.#write(entry);
      // Not shifted: each time that would move all that follow, of a million.
      this.#entries[this.#next++] = undefined;
    }
    if (this.#next > first) {
      this.#nextAsked = Math.max(this.#nextAsked, this.#next);
      await this.#ask();
    }
    if (this.#hasAllStats && this.#next === this.#entries.length && !this.#hasSaidEnd) {
      this.#hasSaidEnd = true;
      await this.#call.send(encode({ type: PACKET.end }));
    }
  }

  /** Asks for as many of the next files as may be on their way. */
  async #ask(): Promise<void> {
    for (; this.#nextAsked < this.#entries.length; this.#nextAsked++) {
      const entry = this.#entries[this.#nextAsked];
      if (entry === undefined) return;
      if (entry.state !== "waiting") continue;
      const isLarge = entry.sizeBytes > BUFFERED_FILE_BYTES_MAX;
      const isFull =
        this.#askedCount >= AHEAD_COUNT_MAX || this.#askedBytes + entry.sizeBytes > AHEAD_BYTES_MAX;
      // One that passes through has to be the next to be written.
      if (isLarge ? this.#nextAsked > this.#next || this.#askedCount > 0 : isFull && this.#askedCount > 0)
        return;
      entry.state = "asked";
      this.#askedCount++;
      this.#askedBytes += entry.sizeBytes;
      await this.#call.send(encode({ type: PACKET.request, id: entry.id }));
    }
  }

  async #write(entry: Entry): Promise<void> {
    if (entry.isFile) {
      this.#askedCount--;
      this.#askedBytes -= entry.sizeBytes;
      this.#byId.delete(entry.id);
    }
    if (entry.sizeBytes > BUFFERED_FILE_BYTES_MAX) {
      if (entry.receivedBytes !== entry.sizeBytes) throw changed(entry);
      this.#open?.sink.end();
      this.#open = undefined;
      return;
    }
    const sink = this.#pack.entry({ ...entry.header, size: entry.receivedBytes });
    for (const piece of entry.pieces) await writeTo(sink as unknown as Sink, piece);
    entry.pieces = [];
    if (entry.isFile) (sink as unknown as Sink).end();
  }
}

function changed({ header, sizeBytes }: Entry): ClusterError {
  return new ClusterError(
    "failed_precondition",
    `Cannot take "${header.name}": it had ${sizeBytes} bytes and changed while it was sent`,
  );
}

function encode(packet: buildkit.IFilePacket): Uint8Array {
  return bk.FilePacket.encode(packet as buildkit.FilePacket).finish();
}

async function writeTo(sink: Sink, content: Buffer): Promise<void> {
  if (!sink.write(content)) await drained(sink);
}

/** Runs the transfer of `call` while the tar is read. The tar fails with the reason if the transfer does. */
export function folderTar(call: SessionCall, onBytes: (bytes: number) => void): Readable {
  const tar = pack();
  const output = new PassThrough();
  // Told to whoever reads it, who may not have begun yet.
  output.on("error", () => undefined);
  tar.on("error", (error: Error) => output.destroy(error));
  tar.pipe(output);
  // Whoever unpacks it went away.
  output.once("close", () => {
    call.cancel();
    tar.destroy();
  });
  new FolderReceiver(call, tar, onBytes).run().then(
    () => tar.finalize(),
    (caught: unknown) => output.destroy(ClusterError.from(caught)),
  );
  return output;
}
