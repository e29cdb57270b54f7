/** Managed plugins: made, run, used as volume drivers, crashed, taken over, pushed and installed again. Needs root. */
import assert from "node:assert/strict";
import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { freePort } from "../../common/testing/free-port.ts";
import { until, WAIT_MS } from "./support/wait.ts";
import type { EngineEvent, JsonObject } from "../../model/engine.ts";
import { SoakDaemon } from "../soak/soak-daemon.ts";
import { linesOf } from "./support/image-lab.ts";
import {
  EXAMPLE_FOLDER,
  mountsBelow,
  pluginProcesses,
  pluginTar,
  type PluginFolder,
} from "./support/plugin-lab.ts";
import { FakeRegistry, lastPart } from "./support/fake-registry.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";

const REGISTRY = "/usr/bin/docker-registry";

/** Volumes as memory: mounts that only the plugin makes and that containers must see. */
const MOUNTING = `
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createServer } from "node:http";
const mounted = new Set();
const of = (name) => "/shown/" + name;
const calls = {
  "/Plugin.Activate": () => ({ Implements: ["VolumeDriver"] }),
  "/VolumeDriver.Create": ({ Name }) => { mkdirSync(of(Name), { recursive: true }); return {}; },
  "/VolumeDriver.Mount": ({ Name }) => {
    if (!mounted.has(Name)) {
      execFileSync("/bin/busybox", ["mount", "-t", "tmpfs", "none", of(Name)]);
      execFileSync("/bin/busybox", ["touch", of(Name) + "/from-plugin"]);
      mounted.add(Name);
    }
    return { Mountpoint: of(Name) };
  },
  "/VolumeDriver.Path": ({ Name }) => ({ Mountpoint: of(Name) }),
  "/VolumeDriver.Get": ({ Name }) => ({ Volume: { Name, Mountpoint: of(Name) } }),
  "/VolumeDriver.Remove": ({ Name }) => {
    if (mounted.delete(Name)) execFileSync("/bin/busybox", ["umount", of(Name)]);
    return {};
  },
  "/VolumeDriver.Unmount": () => ({}),
};
createServer(async (request, response) => {
  let text = "";
  for await (const piece of request) text += piece;
  const call = calls[request.url];
  response.writeHead(call === undefined ? 404 : 200);
  response.end(JSON.stringify(call === undefined ? { Err: "no such call" } : call(JSON.parse(text))));
}).listen("/run/docker/plugins/folders.sock");
process.on("SIGTERM", () => process.exit());
`;

/** Volumes that are somebody else's: the path leads out by a link. */
const LEAVING = MOUNTING.replace(
  /"\/VolumeDriver.Mount"[^]*?\n {2}},\n/,
  `"/VolumeDriver.Mount": () => {
     execFileSync("/bin/busybox", ["ln", "-sfn", "/etc", "/out"]);
     return { Mountpoint: "/out" };
   },
`,
);

