/**
 * Asks other name servers what this node does not know: the first at once, the second if that one is slow, with a cache that
 * serves what has expired while nobody answers. Used by the name servers of user bridges and of the cluster's node.
 * Bounded in questions under way, cached answers and time.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSocket } from "node:dgram";
import { connect, isIP } from "node:net";
import type { Cancel, Clock, Random, Timers } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { DnsCode, encodeAnswer, readAnswer } from "./dns-wire.ts";
import type { DnsQuestion } from "./dns-wire.ts";

const DNS_PORT = 53;
/** Time that one server has before the next is asked too. */
const HEDGE_MS = 700;
const TIMEOUT_MS = 4_000;
const UNDER_WAY_MAX = 1_024;
const CACHE_ENTRIES_MAX = 4_096;
const TTL_SECONDS_MAX = 3_600;
const STALE_MS = 3_600_000;
const UPSTREAMS_MAX = 3;
const RESOLV_CONF_AGE_MS = 5_000;

interface CacheEntry {
  readonly answer: Buffer;
  readonly expiresMs: number;
}

export interface ForwarderDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
}

/** Servers to ask, "address" or "address:port" (IPv4). */
export type Upstreams = readonly string[];

export interface ResolvConf {
  readonly nameservers: readonly string[];
  readonly search: readonly string[];
}

