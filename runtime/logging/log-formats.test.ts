import assert from "node:assert/strict";
import { test } from "node:test";
import { fluentdAnswer, fluentdMessage } from "./fluentd-format.ts";
import { gelfDatagrams, gelfStream } from "./gelf-format.ts";
import { LineAssembler, type LogMessage } from "./log-message.ts";
import { journalEntry } from "./journal-format.ts";
import type { LogTarget } from "./log-target.ts";
import { pack } from "./msgpack.ts";
import { syslogMessage } from "./syslog-format.ts";

const TARGET: LogTarget = {
  driver: "syslog",
  options: {},
  containerId: "c".repeat(64),
  containerName: "web",
  imageId: `sha256:${"a".repeat(64)}`,
  imageName: "shop:2",
  command: "serve",
  created: "2026-01-01T00:00:00.000000000Z",
  hostname: "host",
  tag: "my tag",
  attributes: {},
};

const MESSAGE: LogMessage = {
  stream: "stdout",
  line: Buffer.from("hello"),
  timestamp: "2026-01-02T03:04:05.123456789Z",
  nanoseconds: 1_767_323_045_123_456_789n,
};

function syslog(options: Readonly<Record<string, string>>, network: "udp" | "tls" = "udp"): string {
  const to = { network, processId: 7 };
  return Buffer.concat(syslogMessage(MESSAGE, { ...TARGET, options }, to)).toString();
}

test("syslogMessage(): RFC 5424 has the time in UTC and no space within a field; its length goes before it over TLS alone", () => {
  const text = "<30>1 2026-01-02T03:04:05Z host my_tag 7 my_tag - hello\n";
  assert.equal(syslog({ "syslog-format": "rfc5424" }), text);
  assert.equal(syslog({ "syslog-format": "rfc5424" }, "tls"), `${text.length} ${text}`);
  assert.match(
    syslog({ "syslog-format": "rfc5424micro", "syslog-facility": "23" }),
    /^<190>1 2026-01-02T03:04:05\.123456Z /,
  );
  assert.match(
    syslog({ "syslog-format": "rfc3164" }, "tls"),
    /^<30>Jan {2}\d \d\d:04:05 host my tag\[7\]: hello\n$/,
  );
  assert.match(syslog({}), /^<30>Jan {2}\d \d\d:04:05 my tag\[7\]: hello\n$/);
});

test("empty lines are no messages of syslog and gelf", () => {
  const empty = { ...MESSAGE, line: Buffer.alloc(0) };
  assert.deepEqual(syslogMessage(empty, TARGET, { network: "udp", processId: 1 }), []);
  assert.deepEqual(gelfStream(empty, TARGET), []);
});

test("gelfDatagrams() cuts a message into at most 128 chunks, and refuses what takes more", () => {
  const target = { ...TARGET, options: { "gelf-compression-type": "none" } };
  const sized = (bytes: number): readonly Buffer[] | undefined =>
    gelfDatagrams({ ...MESSAGE, line: Buffer.alloc(bytes, "x") }, target, () => Buffer.alloc(8, 1));
  assert.equal(sized(10)?.length, 1);
  const chunks = sized(3000) ?? [];
  assert.deepEqual(
    chunks.map((chunk) => [chunk.readUInt16BE(0), chunk[10], chunk[11]]),
    Array.from({ length: chunks.length }, (_, number) => [0x1e0f, number, chunks.length]),
  );
  assert.equal(sized(200_000), undefined);
});

test("gelf: attributes are additional fields, their names with one underscore before them", () => {
  const target = { ...TARGET, attributes: { team: "blue", _own: "x" } };
  const value = JSON.parse(Buffer.concat(gelfStream(MESSAGE, target)).subarray(0, -1).toString()) as Record<
    string,
    unknown
  >;
  assert.deepEqual([value["_team"], value["_own"], value["timestamp"]], ["blue", "x", 1_767_323_045.123]);
});

test("pack() takes the shortest form of each size", () => {
  const head = (value: Parameters<typeof pack>[0], bytes: number): string =>
    pack(value).toString("hex", 0, bytes);
  assert.equal(head("a".repeat(31), 1), "bf");
  assert.equal(head("a".repeat(32), 2), "d920");
  assert.equal(head("a".repeat(256), 3), "da0100");
  assert.equal(head("a".repeat(65_536), 5), "db00010000");
  assert.equal(head(5, 1), "05");
  assert.equal(head(1_700_000_000, 5), "ce6553f100");
  assert.equal(head({ seconds: 1, nanoseconds: 2 }, 10), "d7000000000100000002");
  assert.equal(
    head(
      Array.from({ length: 16 }, () => "x"),
      3,
    ),
    "dc0010",
  );
  assert.equal(head(new Map([["k", "v"]]), 5), "81a16ba176");
});

test("fluentdMessage() names what it wants to have answered", () => {
  const bytes = fluentdMessage([MESSAGE], TARGET, "abc");
  assert.ok(bytes.includes(Buffer.from("chunk")));
  assert.equal(fluentdAnswer("abc").toString("hex"), "81a361636ba3616263");
  assert.ok(!fluentdMessage([MESSAGE], TARGET, undefined).includes(Buffer.from("chunk")));
});

test("journalEntry() gives a value with a newline its length, and leaves out names that the journal would not take", () => {
  const entry = journalEntry(MESSAGE, { ...TARGET, attributes: { __a: "1\n2", "7": "x" } });
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(3n);
  assert.ok(entry.includes(Buffer.concat([Buffer.from("A\n"), length, Buffer.from("1\n2\n")])));
  assert.ok(!entry.toString().includes("7=x"));
  assert.ok(entry.toString().endsWith("MESSAGE=hello\n"));
});

test("LineAssembler numbers the pieces of a line, those of each stream on their own", () => {
  const lines = new LineAssembler("c");
  const at = (stream: "stdout" | "stderr", text: string, piece?: "inner" | "last") =>
    lines.message({
      stream,
      timestamp: MESSAGE.timestamp,
      data: Buffer.from(text),
      ...(piece === undefined ? {} : { piece }),
    });
  const first = at("stdout", "a", "inner");
  assert.equal(at("stderr", "x\n").piece, undefined);
  const last = at("stdout", "b\n", "last");
  assert.deepEqual([first.piece?.ordinal, last.piece?.ordinal, last.piece?.isLast], [1, 2, true]);
  assert.equal(last.piece?.id, first.piece?.id);
  assert.equal(Buffer.from(last.line).toString(), "b");
  assert.equal(at("stdout", "c", "inner").piece?.ordinal, 1);
});
