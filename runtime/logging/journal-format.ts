/** Lines as entries of systemd's journal, in its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL). Pure. */
import type { LogMessage } from "./log-message.ts";
import type { LogTarget } from "./log-target.ts";

/** Syslog's severities. */
const PRIORITY = { stdout: "6", stderr: "3" } as const;
const SHORT_ID_CHARS = 12;
const NAME_CHARS_MAX = 64;
const NEWLINE = 10;

/** A value with a newline has its length before it, in eight bytes, the lowest first. */
function field(name: string, value: Uint8Array): readonly Uint8Array[] {
  if (!value.includes(NEWLINE)) return [Buffer.from(`${name}=`), value, Buffer.from("\n")];
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(value.length));
  return [Buffer.from(`${name}\n`), length, value, Buffer.from("\n")];
}

/** Names of fields are upper case; those that begin with "_" are the journal's own. */
function nameOf(key: string): string {
  return key
    .toUpperCase()
    .replace(/[^A-Z0-9_]/g, "_")
    .replace(/^_+/, "")
    .slice(0, NAME_CHARS_MAX);
}

function pieceFields({ piece }: LogMessage): Readonly<Record<string, string>> {
  if (piece === undefined) return {};
  return {
    ...(piece.isLast ? {} : { CONTAINER_PARTIAL_MESSAGE: "true" }),
    CONTAINER_PARTIAL_ID: piece.id,
    CONTAINER_PARTIAL_ORDINAL: String(piece.ordinal),
    CONTAINER_PARTIAL_LAST: String(piece.isLast),
  };
}

/** The datagram of one line. */
export function journalEntry(message: LogMessage, target: LogTarget): Buffer {
  const attributes = Object.entries(target.attributes).map(([key, value]) => [nameOf(key), value] as const);
  const fields = {
    ...Object.fromEntries(attributes.filter(([name]) => /^[A-Z]/.test(name))),
    PRIORITY: PRIORITY[message.stream],
    CONTAINER_ID: target.containerId.slice(0, SHORT_ID_CHARS),
    CONTAINER_ID_FULL: target.containerId,
    CONTAINER_NAME: target.containerName,
    CONTAINER_TAG: target.tag,
    IMAGE_NAME: target.imageName,
    SYSLOG_IDENTIFIER: target.tag,
    SYSLOG_TIMESTAMP: message.timestamp,
    ...pieceFields(message),
  };
  const texts = Object.entries(fields).flatMap(([name, value]) => field(name, Buffer.from(value)));
  return Buffer.concat([...texts, ...field("MESSAGE", message.line)]);
}
