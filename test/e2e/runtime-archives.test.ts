/** Files put into containers before and after their start, as `docker cp` and Compose (secrets, configs) do. Needs root. */
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { pack, type Header } from "tar-stream";
import { RuntimeLab } from "./support/runtime-lab.ts";

const skip = process.getuid?.() === 0 ? false : "real containers need root";

describe("files put into containers", { skip }, () => {
  let lab: RuntimeLab;
  before(async () => {
    lab = await RuntimeLab.open();
  });
  after(() => lab.close());

  function put(
    id: string,
    header: Partial<Header> & { readonly name: string },
    copyUidGid = false,
  ): Promise<void> {
    const tar = pack();
    tar.entry(header, `${header.name}\n`);
    tar.finalize();
    const options = { noOverwriteDirNonDir: false, copyUidGid };
    return lab.engine.containers.putArchive(id, "/root", Readable.from(tar), options);
  }

  test("a container that removes itself takes files, more than once, before it starts", async () => {
    const id = await lab.create(["cat", "/root/a", "/root/b"], { AutoRemove: true });
    for (const name of ["a", "b"]) await put(id, { name });
    const ended = lab.engine.containers.wait(id, "removed", {});
    await lab.engine.containers.start(id);
    assert.equal((await ended).exitCode, 0);
  });

  test("files are the container's user's where that is asked for, else whose the archive says", async () => {
    const users = [
      { User: "web", owner: "1000:1000" },
      { User: "web:extra", owner: "1000:2000" },
      { User: "33:44", owner: "33:44" },
      { User: "", owner: "5:6" },
    ];
    for (const { User, owner } of users) {
      const id = await lab.create(["sleep", "100"], {}, { config: { User } });
      const header = { uid: 5, gid: 6, mode: 0o4755 };
      await put(id, { ...header, name: "early" }, true);
      await lab.engine.containers.start(id);
      await put(id, { ...header, name: "late" }, true);
      await put(id, { ...header, name: "plain" });
      const files = ["/root/early", "/root/late", "/root/plain"];
      const seen = await lab.exec(id, ["stat", "-c", "%u:%g %a", ...files], { User: "0" });
      assert.equal(seen.output, `${owner} 4755\n${owner} 4755\n5:6 4755\n`, `user "${User}"`);
    }
    const id = await lab.create(["true"], {}, { config: { User: "nobody-here" } });
    await assert.rejects(put(id, { name: "f" }, true), /unable to find user nobody-here/);
  });
});
