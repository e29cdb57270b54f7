/**
 * One request and its answer, as the routes see it: query, parameters, JSON body, plain answers, flushed streams, and
 * the hand-over of the bare connection. The server makes one for each request; routes never touch Node's objects.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { PassThrough, type Duplex, type Readable } from "node:stream";
import { assert } from "../common/assert.ts";
import type { Timers } from "../common/env.ts";
import { ClusterError } from "../common/errors.ts";
import type { Filters, Json, JsonObject } from "../model/engine.ts";
import { checkJsonType, parseList, parseObject, readWhole } from "./body.ts";
import { ByteSink } from "./byte-sink.ts";
import { badParameter, JSON_TYPE } from "./error-body.ts";
import { checkFilterKeys } from "../model/filters.ts";
import { parseFilters } from "./filters.ts";
import { takeOver, type Hijacked } from "./hijack.ts";
import { LIST_PIECE_COUNT } from "./limits.ts";
import type { Query } from "./query.ts";
import { canonical, type Vocabulary } from "./vocabulary.ts";

export interface ExchangeParts {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly params: ReadonlyMap<string, string>;
  readonly query: Query;
  /** Minor number of the API version asked for: 41 for /v1.41. */
  readonly apiMinor: number;
  readonly timers: Timers;
  /** Set when the client asked for an upgrade: the bare connection after the request and its body. */
  readonly upgraded: Duplex | undefined;
}

/** Made once: a reason of its own for each request would cost more than most requests' work. */
const OVER = new DOMException("The client is gone, or has its answer", "AbortError");

export type HeaderValues = Readonly<Record<string, string>>;

export class Exchange {
  readonly query: Query;
  readonly apiMinor: number;
  readonly #parts: ExchangeParts;
  /** Made when it is first asked for: few routes do. */
  #abort: AbortController | undefined;
  #isOver = false;
  #isHijacked = false;
  #body: PassThrough | undefined;

  constructor(parts: ExchangeParts) {
    this.#parts = parts;
    this.query = parts.query;
    this.apiMinor = parts.apiMinor;
    const { request, response } = parts;
    const abort = (): void => {
      this.#isOver = true;
      this.#abort?.abort(OVER);
    };
    // As in Go's server, a client that shuts down its side of a plain request no longer waits for a stream.
    // A request that was handed over (hijack) watches its connection itself.
    if (parts.upgraded === undefined) request.socket.once("end", abort);
    response.once("close", () => {
      request.socket.off("end", abort);
      abort();
    });
  }

  /** Aborted once the client is gone or the answer is complete. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#isOver) this.#abort.abort(OVER);
    }
    return this.#abort.signal;
  }

  get isHijacked(): boolean {
    return this.#isHijacked;
  }

  get isUpgrade(): boolean {
    return this.#parts.upgraded !== undefined;
  }

  get headersSent(): boolean {
    return this.#parts.response.headersSent;
  }

  param(name: string): string {
    return this.#parts.params.get(name) ?? "";
  }

  header(name: string): string | undefined {
    const value = this.#parts.request.headers[name.toLowerCase()];
    const first = Array.isArray(value) ? value[0] : value;
    return first === "" ? undefined : first;
  }

  /** All values of a header that may come several times, in order. */
  headerValues(name: string): readonly string[] {
    return this.#parts.request.headersDistinct[name.toLowerCase()] ?? [];
  }

  /** The parsed `filters`; a 400 for keys that are not among `known`. */
  filters(known: ReadonlySet<string>): Filters {
    const filters = parseFilters(this.query.text("filters"));
    checkFilterKeys(filters, known);
    return filters;
  }

  /**
   * The body as it comes, for tar uploads. A stream of its own: who gives up on it destroys it, and the request must
   * live on to carry the error back. It fails if the client goes away in the middle.
   */
  body(): Readable {
    const { request } = this.#parts;
    const body = new PassThrough();
    body.on("error", () => body.destroy());
    const broken = (): void => {
      if (!request.readableEnded)
        body.destroy(new Error("the client closed the connection before the body's end"));
    };
    request.once("error", broken).once("close", broken);
    body.once("close", () => {
      request.off("error", broken).off("close", broken).unpipe(body).resume();
    });
    request.pipe(body);
    this.#body = body;
    return body;
  }

