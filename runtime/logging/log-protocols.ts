/** What each driver speaks and to whom: its messages, its connection, and how long it waits after one was lost. */
import * as fs from "node:fs/promises";
import { isIP } from "node:net";
import type * as tls from "node:tls";
import type { Random } from "../../common/env.ts";
import type { LogAddress } from "../../model/log-addresses.ts";
import { parseFluentdAddress, parseGelfAddress, parseSyslogAddress } from "../../model/log-addresses.ts";
import { parseLogBoolean } from "../../model/log-drivers.ts";
import { parseDuration } from "../../model/units.ts";
import { hasErrno } from "../network/libc.ts";
import type { Collector, Outgoing } from "./collector.ts";
import { type TooLong, UdpCollector, UnixDatagramCollector } from "./datagram-collector.ts";
import { fluentdAnswer, fluentdMessage } from "./fluentd-format.ts";
import { gelfDatagrams, gelfStream } from "./gelf-format.ts";
import { journalEntry } from "./journal-format.ts";
import type { LogMessage } from "./log-message.ts";
import type { LogTarget } from "./log-target.ts";
import { StreamCollector } from "./stream-collector.ts";
import { syslogMessage } from "./syslog-format.ts";

const RETRY_FIRST_MS = 250;
const RETRY_MAX_MS = 15_000;
const CHUNK_ID_BYTES = 16;
const GELF_ID_BYTES = 8;
const NS_PER_MS = 1e6;

export interface LogProtocol {
  /** Of tries to connect. */
  readonly retry: { readonly firstMs: number; readonly maxMs: number };
  /** Rejects when `signal` ends it; a connection ends with it, too. */
  connect(signal: AbortSignal): Promise<Collector>;
  encode(messages: readonly LogMessage[]): Outgoing;
}

export interface ProtocolDeps {
  readonly random: Pick<Random, "bytes">;
  /** Of the journal's native protocol. */
  readonly journalSocket: string;
  readonly tooLong: TooLong;
}

type Endpoint = Extract<LogAddress, { readonly host: string }>;

interface ConnectSettings {
  readonly tooLong: TooLong;
  readonly signal: AbortSignal;
  /** Default false. */
  readonly hasAnswers?: boolean;
  readonly secure?: (to: Endpoint) => Promise<tls.ConnectionOptions>;
}

async function connectTo(
  address: LogAddress,
  { tooLong, signal, hasAnswers = false, secure = plainTls }: ConnectSettings,
): Promise<Collector> {
  const stream = { hasAnswers, signal };
  switch (address.network) {
    case "udp":
      return UdpCollector.connect(address, tooLong);
    case "unixgram":
      return new UnixDatagramCollector(address.path, tooLong);
    case "unix":
      return StreamCollector.connect({ ...stream, to: { path: address.path } });
    case "tcp":
      return StreamCollector.connect({ ...stream, to: { host: address.host, port: address.port } });
    case "tls": {
      const { host, port } = address;
      return StreamCollector.connect({ ...stream, to: { host, port }, tls: await secure(address) });
    }
  }
}

function plainTls({ host }: Endpoint): Promise<tls.ConnectionOptions> {
  return Promise.resolve({ host, ...(isIP(host) === 0 ? { servername: host } : {}) });
}

/** Files are read at each connection: a certificate may have been renewed. */
function syslogTls({ options }: LogTarget): (to: Endpoint) => Promise<tls.ConnectionOptions> {
  const file = async (option: string): Promise<Buffer | undefined> => {
    const path = options[option] ?? "";
    return path === "" ? undefined : fs.readFile(path);
  };
  return async (to) => {
    const [ca, cert, key] = [
      await file("syslog-tls-ca-cert"),
      await file("syslog-tls-cert"),
      await file("syslog-tls-key"),
    ];
    return {
      ...(await plainTls(to)),
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
      rejectUnauthorized: (options["syslog-tls-skip-verify"] ?? "") === "",
    };
  };
}

