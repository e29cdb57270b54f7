import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import type { Filters, JsonObject } from "../../model/engine.ts";
import { splitMountOptions } from "./mount-calls.ts";
import { createVolumeEngine, type VolumeEngineParts } from "./volume-engine.ts";

const folders: string[] = [];
after(() => {
  for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true });
});

function newFolder(): string {
  const folder = fs.mkdtempSync(path.join(tmpdir(), "shoal-volumes-"));
  folders.push(folder);
  return folder;
}

function text(object: JsonObject, key: string): string {
  const value = object[key];
  assert.equal(typeof value, "string");
  return value as string;
}

interface Opened extends VolumeEngineParts {
  readonly events: string[];
}

async function open(dataRoot: string, pluginFolders: readonly string[] = []): Promise<Opened> {
  const events: string[] = [];
  const parts = await createVolumeEngine({
    env: realEnv,
    log: silentLogger,
    dataRoot,
    pluginFolders,
    events: { emit: (event) => events.push(`${event.Action} ${event.Actor.ID}`) },
  });
  return { ...parts, events };
}

function filters(values: Readonly<Record<string, readonly string[]>>): Filters {
  return new Map(Object.entries(values));
}

async function names(engine: Opened, values: Readonly<Record<string, readonly string[]>>): Promise<unknown> {
  const { Volumes } = await engine.volumes.list(filters(values));
  return Volumes.map((volume) => volume["Name"]);
}

