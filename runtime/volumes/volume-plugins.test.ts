/** Volume plugins that die, hang and come back: what they serve waits or fails, all else goes on. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import { createServer, type Server } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import type { Clock } from "../../common/env.ts";
import { silentLogger } from "../../common/log.ts";
import { packageRoot } from "../../common/package-root.ts";
import { realEnv } from "../../common/real-env.ts";
import { FakeClock } from "../../common/testing/fake-clock.ts";
import type { PluginLimits } from "./plugin-driver.ts";
import { createVolumeEngine, type VolumeEngineParts } from "./volume-engine.ts";

const PLUGIN = path.join(packageRoot(import.meta.dirname), "examples/volume-plugin/plugin.mjs");

const folders: string[] = [];
const children: ChildProcess[] = [];
const servers: Server[] = [];

after(async () => {
  for (const child of children) await killed(child);
  for (const server of servers) {
    server.close();
    server.closeAllConnections();
  }
  for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true });
});

function newFolder(): string {
  const folder = fs.mkdtempSync(path.join(tmpdir(), "shoal-volume-plugins-"));
  folders.push(folder);
  return folder;
}

/** What a test waits for in vain is short; all else may take its time on a machine that does much else. */
const PATIENT: PluginLimits = { callTimeoutMs: 120_000, readTimeoutMs: 120_000 };
const IMPATIENT: PluginLimits = { callTimeoutMs: 1_000, readTimeoutMs: 1_000 };

function open(
  root: string,
  pluginLimits = PATIENT,
  clock: Clock = realEnv.clock,
): Promise<VolumeEngineParts> {
  return createVolumeEngine({
    env: { ...realEnv, clock },
    log: silentLogger,
    dataRoot: root,
    pluginFolders: [path.join(root, "plugins")],
    pluginLimits,
    events: { emit: () => {} },
  });
}

