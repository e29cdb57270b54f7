/**
 * Waits for a roll-out and shows it: one line per task on a terminal (redrawn in place), one line per change elsewhere.
 * Fails with the failing task's error and last log lines when the roll-out failed, was paused or rolled back.
 * Used by service create, update, scale, rollback and stack deploy.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { formatDuration } from "../../model/units.ts";
import type { ApiClient } from "../client/api-client.ts";
import { readFrames } from "../client/stdcopy.ts";
import type { ApiNode, ApiService, ApiTask } from "../client/types.ts";
import type { Output } from "../command.ts";
import { ExitError } from "../command.ts";
import { ellipsis } from "../output/table.ts";
import type { Progress, SlotRow } from "./convergence.ts";
import { readProgress } from "./convergence.ts";
import { isPassing, PASSING_ERRORS_MS } from "./passing-errors.ts";

const POLL_MS = 200;
/** How long a converged service must stay so, where neither a health check nor UpdateConfig.Monitor says. */
const STABLE_MS = 2_000;
/** With a health check "running" already means healthy. */
const STABLE_HEALTHY_MS = 400;
/** A task that the scheduler can't place is given this long for a node to come. */
const STUCK_MS = 10_000;
const LOG_LINES = 10;
const LOG_TIMEOUT_MS = 3_000;
/** More slots than this are shown as one summary line. */
const ROWS_MAX = 20;
export const WAIT_TIMEOUT_DEFAULT_MS = 600_000;

export interface WaitOptions {
  readonly client: ApiClient;
  readonly out: Output;
  readonly signal: AbortSignal;
  readonly isQuiet: boolean;
  /** 0: no limit. */
  readonly timeoutMs: number;
  /** Shown before every plain line when several services roll out. */
  readonly prefix?: string;
  /** The roll-back was asked for, so that its completion is a success. */
  readonly isRollback?: boolean;
  /** UpdateStatus before the change: while it is still the same it speaks of an older update. */
  readonly statusBefore?: ApiService["UpdateStatus"];
}

/** Draws progress; remembers what is on the screen. */
class ProgressView {
  readonly #out: Output;
  readonly #prefix: string;
  readonly #hostnames = new Map<string, string>();
  /** What the slots are shown as. */
  readonly #shown = new Set<number>();
  readonly #numbers = new Map<string, number>();
  #drawnLines = 0;
  #last = new Map<string, string>();
  #lastSummary = "";

  constructor(out: Output, prefix: string) {
    this.#out = out;
    this.#prefix = prefix;
  }

  noteNodes(nodes: readonly ApiNode[]): void {
    for (const node of nodes) this.#hostnames.set(node.ID, node.Description?.Hostname ?? node.ID);
  }

  draw(progress: Progress): void {
    const summary = `overall progress: ${progress.isRollingBack ? "rolling back update: " : ""}${progress.running} out of ${progress.wanted} tasks`;
    if (this.#out.isTty) this.#redraw([summary, ...this.#rows(progress)]);
    else this.#append(summary, progress);
  }

  /** Ends the block; later output stands below it. */
  close(text: string): void {
    this.#drawnLines = 0;
    if (text !== "") this.#out.write(`${this.#prefix}${text}\n`);
  }

  #rows(progress: Progress): string[] {
    if (progress.rows.length > ROWS_MAX) return this.#counts(progress.rows);
    return progress.rows.map((row) => `${this.#label(row.slot, progress.wanted)}: ${this.#describe(row)}`);
  }

