/**
 * A daemon that is killed in the middle of a pull: nothing half is there afterwards, and the next pull goes on. Needs
 * root.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import { START, stopChild } from "../../bench/contenders.ts";
import { ask, request } from "../../bench/docker-http.ts";
import { packageRoot } from "../../common/package-root.ts";
import { until } from "../../dev/until.ts";
import { buildImage, type TestImage } from "../../runtime/images/testing/archives.ts";
import { FakeRegistry, lastPart, noise } from "./support/fake-registry.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";
const IMAGE: TestImage = {
  tags: ["app:1"],
  layers: [[{ name: "small", content: "s" }], [{ name: "large", content: noise(6_000_000) }]],
};
const GIVEN_BYTES = 4_000_000;
const ARRIVED_BYTES = 3_000_000;

describe("a daemon killed in the middle of a pull", { skip }, () => {
  const folder = mkdtempSync(path.join(tmpdir(), "shoal-pull-killed-"));
  const socket = path.join(folder, "api.sock");
  const registry = new FakeRegistry(IMAGE);
  let daemon: ChildProcess | undefined;

  after(async () => {
    if (daemon !== undefined) await stopChild(daemon);
    registry.stop();
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  async function start(): Promise<ChildProcess> {
    const folders = ["data-root", "exec-root", "pidfile"].flatMap((name) => [
      `--${name}`,
      path.join(folder, name),
    ]);
    const program = path.join(packageRoot(import.meta.dirname), "bin/shoal");
    const child = spawn(program, ["daemon", ...folders, "--host", `unix://${socket}`], { stdio: "ignore" });
    daemon = child;
    await until("the daemon answers", START, async () => {
      if (!existsSync(socket)) return false;
      return (await request(socket, "GET", "/version").catch(() => undefined))?.status === 200;
    });
    return child;
  }

  function filesIn(name: string): readonly string[] {
    const place = path.join(folder, "data-root", "images", name);
    return existsSync(place) ? readdirSync(place).map((each) => path.join(place, each)) : [];
  }

  async function pull(): Promise<unknown> {
    const name = encodeURIComponent(`${registry.host}/app`);
    return ask(socket, "POST", `/images/create?fromImage=${name}&tag=1`);
  }

  test("leaves no image, no garbage, and what had come", async () => {
    await registry.start();
    const { digest, bytes } = registry.largeBlob(1_000_000);
    const ranges: number[] = [];
    registry.spoil = (asked, response) => {
      if (lastPart(asked) !== digest) return false;
      ranges.push(Number(/bytes=(\d+)-/.exec(asked.headers.range ?? "")?.[1]));
      if (ranges.length > 1) return false;
      // Then silence.
      response.writeHead(200, { "Content-Length": bytes.length }).write(bytes.subarray(0, GIVEN_BYTES));
      return true;
    };
    const child = await start();
    const pulling = pull().catch(() => undefined);
    await until("much of the layer has come", START, () =>
      Promise.resolve(filesIn("unfinished").some((file) => statSync(file).size >= ARRIVED_BYTES)),
    );
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await Promise.all([ended, pulling]);

    await start();
    assert.deepEqual(await ask(socket, "GET", "/images/json?all=1"), []);
    for (const name of ["ingest", "staging", "records"]) assert.deepEqual(filesIn(name), [], name);
    assert.equal(filesIn("unfinished").length, 1);
    await pull();
    assert.equal(ranges.length, 2);
    assert.equal((ranges[1] ?? 0) >= ARRIVED_BYTES, true, String(ranges));
    const image = (await ask(socket, "GET", `/images/${registry.host}/app:1/json`)) as {
      readonly Id: string;
    };
    assert.equal(image.Id, buildImage(IMAGE).id);
    assert.deepEqual(filesIn("unfinished"), []);
  });
});