describe("managed plugins", () => {
  let lab: RuntimeLab;
  let registry: ChildProcess | undefined;

  before(async () => {
    lab = await RuntimeLab.open();
  });

  after(async () => {
    for (const plugin of await lab.engine.plugins.list(new Map()))
      await lab.engine.plugins.remove(idOf(plugin), true);
    await lab.close();
    if (registry !== undefined) {
      registry.kill();
      await new Promise((resolve) => registry?.once("exit", resolve));
    }
  });

  async function create(name: string, plugin: PluginFolder = {}): Promise<string> {
    await lab.engine.plugins.create(name, await pluginTar(path.join(lab.root, "plugin"), plugin));
    return folderOf(name);
  }

  async function folderOf(name: string): Promise<string> {
    return path.join(lab.root, "data/plugins", idOf(await lab.engine.plugins.inspect(name)));
  }

  async function isEnabled(name: string): Promise<boolean> {
    return (await lab.engine.plugins.inspect(name))["Enabled"] === true;
  }

  function inVolume(volume: string, command: string): ReturnType<RuntimeLab["run"]> {
    return lab.run(["sh", "-c", command], { Binds: [`${volume}:/v`] });
  }

  async function removeContainers(): Promise<void> {
    for (const { id } of lab.engine.containers.summaries({}))
      await lab.engine.containers.remove(id, { force: true, volumes: false, link: false });
  }

  function hasNoFiles(): boolean {
    const place = path.join(lab.root, "data/plugins");
    return fs
      .readdirSync(place, { recursive: true, withFileTypes: true })
      .every((each) => each.isDirectory());
  }

  test("the first plugins of a machine may be made at one moment", async () => {
    const names = ["one", "two"];
    const tars = [];
    for (const name of names)
      tars.push(await pluginTar(path.join(lab.root, "plugin"), { config: { description: name } }));
    await Promise.all(tars.map((tar, index) => lab.engine.plugins.create(names[index] ?? "", tar)));
    for (const name of names) await lab.engine.plugins.remove(name, false);
    await until("no file is left", WAIT_MS, hasNoFiles);
  });

  test("a plugin made from a folder serves volumes to containers", async () => {
    const folder = await create("folders");
    assert.equal(await isEnabled("folders"), false);
    await assert.rejects(lab.engine.volumes.create({ Name: "early", Driver: "folders" }), {
      code: "conflict",
      message: "create early: error looking up volume plugin folders: plugin folders found but disabled",
    });
    await lab.engine.plugins.set("folders", ["MODE=0700"]);
    await lab.engine.plugins.enable("folders", 0);
    assert.equal(await isEnabled("folders"), true);
    const volume = await lab.engine.volumes.create({ Name: "first", Driver: "folders" });
    assert.equal(volume["Driver"], "folders:latest");
    assert.equal(volume["Mountpoint"], path.join(folder, "rootfs/volumes/first"));
    const written = await inVolume("first", "stat -c %a /v; echo kept > /v/file");
    assert.equal(written.stdout, "700\n", written.stderr);
    assert.equal((await inVolume("first", "cat /v/file")).stdout, "kept\n");
    const info = (await lab.engine.info())["Plugins"] as JsonObject;
    assert.ok((info["Volume"] as string[]).includes("folders:latest"));
    // The plugin's own container is nobody's business.
    assert.deepEqual(
      lab.engine.containers.summaries({}).filter(({ name }) => name.includes("folders")),
      [],
    );
  });

  test("a plugin in use is neither disabled nor removed", async () => {
    const inUse = { code: "conflict", message: "plugin folders:latest is in use" };
    await assert.rejects(lab.engine.plugins.disable("folders", false), inUse);
    await assert.rejects(lab.engine.plugins.remove("folders", false), inUse);
    await assert.rejects(lab.engine.plugins.set("folders", ["MODE=0711"]), /cannot set on an active plugin/);
    await assert.rejects(create("folders"), { message: "plugin folders:latest already exists" });
  });

  test("a plugin that crashes is started again, and calls wait for it", async () => {
    const rootfs = path.join(await folderOf("folders"), "rootfs");
    const [before] = pluginProcesses(rootfs);
    assert.ok(before !== undefined, "the plugin runs");
    process.kill(before, "SIGKILL");
    assert.equal((await inVolume("first", "cat /v/file")).stdout, "kept\n");
    const now = pluginProcesses(rootfs);
    assert.ok(now.length === 1 && now[0] !== before, "another process");
  });

  test("a plugin runs on while the daemon is away and is the same afterwards", async () => {
    const rootfs = path.join(await folderOf("folders"), "rootfs");
    const before = pluginProcesses(rootfs);
    const user = await lab.create(["sleep", "100"], { Binds: ["first:/v"] });
    await lab.engine.containers.start(user);
    await lab.restart();
    assert.deepEqual(pluginProcesses(rootfs), before);
    assert.equal((await lab.exec(user, ["cat", "/v/file"])).output, "kept\n");
    assert.equal((await inVolume("first", "cat /v/file")).stdout, "kept\n");
  });

  test("a plugin that ended while the daemon was away is started again", async () => {
    const rootfs = path.join(await folderOf("folders"), "rootfs");
    await lab.restart(async () => {
      for (const pid of pluginProcesses(rootfs)) process.kill(pid, "SIGKILL");
      await until("the plugin is gone", WAIT_MS, () => pluginProcesses(rootfs).length === 0);
    });
    assert.equal((await inVolume("first", "cat /v/file")).stdout, "kept\n");
  });

  test("a plugin that can't be started is disabled, and the daemon starts without it", async () => {
    const rootfs = path.join(await folderOf("folders"), "rootfs");
    await removeContainers();
    const sockets = path.join(lab.root, "run/managed");
    await lab.restart(async () => {
      fs.renameSync(sockets, `${sockets}-away`);
      fs.writeFileSync(sockets, "");
    });
    assert.equal(await isEnabled("folders"), false);
    assert.deepEqual(await lab.engine.plugins.list(new Map([["enabled", ["true"]]])), []);
    await assert.rejects(
      inVolume("first", "true"),
      /plugin folders:latest found but not started: .*run\/managed/,
    );
    await assert.rejects(lab.engine.plugins.enable("folders", 0), /run\/managed/);
    fs.rmSync(sockets);
    fs.renameSync(`${sockets}-away`, sockets);
    await lab.engine.plugins.enable("folders", 0);
    assert.equal(await isEnabled("folders"), true);
    assert.equal(pluginProcesses(rootfs).length, 1);
    assert.equal((await inVolume("first", "cat /v/file")).stdout, "kept\n");
  });

  test("a plugin whose record can't be read stays as it is, and the daemon starts without it", async () => {
    const record = path.join(await folderOf("folders"), "plugin.json");
    const bytes = fs.readFileSync(record);
    const storage = path.join(lab.root, "data/plugins/storage");
    const before = fs.readdirSync(storage, { recursive: true });
    await removeContainers();
    await lab.restart(async () => fs.writeFileSync(record, bytes.subarray(0, bytes.length / 2)));
    const names = async (): Promise<readonly unknown[]> =>
      (await lab.engine.plugins.list(new Map())).map((plugin) => plugin["Name"]);
    assert.ok(!(await names()).includes("folders:latest"));
    // Something that clears away what no plugin has.
    await assert.rejects(lab.engine.plugins.create("broken", Readable.from([Buffer.from("no tar")])));
    assert.deepEqual(fs.readdirSync(storage, { recursive: true }), before);
    await lab.restart(async () => fs.writeFileSync(record, bytes));
    assert.equal(await isEnabled("folders"), true);
    assert.equal((await inVolume("first", "cat /v/file")).stdout, "kept\n");
  });

  test("disable and rm leave nothing", async () => {
    const folder = await folderOf("folders");
    await removeContainers();
    await lab.engine.volumes.remove("first", false);
    await lab.engine.plugins.disable("folders", false);
    assert.deepEqual(pluginProcesses(path.join(folder, "rootfs")), []);
    assert.deepEqual(fs.readdirSync(path.join(lab.root, "run/managed/s")), []);
    await lab.engine.plugins.remove("folders", false);
    assert.deepEqual(mountsBelow(lab.root), []);
    // The container's own folder goes a little later: nobody waits for that.
    await until("no file is left", WAIT_MS, hasNoFiles);
  });

  test("mounts of a plugin show in containers, and go with it", async () => {
    const config = { propagatedMount: "/shown", linux: { capabilities: ["CAP_SYS_ADMIN"] } };
    const folder = await create("mounting:1", { config, script: MOUNTING });
    await lab.engine.plugins.enable("mounting:1", 60);
    await lab.engine.volumes.create({ Name: "memory", Driver: "mounting:1" });
    const seen = await inVolume("memory", "ls /v; grep -c ' /v tmpfs' /proc/mounts; echo x > /v/mine");
    assert.equal(seen.stdout, "from-plugin\n1\n", seen.stderr);
    assert.ok(fs.existsSync(path.join(folder, "propagated-mount/memory/mine")));
    await removeContainers();
    // Forced, with the volume mounted.
    await lab.engine.plugins.remove("mounting:1", true);
    assert.deepEqual(mountsBelow(lab.root), []);
    await lab.engine.volumes.remove("memory", true);
  });

  test("a plugin's links don't make the host mount its own folders", async () => {
    await create("leaving", { script: LEAVING });
    await lab.engine.plugins.enable("leaving", 60);
    await lab.engine.volumes.create({ Name: "gone", Driver: "leaving" });
    await assert.rejects(inVolume("gone", "ls /v"), /must give paths among its own files, got "\/out"/);
    await removeContainers();
    await lab.engine.plugins.remove("leaving", true);
    await lab.engine.volumes.remove("gone", true);
  });

  test("enabling says why it did not work", async () => {
    await create("silent", { script: "console.error('no luck'); process.exit(3);" });
    await assert.rejects(lab.engine.plugins.enable("silent", 60), {
      message: /plugin silent:latest ended with code 3 before it listened on its socket: no luck/,
    });
    assert.equal(await isEnabled("silent"), false);
    await create("deaf", {
      script: "process.on('SIGTERM', () => process.exit()); setInterval(() => {}, 1000)",
    });
    await assert.rejects(lab.engine.plugins.enable("deaf", 1), /Plugin\.Activate: connect ENOENT/);
    const types = { interface: { types: ["docker.networkdriver/1.0"], socket: "net.sock" } };
    await create("network", { config: types });
    await assert.rejects(lab.engine.plugins.enable("network", 60), {
      code: "unimplemented",
      message: /its type must be "docker.volumedriver\/1.0", got "docker.networkdriver\/1.0"/,
    });
    for (const name of ["silent", "deaf", "network"]) await lab.engine.plugins.remove(name, false);
    assert.deepEqual(fs.readdirSync(path.join(lab.root, "run/managed/s")), []);
  });

  test("create wants config.json and rootfs, and keeps nothing of what it refuses", async () => {
    const folder = path.join(lab.root, "plugin");
    const make = (config: object): Promise<void> =>
      pluginTar(folder, { config }).then((tar) => lab.engine.plugins.create("bad", tar));
    await assert.rejects(make({ entrypoint: "x" }), /Entrypoint must be a list of strings/);
    fs.rmSync(path.join(folder, "config.json"));
    const tarOf = (): NodeJS.ReadableStream =>
      spawn("tar", ["-C", folder, "-c", "."], { stdio: ["ignore", "pipe", "inherit"] }).stdout;
    await assert.rejects(lab.engine.plugins.create("bad", tarOf() as never), /config not found/);
    fs.rmSync(path.join(folder, "rootfs"), { recursive: true });
    await assert.rejects(lab.engine.plugins.create("bad", tarOf() as never), /no rootfs found/);
    assert.deepEqual(
      fs.readdirSync(path.join(lab.root, "data/plugins")).filter((name) => name.startsWith(".")),
      [],
    );
  });

  const noRegistry = fs.existsSync(REGISTRY) ? false : "docker-registry is not installed";
  test("a plugin goes to a registry and comes back under an alias", { skip: noRegistry }, async () => {
    const port = await freePort();
    const file = path.join(lab.root, "registry.yml");
    fs.writeFileSync(
      file,
      `version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: ${lab.root}/registry}}\nhttp: {addr: "127.0.0.1:${port}"}\n`,
    );
    registry = spawn(REGISTRY, ["serve", file], { stdio: "ignore", env: { OTEL_TRACES_EXPORTER: "none" } });
    await until("the registry answers", WAIT_MS, () => answers(port));
    const remote = `127.0.0.1:${port}/me/folders:1`;
    await create(remote);
    const signal = AbortSignal.timeout(WAIT_MS);
    const pushed = await linesOf(lab.engine.plugins.push(remote, {}, signal));
    assert.match(JSON.stringify(pushed.at(-1)), /"aux":\{"Tag":"1","Digest":"sha256:[0-9a-f]{64}"/);
    await lab.engine.plugins.remove(remote, false);
    const privileges = await lab.engine.plugins.privileges(remote);
    assert.deepEqual(new Set(privileges.map(({ Name }) => Name)), new Set(["network", "mount"]));
    const options = { remote, name: "again", privileges: [] };
    await assert.rejects(linesOf(lab.engine.plugins.pull(options, signal)), /incorrect privileges/);
    await linesOf(lab.engine.plugins.pull({ ...options, privileges }, signal));
    const plugin = await lab.engine.plugins.inspect("again");
    assert.equal(plugin["PluginReference"], remote);
    await lab.engine.plugins.enable("again", 60);
    await lab.engine.volumes.create({ Name: "pulled", Driver: "again" });
    assert.equal((await inVolume("pulled", "echo ok > /v/f; cat /v/f")).stdout, "ok\n");
    const upgrade = { remote, name: "", privileges };
    await assert.rejects(
      linesOf(lab.engine.plugins.upgrade("again", upgrade, signal)),
      /plugin must be disabled before upgrading: plugin again:latest is enabled/,
    );
    await removeContainers();
    await lab.engine.volumes.remove("pulled", false);
    await lab.engine.plugins.disable("again", false);
    await lab.engine.plugins.set("again", ["MODE=0711"]);
    await linesOf(lab.engine.plugins.upgrade("again", upgrade, signal));
    const settings = (await lab.engine.plugins.inspect("again"))["Settings"] as JsonObject;
    assert.deepEqual(settings["Env"], ["MODE=0711"]);
    await lab.engine.plugins.enable("again", 60);
    await lab.engine.plugins.remove("again", true);
    // An image is no plugin.
    await lab.engine.images.tag("box:1", `127.0.0.1:${port}/me/box`, "1");
    await linesOf(lab.engine.images.push({ reference: `127.0.0.1:${port}/me/box:1` }, signal));
    await assert.rejects(
      lab.engine.plugins.privileges(`127.0.0.1:${port}/me/box:1`),
      /did not find plugin config for specified reference/,
    );
  });

  test("a plugin gets into a registry that breaks a body off", async (t) => {
    const broken = await new FakeRegistry().start();
    t.after(() => broken.stop());
    let isBroken = false;
    broken.spoil = (request, response) => {
      if (request.method !== "PUT" || isBroken) return false;
      isBroken = true;
      request.once("data", (piece: Buffer) => {
        broken.uploads.set(lastPart(request), piece);
        response.destroy();
      });
      return true;
    };
    const remote = `${broken.host}/me/folders:1`;
    await create(remote);
    await linesOf(lab.engine.plugins.push(remote, {}, AbortSignal.timeout(WAIT_MS)));
    assert.deepEqual([isBroken, broken.manifests.has("1")], [true, true]);
    await lab.engine.plugins.remove(remote, false);
  });

  test("events tell of plugins", async () => {
    const events: EngineEvent[] = [];
    // Events of one millisecond are told apart by nanoseconds, so that the last may lie just beyond it.
    const range = { sinceMs: 0, untilMs: Date.now() + 1 };
    for await (const event of lab.engine.events(range, AbortSignal.timeout(WAIT_MS)))
      if (event.Type === "plugin") events.push(event);
    const actions = new Set(events.map((each) => each.Action));
    assert.deepEqual(actions, new Set(["create", "enable", "disable", "remove", "pull"]));
    assert.equal(
      events.every((each) => each.Actor.Attributes["name"] !== undefined),
      true,
    );
  });
});

function idOf(plugin: JsonObject): string {
  const id = plugin["Id"];
  return typeof id === "string" ? id : "";
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    get({ host: "127.0.0.1", port, path: "/v2/" }, (response) => {
      response.resume();
      resolve(true);
    }).on("error", () => resolve(false));
  });
}

