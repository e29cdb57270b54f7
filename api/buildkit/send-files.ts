/**
 * Files for a client that keeps them in a folder of its own: all stats first, then the content of those that it asks for, in
 * the order of the tar that they are in. Read twice: once for the stats, once for the contents.
 */
import type { Readable } from "node:stream";
import { extract, type Header } from "tar-stream";
import { ClusterError } from "../../common/errors.ts";
import { bk, type buildkit } from "../../proto/buildkit-messages.ts";
import { GO_MODE, PACKET } from "./folder-tar.ts";
import { PIECE_BYTES } from "./limits.ts";
import type { SessionCall } from "./session-rpc.ts";

const KINDS: Readonly<Record<string, number>> = {
  directory: GO_MODE.folder,
  symlink: GO_MODE.symlink,
  fifo: GO_MODE.pipe,
};

function goMode({ type, mode }: Header): number {
  const bit = (unix: number, go: number): number => ((mode & unix) === 0 ? 0 : go);
  const special = bit(0o4000, GO_MODE.setuid) + bit(0o2000, GO_MODE.setgid) + bit(0o1000, GO_MODE.sticky);
  return (mode & GO_MODE.permissions) + special + (KINDS[type] ?? 0);
}

function nameOf({ name }: Header): string {
  return name.replace(/^(?:\.?\/)+/, "").replace(/\/+$/, "");
}

/** Devices mean nothing to a client that is not root. */
function isSent(header: Header): boolean {
  const type = header.type;
  return nameOf(header) !== "" && (type === "file" || type === "link" || type in KINDS);
}

function linkOf({ type, linkname }: Header): string {
  if (type === "symlink") return linkname ?? "";
  return type === "link" ? (linkname ?? "").replace(/^(?:\.?\/)+/, "") : "";
}

function statOf(header: Header): buildkit.IFileStat {
  const isFile = header.type === "file";
  return {
    path: nameOf(header),
    mode: goMode(header),
    uid: header.uid,
    gid: header.gid,
    size: isFile ? header.size : 0,
    modTime: header.mtime.getTime() * 1e6,
    linkname: linkOf(header),
  };
}

function encode(packet: buildkit.IFilePacket): Uint8Array {
  return bk.FilePacket.encode(packet as buildkit.FilePacket).finish();
}

/** Which files the client has asked for, and whether it has all. */
class Requests {
  readonly #asked = new Set<number>();
  #isOver = false;
  #error: unknown;
  #wake: (() => void) | undefined;

  async follow(call: SessionCall): Promise<void> {
    try {
      for await (const message of call.messages()) {
        const { type, id, data } = bk.FilePacket.decode(message);
        if (type === PACKET.request) this.#asked.add(id);
        else if (type === PACKET.error)
          throw new ClusterError("failed_precondition", Buffer.from(data).toString("utf8"));
        else if (type === PACKET.end) {
          this.#isOver = true;
          await call.send(encode({ type: PACKET.end }));
          call.end();
        }
        this.#wake?.();
      }
    } catch (caught) {
      this.#error = caught;
    }
    this.#isOver = true;
    this.#wake?.();
  }

  get error(): unknown {
    return this.#error;
  }

  /** False: the client has what it wants and will not ask for it. */
  async wants(id: number): Promise<boolean> {
    while (!this.#asked.has(id) && !this.#isOver)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    return this.#asked.has(id);
  }
}

async function eachEntry(
  tar: Readable,
  take: (header: Header, content: AsyncIterable<Buffer>) => Promise<void>,
): Promise<void> {
  const reading = extract();
  tar.on("error", (error) => reading.destroy(error));
  tar.pipe(reading);
  try {
    for await (const entry of reading) {
      await take(entry.header, entry as unknown as AsyncIterable<Buffer>);
      entry.resume();
    }
  } finally {
    tar.destroy();
  }
}

export async function sendFiles(
  call: SessionCall,
  open: () => Promise<Readable>,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const requests = new Requests();
  const following = requests.follow(call);
  await eachEntry(await open(), async (header) => {
    if (isSent(header)) await call.send(encode({ type: PACKET.stat, stat: statOf(header) }));
  });
  await call.send(encode({ type: PACKET.stat }));
  let id = 0;
  let bytes = 0;
  await eachEntry(await open(), async (header, content) => {
    if (!isSent(header)) return;
    const own = id++;
    if (header.type !== "file" || !(await requests.wants(own))) return;
    for await (const piece of content) {
      bytes += piece.byteLength;
      onBytes(bytes);
      for (let at = 0; at < piece.byteLength; at += PIECE_BYTES)
        await call.send(
          encode({ type: PACKET.content, id: own, data: piece.subarray(at, at + PIECE_BYTES) }),
        );
    }
    await call.send(encode({ type: PACKET.content, id: own }));
  });
  await following;
  if (requests.error !== undefined) throw ClusterError.from(requests.error);
}
