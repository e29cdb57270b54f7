/**
 * Sends HTTP requests without pause from several clients and counts what fails: for zero-loss checks in the demo, the tests
 * and the benches. Half of the clients keep their connections alive, half open one per request.
 */
import { Agent, get } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

export interface LoadOptions {
  /** Asked in turn by every client. */
  readonly urls: readonly string[];
  readonly clients: number;
  /** Pause of each client between two requests. */
  readonly pauseMs: number;
  readonly timeoutMs: number;
}

export interface LoadReport {
  readonly requests: number;
  readonly failed: number;
  /** Failures by reason. */
  readonly reasons: ReadonlyMap<string, number>;
  /** Answers by what `classify` made of them. */
  readonly answers: ReadonlyMap<string, number>;
  readonly slowestMs: number;
}

/** One GET; the body of a 200, else an Error with the reason. */
export async function fetchText(
  url: string,
  options: { readonly timeoutMs: number; readonly agent?: Agent | false },
): Promise<string> {
  return await new Promise((resolve, reject) => {
    const request = get(url, { agent: options.agent ?? false, timeout: options.timeoutMs }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString("utf8");
        if (response.statusCode === 200) resolve(text);
        else reject(new Error(`HTTP ${response.statusCode}`));
      });
    });
    request.on("timeout", () => request.destroy(new Error(`no answer in ${options.timeoutMs} ms`)));
    request.on("error", reject);
  });
}

export class LoadGenerator {
  readonly #options: LoadOptions;
  readonly #classify: (body: string) => string;
  readonly #reasons = new Map<string, number>();
  readonly #answers = new Map<string, number>();
  readonly #agents: Agent[] = [];
  #clients: Promise<void>[] = [];
  #isStopping = false;
  #requests = 0;
  #failed = 0;
  #slowestMs = 0;

  constructor(options: LoadOptions, classify: (body: string) => string) {
    this.#options = options;
    this.#classify = classify;
  }

  start(): void {
    this.#clients = Array.from(
      { length: this.#options.clients },
      async (_, index) => await this.#client(index),
    );
  }

  /** Ends after the requests under way. */
  async stop(): Promise<LoadReport> {
    this.#isStopping = true;
    await Promise.all(this.#clients);
    for (const agent of this.#agents) agent.destroy();
    return {
      requests: this.#requests,
      failed: this.#failed,
      reasons: this.#reasons,
      answers: this.#answers,
      slowestMs: this.#slowestMs,
    };
  }

  async #client(index: number): Promise<void> {
    const { urls, pauseMs, timeoutMs } = this.#options;
    const agent = index % 2 === 0 ? new Agent({ keepAlive: true, maxSockets: 1 }) : undefined;
    if (agent !== undefined) this.#agents.push(agent);
    for (let turn = index; !this.#isStopping; turn += 1) {
      const url = urls[turn % urls.length] ?? "";
      const started = performance.now();
      this.#requests += 1;
      try {
        const kind = this.#classify(await fetchText(url, { timeoutMs, agent: agent ?? false }));
        this.#answers.set(kind, (this.#answers.get(kind) ?? 0) + 1);
      } catch (caught) {
        const reason = `${new URL(url).host}: ${caught instanceof Error ? caught.message : String(caught)}`;
        this.#failed += 1;
        this.#reasons.set(reason, (this.#reasons.get(reason) ?? 0) + 1);
      }
      this.#slowestMs = Math.max(this.#slowestMs, performance.now() - started);
      await sleep(pauseMs);
    }
  }
}
