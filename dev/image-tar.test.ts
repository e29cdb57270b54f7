/** The image tar: the same bytes each time, readable by tar, with a manifest that fits its files. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { must } from "../common/assert.ts";
import { imageTar } from "./image-tar.ts";

const description = {
  reference: "x:1",
  files: [
    { path: "bin/tool", data: Buffer.from("#!program"), mode: 0o755 },
    { path: "etc/conf", data: Buffer.alloc(513, 1) },
  ],
  entrypoint: ["/bin/tool"],
};

function member(tar: Buffer, name: string): Buffer {
  const result = spawnSync("tar", ["-x", "-O", "-f", "-", name], { input: tar });
  assert.equal(result.status, 0, result.stderr.toString());
  return result.stdout;
}

test("imageTar() depends on its input alone", () => {
  assert.deepEqual(imageTar(description), imageTar(description));
});

test("imageTar() is a docker-save tar whose digests fit", () => {
  const tar = imageTar(description);
  const manifest = JSON.parse(member(tar, "manifest.json").toString()) as {
    Config: string;
    RepoTags: string[];
    Layers: string[];
  }[];
  const { Config: configName, RepoTags: tags, Layers: layers } = must(manifest[0], "one image");
  assert.deepEqual(tags, ["x:1"]);
  const config = member(tar, configName);
  assert.equal(configName, `${createHash("sha256").update(config).digest("hex")}.json`);
  const layer = member(tar, layers[0] ?? "");
  const { rootfs } = JSON.parse(config.toString()) as { rootfs: { diff_ids: string[] } };
  assert.deepEqual(rootfs.diff_ids, [`sha256:${createHash("sha256").update(layer).digest("hex")}`]);
  assert.equal(member(layer, "bin/tool").toString(), "#!program");
  assert.equal(member(layer, "etc/conf").length, 513);
  assert.match(spawnSync("tar", ["-tvf", "-"], { input: layer }).stdout.toString(), /-rwxr-xr-x.*bin\/tool/);
});
