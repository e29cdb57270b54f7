/**
 * Health checks: a command in the container every so often; state and last results for inspect, an event when the state
 * changes.
 */
import type { Cancel, Env } from "../../common/env.ts";
import type { Logger } from "../../common/log.ts";
import { rfc3339OfNanoseconds } from "../../common/time.ts";
import type { HealthConfig } from "../../model/specs.ts";
import type { ContainerEvents } from "./events-of.ts";
import type { Execs } from "./execs.ts";
import { NO_HEALTH, type HealthStatus, type LiveContainer } from "./live-container.ts";

const NS_PER_MS = 1_000_000;
const INTERVAL_MS = 30_000;
const START_INTERVAL_MS = 5_000;
const TIMEOUT_MS = 30_000;
const RETRIES = 3;
const OUTPUT_BYTES_MAX = 4096;
const RESULTS_MAX = 5;

export interface HealthPlan {
  readonly command: readonly string[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly startPeriodMs: number;
  readonly startIntervalMs: number;
  readonly retries: number;
}

/** undefined: no check. */
export function healthPlan(
  config: HealthConfig | undefined,
  shell: readonly string[] | undefined,
): HealthPlan | undefined {
  const [kind, ...words] = config?.Test ?? [];
  if (config === undefined || kind === undefined || kind === "NONE" || words.length === 0) return undefined;
  const ms = (value: number | undefined, fallback: number): number =>
    value === undefined || value === 0 ? fallback : value / NS_PER_MS;
  return {
    command: kind === "CMD-SHELL" ? [...(shell ?? ["/bin/sh", "-c"]), words.join(" ")] : words,
    intervalMs: ms(config.Interval, INTERVAL_MS),
    timeoutMs: ms(config.Timeout, TIMEOUT_MS),
    startPeriodMs: ms(config.StartPeriod, 0),
    startIntervalMs: ms(config.StartInterval, START_INTERVAL_MS),
    retries: (config.Retries ?? 0) === 0 ? RETRIES : (config.Retries ?? RETRIES),
  };
}

export interface CheckResult {
  readonly exitCode: number;
  readonly output: string;
  readonly startedAt: string;
  readonly endedAt: string;
}

/** The state after one more result. Pure. */
export function nextHealth(
  health: HealthStatus,
  result: CheckResult,
  options: { readonly retries: number; readonly isInStartPeriod: boolean },
): HealthStatus {
  const entry = {
    Start: result.startedAt,
    End: result.endedAt,
    ExitCode: result.exitCode,
    Output: result.output,
  };
  const log = [...health.log, entry].slice(-RESULTS_MAX);
  if (result.exitCode === 0) return { status: "healthy", failingStreak: 0, log };
  // Failures while it is starting don't count.
  if (options.isInStartPeriod && health.status === "starting") return { ...health, log };
  const failingStreak = health.failingStreak + 1;
  const status = failingStreak >= options.retries ? "unhealthy" : health.status;
  return { status, failingStreak, log };
}

export interface HealthDeps {
  readonly env: Env;
  readonly log: Logger;
  readonly execs: Execs;
  readonly events: ContainerEvents;
}

async function check(live: LiveContainer, plan: HealthPlan, deps: HealthDeps): Promise<CheckResult> {
  const stamp = (): string =>
    rfc3339OfNanoseconds(BigInt(Math.round(deps.env.clock.wallMs() * 1000)) * 1000n);
  const startedAt = stamp();
  const pieces: Buffer[] = [];
  let bytes = 0;
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  let isTimedOut = false;
  let cancel: Cancel | undefined;
  try {
    const exec = deps.execs.create(live, { Cmd: plan.command, AttachStdout: true, AttachStderr: true });
    const connection = await deps.execs.run(exec, {
      isDiscarding: false,
      output: (_stream, data) => {
        if (bytes < OUTPUT_BYTES_MAX) pieces.push(data.subarray(0, OUTPUT_BYTES_MAX - bytes));
        bytes += data.byteLength;
      },
      onEnd: resolve,
    });
    cancel = deps.env.timers.after(plan.timeoutMs, () => {
      isTimedOut = true;
      connection.send(11, Buffer.from([9, 0, 0, 0]));
    });
    await ended;
    const output = Buffer.concat(pieces).toString("utf8") + (bytes > OUTPUT_BYTES_MAX ? "..." : "");
    if (isTimedOut) {
      return {
        exitCode: -1,
        output: `Health check exceeded timeout (${plan.timeoutMs}ms)${output === "" ? "" : `: ${output}`}`,
        startedAt,
        endedAt: stamp(),
      };
    }
    return { exitCode: exec.exitCode ?? -1, output, startedAt, endedAt: stamp() };
  } catch (caught) {
    return {
      exitCode: -1,
      output: caught instanceof Error ? caught.message : String(caught),
      startedAt,
      endedAt: stamp(),
    };
  } finally {
    cancel?.();
  }
}

/** Starts checking; the container's `stopHealth` ends it. */
export function startHealth(live: LiveContainer, deps: HealthDeps): void {
  live.stopHealth?.();
  live.health = NO_HEALTH;
  const plan = healthPlan(live.record.config.Healthcheck, live.record.config.Shell);
  if (plan === undefined) return;
  const { clock, timers } = deps.env;
  const startedMs = clock.monotonicMs();
  let isStopped = false;
  let cancel: Cancel | undefined;
  live.health = { ...NO_HEALTH, status: "starting" };
  const isInStartPeriod = (): boolean => clock.monotonicMs() - startedMs < plan.startPeriodMs;
  const schedule = (): void => {
    const isStarting = live.health.status === "starting" && isInStartPeriod();
    const delayMs = isStarting ? Math.min(plan.startIntervalMs, plan.intervalMs) : plan.intervalMs;
    cancel = timers.after(delayMs, () => void round());
  };
  const round = async (): Promise<void> => {
    if (live.record.state.status === "running") {
      const result = await check(live, plan, deps);
      if (isStopped) return;
      const before = live.health.status;
      live.health = nextHealth(live.health, result, {
        retries: plan.retries,
        isInStartPeriod: isInStartPeriod(),
      });
      if (live.health.status !== before) deps.events(live.record, `health_status: ${live.health.status}`);
    }
    if (!isStopped) schedule();
  };
  live.stopHealth = () => {
    isStopped = true;
    cancel?.();
    live.stopHealth = undefined;
  };
  schedule();
}
