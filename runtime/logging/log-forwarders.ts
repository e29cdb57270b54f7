/**
 * The logs of this machine that go to collectors. Each has a folder DATA_ROOT/log-spool/ID with the log itself, whose it is and where it goes,
 * and how far the collector has it. A folder outlives its container until the collector has it all, within bounds. Told by the container
 * engine of starts and removals; never holds one up.
 */
import { existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import type { Env } from "../../common/env.ts";
import { ClusterError } from "../../common/errors.ts";
import type { Logger } from "../../common/log.ts";
import type { LiveContainer } from "../containers/live-container.ts";
import { logPath, spoolLogPath, spoolRoot } from "../containers/log-options.ts";
import { treeBytes } from "../images/tree-bytes.ts";
import { LogForwarder } from "./log-forwarder.ts";
import { logProtocol } from "./log-protocols.ts";
import { logTarget, parseLogTarget, type LogTarget } from "./log-target.ts";

const TARGET_FILE = "target.json";
/** Logs of removed containers whose collectors don't take them; beyond this the oldest goes. */
const REMOVED_BYTES_MAX = 1024 ** 3;

export interface LogForwardersOptions {
  readonly env: Pick<Env, "clock" | "timers" | "random">;
  readonly log: Logger;
  readonly dataRoot: string;
  /** Of systemd's journal. */
  readonly journalSocket: string;
}

interface Entry {
  readonly forwarder: LogForwarder;
  readonly done: Promise<void>;
  readonly changed: Set<() => void>;
  /** It was started again meanwhile. */
  next: LiveContainer | undefined;
}

export class LogForwarders {
  readonly #options: LogForwardersOptions;
  readonly #root: string;
  readonly #entries = new Map<string, Entry>();
  /** Of containers that are gone; the value is what the log takes, in bytes. In the order of their removal. */
  readonly #removed = new Map<string, number>();
  #isClosed = false;

  constructor(options: LogForwardersOptions) {
    this.#options = options;
    this.#root = spoolRoot(options.dataRoot);
  }

  /** Goes on with what a former daemon left. `find` answers undefined for containers that are gone. */
  async open(find: (id: string) => LiveContainer | undefined): Promise<void> {
    for (const id of await fs.readdir(this.#root).catch(() => [])) {
      const live = find(id);
      if (live === undefined) await this.released(id);
      else await this.#resume(id, live);
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const entries = [...this.#entries.values()];
    for (const { forwarder } of entries) forwarder.stop();
    await Promise.all(entries.map(({ done }) => done));
  }

  /** Before a container's start: what forwarding its log takes is on the disk before there is a log. */
  prepare(live: LiveContainer): void {
    const target = logTarget(live.record);
    if (target === undefined) return;
    const folder = path.dirname(logPath(live.record, live.folder));
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const file = path.join(folder, TARGET_FILE);
    writeFileSync(`${file}.new`, JSON.stringify(target), { mode: 0o600 });
    renameSync(`${file}.new`, file);
  }

  /** After a start. */
  follow(live: LiveContainer): void {
    const target = logTarget(live.record);
    if (target === undefined) return;
    const entry = this.#entries.get(live.id);
    if (entry !== undefined) entry.next = live;
    else this.#start(target, live);
  }

  /** After a container's removal: what the collector has not had yet is still sent. */
  async released(id: string): Promise<void> {
    const folder = path.join(this.#root, id);
    // It may never have been started.
    if (!existsSync(folder)) return;
    this.#removed.set(id, await treeBytes(folder));
    const entry = this.#entries.get(id);
    if (entry === undefined) await this.#resume(id, undefined);
    else for (const wake of entry.changed) wake();
    await this.#boundRemoved();
  }

  async #resume(id: string, live: LiveContainer | undefined): Promise<void> {
    const file = path.join(this.#root, id, TARGET_FILE);
    try {
      this.#start(parseLogTarget(await fs.readFile(file, "utf8")), live);
    } catch (error) {
      this.#options.log.warn("log that waits for a collector can't be read", { containerId: id, error });
      if (live === undefined) await this.#drop(id);
    }
  }

  #start(target: LogTarget, live: LiveContainer | undefined): void {
    const { containerId: id } = target;
    if (this.#isClosed || this.#entries.has(id)) return;
    const { env, log, journalSocket } = this.#options;
    const tooLong = (bytes: number): void =>
      log.warn("a line is too long for its log collector", { containerId: id, bytes });
    const changed = live?.changed ?? new Set();
    const forwarder = new LogForwarder({
      env,
      log,
      containerId: id,
      path: spoolLogPath(path.join(this.#root, id)),
      protocol: logProtocol(target, { random: env.random, journalSocket, tooLong }),
      isRunning: () => live?.state().isRunning === true && !this.#removed.has(id),
      changed,
    });
    const done = this.#run(id, forwarder);
    this.#entries.set(id, { forwarder, done, changed, next: undefined });
  }

  async #run(id: string, forwarder: LogForwarder): Promise<void> {
    let isSent = false;
    try {
      isSent = await forwarder.run();
    } catch (error) {
      this.#options.log.error("log is not forwarded any more", {
        containerId: id,
        error: ClusterError.from(error),
      });
    }
    const next = this.#entries.get(id)?.next;
    this.#entries.delete(id);
    if (this.#removed.has(id)) {
      if (isSent) await this.#drop(id);
    } else if (isSent && next !== undefined) this.follow(next);
  }

  async #drop(id: string): Promise<void> {
    this.#removed.delete(id);
    await fs.rm(path.join(this.#root, id), { recursive: true, force: true });
  }

  async #boundRemoved(): Promise<void> {
    let bytes = [...this.#removed.values()].reduce((sum, each) => sum + each, 0);
    for (const [id, each] of this.#removed) {
      if (bytes <= REMOVED_BYTES_MAX) return;
      bytes -= each;
      this.#options.log.warn("log of a removed container is given up: its collector has not taken it", {
        containerId: id,
      });
      this.#entries.get(id)?.forwarder.stop();
      await this.#drop(id);
    }
  }
}
