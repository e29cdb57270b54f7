/** Waiting for conditions in end-to-end tests: polls, with a deadline that names what did not come true. */
import { setTimeout as sleep } from "node:timers/promises";

const POLL_MS = 50;

/** Resolves with the first value that isn't undefined or false. Rejects after `timeoutMs` with `what` and the last error. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  check: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  let last: string | undefined;
  while (true) {
    try {
      const value = await check();
      if (value !== undefined && value !== false) return value;
      last = undefined;
    } catch (caught) {
      last = caught instanceof Error ? caught.message : JSON.stringify(caught);
    }
    if (performance.now() > deadline) {
      throw new Error(`${what}: not within ${timeoutMs} ms${last === undefined ? "" : `; last: ${last}`}`);
    }
    await sleep(POLL_MS);
  }
}