/** A system's syslog may be a stream or take datagrams: the address doesn't tell. */
async function connectSyslog(target: LogTarget, deps: ConnectSettings): Promise<Collector> {
  const address = parseSyslogAddress(target.options["syslog-address"] ?? "");
  const settings = { ...deps, secure: syslogTls(target) };
  try {
    return await connectTo(address, settings);
  } catch (caught) {
    if (address.network === "unix" && isPrototypeError(caught))
      return connectTo({ ...address, network: "unixgram" }, settings);
    if (address.network === "unixgram" && hasErrno(caught, "EPROTOTYPE"))
      return connectTo({ ...address, network: "unix" }, settings);
    throw caught;
  }
}

function isPrototypeError(caught: unknown): boolean {
  return caught instanceof Error && "code" in caught && caught.code === "EPROTOTYPE";
}

const RETRY = { firstMs: RETRY_FIRST_MS, maxMs: RETRY_MAX_MS };

function retryFrom(firstMs: number): LogProtocol["retry"] {
  return firstMs > 0 ? { firstMs, maxMs: Math.max(firstMs, RETRY_MAX_MS) } : RETRY;
}

function syslog(target: LogTarget, { tooLong }: ProtocolDeps): LogProtocol {
  const { network } = parseSyslogAddress(target.options["syslog-address"] ?? "");
  const to = { network, processId: process.pid };
  return {
    retry: RETRY,
    connect: (signal) => connectSyslog(target, { tooLong, signal }),
    encode: (messages) => ({ units: messages.flatMap((message) => syslogMessage(message, target, to)) }),
  };
}

function gelf(target: LogTarget, { random, tooLong }: ProtocolDeps): LogProtocol {
  const address = parseGelfAddress(target.options["gelf-address"] ?? "");
  const newId = (): Uint8Array => random.bytes(GELF_ID_BYTES);
  const unitsOf = (message: LogMessage): readonly Buffer[] => {
    if (address.network === "tcp") return gelfStream(message, target);
    const datagrams = gelfDatagrams(message, target, newId);
    if (datagrams === undefined) tooLong(message.line.length);
    return datagrams ?? [];
  };
  return {
    retry: retryFrom(Number(target.options["gelf-tcp-reconnect-delay"] ?? "0") * 1000),
    connect: (signal) => connectTo(address, { tooLong, signal }),
    encode: (messages) => ({ units: messages.flatMap(unitsOf) }),
  };
}

function fluentd(target: LogTarget, { random, tooLong }: ProtocolDeps): LogProtocol {
  const { options } = target;
  const address = parseFluentdAddress(options["fluentd-address"] ?? "");
  const hasAnswers = parseLogBoolean(options["fluentd-request-ack"], "fluentd-request-ack") === true;
  const wait = options["fluentd-retry-wait"] ?? options["fluentd-async-reconnect-interval"] ?? "0";
  return {
    retry: retryFrom(parseDuration(wait) / NS_PER_MS),
    connect: (signal) => connectTo(address, { tooLong, signal, hasAnswers }),
    encode: (messages) => {
      if (!hasAnswers) return { units: [fluentdMessage(messages, target, undefined)] };
      const chunk = Buffer.from(random.bytes(CHUNK_ID_BYTES)).toString("base64");
      return { units: [fluentdMessage(messages, target, chunk)], answer: fluentdAnswer(chunk) };
    },
  };
}

function journald(target: LogTarget, { journalSocket, tooLong }: ProtocolDeps): LogProtocol {
  const address = { network: "unixgram", path: journalSocket } as const;
  return {
    retry: RETRY,
    connect: (signal) => connectTo(address, { tooLong, signal }),
    encode: (messages) => ({ units: messages.map((message) => journalEntry(message, target)) }),
  };
}

/** Throws if the target's options are none that the driver takes. */
export function logProtocol(target: LogTarget, deps: ProtocolDeps): LogProtocol {
  switch (target.driver) {
    case "syslog":
      return syslog(target, deps);
    case "gelf":
      return gelf(target, deps);
    case "fluentd":
      return fluentd(target, deps);
    case "journald":
      return journald(target, deps);
  }
}
