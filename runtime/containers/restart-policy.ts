/** Docker's restart policies: whether and after how long. Pure. */
import type { ExitStatus } from "../../model/engine.ts";
import type { ContainerRecord } from "./container-record.ts";

const DELAY_MS_MIN = 100;
const DELAY_MS_MAX = 60_000;
/** A run of this length was a success: the next pause is short again. */
const LASTING_RUN_MS = 10_000;

export function shouldRestart(
  record: Pick<ContainerRecord, "hostConfig" | "restartCount" | "isStoppedByUser">,
  end: { readonly isStopping: boolean; readonly exit: Pick<ExitStatus, "exitCode"> },
): boolean {
  if (end.isStopping) return false;
  const { Name, MaximumRetryCount = 0 } = record.hostConfig.RestartPolicy ?? {};
  if (Name === "always") return true;
  if (Name === "unless-stopped") return !record.isStoppedByUser;
  if (Name !== "on-failure" || end.exit.exitCode === 0) return false;
  return MaximumRetryCount === 0 || record.restartCount < MaximumRetryCount;
}

export function nextRestartDelayMs(lastDelayMs: number, ranMs: number): number {
  if (lastDelayMs === 0 || ranMs >= LASTING_RUN_MS) return DELAY_MS_MIN;
  return Math.min(lastDelayMs * 2, DELAY_MS_MAX);
}
