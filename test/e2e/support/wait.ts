/** Waiting for conditions in end-to-end tests: polls, with a deadline that names what did not come true. */
import { until as poll } from "../../../dev/until.ts";

/**
 * How long a test waits for what must come: long enough for a slow machine that does much else meanwhile, since it costs time
 * only where the test fails.
 */
export const WAIT_MS = 120_000;

const POLL_MS = 50;

/**
 * Resolves with the first value that isn't undefined or false. What throws is asked again. Rejects after `timeoutMs` with
 * `what` and the last error.
 */
export async function until<T>(
  what: string,
  timeoutMs: number,
  check: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  let last: string | undefined;
  const tryOnce = async (): Promise<T | undefined | false> => {
    try {
      const value = await check();
      last = undefined;
      return value;
    } catch (caught) {
      last = caught instanceof Error ? caught.message : JSON.stringify(caught);
      return undefined;
    }
  };
  try {
    return await poll(what, { timeoutMs, pollMs: POLL_MS }, tryOnce);
  } catch (caught) {
    if (last === undefined) throw caught;
    throw new Error(`${what}: not within ${timeoutMs} ms; last: ${last}`, { cause: caught });
  }
}