test("VolumeEngine.create() answers as Docker does and is idempotent", async () => {
  const engine = await open(newFolder());
  const made = await engine.volumes.create({ Name: "web", Labels: { team: "a" } });
  assert.equal(made["Driver"], "local");
  assert.equal(made["Scope"], "local");
  assert.deepEqual(made["Labels"], { team: "a" });
  assert.equal(fs.statSync(text(made, "Mountpoint")).mode & 0o7777, 0o755);
  assert.match(text(made, "CreatedAt"), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  assert.deepEqual(await engine.volumes.create({ Name: "web", Labels: { team: "b" } }), made);
  assert.deepEqual(engine.events, ["create web"]);
});

test("VolumeEngine.create() without a name makes an anonymous volume", async () => {
  const engine = await open(newFolder());
  const made = await engine.volumes.create({});
  assert.match(text(made, "Name"), /^[0-9a-f]{64}$/);
  assert.deepEqual(made["Labels"], { "com.docker.volume.anonymous": "" });
});

for (const [name, message] of [
  ["a", /too short/],
  ["../x", /includes invalid characters/],
  [".hidden", /includes invalid characters/],
  ["a/b", /includes invalid characters/],
  ["x".repeat(201), /at most 200/],
] as const) {
  test(`VolumeEngine.create() refuses the name ${name.slice(0, 10)}`, async () => {
    const root = newFolder();
    const engine = await open(root);
    await assert.rejects(engine.volumes.create({ Name: name }), { code: "invalid_argument", message });
    assert.deepEqual(fs.readdirSync(path.join(root, "volumes")), []);
  });
}

test("VolumeEngine.create() refuses options that the local driver lacks", async () => {
  const engine = await open(newFolder());
  await assert.rejects(
    engine.volumes.create({ Name: "xx", DriverOpts: { colour: "red" } }),
    /create xx: invalid option: "colour"/,
  );
  await assert.rejects(
    engine.volumes.create({ Name: "xx", DriverOpts: { type: "tmpfs" } }),
    /missing required option: "device"/,
  );
});

test("VolumeEngine.remove() refuses what is used and forgives what is gone", async () => {
  const engine = await open(newFolder());
  await engine.volumes.create({ Name: "web" });
  engine.source.reference("web", "c1");
  await assert.rejects(engine.volumes.remove("web", true), {
    code: "conflict",
    message: "remove web: volume is in use - [c1]",
  });
  engine.source.unreference("web", "c1");
  await engine.volumes.remove("web", false);
  await assert.rejects(engine.volumes.remove("web", false), {
    code: "not_found",
    message: "get web: no such volume",
  });
  await engine.volumes.remove("web", true);
  assert.deepEqual(engine.events, ["create web", "destroy web"]);
});

test("VolumeEngine keeps volumes over a restart and drops half-made ones", async () => {
  const root = newFolder();
  const first = await open(root);
  const made = await first.volumes.create({ Name: "web", Labels: { a: "b" } });
  fs.writeFileSync(path.join(text(made, "Mountpoint"), "data"), "x");
  fs.mkdirSync(path.join(root, "volumes", ".new-half", "_data"), { recursive: true });
  fs.mkdirSync(path.join(root, "volumes", "foreign"));
  const second = await open(root);
  assert.deepEqual(await second.volumes.inspect("web"), made);
  assert.deepEqual(fs.readdirSync(path.join(root, "volumes")).sort(), ["foreign", "web"]);
});

test("VolumeEngine.list() filters", async () => {
  const engine = await open(newFolder());
  await engine.volumes.create({ Name: "web-1", Labels: { a: "b" } });
  await engine.volumes.create({ Name: "db-1" });
  engine.source.reference("db-1", "c1");
  assert.deepEqual(await names(engine, {}), ["db-1", "web-1"]);
  assert.deepEqual(await names(engine, { name: ["eb-"] }), ["web-1"]);
  assert.deepEqual(await names(engine, { label: ["a=b"] }), ["web-1"]);
  assert.deepEqual(await names(engine, { label: ["a=c"] }), []);
  assert.deepEqual(await names(engine, { dangling: ["true"] }), ["web-1"]);
  assert.deepEqual(await names(engine, { dangling: ["0"] }), ["db-1"]);
  assert.deepEqual(await names(engine, { driver: ["nfs"] }), []);
  await assert.rejects(names(engine, { nosuch: ["1"] }), {
    code: "invalid_argument",
    message: "invalid filter 'nosuch'",
  });
});

test("VolumeEngine.prune() takes unused anonymous volumes, with all=1 named ones too", async () => {
  const engine = await open(newFolder());
  const anonymous = await engine.volumes.create({});
  fs.writeFileSync(path.join(text(anonymous, "Mountpoint"), "data"), "12345");
  await engine.volumes.create({ Name: "named" });
  await engine.volumes.create({ Name: "used" });
  engine.source.reference("used", "c1");
  assert.deepEqual(await engine.volumes.prune(filters({})), {
    VolumesDeleted: [anonymous["Name"]],
    SpaceReclaimed: 5,
  });
  const unlabelled = filters({ all: ["1"], label: ["constructor"] });
  assert.deepEqual((await engine.volumes.prune(unlabelled)).VolumesDeleted, []);
  assert.deepEqual((await engine.volumes.prune(filters({ all: ["1"] }))).VolumesDeleted, ["named"]);
  assert.deepEqual(await names(engine, {}), ["used"]);
});

test("VolumeSource.removeAnonymous() leaves named volumes and used ones", async () => {
  const engine = await open(newFolder());
  const named = await engine.source.ensure({ name: "named" });
  const anonymous = await engine.source.ensure({ name: null });
  await engine.source.mount(anonymous.name, "c1");
  await engine.source.removeAnonymous(named.name);
  await engine.source.removeAnonymous(anonymous.name);
  assert.deepEqual((await engine.volumes.list(filters({}))).Volumes.length, 2);
  await engine.source.unmount(anonymous.name, "c1");
  await engine.source.removeAnonymous(anonymous.name);
  assert.deepEqual(await names(engine, {}), ["named"]);
});

test("VolumeSource.ensure() makes one volume however many ask", async () => {
  const engine = await open(newFolder());
  const all = await Promise.all(Array.from({ length: 20 }, () => engine.source.ensure({ name: "same" })));
  assert.equal(new Set(all.map((each) => each.mountpoint)).size, 1);
  assert.deepEqual(engine.events, ["create same"]);
});

test("VolumeSource.ensure() for a container keeps the volume from a removal that comes meanwhile", async () => {
  const { source, volumes, ...rest } = await open(newFolder());
  const made = source.ensure({ name: "data", madeFor: "c1" });
  const removed = volumes.remove("data", false);
  await made;
  await assert.rejects(removed, /volume is in use - \[c1\]/);
  await source.ensure({ name: null, madeFor: "c1" });
  await source.removeMadeFor("c1");
  assert.deepEqual(await names({ source, volumes, ...rest }, {}), ["data"]);
  await volumes.remove("data", false);
});

test("splitMountOptions() parts flags from data", () => {
  assert.deepEqual(splitMountOptions("ro,nosuid,addr=1.2.3.4,vers=4"), {
    flags: 3,
    data: "addr=1.2.3.4,vers=4",
  });
  assert.deepEqual(splitMountOptions("size=1m"), { flags: 0, data: "size=1m" });
  assert.deepEqual(splitMountOptions("bind,rw"), { flags: 4096, data: "" });
});

test("a volume plugin makes, mounts and removes volumes", async () => {
  const root = newFolder();
  const plugins = path.join(root, "plugins");
  const script = path.resolve(import.meta.dirname, "../../examples/volume-plugin/plugin.mjs");
  const file = fs.existsSync(script)
    ? script
    : path.resolve(import.meta.dirname, "../../../examples/volume-plugin/plugin.mjs");
  const child = spawn(
    process.execPath,
    [file, "--socket", path.join(plugins, "folders.sock"), "--root", path.join(root, "data")],
    {
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  try {
    await new Promise((resolve) => child.stdout.once("data", resolve));
    const engine = await open(root, [plugins]);
    assert.deepEqual(engine.driverNames(), ["local", "folders"]);
    const made = await engine.volumes.create({
      Name: "shared",
      Driver: "folders",
      DriverOpts: { mode: "0770" },
    });
    assert.equal(made["Mountpoint"], path.join(root, "data", "shared"));
    assert.deepEqual(made["Status"], { plugin: "folders" });
    const mounted = await engine.source.mount("shared", "c1");
    assert.equal(fs.statSync(mounted.mountpoint).mode & 0o777, 0o770);
    await engine.source.unmount("shared", "c1");
    await engine.volumes.remove("shared", false);
    assert.equal(fs.existsSync(mounted.mountpoint), false);
    await assert.rejects(
      engine.volumes.create({ Name: "other", Driver: "nosuch" }),
      /plugin "nosuch" not found/,
    );
  } finally {
    child.kill();
    await new Promise((resolve) => child.once("exit", resolve));
  }
});
