/** What collectors of logs understand, read strictly: anything that the protocols don't allow throws. */
import assert from "node:assert/strict";
import { gunzipSync, inflateSync } from "node:zlib";

export interface SyslogMessage {
  readonly facility: number;
  readonly severity: number;
  readonly time: string;
  readonly hostname: string;
  readonly tag: string;
  readonly processId: number;
  readonly text: string;
}

type SyslogForm = "rfc5424" | "rfc3164" | "local";

const FORMS: Readonly<Record<SyslogForm, RegExp>> = {
  rfc5424:
    /^<(?<priority>\d{1,3})>1 (?<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z) (?<hostname>[!-~]{1,255}) (?<tag>[!-~]{1,48}) (?<pid>\d{1,128}) (?:[!-~]{1,32}) - (?<text>[^\n]+)\n$/,
  rfc3164:
    /^<(?<priority>\d{1,3})>(?<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (?<hostname>[!-~]+) (?<tag>[^[ ]+)\[(?<pid>\d+)\]: (?<text>[^\n]+)\n$/,
  local:
    /^<(?<priority>\d{1,3})>(?<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (?<tag>[^[ ]+)\[(?<pid>\d+)\]: (?<text>[^\n]+)\n$/,
};

export function readSyslog(bytes: Uint8Array, form: SyslogForm): SyslogMessage {
  const text = Buffer.from(bytes).toString();
  const groups = FORMS[form].exec(text)?.groups;
  assert.ok(groups, `${form}: ${JSON.stringify(text)}`);
  const priority = Number(groups["priority"]);
  return {
    facility: priority >> 3,
    severity: priority & 7,
    time: groups["time"] ?? "",
    hostname: groups["hostname"] ?? "",
    tag: groups["tag"] ?? "",
    processId: Number(groups["pid"]),
    text: groups["text"] ?? "",
  };
}

/** Whole lines of a stream (RFC 6587, section 3.4.2). */
export function syslogLines(bytes: Buffer): readonly Buffer[] {
  const lines: Buffer[] = [];
  for (let at = 0, end = bytes.indexOf(10); end >= 0; at = end + 1, end = bytes.indexOf(10, at))
    lines.push(bytes.subarray(at, end + 1));
  return lines;
}

/** RFC 5425: each message with its length before it. */
export function countedMessages(bytes: Buffer): readonly Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const [, digits = ""] = /^([1-9]\d{0,5}) /.exec(bytes.toString("latin1", at, at + 7)) ?? [];
    assert.notEqual(digits, "", `a length, got ${JSON.stringify(bytes.toString("latin1", at, at + 20))}`);
    const start = at + digits.length + 1;
    if (bytes.length < start + Number(digits)) break;
    messages.push(bytes.subarray(start, start + Number(digits)));
    at = start + Number(digits);
  }
  return messages;
}

export type Gelf = Readonly<Record<string, unknown>>;

function readGelf(text: string): Gelf {
  const value = JSON.parse(text) as Gelf;
  assert.equal(value["version"], "1.1");
  assert.equal(typeof value["host"], "string");
  assert.ok(String(value["short_message"] as string).length > 0);
  for (const key of Object.keys(value)) {
    if (!["version", "host", "short_message", "timestamp", "level"].includes(key))
      assert.match(key, /^_[\w.-]+$/);
  }
  return value;
}

/** Puts chunks together and unpacks. */
export function gelfMessages(datagrams: readonly Buffer[]): readonly Gelf[] {
  const chunks = new Map<string, Map<number, Buffer>>();
  const whole: Buffer[] = [];
  for (const datagram of datagrams) {
    if (datagram.readUInt16BE(0) !== 0x1e0f) {
      whole.push(datagram);
      continue;
    }
    assert.ok(datagram.length <= 1420);
    const id = datagram.toString("hex", 2, 10);
    const parts = chunks.get(id) ?? new Map<number, Buffer>();
    parts.set(datagram.readUInt8(10), datagram.subarray(12));
    chunks.set(id, parts);
    const count = datagram.readUInt8(11);
    assert.ok(count <= 128);
    if (parts.size === count)
      whole.push(Buffer.concat(Array.from({ length: count }, (_, n) => parts.get(n) ?? Buffer.alloc(0))));
  }
  return whole.map((bytes) => {
    const head = bytes.readUInt16BE(0);
    const isGzip = head === 0x1f8b;
    const isZlib = bytes[0] === 0x78;
    return readGelf((isGzip ? gunzipSync(bytes) : isZlib ? inflateSync(bytes) : bytes).toString());
  });
}

/** GELF over TCP: a zero byte ends a message. */
export function gelfStreamMessages(bytes: Buffer): readonly Gelf[] {
  return bytes
    .toString()
    .split("\0")
    .slice(0, -1)
    .map((text) => readGelf(text));
}

/** A journal entry by systemd's native protocol. */
export function readJournalEntry(bytes: Buffer): ReadonlyMap<string, string> {
  const fields = new Map<string, string>();
  for (let at = 0; at < bytes.length;) {
    const end = bytes.indexOf(10, at);
    assert.ok(end >= 0);
    const line = bytes.toString("utf8", at, end);
    const [, name = "", value] = /^([A-Z][A-Z0-9_]{0,63})(?:=(.*))?$/s.exec(line) ?? [];
    assert.notEqual(name, "", line);
    if (value !== undefined) {
      fields.set(name, value);
      at = end + 1;
      continue;
    }
    const length = Number(bytes.readBigUInt64LE(end + 1));
    fields.set(name, bytes.toString("utf8", end + 9, end + 9 + length));
    assert.equal(bytes[end + 9 + length], 10);
    at = end + 10 + length;
  }
  return fields;
}

export interface ForwardEntry {
  /** Seconds, or seconds with nanoseconds. */
  readonly time: number | { readonly seconds: number; readonly nanoseconds: number };
  readonly record: ReadonlyMap<string, string>;
}

export interface ForwardMessage {
  readonly tag: string;
  readonly entries: readonly ForwardEntry[];
  readonly options: ReadonlyMap<string, unknown>;
}

/** More bytes are to come. */
class Incomplete extends Error {}

class MessagePackReader {
  readonly #bytes: Buffer;
  at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  #take(count: number): Buffer {
    if (this.at + count > this.#bytes.length) throw new Incomplete();
    this.at += count;
    return this.#bytes.subarray(this.at - count, this.at);
  }

  #number(bytes: 1 | 2 | 4): number {
    return this.#take(bytes).readUIntBE(0, bytes);
  }

  #list(count: number): readonly unknown[] {
    return Array.from({ length: count }, () => this.value());
  }

  #map(count: number): ReadonlyMap<unknown, unknown> {
    return new Map(Array.from({ length: count }, () => [this.value(), this.value()] as const));
  }

  value(): unknown {
    const tag = this.#number(1);
    if (tag < 0x80) return tag;
    if (tag < 0x90) return this.#map(tag & 15);
    if (tag < 0xa0) return this.#list(tag & 15);
    if (tag < 0xc0) return this.#take(tag & 31).toString();
    switch (tag) {
      case 0xce:
        return this.#number(4);
      case 0xd7:
        assert.equal(this.#number(1), 0, "ext type of EventTime");
        return { seconds: this.#number(4), nanoseconds: this.#number(4) };
      case 0xd9:
        return this.#take(this.#number(1)).toString();
      case 0xda:
        return this.#take(this.#number(2)).toString();
      case 0xdb:
        return this.#take(this.#number(4)).toString();
      case 0xdc:
        return this.#list(this.#number(2));
      case 0xdd:
        return this.#list(this.#number(4));
      case 0xde:
        return this.#map(this.#number(2));
      default:
        throw new Error(`a tag of MessagePack that was not expected: ${tag.toString(16)}`);
    }
  }
}

/** Whole messages of Fluentd's Forward mode at the beginning of a stream. */
export function forwardMessages(bytes: Buffer): readonly ForwardMessage[] {
  const messages: ForwardMessage[] = [];
  const reader = new MessagePackReader(bytes);
  while (reader.at < bytes.length) {
    let value: unknown;
    try {
      value = reader.value();
    } catch (caught) {
      if (caught instanceof Incomplete) break;
      throw caught;
    }
    assert.ok(Array.isArray(value) && value.length === 3);
    const [tag, list, options] = value as [
      string,
      readonly (readonly [ForwardEntry["time"], Map<string, string>])[],
      Map<string, unknown>,
    ];
    assert.equal(options.get("size"), list.length);
    messages.push({ tag, options, entries: list.map(([time, record]) => ({ time, record })) });
  }
  return messages;
}
