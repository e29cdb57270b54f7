/**
 * Sends one container's log to its collector: reads what the monitor has written from where the collector has it, sends it, and notes how far
 * that is. Every line is sent at least once, in order, as long as the log holds it. A collector that can't be reached is tried again for
 * ever; the container never waits for it.
 */
import * as fs from "node:fs/promises";
import path from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { Backoff } from "../../common/backoff.ts";
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import { isObject } from "../../common/json.ts";
import type { Logger } from "../../common/log.ts";
import { LOCAL_FORMAT } from "../containers/log-formats.ts";
import { LogFollower } from "../containers/log-reader.ts";
import { type Collector, Loss } from "./collector.ts";
import { LineAssembler } from "./log-message.ts";
import type { LogProtocol } from "./log-protocols.ts";
import { LogTail, type LogBatch, type LogPosition } from "./log-tail.ts";

const POSITION_FILE = "position.json";
/** Made ready in one turn of the event loop: compressing one takes some 40 microseconds. */
const SLICE_LINES = 128;
/** Without news of the log. */
const IDLE_MS = 5000;

export interface LogForwarderOptions {
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  readonly containerId: string;
  /** Of the live log file; the position is kept beside it. */
  readonly path: string;
  readonly protocol: LogProtocol;
  /** Whether more may be written. */
  readonly isRunning: () => boolean;
  readonly changed: Set<() => void>;
}

/** What the collector got, but might lose if it went away now. */
interface Unsettled {
  readonly end: LogPosition;
  readonly sinceMs: number;
}

async function readPosition(file: string): Promise<LogPosition | undefined> {
  try {
    const value: unknown = JSON.parse(await fs.readFile(file, "utf8"));
    if (!isObject(value)) return undefined;
    const { file: name, offset } = value;
    return typeof name === "string" && typeof offset === "number" ? { file: name, offset } : undefined;
  } catch {
    // Never written, or torn by a loss of power: all that the log has goes out again.
    return undefined;
  }
}

export class LogForwarder {
  readonly #options: LogForwarderOptions;
  readonly #positionFile: string;
  readonly #end = new AbortController();
  readonly #ended = new Loss();
  readonly #backoff: Backoff;
  #collector: Collector | undefined;
  /** How far the collector surely has it. */
  #settled: LogPosition | undefined;
  #saved: LogPosition | undefined;
  #unsettled: Unsettled[] = [];
  #isFailing = false;
  /** Nothing is being sent. */
  #isIdle = false;

  constructor(options: LogForwarderOptions) {
    this.#options = options;
    this.#positionFile = path.join(path.dirname(options.path), POSITION_FILE);
    this.#backoff = new Backoff(options.env.random, options.protocol.retry);
  }

  /** Resolves with true when the container has ended and the collector has all of its log, with false after stop(). Never rejects. */
  async run(): Promise<boolean> {
    this.#settled = this.#saved = await readPosition(this.#positionFile);
    let isDone = false;
    while (!isDone && !this.#end.signal.aborted) {
      try {
        isDone = await this.#forward();
      } catch (caught) {
        const owesNothing = this.#isIdle && this.#unsettled.length === 0;
        this.#disconnect();
        // One that leaves while it owes nothing is asked again when there is something for it.
        if (!owesNothing) await this.#failed(ClusterError.from(caught));
      }
    }
    this.#disconnect();
    await this.#save();
    return isDone;
  }

  /** What was sent to a collector that is still there counts as arrived. */
  stop(): void {
    this.#settleUntil(Infinity);
    const reason = new ClusterError("cancelled", "the daemon ends");
    this.#end.abort(reason);
    this.#ended.happened(reason);
  }

  async #failed(error: ClusterError): Promise<void> {
    if (this.#end.signal.aborted) return;
    const { log, containerId, env } = this.#options;
    // Said once, not at each try.
    if (!this.#isFailing) log.warn("log collector can't be reached: the log waits", { containerId, error });
    this.#isFailing = true;
    let cancel = (): void => undefined;
    const pause = new Promise<void>((resolve) => {
      cancel = env.timers.after(this.#backoff.nextMs(), resolve);
    });
    await this.#ended.guard(pause).catch(() => undefined);
    cancel();
  }

  /** What had not settled goes out again. */
  #disconnect(): void {
    this.#collector?.close();
    this.#collector = undefined;
    this.#unsettled = [];
  }

  /** True when the container has ended and all is sent. */
  async #forward(): Promise<boolean> {
    const { path: file, isRunning, changed, env, log, containerId } = this.#options;
    const tail = new LogTail({
      path: file,
      format: LOCAL_FORMAT,
      position: this.#settled,
      onGap: () => log.warn("lines of a log were gone before the collector had them", { containerId }),
    });
    const lines = new LineAssembler(containerId);
    const follower = new LogFollower({ path: file, changed, timers: env.timers }, this.#end.signal);
    try {
      while (!this.#end.signal.aborted) {
        this.#isIdle = false;
        const wasRunning = isRunning();
        const batch = await tail.read();
        if (batch !== undefined) await this.#send(batch, lines);
        await this.#settle();
        if (batch !== undefined) continue;
        if (!wasRunning && this.#unsettled.length === 0) return true;
        this.#isIdle = true;
        const news = follower.wait(this.#waitMs());
        await (this.#collector?.loss.guard(news) ?? news);
      }
      return false;
    } finally {
      follower.close();
      await tail.close();
    }
  }

  #waitMs(): number {
    return this.#unsettled.length === 0 ? IDLE_MS : (this.#collector?.settleMs ?? 0) / 4;
  }

  async #send(batch: LogBatch, lines: LineAssembler): Promise<void> {
    const { protocol, env } = this.#options;
    for (let at = 0; at < batch.lines.length; at += SLICE_LINES) {
      const slice = batch.lines.slice(at, at + SLICE_LINES);
      const outgoing = protocol.encode(slice.map((line) => lines.message(line)));
      if (outgoing.units.length === 0) continue;
      this.#collector ??= await protocol.connect(this.#end.signal);
      await this.#ended.guard(this.#collector.send(outgoing));
      await nextTurn();
    }
    if (this.#collector !== undefined) await this.#ended.guard(this.#collector.arrived());
    this.#unsettled.push({ end: batch.end, sinceMs: env.clock.monotonicMs() });
  }

  async #settle(): Promise<void> {
    const { env, log, containerId } = this.#options;
    if (!this.#settleUntil(env.clock.monotonicMs() - (this.#collector?.settleMs ?? 0))) return;
    this.#backoff.reset();
    if (this.#isFailing) log.info("log collector can be reached again", { containerId });
    this.#isFailing = false;
    await this.#save();
  }

  /** Whether something more has settled by `ms`. */
  #settleUntil(ms: number): boolean {
    const count = this.#unsettled.filter((each) => each.sinceMs <= ms).length;
    this.#settled = this.#unsettled[count - 1]?.end ?? this.#settled;
    this.#unsettled = this.#unsettled.slice(count);
    return count > 0;
  }

  /** Notes how far the collector has it. Whole or not at all, but for a loss of power. */
  async #save(): Promise<void> {
    const position = this.#settled;
    if (position === undefined || position === this.#saved) return;
    try {
      const next = `${this.#positionFile}.new`;
      await fs.writeFile(next, JSON.stringify(position), { mode: 0o600 });
      await fs.rename(next, this.#positionFile);
      this.#saved = position;
    } catch (error) {
      // A full disk: the next daemon sends some lines again.
      this.#options.log.warn("position in a log not kept", { containerId: this.#options.containerId, error });
    }
  }
}
