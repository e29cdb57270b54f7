/** Unit tests of dns-forwarder.ts with real sockets on loopback and a fake clock. */
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import type { Socket } from "node:dgram";
import { test } from "node:test";
import type { TestContext } from "node:test";
import { realTimers } from "../../common/real-env.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import { SeededRandom } from "../../common/testing/seeded-random.ts";
import { DnsForwarder } from "./dns-forwarder.ts";
import { decodeQuestion, DnsType, encodeAnswer, encodeName, readAnswer } from "./dns-wire.ts";
import type { DnsQuestion } from "./dns-wire.ts";

interface Upstream {
  readonly address: string;
  asked: number;
  isSilent: boolean;
}

async function upstream(t: TestContext): Promise<Upstream> {
  const socket: Socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  t.after(() => socket.close());
  const state = { address: `127.0.0.1:${socket.address().port}`, asked: 0, isSilent: false };
  socket.on("message", (message, from) => {
    state.asked += 1;
    const question = decodeQuestion(message);
    if (question === undefined || state.isSilent) return;
    const records = [{ type: DnsType.a, ttlSeconds: 60, data: Buffer.from([192, 0, 2, state.asked]) }];
    socket.send(encodeAnswer(question, { code: 0, records }, 1232), from.port, from.address);
  });
  return state;
}

interface Asked {
  readonly name?: string;
  /** Default: IN. */
  readonly klass?: number;
  readonly isChecking?: boolean;
  /** Data of an EDNS record. */
  readonly edns?: readonly number[];
}

function ask(
  id: number,
  { name = "example.org", klass = 1, isChecking = true, edns }: Asked = {},
): { query: Buffer; question: DnsQuestion } {
  const tail = Buffer.from([0, 1, 0, klass]);
  const optionCount = edns === undefined ? 0 : 1;
  const flags = isChecking ? 0 : 0x10;
  const header = Buffer.from([id >> 8, id & 255, 1, flags, 0, 1, 0, 0, 0, 0, 0, optionCount]);
  const option = edns === undefined ? [] : [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, edns.length, ...edns];
  const query = Buffer.concat([header, encodeName(name), tail, Buffer.from(option)]);
  const question = decodeQuestion(query);
  assert.ok(question !== undefined);
  return { query, question };
}

function forwarder(clock: FakeClock): DnsForwarder {
  return new DnsForwarder({ clock, timers: realTimers, random: new SeededRandom(3) }, "/nonexistent");
}

test("forward() asks once, then answers from memory with the asker's own number until the time is up", async (t) => {
  const server = await upstream(t);
  const clock = new FakeClock();
  const dns = forwarder(clock);
  const options = { upstreams: [server.address], isTcp: false };
  const first = ask(1);
  const one = await dns.forward(first.query, first.question, options);
  const second = ask(2);
  const two = await dns.forward(second.query, second.question, options);
  assert.equal(server.asked, 1);
  assert.equal(two.readUInt16BE(0), 2);
  assert.deepEqual(two.subarray(2), one.subarray(2));
  clock.advance(61_000);
  await dns.forward(second.query, second.question, options);
  assert.equal(server.asked, 2);
});

test("forward() keeps answers for those who ask the same way, whatever the letter case", async (t) => {
  const server = await upstream(t);
  const dns = forwarder(new FakeClock());
  const options = { upstreams: [server.address], isTcp: false };
  const cookie = (secret: number): readonly number[] => [0, 10, 0, 8, ...Array<number>(8).fill(secret)];
  const ways: readonly Asked[] = [
    {},
    { klass: 3 },
    { isChecking: false },
    { edns: [] },
    { edns: cookie(1) },
    { edns: cookie(2) },
  ];
  for (const round of [1, 2]) {
    for (const [index, way] of ways.entries()) {
      const { query, question } = ask(index, round === 1 ? way : { ...way, name: "EXAMPLE.org" });
      const answer = await dns.forward(query, question, options);
      const start = 12 + question.section.length + 12;
      assert.deepEqual([...answer.subarray(start, start + 4)], [192, 0, 2, index + 1]);
    }
  }
  assert.equal(server.asked, ways.length);
});

test("forward() goes on with the next server when the first does not answer", async (t) => {
  const silent = await upstream(t);
  silent.isSilent = true;
  const server = await upstream(t);
  const dns = forwarder(new FakeClock());
  const { query, question } = ask(1);
  const answer = await dns.forward(query, question, {
    upstreams: [silent.address, server.address],
    isTcp: false,
  });
  assert.equal(readAnswer(answer)?.code, 0);
  assert.deepEqual([silent.asked, server.asked], [1, 1]);
});

test("forward() says server failure when there is nobody to ask", async () => {
  const { query, question } = ask(1);
  const answer = await forwarder(new FakeClock()).forward(query, question, { upstreams: [], isTcp: false });
  assert.equal(readAnswer(answer)?.code, 2);
});

test("forward() joins equal questions under way into one", async (t) => {
  const server = await upstream(t);
  const dns = forwarder(new FakeClock());
  const options = { upstreams: [server.address], isTcp: false };
  await Promise.all([1, 2, 3].map((id) => dns.forward(ask(id).query, ask(id).question, options)));
  assert.equal(server.asked, 1);
});
