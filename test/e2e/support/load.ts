/** Steady requests to one address from inside a host, counted by outcome: for roll-outs that must lose none. */
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import { namespaceName } from "../../../dev/switch-network.ts";

/** Runs in the host's network namespace: one connection for each request, a failure is anything but a whole 200. */
const PROGRAM = `
const http = require("node:http");
const [host, port, workers] = process.argv.slice(1);
let ok = 0, failed = 0, stop = false; const reasons = {}; const seen = {};
function one() {
  return new Promise((done) => {
    const fail = (why) => { failed += 1; reasons[why] = (reasons[why] || 0) + 1; done(); };
    const call = http.get({ host, port, agent: false, timeout: 60_000 }, (answer) => {
      let body = "";
      answer.on("data", (piece) => { body += piece; });
      answer.on("end", () => {
        if (answer.statusCode !== 200 || !answer.complete) return fail("status " + answer.statusCode);
        ok += 1; const version = body.split(" ")[1]; seen[version] = (seen[version] || 0) + 1; done();
      });
      answer.on("error", (error) => fail("body " + error.code));
    });
    call.on("timeout", () => call.destroy(Object.assign(new Error("timeout"), { code: "TIMEOUT" })));
    call.on("error", (error) => fail(error.code || error.message));
  });
}
async function loop() { while (!stop) { await one(); await new Promise((next) => setTimeout(next, 2)); } }
process.on("SIGTERM", () => { stop = true; });
Promise.all(Array.from({ length: Number(workers) }, loop)).then(() => console.log(JSON.stringify({ ok, failed, reasons, seen })));
`;

export interface LoadResult {
  readonly ok: number;
  readonly failed: number;
  readonly reasons: Readonly<Record<string, number>>;
  /** Requests by the version that answered. */
  readonly seen: Readonly<Record<string, number>>;
}

export class Load {
  readonly #child: ChildProcess;
  readonly #result: Promise<LoadResult>;

  constructor(
    cluster: string,
    from: string,
    target: { readonly host: string; readonly port: number; readonly workers: number },
  ) {
    const argv = [
      "netns",
      "exec",
      namespaceName(cluster, from),
      process.execPath,
      "-e",
      PROGRAM,
      target.host,
      String(target.port),
      String(target.workers),
    ];
    this.#child = spawn("ip", argv, { stdio: ["ignore", "pipe", "inherit"] });
    const pieces: Buffer[] = [];
    this.#child.stdout?.on("data", (piece: Buffer) => pieces.push(piece));
    this.#result = new Promise((resolve, reject) => {
      this.#child.once("error", reject);
      this.#child.once("close", () => {
        const text = Buffer.concat(pieces).toString();
        if (text === "") reject(new Error("the load generator ended without a result"));
        else resolve(JSON.parse(text) as LoadResult);
      });
    });
  }

  /** Lets requests under way end, and counts. */
  async stop(): Promise<LoadResult> {
    this.#child.kill("SIGTERM");
    return this.#result;
  }
}
