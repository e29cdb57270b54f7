/**
 * The same image unpacked by umoci and by us, mounted: every file must have the same type, mode, owner, content, times,
 * device numbers, extended attributes and other names. Needs root and Debian's umoci.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import path from "node:path";
import { after, describe, test } from "node:test";
import { listXattrs, getXattr } from "../../runtime/images/native-files.ts";
import {
  buildImage,
  type Compression,
  dockerArchive,
  sha256Of,
  streamOf,
  type TestImage,
  type TestMember,
} from "../../runtime/images/testing/archives.ts";
import { ImageLab, linesOf } from "./support/image-lab.ts";

const UMOCI = "/usr/bin/umoci";
const skip =
  process.getuid?.() !== 0 ? "needs root" : fs.existsSync(UMOCI) ? false : "umoci is not installed";

/** cap_net_bind_service+ep, version 2. */
const CAPABILITY = Buffer.from("0100000200040000000000000000000000000000", "hex");
const deep = "d".repeat(90);

const BASE: readonly TestMember[] = [
  { name: "bin/", mode: 0o755, mtime: 1_200_000_000 },
  { name: "bin/tool", content: "tool", mode: 0o4755, uid: 10, gid: 20 },
  { name: "bin/same", type: "link", linkName: "bin/tool" },
  { name: "bin/again", type: "link", linkName: "bin/same" },
  { name: "bin/capable", content: "c", mode: 0o755, xattrs: new Map([["security.capability", CAPABILITY]]) },
  { name: "data/", mode: 0o1777, uid: 1000, gid: 1000, mtime: 900_000_000 },
  { name: "data/noted", content: "n", xattrs: new Map([["user.note", Buffer.from("a\0b")]]) },
  { name: "data/zeros", content: Buffer.alloc(1_000_000) },
  { name: "data/empty", content: "", mode: 0o000 },
  { name: "data/setgid/", mode: 0o2750, gid: 50 },
  { name: "data/large-ids", content: "", uid: 100_000, gid: 4_000_000 },
  { name: "dev/", mode: 0o755 },
  { name: "dev/null", type: "char", devMajor: 1, devMinor: 3, mode: 0o666 },
  { name: "dev/loop0", type: "block", devMajor: 7, devMinor: 0, mode: 0o660, gid: 6 },
  { name: "dev/fifo", type: "fifo", mode: 0o622 },
  { name: "links/", mode: 0o755 },
  { name: "links/absolute", type: "symlink", linkName: "/bin/tool", uid: 3, gid: 4, mode: 0o777 },
  { name: "links/relative", type: "symlink", linkName: "../data", mode: 0o777 },
  { name: "links/nowhere", type: "symlink", linkName: "/nowhere/at/all", mode: 0o777 },
  { name: "names/", mode: 0o755 },
  { name: "names/with space", content: "1" },
  { name: "names/-dash", content: "2" },
  { name: "names/new\nline", content: "3" },
  { name: "names/\xc3\xa4\xff", content: "4" },
  { name: `${deep}/${deep}/${deep}/${"f".repeat(120)}`, content: "deep" },
  { name: "gone/", mode: 0o700 },
  { name: "gone/file", content: "g" },
  { name: "opaque/", mode: 0o755 },
  { name: "opaque/old", content: "o" },
  { name: "opaque/sub/", mode: 0o755 },
  { name: "opaque/sub/old", content: "o" },
  { name: "kinds/", mode: 0o755 },
  { name: "kinds/file-to-folder", content: "f" },
  { name: "kinds/folder-to-file/", mode: 0o755 },
  { name: "kinds/folder-to-file/in", content: "i" },
  { name: "kinds/file-to-link", content: "f" },
  { name: "kinds/link-to-file", type: "symlink", linkName: "file-to-link", mode: 0o777 },
  // What a name stands for when another is linked to it counts, not what it becomes.
  { name: "order/", mode: 0o755 },
  { name: "order/first", content: "old" },
  { name: "order/linked-before", type: "link", linkName: "order/first" },
  { name: "order/first", content: "new" },
  { name: "order/linked-after", type: "link", linkName: "order/first" },
  { name: "order/below", content: "below" },
  { name: "order/below-too", content: "below too", mode: 0o600 },
  { name: "order/replaced-link", type: "link", linkName: "order/below" },
  // The overlay can't make one file of names in several layers, so what is linked from above has one name below.
  { name: "order/alone", content: "alone" },
];

const CHANGES: readonly TestMember[] = [
  { name: ".wh.gone", content: "" },
  { name: "opaque/", mode: 0o711 },
  { name: "opaque/.wh..wh..opq", content: "" },
  { name: "opaque/new", content: "n" },
  { name: "kinds/", mode: 0o755 },
  { name: "kinds/file-to-folder/", mode: 0o700 },
  { name: "kinds/file-to-folder/in", content: "i" },
  { name: "kinds/folder-to-file", content: "f" },
  { name: "kinds/file-to-link", type: "symlink", linkName: "/bin/tool", mode: 0o777 },
  { name: "kinds/link-to-file", content: "now a file" },
  { name: "order/", mode: 0o755 },
  { name: "order/to-below", type: "link", linkName: "order/below" },
  { name: "order/below", content: "above" },
  { name: "order/to-above", type: "link", linkName: "order/below" },
  { name: "order/below-too", content: "above too", mode: 0o644 },
  { name: "order/to-above-too", type: "link", linkName: "order/below-too" },
  { name: "order/replaced-link", content: "a file of its own" },
  { name: "order/chain", type: "link", linkName: "order/alone" },
  { name: "order/chained", type: "link", linkName: "order/chain" },
  { name: "order/chain", content: "broken" },
  { name: "order/only-link", type: "link", linkName: "order/linked-before" },
  { name: "order/.wh.linked-before", content: "" },
  { name: "bin/", mode: 0o755, mtime: 1_300_000_000 },
  { name: "bin/.wh.again", content: "" },
  { name: "data/", mode: 0o1777, uid: 1000, gid: 1000, mtime: 1_400_000_000 },
  { name: "data/noted", content: "changed", mode: 0o600 },
];

