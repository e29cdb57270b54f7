/** Unit tests of dns-wire.ts against bytes made by hand and hostile input. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { decodeQuestion, DnsType, encodeAnswer, encodeName, readAnswer, reverseAddress } from "./dns-wire.ts";

function query(name: string, type: number, edns?: number): Buffer {
  const header = Buffer.from([0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, edns === undefined ? 0 : 1]);
  const tail = Buffer.alloc(4);
  tail.writeUInt16BE(type, 0);
  tail.writeUInt16BE(1, 2);
  const opt = Buffer.alloc(edns === undefined ? 0 : 11);
  if (edns !== undefined) {
    opt.writeUInt16BE(DnsType.opt, 1);
    opt.writeUInt16BE(edns, 3);
  }
  return Buffer.concat([header, encodeName(name), tail, opt]);
}

function addresses(count: number): { type: number; ttlSeconds: number; data: Buffer }[] {
  return Array.from({ length: count }, (_unused, index) => ({
    type: DnsType.a,
    ttlSeconds: 2,
    data: Buffer.from([10, 0, 0, index]),
  }));
}

test("decodeQuestion() reads name, type and what the client takes", () => {
  const question = decodeQuestion(query("Web.Backnet", DnsType.a, 4096));
  assert.equal(question?.name, "web.backnet");
  assert.equal(question?.id, 0x1234);
  assert.equal(question?.udpBytes, 1232);
  assert.equal(decodeQuestion(query("web", DnsType.a))?.udpBytes, 512);
});

test("decodeQuestion() refuses answers, several questions and torn names", () => {
  const answer = query("web", 1);
  answer[2] = 0x81;
  assert.equal(decodeQuestion(answer), undefined);
  const two = query("web", 1);
  two[5] = 2;
  assert.equal(decodeQuestion(two), undefined);
  for (let length = 0; length < 21; length += 1)
    assert.equal(decodeQuestion(query("web", 1).subarray(0, length)), undefined);
});

test("decodeQuestion() and readAnswer() survive random bytes", () => {
  const random = new SeededRandom(7);
  for (let round = 0; round < 5_000; round += 1) {
    const bytes = Buffer.from(random.bytes(random.below(80)));
    decodeQuestion(bytes);
    readAnswer(bytes);
  }
});

test("encodeAnswer() repeats the question as it came and can be read back", () => {
  const question = decodeQuestion(query("wEb", DnsType.a, 1232));
  assert.ok(question !== undefined);
  const answer = encodeAnswer(question, { code: 0, records: addresses(3) }, 1232);
  assert.ok(answer.includes(Buffer.from("\u0003wEb", "latin1")));
  assert.deepEqual(readAnswer(answer), { code: 0, isTruncated: false, ttlSeconds: 2 });
});

test("encodeAnswer() cuts to whole records and says so", () => {
  const question = decodeQuestion(query("web", DnsType.a));
  assert.ok(question !== undefined);
  const answer = encodeAnswer(question, { code: 0, records: addresses(100) }, 512);
  assert.ok(answer.length <= 512);
  assert.equal(readAnswer(answer)?.isTruncated, true);
});

test("reverseAddress() turns the octets round", () => {
  assert.equal(reverseAddress("11.1.77.10.in-addr.arpa"), "10.77.1.11");
  assert.equal(reverseAddress("77.10.in-addr.arpa"), undefined);
});