/** The host's own resolver settings, without servers on loopback that containers can't reach by the same address. */
function readResolvConf(file: string): ResolvConf {
  let text = "";
  try {
    text = readFileSync(file, "utf8");
  } catch (caught) {
    if (ClusterError.from(caught).code !== "not_found") throw caught;
  }
  const fields = text
    .split("\n")
    .map((line) =>
      line
        .replace(/[#;].*$/, "")
        .trim()
        .split(/\s+/),
    )
    .filter((words) => words.length > 1);
  const nameservers = fields.filter(([key]) => key === "nameserver").map((words) => words[1] ?? "");
  return {
    nameservers: nameservers.filter((server) => isIP(server) === 4),
    search: fields.findLast(([key]) => key === "search" || key === "domain")?.slice(1) ?? [],
  };
}

export class DnsForwarder {
  readonly #deps: ForwarderDeps;
  readonly #resolvConf: string;
  readonly #cache = new Map<string, CacheEntry>();
  readonly #underWay = new Map<string, Promise<Buffer | undefined>>();
  #host: ResolvConf | undefined;
  #hostReadMs = 0;

  constructor(deps: ForwarderDeps, resolvConf = "/etc/resolv.conf") {
    this.#deps = deps;
    this.#resolvConf = resolvConf;
  }

  /** The host's settings, read again when older than some seconds. */
  host(): ResolvConf {
    const now = this.#deps.clock.monotonicMs();
    if (this.#host === undefined || now - this.#hostReadMs > RESOLV_CONF_AGE_MS) {
      this.#host = readResolvConf(this.#resolvConf);
      this.#hostReadMs = now;
    }
    return this.#host;
  }

  /** An answer for the client that asked `question` with the bytes `query`; a server failure if nobody answers. */
  async forward(
    query: Buffer,
    question: DnsQuestion,
    options: { readonly upstreams: Upstreams; readonly isTcp: boolean },
  ): Promise<Buffer> {
    const upstreams = options.upstreams.slice(0, UPSTREAMS_MAX);
    const key = `${cacheKey(query, question)} ${options.isTcp} ${upstreams.join()}`;
    const cached = this.#cache.get(key);
    const now = this.#deps.clock.monotonicMs();
    if (cached !== undefined && cached.expiresMs > now) return withIdentity(cached.answer, question);
    const answer = await this.#ask(key, query, question, upstreams, options.isTcp);
    if (answer !== undefined) return withIdentity(answer, question);
    if (cached !== undefined && cached.expiresMs + STALE_MS > now)
      return withIdentity(cached.answer, question);
    return encodeAnswer(question, { code: DnsCode.serverFailure, records: [] }, question.udpBytes);
  }

  #ask(
    key: string,
    query: Buffer,
    question: DnsQuestion,
    upstreams: Upstreams,
    isTcp: boolean,
  ): Promise<Buffer | undefined> {
    const running = this.#underWay.get(key);
    if (running !== undefined) return running;
    if (this.#underWay.size >= UNDER_WAY_MAX || upstreams.length === 0) return Promise.resolve(undefined);
    const asked = new UpstreamQuestion(this.#deps, query, question, isTcp)
      .ask(upstreams)
      .then((answer) => {
        if (answer !== undefined) this.#remember(key, answer);
        return answer;
      })
      .finally(() => this.#underWay.delete(key));
    this.#underWay.set(key, asked);
    return asked;
  }

  #remember(key: string, answer: Buffer): void {
    const facts = readAnswer(answer);
    if (facts === undefined || facts.isTruncated) return;
    if (facts.code !== DnsCode.ok && facts.code !== DnsCode.noSuchName) return;
    this.#cache.delete(key);
    const oldest = this.#cache.keys().next();
    if (this.#cache.size >= CACHE_ENTRIES_MAX && oldest.done !== true) this.#cache.delete(oldest.value);
    const expiresMs = this.#deps.clock.monotonicMs() + Math.min(facts.ttlSeconds, TTL_SECONDS_MAX) * 1_000;
    this.#cache.set(key, { answer, expiresMs });
  }
}

/**
 * Equal for those who may share an answer: all but the number and the letter case must be the same. Another class has other
 * records, one that checks signatures needs them, and one's cookie makes another take the answer for a forgery.
 */
function cacheKey(query: Buffer, { name, section }: DnsQuestion): string {
  const [recursionAndChecking, questionStart] = [0x0110, 12];
  const flags = query.readUInt16BE(2) & recursionAndChecking;
  const typeAndClass = section.toString("hex", section.length - 4);
  const options = createHash("sha256").update(query.subarray(questionStart + section.length));
  return `${name} ${typeAndClass} ${flags} ${options.digest("base64")}`;
}

/** A cached answer is another client's: number and letter case of the question are put back to this one's. */
function withIdentity(answer: Buffer, question: DnsQuestion): Buffer {
  const own = Buffer.from(answer);
  own.writeUInt16BE(question.id, 0);
  question.section.copy(own, 12);
  return own;
}

/** One question on its way: ends with the first usable answer, or undefined when all failed or time is up. */
class UpstreamQuestion {
  readonly #deps: ForwarderDeps;
  readonly #query: Buffer;
  readonly #question: DnsQuestion;
  readonly #isTcp: boolean;
  readonly #cleanups: Cancel[] = [];
  #lastFailure: Buffer | undefined;

  constructor(deps: ForwarderDeps, query: Buffer, question: DnsQuestion, isTcp: boolean) {
    this.#deps = deps;
    this.#question = question;
    this.#isTcp = isTcp;
    this.#query = Buffer.from(query);
    // A number of our own: the client's may be guessable.
    this.#query.writeUInt16BE(deps.random.below(0x10000), 0);
  }

  async ask(upstreams: Upstreams): Promise<Buffer | undefined> {
    try {
      return await new Promise<Buffer | undefined>((resolve) => this.#race(upstreams, resolve));
    } finally {
      for (const cleanup of this.#cleanups) cleanup();
    }
  }

  #race(upstreams: Upstreams, resolve: (answer: Buffer | undefined) => void): void {
    let next = 0;
    let failedCount = 0;
    const timers = this.#deps.timers;
    const start = (): void => {
      const upstream = upstreams[next];
      if (upstream === undefined) return;
      next += 1;
      this.#cleanups.push(timers.after(HEDGE_MS, start));
      this.#try(upstream, (answer) => {
        const code = answer === undefined ? undefined : readAnswer(answer)?.code;
        if (answer !== undefined && (code === DnsCode.ok || code === DnsCode.noSuchName))
          return resolve(answer);
        this.#lastFailure = answer ?? this.#lastFailure;
        failedCount += 1;
        if (failedCount === upstreams.length) resolve(this.#lastFailure);
        else start();
      });
    };
    this.#cleanups.push(timers.after(TIMEOUT_MS, () => resolve(this.#lastFailure)));
    start();
  }

  #try(upstream: string, done: (answer: Buffer | undefined) => void): void {
    const [host = "", port] = upstream.split(":");
    const target = { host, port: port === undefined ? DNS_PORT : Number(port) };
    if (this.#isTcp) this.#tryTcp(target, once(done));
    else this.#tryUdp(target, once(done));
  }

  #tryUdp(
    target: { readonly host: string; readonly port: number },
    done: (answer: Buffer | undefined) => void,
  ): void {
    const socket = createSocket("udp4");
    this.#cleanups.push(() => socket.close());
    socket.on("error", () => done(undefined));
    socket.on("message", (answer, from) => {
      if (from.address === target.host && this.#isAnswer(answer)) done(answer);
    });
    socket.send(this.#query, target.port, target.host, (failure) => {
      if (failure !== null) done(undefined);
    });
  }

  #tryTcp(
    target: { readonly host: string; readonly port: number },
    done: (answer: Buffer | undefined) => void,
  ): void {
    const socket = connect(target);
    this.#cleanups.push(() => socket.destroy());
    let received = Buffer.alloc(0);
    socket.on("error", () => done(undefined));
    socket.on("close", () => done(undefined));
    socket.on("data", (bytes: Buffer) => {
      received = Buffer.concat([received, Buffer.from(bytes)]);
      if (received.length < 2 || received.length < 2 + received.readUInt16BE(0)) return;
      const answer = Buffer.from(received.subarray(2, 2 + received.readUInt16BE(0)));
      done(this.#isAnswer(answer) ? answer : undefined);
    });
    const length = Buffer.alloc(2);
    length.writeUInt16BE(this.#query.length, 0);
    socket.write(Buffer.concat([length, this.#query]));
  }

  /** Number and question must be ours, else anyone who guesses the port could answer. */
  #isAnswer(answer: Buffer): boolean {
    const { section } = this.#question;
    return (
      answer.length >= 12 + section.length &&
      answer.readUInt16BE(0) === this.#query.readUInt16BE(0) &&
      (answer.readUInt16BE(2) & 0x8000) !== 0 &&
      answer.subarray(12, 12 + section.length).equals(section)
    );
  }
}

function once(done: (answer: Buffer | undefined) => void): (answer: Buffer | undefined) => void {
  let isDone = false;
  return (answer) => {
    if (isDone) return;
    isDone = true;
    done(answer);
  };
}