describe("the example plugin, with Node.js in it", () => {
  const root = fs.mkdtempSync(path.join(tmpdir(), "shoal-plugin-example-"));
  let daemon: SoakDaemon;

  before(async () => {
    const script = path.join(EXAMPLE_FOLDER, "build.sh");
    const env = { ...process.env, NODE: process.execPath };
    execFileSync("bash", [script, path.join(root, "folders")], { env });
    daemon = await SoakDaemon.open(root);
    daemon.start();
  });

  after(async () => {
    await daemon.call("DELETE", "/plugins/folders?force=1");
    await daemon.stop();
    daemon.close();
    fs.rmSync(root, { recursive: true, force: true });
  });

  async function call(method: string, target: string, body?: Uint8Array | object): Promise<string> {
    const answer = await daemon.call(method, target, body);
    assert.ok(answer.status < 300, `${method} ${target}: ${answer.status} ${answer.body.toString()}`);
    return answer.body.toString();
  }

  test("it serves volumes, also after the daemon was killed", async () => {
    const tar = execFileSync("tar", ["-C", path.join(root, "folders"), "-c", "."], { maxBuffer: 2 ** 30 });
    await call("POST", "/plugins/create?name=folders", tar);
    await call("POST", "/plugins/folders/enable?timeout=30");
    await call("POST", "/volumes/create", { Name: "kept", Driver: "folders", DriverOpts: { mode: "0770" } });
    const volume = JSON.parse(await call("GET", "/volumes/kept")) as { readonly Mountpoint: string };
    assert.equal(fs.statSync(volume.Mountpoint).mode & 0o777, 0o770);
    await daemon.kill();
    daemon.start();
    const [plugin] = JSON.parse(await call("GET", "/plugins")) as { readonly Enabled: boolean }[];
    assert.equal(plugin?.Enabled, true);
    await call("POST", "/volumes/create", { Name: "second", Driver: "folders" });
    const inUse = await daemon.call("POST", "/plugins/folders/disable");
    assert.equal(inUse.status, 409);
    for (const name of ["kept", "second"]) await call("DELETE", `/volumes/${name}`);
    await call("POST", "/plugins/folders/disable");
  });
});
