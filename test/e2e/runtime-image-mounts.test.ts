/** `--mount type=image`: the files of an image beside a container's own, without a copy. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as fs from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { extract } from "tar-stream";
import type { Mount } from "../../model/specs.ts";
import { streamOf, tarOf } from "../../runtime/images/testing/archives.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";

describe("mounts of images", () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
    const files = [
      { name: "tool", content: "first\n", mode: 0o755 },
      { name: "gone", content: "x" },
      { name: "sub/deep", content: "deep\n" },
      { name: "out", type: "symlink" as const, linkName: "/etc" },
    ];
    for await (const line of lab.engine.images.import(streamOf(tarOf(files)), {
      repo: "tools",
      tag: "1",
      changes: [],
    }))
      assert.equal(line["error"], undefined);
    const id = await lab.create(["sh", "-c", "echo second > /tool2; rm /gone"]);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
  });
  after(() => lab.close());

  const mount = (more: Partial<Mount> = {}): { readonly Mounts: readonly Mount[] } => ({
    Mounts: [{ Type: "image", Source: "tools:1", Target: "/x", ...more }],
  });
  const mounts = (): readonly string[] =>
    readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(lab.root) && /-image|\/look\//.test(line));

  test("shows the image's files, which nobody can write, and leaves no mount", async () => {
    const ran = await lab.run(
      ["sh", "-c", "cat /x/tool /x/sub/deep; echo no > /x/tool; touch /x/new"],
      mount(),
    );
    assert.equal(ran.stdout, "first\ndeep\n");
    assert.match(ran.stderr, /Read-only file system[\s\S]*Read-only file system/);
    const { Mounts } = await lab.engine.containers.inspect(ran.id, { size: false });
    const [shown] = Mounts as readonly Readonly<Record<string, unknown>>[];
    assert.deepEqual(
      [shown?.["Type"], shown?.["Name"], shown?.["Destination"], shown?.["RW"]],
      ["image", "tools:1", "/x", false],
    );
    assert.deepEqual(mounts(), []);
  });

  test("several layers are one tree, as they are in a container of that image", async () => {
    const script = "echo changed > /data/seed; rm -r /tmp; echo made > /made";
    const { id } = await lab.run(["sh", "-c", script]);
    await lab.engine.containers.commit(id, { repo: "box", tag: "2", pause: false, changes: [] });
    const ran = await lab.run(
      ["sh", "-c", "cat /x/data/seed /x/made; ls -d /x/tmp"],
      mount({ Source: "box:2" }),
    );
    assert.equal(ran.stdout, "changed\nmade\n");
    assert.match(ran.stderr, /No such file/);
  });

  test("a subpath, which leads nowhere outside of the image", async () => {
    const at = (Subpath: string): ReturnType<typeof mount> => mount({ ImageOptions: { Subpath } });
    assert.equal((await lab.run(["cat", "/x/deep"], at("sub"))).stdout, "deep\n");
    assert.equal((await lab.run(["cat", "/x"], at("tool"))).stdout, "first\n");
    await assert.rejects(
      lab.run(["true"], at("nothing")),
      /: cannot access path (.*\/nothing): lstat \1: no such file or directory$/,
    );
    await assert.rejects(lab.run(["true"], at("out")), /escapes the base directory, base: .*, subpath: out$/);
    await assert.rejects(
      lab.run(["true"], at("../x")),
      /type "image": subpath must be a relative path within/,
    );
    assert.deepEqual(mounts(), []);
  });

  test("a subpath of a volume, likewise", async () => {
    const volume = (Subpath: string): { readonly Mounts: readonly Mount[] } => ({
      Mounts: [
        {
          Type: "volume",
          Source: "some",
          Target: "/v",
          ...(Subpath === "" ? {} : { VolumeOptions: { Subpath } }),
        },
      ],
    });
    await lab.run(["sh", "-c", "mkdir /v/a; echo in > /v/a/f; ln -s /etc /v/out"], volume(""));
    const ran = await lab.run(["sh", "-c", "cat /v/f; echo more >> /v/f"], volume("a"));
    assert.equal(ran.stdout, "in\n");
    assert.equal((await lab.run(["cat", "/v/a/f"], volume(""))).stdout, "in\nmore\n");
    assert.equal((await lab.run(["cat", "/v/f"], volume("nothing/../a"))).stdout, "in\nmore\n");
    await assert.rejects(
      lab.run(["true"], volume("out")),
      /escapes the base directory, base: .*, subpath: out$/,
    );
    await assert.rejects(
      lab.run(["true"], volume("a/b/c")),
      /: cannot access path .*\/a\/b\/c: lstat .*\/a\/b: no such file or directory$/,
    );
    await assert.rejects(
      lab.run(["true"], volume("a/f/x")),
      /error while resolving symlinks .*: not a directory$/,
    );
    await assert.rejects(lab.run(["true"], volume("a/../..")), /relative path within the volume/);
    const nameless: Mount = { Type: "volume", Target: "/v", VolumeOptions: { Subpath: "a" } };
    await assert.rejects(
      lab.run(["true"], { Mounts: [nameless] }),
      /must not set Subpath when using anonymous/,
    );
  });

  test("is seen by who copies from the container, running or not, and leaves no mount", async () => {
    const { containers } = lab.engine;
    const inside = { Mounts: [...mount().Mounts, ...mount({ Target: "/x/sub" }).Mounts] };
    const id = await lab.create(["sleep", "100"], inside);
    const names = async (place: string): Promise<readonly string[]> => {
      const { tar } = await containers.getArchive(id, place);
      const found: string[] = [];
      for await (const entry of tar.pipe(extract())) {
        found.push(entry.header.name);
        entry.resume();
      }
      return found;
    };
    const look = async (): Promise<void> => {
      assert.deepEqual(await names("/x/tool"), ["tool"]);
      assert.deepEqual(await names("/x/sub/sub/deep"), ["deep"]);
      assert.equal((await containers.statPath(id, "/x/gone"))["name"], "gone");
      await assert.rejects(containers.statPath(id, "/x/nosuch"), /Could not find the file \/x\/nosuch/);
      const options = { noOverwriteDirNonDir: false, copyUidGid: false };
      await assert.rejects(
        containers.putArchive(id, "/x", streamOf(tarOf([{ name: "new", content: "x" }])), options),
        /mounted volume is marked read-only/,
      );
    };
    await look();
    assert.deepEqual(mounts(), []);
    await containers.start(id);
    await look();
    await containers.remove(id, { force: true, volumes: true, link: false });
    assert.deepEqual(mounts(), []);
  });

  test("what can't be had is refused before anything is made", async () => {
    const containers = lab.engine.containers.summaries({}).length;
    await assert.rejects(
      lab.run(["true"], mount({ Source: "none:1" })),
      /type "image": No such image: none:1/,
    );
    await assert.rejects(lab.run(["true"], mount({ Source: "" })), /field Source must not be empty/);
    await assert.rejects(lab.run(["true"], mount({ Type: "cluster" })), /cluster volumes need a CSI plugin/);
    assert.equal(lab.engine.containers.summaries({}).length, containers);
  });

  test("outlives the daemon and the image's name, and goes with the container", async () => {
    const id = await lab.create(
      ["sh", "-c", "while ! test -e /tmp/end; do sleep 0.05; done; cat /x/tool"],
      mount(),
    );
    await lab.engine.containers.start(id);
    await lab.restart();
    assert.equal(mounts().length, 1);
    await lab.engine.images.remove("tools:1", { force: true, noPrune: false });
    assert.equal((await lab.exec(id, ["touch", "/tmp/end"])).exitCode, 0);
    assert.equal((await lab.engine.containers.wait(id, "not-running", {})).exitCode, 0);
    assert.equal((await lab.output(id)).stdout, "first\n");
    await lab.engine.containers.start(id);
    await lab.engine.containers.remove(id, { force: true, volumes: true, link: false });
    assert.deepEqual(mounts(), []);
    const names = await fs.readdir(path.join(lab.root, "data"), { recursive: true });
    assert.deepEqual(
      names.filter((name) => name.includes(`${id}-image`) && !name.includes("trash")),
      [],
    );
  });
});
