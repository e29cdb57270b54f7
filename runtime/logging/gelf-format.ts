/** Lines as GELF 1.1 messages: compressed and cut into chunks for datagrams, ended by a zero byte on a stream. Pure but for ids. */
import { deflateSync, gzipSync } from "node:zlib";
import type { LogMessage } from "./log-message.ts";
import type { LogTarget } from "./log-target.ts";

/** Syslog's severities. */
const LEVEL = { stdout: 6, stderr: 3 } as const;
/** What fits into an Ethernet frame, as Docker's driver has it. */
const CHUNK_BYTES = 1420;
const CHUNK_HEAD_BYTES = 12;
/** GELF's own bound. */
const CHUNK_COUNT_MAX = 128;
const CHUNK_MAGIC = [0x1e, 0x0f] as const;
const FASTEST = 1;
const NS_PER_MS = 1_000_000n;

function gelfText(message: LogMessage, target: LogTarget): string {
  const extra = Object.entries(target.attributes).map(
    ([key, value]) => [key.replace(/^_?/, "_"), value] as const,
  );
  return JSON.stringify({
    version: "1.1",
    host: target.hostname,
    short_message: Buffer.from(message.line).toString(),
    timestamp: Number(message.nanoseconds / NS_PER_MS) / 1000,
    level: LEVEL[message.stream],
    _command: target.command,
    _container_id: target.containerId,
    _container_name: target.containerName,
    _created: target.created,
    _image_id: target.imageId,
    _image_name: target.imageName,
    _tag: target.tag,
    ...Object.fromEntries(extra),
  });
}

function compressed(text: string, { options }: LogTarget): Buffer {
  const level = Number(options["gelf-compression-level"] ?? FASTEST);
  switch (options["gelf-compression-type"] ?? "gzip") {
    case "none":
      return Buffer.from(text);
    case "zlib":
      return deflateSync(text, { level });
    default:
      return gzipSync(text, { level });
  }
}

/** A message that is longer than all chunks together can't be sent. */
function chunksOf(bytes: Buffer, newId: () => Uint8Array): readonly Buffer[] | undefined {
  if (bytes.length <= CHUNK_BYTES) return [bytes];
  const each = CHUNK_BYTES - CHUNK_HEAD_BYTES;
  const count = Math.ceil(bytes.length / each);
  if (count > CHUNK_COUNT_MAX) return undefined;
  const id = newId();
  return Array.from({ length: count }, (_, number) =>
    Buffer.concat([
      Uint8Array.of(...CHUNK_MAGIC),
      id,
      Uint8Array.of(number, count),
      bytes.subarray(number * each, (number + 1) * each),
    ]),
  );
}

/** Datagrams of one line; undefined if it is too long for any. Empty ones are none: Graylog refuses them. */
export function gelfDatagrams(
  message: LogMessage,
  target: LogTarget,
  /** Eight bytes. */
  newId: () => Uint8Array,
): readonly Buffer[] | undefined {
  if (message.line.length === 0) return [];
  return chunksOf(compressed(gelfText(message, target), target), newId);
}

export function gelfStream(message: LogMessage, target: LogTarget): readonly Buffer[] {
  return message.line.length === 0 ? [] : [Buffer.from(`${gelfText(message, target)}\0`)];
}