  /** "2/3", or the host for what runs once on each. */
  #label(slot: string, wanted: number): string {
    return /^\d+$/.test(slot) ? `${this.#numberOf(slot, wanted)}/${wanted}` : this.#host(slot);
  }

  /** The slot's own number, unless it has one above what is wanted (others were scaled away), or none (a job's first is 0). */
  #numberOf(slot: string, wanted: number): number {
    const known = this.#numbers.get(slot);
    if (known !== undefined) return known;
    let number = Number(slot);
    if (number < 1 || number > wanted || this.#shown.has(number)) {
      number = wanted;
      while (this.#shown.has(number)) number -= 1;
      if (number < 1) number = Math.max(wanted, ...this.#shown) + 1;
    }
    this.#shown.add(number);
    this.#numbers.set(slot, number);
    return number;
  }

  #counts(rows: readonly SlotRow[]): string[] {
    const counts = new Map<string, number>();
    for (const row of rows) counts.set(row.state, (counts.get(row.state) ?? 0) + 1);
    const errors = new Set(rows.map((row) => row.error).filter((error) => error !== ""));
    const states = [...counts].map(([state, count]) => `${count} ${state}`).join(", ");
    return [states, ...[...errors].slice(0, 3)];
  }

  #describe(row: SlotRow): string {
    const where = row.nodeId === "" ? "" : ` on ${this.#host(row.nodeId)}`;
    return row.error === "" ? `${row.state}${where}` : `${row.state}${where}: ${row.error}`;
  }

  #host(nodeId: string): string {
    return this.#hostnames.get(nodeId) ?? nodeId;
  }

  #redraw(lines: readonly string[]): void {
    const up = this.#drawnLines > 0 ? `\x1b[${this.#drawnLines}A` : "";
    const cut = lines.map((line) => `\x1b[2K${ellipsis(line, this.#out.columns - 1)}\n`);
    const blank = Math.max(0, this.#drawnLines - lines.length);
    this.#out.write(up + cut.join("") + "\x1b[2K\n".repeat(blank) + (blank > 0 ? `\x1b[${blank}A` : ""));
    this.#drawnLines = lines.length;
  }

  #append(summary: string, progress: Progress): void {
    const now = new Map(progress.rows.map((row) => [row.slot, this.#describe(row)]));
    if (progress.rows.length <= ROWS_MAX) {
      for (const [slot, text] of now) {
        if (this.#last.get(slot) === text) continue;
        this.#out.write(`${this.#prefix}${this.#label(slot, progress.wanted)}: ${text}\n`);
      }
    }
    if (summary !== this.#lastSummary) this.#out.write(`${this.#prefix}${summary}\n`);
    this.#last = now;
    this.#lastSummary = summary;
  }
}

interface RoundReading {
  readonly service: ApiService;
  readonly tasks: ApiTask[];
  readonly nodes: ApiNode[];
}

async function read(serviceId: string, options: WaitOptions): Promise<RoundReading> {
  const { client, signal, statusBefore } = options;
  const found = await client.get<ApiService>(`/services/${encodeURIComponent(serviceId)}`, { signal });
  const isStale =
    statusBefore !== undefined && JSON.stringify(found.UpdateStatus) === JSON.stringify(statusBefore);
  const service = isStale ? { ...found, UpdateStatus: null } : found;
  const filters = { service: [service.ID], "_up-to-date": ["true"] };
  const tasks = await client.get<ApiTask[]>("/tasks", { filters, signal });
  const nodes = await client.get<ApiNode[]>("/nodes", { signal });
  return { service, tasks, nodes };
}

/** The last lines a task wrote; [] where they can't be had. */
async function lastLogLines(client: ApiClient, taskId: string): Promise<string[]> {
  try {
    const response = await client.call("GET", `/tasks/${taskId}/logs`, {
      query: { stdout: true, stderr: true, tail: LOG_LINES },
      signal: AbortSignal.timeout(LOG_TIMEOUT_MS),
    });
    const lines: string[] = [];
    for await (const frame of readFrames(response)) lines.push(frame.payload.toString("utf8").trimEnd());
    return lines.slice(-LOG_LINES);
  } catch {
    // The log is a help, not the message: a node that is gone must not hide the error itself.
    return [];
  }
}

/** Of a roll-back that was over before it was seen to begin: only its beginning names the task. */
async function lastFailedTask(client: ApiClient, serviceId: string): Promise<string | undefined> {
  const tasks = await client.get<ApiTask[]>("/tasks", { filters: { service: [serviceId] } });
  return tasks
    .filter(({ Status: { State } }) => State === "failed" || State === "rejected")
    .sort((left, right) => (left.CreatedAt < right.CreatedAt ? 1 : -1))[0]?.ID;
}

async function failure(client: ApiClient, text: string, taskId: string | undefined): Promise<ExitError> {
  if (taskId === undefined) return new ExitError(1, `${text}\n`);
  const task = await client.find<ApiTask>(`/tasks/${taskId}`);
  const lines = await lastLogLines(client, taskId);
  const error = task?.Status.Err ?? "";
  const parts = [
    text,
    ...(error === "" || text.includes(error) ? [] : [`task ${taskId}: ${error}`]),
    ...(lines.length === 0 ? [] : [`last log lines of task ${taskId}:`, ...lines.map((line) => `  ${line}`)]),
  ];
  return new ExitError(1, `${parts.join("\n")}\n`);
}

function stableMs(service: ApiService): number {
  const monitor = service.Spec.UpdateConfig?.Monitor;
  if (service.Spec.TaskTemplate.ContainerSpec.Healthcheck?.Test?.[0]?.startsWith("CMD") === true)
    return STABLE_HEALTHY_MS;
  return monitor === undefined ? STABLE_MS : Math.min(monitor / 1e6, 2.5 * STABLE_MS);
}

/** What a round of the wait leads to. */
interface WaitState {
  convergedAt: number | undefined;
  stuckSince: number | undefined;
  lastError: unknown;
  sawRollback: boolean;
}

async function judge(
  options: WaitOptions,
  state: WaitState,
  round: { progress: Progress; service: ApiService },
): Promise<string | undefined> {
  const { progress, service } = round;
  const { verdict } = progress;
  const now = performance.now();
  if (progress.isRollingBack) state.sawRollback = true;
  if (verdict.kind === "failed") throw await failure(options.client, verdict.message, verdict.taskId);
  if (verdict.kind === "completed") {
    if (progress.isRollingBack && options.isRollback !== true) {
      const named = /task ([0-9a-z]{25})/.exec(verdict.message)?.[1];
      const failed = named ?? (await lastFailedTask(options.client, service.ID));
      throw await failure(options.client, `service rolled back: ${verdict.message}`, failed);
    }
    return verdict.message === "job complete"
      ? "job complete"
      : `verify: Service ${service.Spec.Name} converged`;
  }
  if (verdict.kind === "converged") {
    state.convergedAt ??= now;
    state.stuckSince = undefined;
    return now - state.convergedAt >= stableMs(service)
      ? `verify: Service ${service.Spec.Name} converged`
      : undefined;
  }
  state.convergedAt = undefined;
  state.stuckSince = progress.stuck === undefined ? undefined : (state.stuckSince ?? now);
  if (progress.stuck !== undefined && now - (state.stuckSince ?? now) >= STUCK_MS) {
    const text = `service ${service.Spec.Name}: ${progress.running} of ${progress.wanted} tasks run, the others can't be placed: ${progress.stuck}`;
    throw new ExitError(
      1,
      `${text}\nThe service stays and starts them once a node fits; see 'shoal service ps ${service.Spec.Name}'.\n`,
    );
  }
  return undefined;
}

/**
 * Resolves when the service has converged; throws ExitError with the reason when it won't. Aborted it says that the roll-out
 * goes on, since who interrupts a wait may believe to have stopped what it waits for.
 */
export async function waitForService(serviceId: string, options: WaitOptions): Promise<void> {
  const view = new ProgressView(options.out, options.prefix ?? "");
  const { signal, isQuiet } = options;
  const text = `Operation continuing in background; see 'shoal service ps ${serviceId}'`;
  const onAbort = (): void => view.close(isQuiet ? "" : text);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await untilConverged(serviceId, options, view);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

async function untilConverged(serviceId: string, options: WaitOptions, view: ProgressView): Promise<void> {
  const started = performance.now();
  const state: WaitState = {
    convergedAt: undefined,
    stuckSince: undefined,
    lastError: undefined,
    sawRollback: false,
  };
  let failingSince: number | undefined;
  for (;;) {
    try {
      const reading = await read(serviceId, options);
      failingSince = undefined;
      const progress = readProgress(reading);
      view.noteNodes(reading.nodes);
      if (!options.isQuiet) view.draw(progress);
      const done = await judge(options, state, { progress, service: reading.service });
      if (done !== undefined) {
        view.close(options.isQuiet ? "" : done);
        return;
      }
    } catch (caught) {
      failingSince ??= performance.now();
      if (!isPassing(caught) || performance.now() - failingSince > PASSING_ERRORS_MS) throw caught;
    }
    if (options.timeoutMs > 0 && performance.now() - started > options.timeoutMs) {
      throw new ExitError(
        1,
        `service did not converge within ${formatDuration(options.timeoutMs * 1e6)}; see 'shoal service ps ${serviceId}'\n`,
      );
    }
    await sleep(POLL_MS, undefined, { signal: options.signal });
  }
}
