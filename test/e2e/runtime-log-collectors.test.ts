/** Logs that go to collectors: real containers, real sockets, receivers that read the protocols strictly, go away and come back. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { busyboxTar } from "../../bench/test-image.ts";
import type { HostConfig } from "../../model/engine.ts";
import { SoakDaemon } from "../soak/soak-daemon.ts";
import {
  countedMessages,
  forwardMessages,
  gelfMessages,
  gelfStreamMessages,
  readJournalEntry,
  readSyslog,
  syslogLines,
  type SyslogMessage,
} from "./support/log-readers.ts";
import { StreamReceiver, UdpReceiver, UnixDatagramReceiver } from "./support/log-receivers.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { selfSigned } from "./support/self-signed.ts";
import { until, WAIT_MS } from "./support/wait.ts";

function logTo(Type: string, Config: Readonly<Record<string, string>>): HostConfig {
  return { LogConfig: { Type, Config } };
}

/** Prints "line 1" to "line COUNT", `perTurn` of them at a time; each turn may wait for something else before. */
function counting(count: number, perTurn: number, turn = "sleep 0.02"): readonly string[] {
  const script = `i=0; while [ $i -lt ${count} ]; do i=$((i+1)); echo line $i; [ $((i % ${perTurn})) -ne 0 ] || { ${turn}; }; done`;
  return ["sh", "-c", script];
}

/** Every number from 1 to `count` has come, and after the first of each no smaller one came for the first time. */
function assertComplete(texts: readonly string[], count: number): void {
  const first = [...new Set(texts.map((text) => Number(/^line (\d+)$/.exec(text)?.[1] ?? "NaN")))];
  assert.deepEqual(
    first,
    Array.from({ length: count }, (_, at) => at + 1),
  );
}

