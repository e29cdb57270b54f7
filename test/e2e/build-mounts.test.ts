/** RUN --mount with real containers. Needs root. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { CachePruneOptions, JsonObject } from "../../model/engine.ts";
import { streamOf, tarOf, type TestMember } from "../../runtime/images/testing/archives.ts";
import { RuntimeLab } from "./support/runtime-lab.ts";
import { WAIT_MS } from "./support/wait.ts";

const skip = process.getuid?.() === 0 ? false : "needs root";

const FILES: readonly TestMember[] = [
  { name: "file", content: "from the context" },
  { name: "tree/" },
  { name: "tree/in", content: "inside", mode: 0o640, uid: 3, gid: 4 },
  { name: "evil", type: "symlink", linkName: "/etc" },
  { name: "up", type: "symlink", linkName: "../../../../../etc/hostname" },
];

describe("RUN --mount", { skip }, () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  async function build(
    lines: string,
    options: { readonly files?: readonly TestMember[]; readonly nocache?: boolean } = {},
  ): Promise<string> {
    const { files = FILES, nocache = true } = options;
    const members = [{ name: "Dockerfile", content: `FROM box:1\n${lines}\n` }, ...files];
    const query = new URLSearchParams({ t: "built:1", networkmode: "none", nocache: nocache ? "1" : "0" });
    const context = streamOf(tarOf(members));
    let text = "";
    for await (const line of lab.engine.images.build({ query, context }, AbortSignal.timeout(WAIT_MS)))
      text += typeof line["stream"] === "string" ? line["stream"] : "";
    return text;
  }

  async function shows(command: string): Promise<string> {
    const { stdout, stderr } = await lab.run(["sh", "-c", command], {}, { config: { Image: "built:1" } });
    return stdout + stderr;
  }

  test("bind: the context can be read, not written, and leaves nothing in the image", async () => {
    const text = await build(
      "RUN --mount=target=/made/for/it cat /made/for/it/file && ! touch /made/for/it/new && cat /made/for/it/tree/in > /kept",
    );
    assert.match(text, /from the context/);
    assert.match(text, /Read-only file system/);
    assert.equal(await shows("cat /kept; ls -d /made"), "insidels: /made: No such file or directory\n");
  });

  test("bind: what is written with rw is lost, and later steps see the context as it was", async () => {
    await build(
      `RUN --mount=target=/c,rw echo changed > /c/file && rm -rf /c/tree && cat /c/file > /seen
COPY file tree /copied/`,
    );
    assert.equal(await shows("cat /seen /copied/file /copied/in"), "changed\nfrom the contextinside");
  });

  test("bind: a folder or file of a stage, with its owner", async () => {
    await build(
      `RUN mkdir -p /out/sub && echo made > /out/sub/f && chown 7:8 /out/sub/f && ln -s sub /out/link
FROM box:1 AS last
RUN --mount=from=0,source=/out/link,target=/in --mount=from=0,source=out/sub/f,target=/one stat -c '%u:%g' /in/f > /owner && cat /one > /content`,
    );
    assert.equal(
      await shows("cat /owner /content; ls /in /one"),
      ["7:8", "made", "ls: /in: No such file or directory", "ls: /one: No such file or directory", ""].join(
        "\n",
      ),
    );
  });

  test("bind: links lead nowhere outside of the context", async () => {
    for (const source of ["evil", "up", "evil/hostname", "../../../../etc"]) {
      await assert.rejects(build(`RUN --mount=source=${source},target=/x ls /x`), /: file does not exist$/);
    }
  });

  test("bind: the step is found again until what it can read changes", async () => {
    const step = "RUN --mount=source=tree,target=/t cat /t/in > /kept";
    await build(step, { nocache: false });
    assert.match(await build(step, { nocache: false }), /Using cache/);
    const files = FILES.map((file) => (file.name === "file" ? { ...file, content: "other" } : file));
    assert.match(await build(step, { files, nocache: false }), /Using cache/);
    const changed = FILES.map((file) => (file.name === "tree/in" ? { ...file, content: "other" } : file));
    assert.doesNotMatch(await build(step, { files: changed, nocache: false }), /Using cache/);
    assert.equal(await shows("cat /kept"), "other");
  });

  test("cache: kept from build to build, in no image, gone after a prune", async () => {
    const step =
      "RUN --mount=type=cache,id=kept,target=/var/cache/x,mode=0750 echo x >> /var/cache/x/log && wc -l < /var/cache/x/log && stat -c '%a' /var/cache/x";
    assert.match(await build(step), /\n1\n750\n/);
    assert.match(await build(step), /\n2\n750\n/);
    assert.equal(await shows("ls /var/cache/x"), "ls: /var/cache/x: No such file or directory\n");
    const { BuildCache } = await lab.engine.diskUsage(["build-cache"]);
    const found = (BuildCache as readonly JsonObject[]).find((each) => each["Type"] === "exec.cachemount");
    assert.deepEqual(
      [found?.["Description"], found?.["Size"], found?.["InUse"]],
      ["cached mount kept", 4, false],
    );
    const prune = (): Promise<JsonObject> => lab.engine.images.pruneBuildCache({ filters: new Map() });
    await Promise.all([prune(), prune()]);
    assert.match(await build(step), /\n1\n750\n/);
  });

  test("cache: a prune keeps what its filters don't name, and the newest that fits into the size that it keeps", async () => {
    const { images } = lab.engine;
    const prune = async (options: CachePruneOptions): Promise<number> =>
      (((await images.pruneBuildCache(options))["CachesDeleted"] ?? []) as readonly string[]).length;
    const mounts = async (): Promise<readonly string[]> => {
      const { BuildCache } = await lab.engine.diskUsage(["build-cache"]);
      return (BuildCache as readonly JsonObject[])
        .filter((each) => each["Type"] === "exec.cachemount")
        .map((each) => each["Description"] as string)
        .toSorted();
    };
    await prune({ filters: new Map() });
    const fill = (id: string): Promise<string> =>
      build(`RUN --mount=type=cache,id=${id},target=/c dd if=/dev/zero of=/c/f bs=1k count=64`, {
        nocache: true,
      });
    await fill("first");
    await fill("second");
    assert.equal(await prune({ filters: new Map([["id", ["nothing-like-this"]]]) }), 0);
    assert.equal(await prune({ filters: new Map([["until", ["24h"]]]) }), 0);
    await prune({ filters: new Map([["type", ["regular"]]]) });
    assert.deepEqual(await mounts(), ["cached mount first", "cached mount second"]);
    assert.equal(await prune({ filters: new Map(), reservedBytes: 1_000_000 }), 0);
    assert.equal(await prune({ filters: new Map(), maxUsedBytes: 100_000 }), 1);
    assert.deepEqual(await mounts(), ["cached mount second"]);
    await assert.rejects(prune({ filters: new Map([["label", ["x"]]]) }), /invalid filter 'label'/);
    await assert.rejects(
      prune({ filters: new Map([["id", ["a", "b"]]]) }),
      /filter 'id' must have one value/,
    );
    assert.equal(await prune({ filters: new Map() }), 1);
  });

  test("cache: with sharing=locked two stages take turns, with private each has its own", async () => {
    const stages = (sharing: string): string =>
      [1, 2]
        .map((number) => {
          const mount = `--mount=type=cache,id=${sharing},target=/c,sharing=${sharing}`;
          return `FROM box:1 AS s${number}\nRUN ${mount} ! test -e /c/busy && touch /c/busy && usleep 300000 && rm /c/busy && echo ok > /s${number}`;
        })
        .concat("FROM box:1", "COPY --from=s1 /s1 /", "COPY --from=s2 /s2 /")
        .join("\n");
    for (const sharing of ["locked", "private"]) {
      await build(stages(sharing));
      assert.equal(await shows("cat /s1 /s2"), "ok\nok\n");
    }
  });

  test("cache: mounts of one locked name in a command are one folder, and in any order", async () => {
    const mount = (id: string, target: string): string =>
      `--mount=type=cache,id=${id},target=${target},sharing=locked`;
    await build(`RUN ${mount("same", "/a")} ${mount("same", "/b")} touch /a/x && test -e /b/x`);
    const stage = (number: number, first: string, second: string): string =>
      `FROM box:1 AS o${number}\nRUN ${mount(first, "/1")} ${mount(second, "/2")} usleep 100000 && touch /o${number}`;
    const stages = [stage(1, "left", "right"), stage(2, "right", "left")];
    await build([...stages, "FROM box:1", "COPY --from=o1 /o1 /", "COPY --from=o2 /o2 /"].join("\n"));
  });

  test("tmpfs: as large as it says, and not in the image", async () => {
    const text = await build("RUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1; echo x > /t/f");
    assert.match(text, /tmpfs +1024 /);
    assert.equal(await shows("ls /t"), "ls: /t: No such file or directory\n");
  });

  test("secret and ssh: told to be missing, an error only where they are required", async () => {
    const text = await build("RUN --mount=type=secret,id=key --mount=type=ssh test ! -e /run/secrets/key");
    assert.match(text, /\[Warning\] secret "key" was not given/);
    assert.match(text, /\[Warning\] ssh "default" was not given/);
    await assert.rejects(build("RUN --mount=type=secret,id=key,required true"), /secret "key" was not given/);
  });

  test("places to mount on are taken away through no link, and only if they are empty", async () => {
    await build(
      `RUN mkdir -p /keep/x
RUN --mount=type=tmpfs,target=/t/x --mount=type=tmpfs,target=/full/x mv /t /moved && ln -s /keep /t && touch /full/other`,
    );
    assert.equal(
      await shows("ls -d /keep/x /moved/x /full/other; ls /full"),
      "/full/other\n/keep/x\n/moved/x\nother\n",
    );
  });

  test("a RUN document that names its own interpreter is a file that the kernel runs, and is not in the image", async () => {
    const script = (said: string): string => `RUN <<EOF
#!/bin/cat
says ${said} $HOME and 'quotes'
EOF
USER 7:8
RUN <<-OTHER
\t#!/bin/sh -e
\techo "$0 $- $(id -u)"
\tfalse
\ttouch /tmp/not-reached
\tOTHER
`;
    await assert.rejects(
      build(script("one")),
      /The command '\/bin\/sh -c \/dev\/pipes\/OTHER' returned a non-zero code: 1/,
    );
    const [first = ""] = script("one").split("USER");
    const text = await build(`${first}RUN ! ls /dev/pipes`);
    assert.match(text, /#!\/bin\/cat\nsays one \$HOME and 'quotes'\n/);
    const changed = await build(script("two").split("USER")[0] ?? "", { nocache: false });
    assert.match(changed, /says two/);
    assert.equal(await shows("ls -d /dev/pipes"), "ls: /dev/pipes: No such file or directory\n");
  });
});