  /** The handler has done with the body, read or not: what is left of it is dropped. */
  dropBody(): void {
    if (this.#body !== undefined && !this.#body.destroyed) this.#body.destroy();
    this.#parts.request.resume();
  }

  /** The JSON body with the model's field names; an empty object if there is none. */
  async optionalJson(words: Vocabulary): Promise<JsonObject> {
    return (await this.#readJson(words)) ?? {};
  }

  /** The JSON body with the model's field names; a 400 if there is none. */
  async json(words: Vocabulary): Promise<JsonObject> {
    const object = await this.#readJson(words);
    if (object === undefined) throw badParameter("invalid JSON: got EOF while reading request body");
    return object;
  }

  /** The JSON body as a list, which is empty if there is none. */
  async jsonList(): Promise<readonly Json[]> {
    const bytes = await readWhole(this.#parts.request, this.#parts.timers);
    if (bytes.byteLength === 0) return [];
    checkJsonType(this.header("content-type"));
    return parseList(bytes);
  }

  async #readJson(words: Vocabulary): Promise<JsonObject | undefined> {
    const bytes = await readWhole(this.#parts.request, this.#parts.timers);
    if (bytes.byteLength === 0) return undefined;
    checkJsonType(this.header("content-type"));
    const object = parseObject(bytes);
    return object === undefined ? undefined : canonical(object, words);
  }

  /** Answers with JSON. */
  send(status: number, value: unknown, headers: HeaderValues = {}): void {
    this.text(status, JSON_TYPE, `${JSON.stringify(value)}\n`, headers);
  }

  /**
   * Answers with a list. A long one is made and sent in pieces: turning 100,000 tasks into text at once would hold up
   * everything else in this process, the manager's heartbeats first.
   */
  async sendList<T>(items: readonly T[], toJson: (item: T) => unknown): Promise<void> {
    if (items.length <= LIST_PIECE_COUNT) {
      this.send(200, items.map(toJson));
      return;
    }
    const sink = this.stream(JSON_TYPE);
    for (let start = 0; start < items.length; start += LIST_PIECE_COUNT) {
      const piece = items.slice(start, start + LIST_PIECE_COUNT);
      const text = piece.map((item) => JSON.stringify(toJson(item))).join(",");
      if (!(await sink.write(`${start === 0 ? "[" : ","}${text}`))) return;
      await new Promise<void>((resolve) => void setImmediate(resolve));
    }
    await sink.write("]\n");
    sink.end();
  }

  text(status: number, contentType: string, text: string, headers: HeaderValues = {}): void {
    const { response } = this.#parts;
    if (response.destroyed || response.writableEnded) return;
    response.writeHead(status, {
      ...headers,
      "Content-Type": contentType,
      "Content-Length": Buffer.byteLength(text),
    });
    // As text it goes out together with the head, in one piece.
    response.end(text);
  }

  /** Answers without a body. 304 and 204 have no length, others say 0. */
  empty(status: number, headers: HeaderValues = {}): void {
    const { response } = this.#parts;
    if (response.destroyed || response.writableEnded) return;
    const length = status === 204 || status === 304 ? {} : { "Content-Length": 0 };
    response.writeHead(status, { ...headers, ...length });
    response.end();
  }

  /** Sends status and headers at once; the body follows through the sink. */
  stream(contentType: string, headers: HeaderValues = {}, status = 200): ByteSink {
    const { response } = this.#parts;
    response.writeHead(status, { ...headers, "Content-Type": contentType });
    response.flushHeaders();
    return new ByteSink(response);
  }

  /** Sends a byte stream to its end with back-pressure. Rejects if `content` fails; the connection is then cut. */
  async pipe(contentType: string, content: Readable, headers: HeaderValues = {}): Promise<void> {
    const sink = this.stream(contentType, headers);
    try {
      for await (const chunk of content as AsyncIterable<Uint8Array>) {
        if (!(await sink.write(chunk))) return;
      }
      sink.end();
    } catch (error) {
      // The status is out: only a broken connection tells the client that the content is not whole.
      this.cut();
      throw ClusterError.from(error);
    } finally {
      content.destroy();
    }
  }

  /** Cuts the connection: for answers that went wrong after their status was sent. */
  cut(): void {
    this.#parts.request.socket.destroy();
  }

  /** Takes the connection over: 101 for clients that asked for it, else the bare 200 form. */
  hijack(contentType: string): Hijacked {
    assert(!this.#isHijacked && !this.headersSent, "a connection is handed over once, before an answer");
    this.#isHijacked = true;
    return takeOver({ ...this.#parts, contentType });
  }

  /** Takes over an upgraded connection without an answer; the caller speaks the protocol from the first byte on. */
  hijackSilently(): Duplex {
    const { upgraded, response } = this.#parts;
    if (upgraded === undefined)
      throw badParameter("Cannot switch protocols: the request has no Upgrade header");
    this.#isHijacked = true;
    response.detachSocket(this.#parts.request.socket);
    return upgraded;
  }
}