describe("log collectors", () => {
  let lab: RuntimeLab;
  let folder: string;
  const journal = (): string => path.join(folder, "journal.sock");
  before(async () => {
    folder = await fs.mkdtemp(path.join(tmpdir(), "shoal-collectors-"));
    lab = await RuntimeLab.open({ journalSocket: journal() });
  });
  after(async () => {
    await lab.close();
    await fs.rm(folder, { recursive: true, force: true });
  });

  test("syslog over UDP: facility, severity, tag, and the log is kept here as well", async () => {
    const receiver = await UdpReceiver.open();
    const { id, stdout, stderr } = await lab.run(
      ["sh", "-c", "echo one; echo; echo two >&2"],
      logTo("syslog", {
        "syslog-address": `udp://127.0.0.1:${receiver.port}`,
        "syslog-facility": "local3",
        "syslog-format": "rfc5424micro",
        tag: "{{.ImageName}}/{{.ID}}",
      }),
    );
    assert.deepEqual([stdout, stderr], ["one\n\n", "two\n"]);
    await until("both lines came", WAIT_MS, () => receiver.received.length >= 2);
    await receiver.stop();
    const messages = receiver.received.map((bytes) => readSyslog(bytes, "rfc5424"));
    const found = messages.map(({ facility, severity, tag, text, hostname: host }) => [
      facility,
      severity,
      tag,
      text,
      host,
    ]);
    const tag = `box:1/${id.slice(0, 12)}`;
    assert.deepEqual(
      found.toSorted((one, other) => Number(other[1]) - Number(one[1])),
      [
        [19, 6, tag, "one", hostname()],
        [19, 3, tag, "two", hostname()],
      ],
    );
    assert.match(messages[0]?.time ?? "", /\.\d{6}Z$/);
  });

  test("syslog over TCP: a receiver that crashes and comes back gets every line", async () => {
    const first = await StreamReceiver.open({ at: 0 });
    const { port } = first;
    const texts = (receiver: StreamReceiver): readonly string[] =>
      receiver.received.flatMap((bytes) =>
        syslogLines(bytes).map((line) => readSyslog(line, "rfc3164").text),
      );
    // Of the last ones none is said before the first receiver has gone.
    const gate = path.join(folder, "gate");
    await fs.mkdir(gate);
    const turn = "while [ $i -ge 1500 ] && ! [ -e /gate/open ]; do sleep 0.02; done; sleep 0.02";
    const id = await lab.create(counting(3000, 30, turn), {
      ...logTo("syslog", { "syslog-address": `tcp://127.0.0.1:${port}`, "syslog-format": "rfc3164" }),
      Binds: [`${gate}:/gate`],
    });
    await lab.engine.containers.start(id);
    await until("some lines came", WAIT_MS, () => texts(first).length > 300);
    await first.stop();
    await fs.writeFile(path.join(gate, "open"), "");
    const count = texts(first).length;
    await lab.engine.containers.wait(id, "not-running", {});
    const second = await StreamReceiver.open({ at: port });
    await until("the last line came", WAIT_MS, () => texts(second).at(-1) === "line 3000");
    await second.stop();
    assert.ok(count < 3000);
    assertComplete([...texts(first), ...texts(second)], 3000);
  });

  test("syslog over TLS: messages are counted, an unknown certificate gets nothing", async () => {
    const { certificate, key } = selfSigned(folder, "IP:127.0.0.1");
    const tls = { key: readFileSync(key), cert: readFileSync(certificate) };
    const receiver = await StreamReceiver.open({ at: 0, tls });
    const address = { "syslog-address": `tcp+tls://127.0.0.1:${receiver.port}`, "syslog-format": "rfc5424" };
    const refused = await lab.run(["echo", "secret"], logTo("syslog", address));
    await lab.run(["echo", "told"], logTo("syslog", { ...address, "syslog-tls-ca-cert": certificate }));
    await lab.run(["echo", "told too"], logTo("syslog", { ...address, "syslog-tls-skip-verify": "true" }));
    const texts = (): readonly string[] =>
      receiver.received.flatMap((bytes) =>
        countedMessages(bytes).map((each) => readSyslog(each, "rfc5424").text),
      );
    await until("two lines came", WAIT_MS, () => texts().length >= 2);
    assert.deepEqual(texts().toSorted(), ["told", "told too"]);
    await lab.engine.containers.remove(refused.id, { force: true, volumes: true, link: false });
    await receiver.stop();
  });

  test("syslog over sockets of this machine, as streams and as datagrams", async () => {
    const [stream, datagram] = [path.join(folder, "stream.sock"), path.join(folder, "dgram.sock")];
    const streams = await StreamReceiver.open({ at: stream });
    const datagrams = new UnixDatagramReceiver(datagram);
    for (const at of [stream, datagram])
      await lab.run(["echo", "here"], logTo("syslog", { "syslog-address": `unix://${at}` }));
    const found = (): readonly SyslogMessage[] =>
      [...syslogLines(streams.bytes), ...datagrams.received].map((bytes) => readSyslog(bytes, "local"));
    await until("both came", WAIT_MS, () => found().length >= 2);
    assert.deepEqual(
      found().map(({ text, facility }) => [text, facility]),
      [
        ["here", 3],
        ["here", 3],
      ],
    );
    await streams.stop();
    await datagrams.stop();
  });

  test("gelf over UDP: compressed, and long lines in chunks", async () => {
    const receiver = await UdpReceiver.open();
    // Bytes that don't compress, as text.
    const script = "head -c 9000 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; echo short >&2";
    for (const type of ["gzip", "zlib", "none"]) {
      const before = receiver.received.length;
      const { id, stdout } = await lab.run(
        ["sh", "-c", script],
        logTo("gelf", {
          "gelf-address": `udp://127.0.0.1:${receiver.port}`,
          "gelf-compression-type": type,
          labels: "team,none",
          "env-regex": "^ZONE",
        }),
        { config: { Labels: { team: "blue" }, Env: ["ZONE_A=1", "OTHER=2"] } },
      );
      const found = () => gelfMessages(receiver.received.slice(before));
      await until(`all of ${type} came`, WAIT_MS, () => found().length >= 3);
      const lines = found();
      const text = lines.map((each) => each["short_message"]).filter((each) => each !== "short");
      assert.equal(`${text.join("")}\n`, stdout);
      const short = lines.find((each) => each["short_message"] === "short") ?? {};
      assert.deepEqual(
        [
          short["level"],
          short["_container_id"],
          short["_team"],
          short["_ZONE_A"],
          short["_OTHER"],
          short["_tag"],
        ],
        [3, id, "blue", "1", undefined, id.slice(0, 12)],
      );
      assert.ok(Math.abs(Number(short["timestamp"]) - Date.now() / 1000) < 600);
    }
    await receiver.stop();
  });

  test("gelf over UDP: what was sent to a closed port is sent again", async () => {
    const gone = await UdpReceiver.open();
    const { port } = gone;
    await gone.stop();
    await lab.run(counting(500, 50), logTo("gelf", { "gelf-address": `udp://127.0.0.1:${port}` }));
    const receiver = await UdpReceiver.open(port);
    const texts = (): readonly string[] =>
      gelfMessages(receiver.received).map((each) => String(each["short_message"] as string));
    await until("the last line came", WAIT_MS, () => texts().at(-1) === "line 500");
    await receiver.stop();
    assertComplete(texts(), 500);
  });

  test("gelf over TCP: zero bytes end messages", async () => {
    const receiver = await StreamReceiver.open({ at: 0 });
    await lab.run(
      ["sh", "-c", "echo one; echo two"],
      logTo("gelf", { "gelf-address": `tcp://127.0.0.1:${receiver.port}` }),
    );
    await until("both came", WAIT_MS, () => gelfStreamMessages(receiver.bytes).length >= 2);
    assert.deepEqual(
      gelfStreamMessages(receiver.bytes).map((each) => each["short_message"]),
      ["one", "two"],
    );
    await receiver.stop();
  });

  test("fluentd: a receiver that dies before it answers gets the lines again", async () => {
    let isSilent = true;
    const heard = (bytes: Buffer): Buffer | undefined => {
      if (isSilent) return undefined;
      const chunk = forwardMessages(bytes).at(-1)?.options.get("chunk");
      if (typeof chunk !== "string") return undefined;
      const answer = Buffer.concat([
        Buffer.from([0x81, 0xa3]),
        Buffer.from("ack"),
        Buffer.from([0xa0 | chunk.length]),
        Buffer.from(chunk),
      ]);
      return answer;
    };
    const at = path.join(folder, "fluentd.sock");
    const first = await StreamReceiver.open({ at, heard });
    const options = {
      "fluentd-address": `unix://${at}`,
      "fluentd-request-ack": "true",
      "fluentd-sub-second-precision": "true",
      "fluentd-async": "true",
      "fluentd-retry-wait": "100ms",
      tag: "app.{{.Name}}",
    };
    const { id } = await lab.run(["sh", "-c", "echo out; echo err >&2"], logTo("fluentd", options));
    await until("lines came", WAIT_MS, () => forwardMessages(first.bytes).length > 0);
    await first.stop();
    isSilent = false;
    const second = await StreamReceiver.open({ at, heard });
    await until(
      "both lines came",
      WAIT_MS,
      () => forwardMessages(second.bytes).flatMap((each) => each.entries).length >= 2,
    );
    const [message] = forwardMessages(second.bytes);
    const { Name } = await lab.engine.containers.inspect(id, { size: false });
    assert.equal(message?.tag, `app.${String(Name as string).slice(1)}`);
    const records = forwardMessages(second.bytes).flatMap((each) => each.entries);
    const told = records.map(({ record }) => `${record.get("source")}: ${record.get("log")}`);
    assert.deepEqual(told.toSorted(), ["stderr: err", "stdout: out"]);
    assert.deepEqual(
      [records[0]?.record.get("container_id"), records[0]?.record.get("container_name")],
      [id, Name],
    );
    assert.equal(typeof records[0]?.time, "object");
    await second.stop();
  });

  test("journald: native entries with the container's fields, and long lines in pieces", async () => {
    const receiver = new UnixDatagramReceiver(journal());
    const { id } = await lab.run(
      ["sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x; echo; echo end >&2"],
      logTo("journald", { labels: "_a.b", tag: "t" }),
      { config: { Labels: { "_a.b": "two\nlines" } } },
    );
    const entries = () => receiver.received.map((bytes) => readJournalEntry(bytes));
    await until("three entries came", WAIT_MS, () => entries().length >= 3);
    await receiver.stop();
    const [head, rest] = entries().filter((each) => each.get("PRIORITY") === "6");
    assert.deepEqual([head?.get("MESSAGE")?.length, rest?.get("MESSAGE")?.length], [16_384, 20_000 - 16_384]);
    assert.deepEqual(
      [
        head?.get("CONTAINER_PARTIAL_MESSAGE"),
        head?.get("CONTAINER_PARTIAL_ORDINAL"),
        rest?.get("CONTAINER_PARTIAL_LAST"),
      ],
      ["true", "1", "true"],
    );
    assert.equal(rest?.get("CONTAINER_PARTIAL_ID"), head?.get("CONTAINER_PARTIAL_ID"));
    const end = entries().find((each) => each.get("MESSAGE") === "end");
    assert.deepEqual(
      [
        end?.get("PRIORITY"),
        end?.get("CONTAINER_ID_FULL"),
        end?.get("CONTAINER_TAG"),
        end?.get("IMAGE_NAME"),
        end?.get("A_B"),
      ],
      ["3", id, "t", "box:1", "two\nlines"],
    );
  });

  test("what a collector has not had outlives its container, and is gone when it has", async () => {
    const at = path.join(folder, "late.sock");
    const id = await lab.create(counting(200, 50), {
      ...logTo("syslog", { "syslog-address": `unix://${at}` }),
      AutoRemove: true,
    });
    const gone = lab.engine.containers.wait(id, "removed", {});
    await lab.engine.containers.start(id);
    await gone;
    await lab.restart();
    const spool = path.join(lab.root, "data/log-spool", id);
    assert.ok(existsSync(spool));
    const receiver = await StreamReceiver.open({ at });
    await until("the log is gone", WAIT_MS, () => !existsSync(spool));
    const texts = (): readonly string[] =>
      syslogLines(receiver.bytes).map((line) => readSyslog(line, "local").text);
    // It has all been sent, and may be on its way within the socket.
    await until("the last line came", WAIT_MS, () => texts().at(-1) === "line 200");
    await receiver.stop();
    assertComplete(texts(), 200);
  });

  test("a rotated log is sent whole, and what a bound took is not waited for", async () => {
    const at = path.join(folder, "rotated.sock");
    const config = (files: string): HostConfig =>
      logTo("syslog", { "syslog-address": `unix://${at}`, "cache-max-size": "4k", "cache-max-file": files });
    const kept = await lab.create(counting(1500, 100), config("100"));
    const cut = await lab.create(counting(1500, 100), config("2"));
    for (const id of [kept, cut]) {
      await lab.engine.containers.start(id);
      await lab.engine.containers.wait(id, "not-running", {});
    }
    const receiver = await StreamReceiver.open({ at });
    const byTag = (id: string): readonly string[] =>
      syslogLines(receiver.bytes)
        .map((line) => readSyslog(line, "local"))
        .filter(({ tag }) => tag === id.slice(0, 12))
        .map(({ text }) => text);
    await until("both ends came", WAIT_MS, () => [kept, cut].every((id) => byTag(id).at(-1) === "line 1500"));
    assertComplete(byTag(kept), 1500);
    const last = byTag(cut);
    assert.ok(last.length < 400 && last.length > 20, `${last.length} lines`);
    await receiver.stop();
  });

  test("cache-disabled: nothing to read here, all of it there", async () => {
    const at = path.join(folder, "uncached.sock");
    const receiver = await StreamReceiver.open({ at });
    const id = await lab.create(
      ["echo", "away"],
      logTo("syslog", { "syslog-address": `unix://${at}`, "cache-disabled": "true" }),
    );
    await lab.engine.containers.start(id);
    await lab.engine.containers.wait(id, "not-running", {});
    await until("it came", WAIT_MS, () => syslogLines(receiver.bytes).length > 0);
    await assert.rejects(lab.output(id), /configured logging driver does not support reading/);
    await receiver.stop();
  });
});

