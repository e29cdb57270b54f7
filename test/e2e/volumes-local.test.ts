/** The local driver's options on real mounts. Needs root. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { realEnv } from "../../common/real-env.ts";
import { isMounted } from "../../runtime/volumes/mount-calls.ts";
import { createVolumeEngine, type VolumeEngineParts } from "../../runtime/volumes/volume-engine.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";

describe("volumes of the local driver with options", { skip }, () => {
  const folders: string[] = [];
  after(() => {
    for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true });
  });

  function newFolder(): string {
    const folder = fs.mkdtempSync(path.join(tmpdir(), "shoal-volumes-local-"));
    folders.push(folder);
    return folder;
  }

  function open(dataRoot: string): Promise<VolumeEngineParts> {
    return createVolumeEngine({
      env: realEnv,
      log: silentLogger,
      dataRoot,
      pluginFolders: [],
      events: { emit: () => {} },
    });
  }

  async function made(name: string, options: Readonly<Record<string, string>>): Promise<VolumeEngineParts> {
    const engine = await open(newFolder());
    await engine.volumes.create({ Name: name, Driver: "local", DriverOpts: options });
    return engine;
  }

  test("tmpfs: mounted with the first user, gone with the last", async () => {
    const engine = await made("memory", {
      type: "tmpfs",
      device: "tmpfs",
      o: "size=1m,mode=0700,uid=5,noexec",
    });
    const { mountpoint } = await engine.source.mount("memory", "c1");
    await engine.source.mount("memory", "c2");
    const { uid, mode } = fs.statSync(mountpoint);
    assert.deepEqual([uid, mode & 0o7777], [5, 0o700]);
    const size = fs.statfsSync(mountpoint);
    assert.equal(size.blocks * size.bsize, 1024 * 1024);
    const line = fs
      .readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .find((each) => each.includes(mountpoint));
    assert.match(line ?? "", /noexec/);
    fs.writeFileSync(path.join(mountpoint, "file"), "x");
    await assert.rejects(engine.volumes.remove("memory", false), { code: "conflict" });
    await engine.source.unmount("memory", "c1");
    assert.equal(fs.existsSync(path.join(mountpoint, "file")), true);
    await engine.source.unmount("memory", "c2");
    assert.equal(isMounted(mountpoint), false);
    assert.deepEqual(fs.readdirSync(mountpoint), []);
  });

  for (const isReadonly of [false, true]) {
    test(`bind by o=${isReadonly ? "bind,ro" : "bind"}: the folder itself, left as it is by a removal`, async () => {
      const folder = newFolder();
      fs.writeFileSync(path.join(folder, "there"), "1");
      const engine = await made("bound", {
        type: "none",
        device: folder,
        o: isReadonly ? "bind,ro" : "bind",
      });
      const { mountpoint } = await engine.source.mount("bound", "c1");
      const file = path.join(mountpoint, "new");
      if (isReadonly) assert.throws(() => fs.writeFileSync(file, ""), { code: "EROFS" });
      else fs.writeFileSync(file, "");
      await engine.source.unmount("bound", "c1");
      await engine.volumes.remove("bound", false);
      assert.deepEqual(fs.readdirSync(folder), isReadonly ? ["there"] : ["new", "there"]);
    });
  }

  test("a mount that a former daemon left is taken over, and ends with its last user", async () => {
    const dataRoot = newFolder();
    const first = await open(dataRoot);
    await first.volumes.create({ Name: "memory", DriverOpts: { type: "tmpfs", device: "x" } });
    const { mountpoint } = await first.source.mount("memory", "c1");
    fs.writeFileSync(path.join(mountpoint, "file"), "kept");
    const second = await open(dataRoot);
    await second.source.mount("memory", "c1");
    assert.equal(fs.readFileSync(path.join(mountpoint, "file"), "utf8"), "kept");
    await second.source.unmount("memory", "c1");
    assert.equal(isMounted(mountpoint), false);
  });

  const FAILURES: readonly (readonly [string, Readonly<Record<string, string>>, RegExp])[] = [
    [
      "a folder that is not there",
      { type: "none", device: "/nosuch/folder", o: "bind" },
      /failed to mount local volume: mount \/nosuch\/folder:.*_data, data: : ENOENT/,
    ],
    [
      "a file system that the kernel lacks",
      { type: "nosuchfs", device: "x" },
      /failed to mount local volume: .*: ENODEV/,
    ],
    [
      "an NFS server whose name means nothing",
      { type: "nfs", device: ":/x", o: "addr=nosuch.invalid,vers=4" },
      /error resolving passed in network volume address: nosuch\.invalid/,
    ],
    [
      "an NFS server that is not there",
      { type: "nfs4", device: ":/x", o: "addr=localhost,vers=4,soft,timeo=1,retrans=1,port=1" },
      // The name has become an address; what the kernel says depends on what it knows.
      /failed to mount local volume: mount :\/x:.*data: addr=(?:127\.0\.0\.1|::1),vers=4,soft,timeo=1,retrans=1,port=1: E/,
    ],
  ];

  for (const [what, options, message] of FAILURES) {
    test(`${what} is named, and the volume can be removed`, async () => {
      const engine = await made("bad", options);
      await assert.rejects(engine.source.mount("bad", "c1"), message);
      await engine.volumes.remove("bad", false);
    });
  }
});
