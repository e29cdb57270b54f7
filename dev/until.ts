/** Waiting for a condition of real programs: asks again and again, and says in time what did not come true. */
import { setTimeout as sleep } from "node:timers/promises";

export interface UntilOptions {
  readonly timeoutMs: number;
  /** Pause between two looks. */
  readonly pollMs: number;
}

/** Resolves with the first value that is neither undefined nor false. An error of `find` ends the waiting. */
export async function until<T>(
  what: string,
  options: UntilOptions,
  find: () => Promise<T | undefined | false>,
): Promise<T> {
  const deadline = performance.now() + options.timeoutMs;
  for (;;) {
    const found = await find();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${options.timeoutMs} ms`);
    await sleep(options.pollMs);
  }
}
