/** The wait for a roll-out against an API that plays a scenario. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { ApiClient } from "../client/api-client.ts";
import type { Output } from "../command.ts";
import { ExitError } from "../command.ts";
import { waitForService } from "./wait-service.ts";

const folder = mkdtempSync(path.join(tmpdir(), "shoal-wait-"));
const servers: Server[] = [];
after(() => {
  for (const server of servers) server.close();
  rmSync(folder, { recursive: true, force: true });
});

interface Scene {
  /** Of the service; default 1. */
  readonly replicas?: number;
  readonly updateStatus?: object;
  readonly tasks: readonly { readonly state: string; readonly err?: string; readonly slot?: number }[];
}

/** Serves the scenes one after the other, the last for ever. */
async function play(name: string, scenes: readonly Scene[]): Promise<ApiClient> {
  let round = -1;
  const spec = {
    Name: "web",
    TaskTemplate: { ContainerSpec: { Image: "x", Healthcheck: { Test: ["CMD", "true"] } } },
    Mode: { Replicated: { Replicas: scenes[0]?.replicas ?? 1 } },
  };
  const server = createServer((request, response) => {
    const url = request.url ?? "";
    if (url.startsWith("/services/")) round = Math.min(round + 1, scenes.length - 1);
    const scene = scenes[Math.max(0, round)] ?? { tasks: [] };
    const tasks = scene.tasks.map((task, index) => ({
      ID: `task${index}`,
      CreatedAt: `2026-01-01T00:00:0${index}Z`,
      Slot: task.slot ?? 1,
      NodeID: "n1",
      DesiredState: "running",
      Status: { State: task.state, Err: task.err },
    }));
    if (/^\/tasks\/task\d+\/logs/.test(url)) {
      const line = Buffer.from("the reason\n");
      const header = Buffer.from([2, 0, 0, 0, 0, 0, 0, line.length]);
      response.end(Buffer.concat([header, line]));
    } else if (url.startsWith("/tasks/"))
      response.end(JSON.stringify(tasks.find(({ ID }) => url === `/tasks/${ID}`) ?? tasks.at(-1)));
    else if (url.startsWith("/tasks")) response.end(JSON.stringify(tasks));
    else if (url.startsWith("/nodes"))
      response.end(
        JSON.stringify([{ ID: "n1", Description: { Hostname: "host1" }, Status: { State: "ready" } }]),
      );
    else response.end(JSON.stringify({ ID: "s", Spec: spec, UpdateStatus: scene.updateStatus ?? null }));
  });
  servers.push(server);
  const socket = path.join(folder, `${name}.sock`);
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  return new ApiClient({ kind: "unix", path: socket, text: `unix://${socket}` });
}

function recorder(): { readonly out: Output; readonly text: () => string } {
  let text = "";
  return { out: { write: (more) => void (text += more), isTty: false, columns: 80 }, text: () => text };
}

const signal = new AbortController().signal;

test("waitForService() prints each change once and ends when the service runs", async () => {
  const client = await play("good", [
    { tasks: [{ state: "preparing" }] },
    { tasks: [{ state: "preparing" }] },
    { tasks: [{ state: "running" }] },
  ]);
  const { out, text } = recorder();
  await waitForService("s", { client, out, signal, isQuiet: false, timeoutMs: 120_000 });
  assert.deepEqual(text().trim().split("\n"), [
    "1/1: preparing on host1",
    "overall progress: 0 out of 1 tasks",
    "1/1: running on host1",
    "overall progress: 1 out of 1 tasks",
    "verify: Service web converged",
  ]);
});

test("waitForService() counts tasks from one to what is wanted, whatever slots scaling down has left", async () => {
  for (const [replicas, slots, labels] of [
    [1, [2], ["1/1"]],
    [3, [2, 5, 7], ["2/3", "3/3", "1/3"]],
    [2, [0, 1], ["2/2", "1/2"]],
  ] as const) {
    const tasks = slots.map((slot) => ({ state: "running", slot }));
    const client = await play(`slots${slots.join("-")}`, [{ replicas, tasks }]);
    const { out, text } = recorder();
    await waitForService("s", { client, out, signal, isQuiet: false, timeoutMs: 120_000 });
    assert.deepEqual(
      text()
        .split("\n")
        .flatMap((line) => /^\d+\/\d+/.exec(line)?.[0] ?? []),
      labels,
    );
  }
});

test("waitForService() fails with the task's error and its last log lines", async () => {
  const failed = { state: "failed", err: "task: non-zero exit (1)" };
  const client = await play("bad", [{ tasks: [failed, failed, failed] }]);
  const { out } = recorder();
  await assert.rejects(
    waitForService("s", { client, out, signal, isQuiet: true, timeoutMs: 120_000 }),
    (caught: unknown) => {
      assert.ok(caught instanceof ExitError);
      assert.equal(caught.status, 1);
      assert.match(caught.message, /non-zero exit \(1\)[\s\S]*last log lines of task task2:\n {2}the reason/);
      return true;
    },
  );
});

test("waitForService() fails when the update was rolled back, unless that was asked for", async () => {
  const scene: Scene = {
    updateStatus: { State: "rollback_completed", Message: "rollback completed" },
    tasks: [{ state: "running" }],
  };
  const { out } = recorder();
  const client = await play("rolled", [scene]);
  await assert.rejects(
    waitForService("s", { client, out, signal, isQuiet: true, timeoutMs: 120_000 }),
    /rolled back/,
  );
  await waitForService("s", { client, out, signal, isQuiet: true, timeoutMs: 120_000, isRollback: true });
});

test("waitForService() tells the error of the task that a roll-back was for, also if that is over when it looks", async () => {
  const scene: Scene = {
    updateStatus: { State: "rollback_completed", Message: "rollback completed" },
    tasks: [
      { state: "failed", err: "long ago", slot: 1 },
      { state: "rejected", err: "No such image: x", slot: 2 },
      { state: "running", slot: 3 },
    ],
  };
  const client = await play("rolled-fast", [scene]);
  await assert.rejects(
    waitForService("s", { client, out: recorder().out, signal, isQuiet: true, timeoutMs: 120_000 }),
    /rolled back: rollback completed\ntask task1: No such image: x\n/,
  );
});

test("waitForService() does not take the status of an older update for that of this one", async () => {
  const old = { State: "paused", Message: "long ago" };
  const client = await play("stale", [{ updateStatus: old, tasks: [{ state: "running" }] }]);
  const { out } = recorder();
  await waitForService("s", {
    client,
    out,
    signal,
    isQuiet: true,
    timeoutMs: 120_000,
    statusBefore: { State: "paused", Message: "long ago" },
  });
});

test("waitForService() says that the roll-out goes on when it is interrupted", async () => {
  const client = await play("interrupted", [{ tasks: [{ state: "preparing" }] }]);
  const { out, text } = recorder();
  const interrupt = new AbortController();
  const shown = {
    ...out,
    write: (more: string) => {
      out.write(more);
      if (more.includes("overall progress")) interrupt.abort();
    },
  };
  const options = { client, out: shown, signal: interrupt.signal, timeoutMs: 120_000 };
  await assert.rejects(waitForService("s", { ...options, isQuiet: false }), { name: "AbortError" });
  assert.match(text(), /\nOperation continuing in background; see 'shoal service ps s'\n$/);
});

test("waitForService() gives up after its time", async () => {
  const client = await play("slow", [{ tasks: [{ state: "preparing" }] }]);
  const { out } = recorder();
  await assert.rejects(
    waitForService("s", { client, out, signal, isQuiet: true, timeoutMs: 300 }),
    /did not converge within 300ms/,
  );
});