function started(root: string): ChildProcess {
  const socket = path.join(root, "plugins", "folders.sock");
  const child = spawn(process.execPath, [PLUGIN, "--socket", socket, "--root", path.join(root, "data")], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  return child;
}

async function listening(root: string): Promise<ChildProcess> {
  const child = started(root);
  await new Promise((resolve) => child.stdout?.once("data", resolve));
  return child;
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await ended;
}

/** A plugin that answers by `answer`, also later; what it leaves unanswered hangs. "NAME.sock" in the root's plugins. */
async function serve(
  root: string,
  name: string,
  answer: (
    call: string,
    body: Readonly<Record<string, unknown>>,
  ) => object | undefined | Promise<object | undefined>,
): Promise<void> {
  fs.mkdirSync(path.join(root, "plugins"), { recursive: true });
  const server = createServer((request, response) => {
    let text = "";
    request.on("data", (piece: Buffer) => (text += String(piece)));
    request.on("end", () => {
      const body = (text === "" ? {} : JSON.parse(text)) as Readonly<Record<string, unknown>>;
      void Promise.resolve(answer((request.url ?? "").slice(1), body)).then((said) => {
        if (said !== undefined) response.end(JSON.stringify(said));
      });
    });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path.join(root, "plugins", `${name}.sock`), resolve));
}

test("a plugin that was killed is waited for, and serves the volumes it had", async () => {
  const root = newFolder();
  const first = await listening(root);
  const engine = await open(root);
  await engine.volumes.create({ Name: "kept", Driver: "folders" });
  await killed(first);
  // Who only looks does not wait, and sees the rest.
  await engine.volumes.create({ Name: "here" });
  const { Volumes } = await engine.volumes.list(new Map());
  assert.deepEqual(
    Volumes.map((volume) => [volume["Name"], volume["Mountpoint"] === ""]),
    [
      ["here", false],
      ["kept", true],
    ],
  );
  // Nor does who looks wait for one that an engine has never met.
  const listed = (await open(root)).volumes.list(new Map([["name", ["kept"]]]));
  const mounting = engine.source.mount("kept", "c1");
  started(root);
  assert.equal((await listed).Volumes[0]?.["Mountpoint"], "");
  assert.equal((await mounting).mountpoint, path.join(root, "data", "kept"));
});

test("a plugin that hangs fails its own calls in time and holds up nothing else", async () => {
  const root = newFolder();
  const gate = Promise.withResolvers<undefined>();
  let createCount = 0;
  await serve(root, "stuck", (call) => {
    if (call === "Plugin.Activate") return { Implements: ["VolumeDriver"] };
    if (call !== "VolumeDriver.Create" || createCount++ > 0) return undefined;
    return gate.promise.then(() => ({ Err: "at last" }));
  });
  const patient = await open(root);
  const waiting = patient.volumes.create({ Name: "never", Driver: "stuck" });
  let isSettled = false;
  waiting.catch(() => (isSettled = true));
  await patient.volumes.create({ Name: "other" });
  await patient.volumes.remove("other", false);
  assert.equal(isSettled, false, "others waited for the plugin");
  gate.resolve(undefined);
  await assert.rejects(waiting, /at last/);

  const engine = await open(root, IMPATIENT);
  const hanging = engine.volumes.create({ Name: "never", Driver: "stuck" });
  await assert.rejects(hanging, /VolumeDriver\.Create: no answer in 1 s/);
  const { Volumes } = await engine.volumes.list(new Map());
  assert.deepEqual(Volumes, []);
});

test("a silent plugin is not asked about each of its volumes, and a prune goes on without them", async () => {
  const root = newFolder();
  let isSilent = false;
  let unanswered = 0;
  await serve(root, "silent", (call) => {
    if (isSilent) {
      unanswered += 1;
      return undefined;
    }
    return call === "Plugin.Activate" ? { Implements: ["VolumeDriver"] } : { Err: "" };
  });
  // It counts as silent for a while, of which none passes here.
  const engine = await open(root, IMPATIENT, new FakeClock());
  for (const name of ["a1", "b2", "c3"]) await engine.volumes.create({ Name: name, Driver: "silent" });
  await engine.volumes.create({ Name: "local" });
  isSilent = true;
  assert.equal((await engine.usage()).length, 4);
  assert.equal(unanswered, 1);
  assert.equal((await engine.volumes.list(new Map())).Volumes.length, 4);
  assert.equal(unanswered, 1);
  assert.deepEqual((await engine.volumes.prune(new Map([["all", ["true"]]]))).VolumesDeleted, ["local"]);
});

test("mounts are told to the plugin for each container, also after a restart of the daemon", async () => {
  const root = newFolder();
  const calls: string[] = [];
  await serve(root, "counting", (call, { ID: id }) => {
    const verb = call.replace("VolumeDriver.", "");
    if (["Mount", "Unmount"].includes(verb)) calls.push(`${verb} ${String(id)}`);
    if (call === "Plugin.Activate") return { Implements: ["VolumeDriver"] };
    return { Err: "", Mountpoint: path.join(root, "there") };
  });
  const engine = await open(root);
  await engine.volumes.create({ Name: "shared", Driver: "counting" });
  await engine.source.mount("shared", "c1");
  await engine.source.mount("shared", "c2");
  await assert.rejects(engine.volumes.remove("shared", true), { code: "conflict" });
  await engine.source.unmount("shared", "c1");
  await engine.source.unmount("shared", "c1");
  await assert.rejects(engine.volumes.remove("shared", false), { code: "conflict" });
  assert.deepEqual(calls.splice(0), ["Mount c1", "Mount c2", "Unmount c1"]);
  // The containers of a daemon that ended run on; the next one mounts for them again.
  const next = await open(root);
  await next.source.mount("shared", "c2");
  await next.source.unmount("shared", "c2");
  await next.volumes.remove("shared", false);
  assert.deepEqual(calls, ["Mount c2", "Unmount c2"]);
});