const LAST: readonly TestMember[] = [
  { name: "gone/", mode: 0o750, uid: 9 },
  { name: "gone/again", content: "a" },
  { name: "opaque/", mode: 0o711 },
  { name: "opaque/.wh.new", content: "" },
  { name: "opaque/newer", content: "n" },
  { name: "opaque/twin", type: "link", linkName: "opaque/newer" },
];

const IMAGE: TestImage = { tags: ["tree:1"], layers: [BASE, CHANGES, LAST] };

/** As an OCI layout that umoci reads. */
function writeLayout(folder: string, compression: Compression): void {
  const { configBytes, blobs } = buildImage({ ...IMAGE, compression });
  const suffix = compression === "none" ? "" : `+${compression}`;
  const put = (bytes: Buffer): { readonly digest: string; readonly size: number } => {
    fs.writeFileSync(path.join(folder, "blobs/sha256", sha256Of(bytes)), bytes);
    return { digest: `sha256:${sha256Of(bytes)}`, size: bytes.length };
  };
  fs.mkdirSync(path.join(folder, "blobs/sha256"), { recursive: true });
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...put(configBytes) },
      layers: blobs.map((blob) => ({
        mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`,
        ...put(blob),
      })),
    }),
  );
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const annotations = { "org.opencontainers.image.ref.name": "1" };
  const index = { schemaVersion: 2, manifests: [{ mediaType, ...put(manifest), annotations }] };
  fs.writeFileSync(path.join(folder, "index.json"), JSON.stringify(index));
  fs.writeFileSync(path.join(folder, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
}

const startMs = BigInt(Date.now());

/** A line for each file below `root`, names as byte strings, with the names that share its inode. */
function treeOf(root: string): readonly string[] {
  const names = fs
    .readdirSync(Buffer.from(root), { recursive: true, encoding: "buffer" })
    .map((name) => (name as unknown as Buffer).toString("latin1"))
    .sort();
  const groups = new Map<string, string[]>();
  for (const name of names) {
    const { dev, ino } = fs.lstatSync(Buffer.from(`${root}/${name}`, "latin1"));
    groups.set(`${dev}:${ino}`, [...(groups.get(`${dev}:${ino}`) ?? []), name]);
  }
  return names.map((name) => {
    const file = Buffer.from(`${root}/${name}`, "latin1");
    const stats = fs.lstatSync(file, { bigint: true });
    const kind = (stats.mode & 0o170000n).toString(8);
    const content = stats.isFile()
      ? createHash("sha256").update(fs.readFileSync(file)).digest("hex").slice(0, 16)
      : stats.isSymbolicLink()
        ? fs.readlinkSync(file, "latin1")
        : "";
    const xattrs = stats.isSymbolicLink()
      ? []
      : listXattrs(`${root}/${name}`)
          .filter((each) => !each.startsWith("trusted.overlay."))
          .sort()
          .map((each) => `${each}=${getXattr(`${root}/${name}`, each)?.toString("hex") ?? ""}`);
    const fields = [
      kind,
      (stats.mode & 0o7777n).toString(8),
      `${stats.uid}:${stats.gid}`,
      stats.isFile() ? `${stats.size}` : "",
      stats.isCharacterDevice() || stats.isBlockDevice() ? `rdev ${stats.rdev}` : "",
      // A folder that no member names is made now.
      stats.mtimeMs >= startMs ? "mtime now" : `mtime ${stats.mtimeNs}`,
      content,
      xattrs.join(" "),
      stats.isDirectory() ? "" : (groups.get(`${stats.dev}:${stats.ino}`) ?? []).join(" = "),
    ];
    return `${JSON.stringify(name)} ${fields.join(" ")}`;
  });
}

describe("an image unpacked as umoci unpacks it", { skip }, () => {
  const lab = new ImageLab();
  const mounts: string[] = [];
  after(async () => {
    for (const mount of mounts) execFileSync("umount", [mount]);
    await lab.close();
  });

  for (const compression of ["none", "gzip"] as const) {
    test(`with ${compression} layers`, async () => {
      const layout = lab.newFolder();
      writeLayout(layout, compression);
      const bundle = path.join(lab.newFolder(), "bundle");
      execFileSync(UMOCI, ["unpack", "--image", `${layout}:1`, bundle], { stdio: "ignore" });
      const engine = await lab.open();
      await linesOf(
        engine.images.load(streamOf(dockerArchive([{ ...IMAGE, compression }])), { quiet: true }),
      );
      const { lower } = await engine.rootfs.prepare("look", engine.images.resolve("tree:1") ?? "");
      const mount = lab.newFolder();
      // The first holds places for mounts, which an image has not.
      execFileSync("mount", [
        "-t",
        "overlay",
        "overlay",
        "-o",
        `lowerdir=${lower.slice(1).join(":")}`,
        mount,
      ]);
      mounts.push(mount);
      assert.deepEqual(treeOf(mount), treeOf(path.join(bundle, "rootfs")));
    });
  }
});