test("a daemon that is killed again and again loses no line on its way to a collector", async () => {
  const root = await fs.mkdtemp(path.join(tmpdir(), "shoal-collector-kill-"));
  const at = path.join(root, "collector.sock");
  const daemon = await SoakDaemon.open(root);
  const receiver = await StreamReceiver.open({ at });
  const texts = (): readonly string[] =>
    receiver.received.flatMap((bytes) => syslogLines(bytes).map((line) => readSyslog(line, "local").text));
  const has = (number: number): boolean => texts().some((text) => text === `line ${number}`);
  try {
    daemon.start();
    const image = await daemon.call("POST", "/images/create?fromSrc=-&repo=box&tag=1", busyboxTar());
    assert.equal(image.status, 200);
    const made = await daemon.call("POST", "/containers/create?name=counter", {
      Image: "box:1",
      Cmd: counting(4000, 20),
      HostConfig: { NetworkMode: "none", ...logTo("syslog", { "syslog-address": `unix://${at}` }) },
    });
    assert.equal(made.status, 201, made.body.toString());
    assert.equal((await daemon.call("POST", "/containers/counter/start")).status, 204);
    for (const number of [400, 1200, 2000]) {
      await until(`line ${number} came`, WAIT_MS, () => has(number));
      await daemon.kill();
      daemon.start();
    }
    await until("the last line came", WAIT_MS, () => has(4000));
    assertComplete(texts(), 4000);
    assert.equal((await daemon.call("DELETE", "/containers/counter?force=1")).status, 204);
  } finally {
    await daemon.stop();
    daemon.close();
    await receiver.stop();
    await fs.rm(root, { recursive: true, force: true });
  }
});
