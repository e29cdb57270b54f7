/** Layers on a real file system: owners, devices and attributes need root. Archives that attack must not get out. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { packLayer } from "../../runtime/images/layer-pack.ts";
import { settleLayer } from "../../runtime/images/layer-settle.ts";
import { LayerUnpacker, type UnpackedLayer, type UnpackOptions } from "../../runtime/images/layer-unpack.ts";
import { LayeredView } from "../../runtime/images/layered-view.ts";
import { getXattr } from "../../runtime/images/native-files.ts";
import { tarOf, type TestMember } from "../../runtime/images/testing/archives.ts";
import { TarReader } from "../../runtime/images/tar/tar-reader.ts";

const root = fs.mkdtempSync(path.join(tmpdir(), "shoal-unpack-"));
after(() => fs.rmSync(root, { recursive: true, force: true }));
let count = 0;

interface Unpacked extends UnpackedLayer {
  readonly folder: string;
}

/** Unpacks into a folder with a sentinel beside it, which no archive may touch. */
function unpack(members: readonly TestMember[], options: UnpackOptions = {}): Unpacked {
  const outer = path.join(root, String(count++));
  const folder = path.join(outer, "fs");
  fs.mkdirSync(folder, { recursive: true });
  fs.writeFileSync(path.join(outer, "outside"), "untouched");
  const unpacker = new LayerUnpacker(folder, options);
  const reader = new TarReader(unpacker);
  const tar = tarOf(members);
  try {
    // In odd pieces, as they come from a network.
    for (let at = 0; at < tar.length; at += 777) reader.feed(tar.subarray(at, at + 777));
    reader.finish();
    return { folder, ...unpacker.finish() };
  } finally {
    unpacker.abandon();
    assert.equal(fs.readFileSync(path.join(outer, "outside"), "utf8"), "untouched");
    assert.deepEqual(fs.readdirSync(outer).sort(), ["fs", "outside"]);
    assert.equal(fs.statSync(path.join(outer, "outside")).nlink, 1);
  }
}

function tree(folder: string): readonly string[] {
  return fs.readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
}

function read(folder: string, name: string): string {
  return fs.readFileSync(path.join(folder, name), "utf8");
}

function opaque(folder: string, name: string): string {
  return getXattr(path.join(folder, name), "trusted.overlay.opaque")?.toString() ?? "";
}

const link = (name: string, linkName: string): TestMember => ({ name, type: "symlink", linkName });

test("LayerUnpacker keeps names that climb inside the layer", () => {
  const { folder } = unpack([
    { name: "../outside", content: "evil" },
    { name: "/abs/../../../etc/x", content: "evil" },
    { name: "a/../../b", content: "b" },
    { name: "./c//d", content: "d" },
  ]);
  assert.deepEqual(tree(folder), ["b", "c", "c/d", "etc", "etc/x", "outside"]);
});

for (const [how, members] of [
  ["a relative link", [link("up", "../.."), { name: "up/outside", content: "evil" }]],
  ["an absolute link", [link("up", path.join(root)), { name: "up/0/outside", content: "evil" }]],
  ["links through links", [link("a", ".."), link("b", "a/a/../.."), { name: "b/outside", content: "evil" }]],
  ["a link in place of a folder", [{ name: "d/" }, link("d", "../"), { name: "d/outside", content: "evil" }]],
  ["a file through a link to a file", [link("outside", "../outside"), { name: "outside", content: "evil" }]],
  ["a whiteout through a link", [link("up", "../"), { name: "up/.wh.outside" }]],
  ["an opaque mark through a link", [link("up", "../.."), { name: "up/.wh..wh..opq" }]],
  ["a hard link that climbs", [{ name: "h", type: "link", linkName: "../outside" }]],
  ["a hard link through a link", [link("up", ".."), { name: "h", type: "link", linkName: "up/outside" }]],
  ["a folder over a link", [link("d", ".."), { name: "d/", mode: 0o777 }]],
] satisfies readonly (readonly [string, readonly TestMember[]])[]) {
  test(`LayerUnpacker touches nothing outside by ${how}`, () => {
    unpack(members);
  });
}

test("LayerUnpacker follows links inside the layer as the container would", () => {
  const { folder } = unpack([
    { name: "usr/lib/", mode: 0o755 },
    link("lib", "usr/lib"),
    { name: "lib/x", content: "x" },
    link("abs", "/usr/lib"),
    { name: "abs/y", content: "y" },
  ]);
  assert.equal(read(folder, "usr/lib/x"), "x");
  assert.equal(read(folder, "usr/lib/y"), "y");
  assert.equal(fs.readlinkSync(path.join(folder, "lib")), "usr/lib");
});

const REFUSED: readonly (readonly [string, readonly TestMember[], RegExp])[] = [
  ["links in a circle", [link("a", "b"), link("b", "a"), { name: "a/x" }], /too many links/],
  [
    "attributes of the overlay",
    [{ name: "x", xattrs: new Map([["trusted.overlay.redirect", Buffer.from("/")]]) }],
    /not allowed/,
  ],
  ["the overlay's whiteout device", [{ name: "x", type: "char" }], /device 0:0/],
  ["a whiteout of nothing", [{ name: ".wh." }], /names nothing/],
  ["a whiteout of the parent", [{ name: "d/.wh..." }, { name: "d/.wh..", content: "" }], /names nothing/],
  [
    "a hard link to a folder",
    [{ name: "d/" }, { name: "h", type: "link", linkName: "d" }],
    /hard link to the folder/,
  ],
  [
    "a path that is too long",
    [{ name: Array.from({ length: 600 }, () => "longname").join("/") }],
    /more than 4096 bytes|ENAMETOOLONG/,
  ],
];

for (const [what, members, message] of REFUSED) {
  test(`LayerUnpacker refuses ${what}`, () => {
    assert.throws(() => unpack(members), message);
  });
}

test("LayerUnpacker stops at its limits", () => {
  const limits = { layerBytesMax: 1000, entriesMax: 3 };
  assert.throws(() => unpack([{ name: "x", content: "x".repeat(1001) }], { limits }), /more than 1000 bytes/);
  const four = ["a", "b", "c", "d"].map((name) => ({ name }));
  assert.throws(() => unpack(four, { limits }), /at most 3 members/);
});

test("LayerUnpacker turns whiteouts and opaque marks into the overlay's, in any order", () => {
  const { folder } = unpack([
    { name: "d/.wh.gone" },
    { name: "e/x", content: "x" },
    { name: "e/.wh..wh..opq" },
    { name: ".wh.replaced" },
    { name: "replaced/" },
    { name: "replaced/new", content: "n" },
    { name: "kept", content: "k" },
    { name: ".wh.kept" },
    { name: ".wh..wh.plnk" },
  ]);
  const gone = fs.lstatSync(path.join(folder, "d/gone"));
  assert.deepEqual([gone.isCharacterDevice(), gone.rdev], [true, 0]);
  assert.equal(opaque(folder, "e"), "y");
  assert.equal(read(folder, "e/x"), "x");
  assert.equal(opaque(folder, "replaced"), "y");
  assert.equal(read(folder, "kept"), "k");
  assert.equal(fs.existsSync(path.join(folder, ".wh..wh.plnk")), false);
});

test("LayerUnpacker keeps owners, special bits, times, devices and capabilities", () => {
  // A real capability set: version 2, effective, cap_net_raw permitted.
  const capability = Buffer.from("0100000200200000000000000000000000000000", "hex");
  const { folder } = unpack([
    { name: "su", content: "s", mode: 0o4755, uid: 70_000, gid: 8, mtime: 1_234_567_890.5 },
    {
      name: "cap",
      content: "c",
      mode: 0o755,
      xattrs: new Map([
        ["security.capability", capability],
        ["user.note", Buffer.from("hi")],
      ]),
    },
    { name: "sticky/", mode: 0o1777 },
    { name: "null", type: "char", mode: 0o666, devMajor: 1, devMinor: 3 },
    { name: "pipe", type: "fifo", mode: 0o600 },
    { name: "copy", type: "link", linkName: "su" },
  ]);
  const su = fs.statSync(path.join(folder, "su"));
  assert.deepEqual(
    [su.mode & 0o7777, su.uid, su.gid, su.mtimeMs, su.nlink],
    [0o4755, 70_000, 8, 1_234_567_890_500, 2],
  );
  assert.deepEqual(getXattr(path.join(folder, "cap"), "security.capability"), capability);
  assert.equal(getXattr(path.join(folder, "cap"), "user.note")?.toString(), "hi");
  assert.equal(fs.statSync(path.join(folder, "sticky")).mode & 0o7777, 0o1777);
  assert.equal(fs.statSync(path.join(folder, "null")).rdev, 0x103);
  assert.equal(fs.statSync(path.join(folder, "pipe")).isFIFO(), true);
});

test("LayerUnpacker lets the last of several members of a name win", () => {
  const { folder } = unpack([
    { name: "a", content: "1" },
    { name: "a", content: "22" },
    { name: "b/" },
    { name: "b/x", content: "x" },
    { name: "b", content: "file now" },
    { name: "c", content: "file" },
    { name: "c/", mode: 0o700 },
    { name: "c/y", content: "y" },
  ]);
  assert.deepEqual(tree(folder), ["a", "b", "c", "c/y"]);
  assert.equal(read(folder, "a"), "22");
  assert.equal(read(folder, "b"), "file now");
});

test("LayerUnpacker takes long names, odd bytes and deep paths", () => {
  const long = `${"d".repeat(120)}/${"e".repeat(200)}`;
  const odd = Buffer.from([0x66, 0xff, 0xe9]).toString("latin1");
  const { folder } = unpack([
    { name: long, content: "long" },
    { name: odd, content: "odd" },
    link("l", "t".repeat(300)),
  ]);
  assert.equal(read(folder, long), "long");
  const names = fs.readdirSync(folder, { encoding: "latin1" });
  assert.equal(names.includes(odd), true);
  assert.equal(fs.readlinkSync(path.join(folder, "l")).length, 300);
});

test("a layer's implied folders and foreign hard links are settled from those below", () => {
  const below = unpack([
    { name: "etc/", mode: 0o750, uid: 3, gid: 4, mtime: 1_000 },
    { name: "bin/", mode: 0o711 },
    { name: "bin/tool", content: "tool", mode: 0o4711, uid: 5 },
  ]);
  const layer = unpack([
    { name: "etc/new", content: "n" },
    { name: "alias", type: "link", linkName: "bin/tool" },
  ]);
  assert.deepEqual(layer.impliedFolders, ["etc", ""]);
  settleLayer(layer.folder, { ...layer, lower: [below.folder] });
  const etc = fs.statSync(path.join(layer.folder, "etc"));
  assert.deepEqual([etc.mode & 0o7777, etc.uid, etc.gid, etc.mtimeMs], [0o750, 3, 4, 1_000_000]);
  const alias = fs.statSync(path.join(layer.folder, "alias"));
  assert.deepEqual([alias.mode & 0o7777, alias.uid, alias.nlink], [0o4711, 5, 2]);
  assert.equal(fs.statSync(path.join(layer.folder, "bin")).mode & 0o7777, 0o711);
  const deep = unpack([
    { name: "etc/", mtime: 2_000 },
    { name: "alias", type: "link", linkName: "etc/sub/file" },
  ]);
  const deepBelow = unpack([
    { name: "etc/", mtime: 1_000 },
    { name: "etc/sub/", mtime: 3_000 },
    { name: "etc/sub/file", content: "f" },
  ]);
  settleLayer(deep.folder, { ...deep, lower: [deepBelow.folder] });
  const times = ["etc", "etc/sub"].map((name) => fs.statSync(path.join(deep.folder, name)).mtimeMs);
  assert.deepEqual(times, [2_000_000, 3_000_000]);
  const lost = unpack([{ name: "alias", type: "link", linkName: "nowhere" }]);
  assert.throws(() => settleLayer(lost.folder, { ...lost, lower: [below.folder] }), /which is in no layer/);
});

test("a hard link into an older layer keeps what was there when the layer replaces it afterwards", () => {
  const below = unpack([
    { name: "d/", mtime: 1_000 },
    { name: "d/old", content: "below", mode: 0o600 },
  ]);
  const layer = unpack([
    { name: "d/", mtime: 2_000 },
    { name: "d/first", type: "link", linkName: "d/old" },
    { name: "d/second", type: "link", linkName: "d/first" },
    { name: "d/old", content: "above" },
    { name: "d/third", type: "link", linkName: "d/old" },
  ]);
  settleLayer(layer.folder, { ...layer, lower: [below.folder] });
  const at = (name: string): string => path.join(layer.folder, "d", name);
  assert.deepEqual(
    ["first", "second", "old", "third"].map((name) => fs.readFileSync(at(name), "utf8")),
    ["below", "below", "above", "above"],
  );
  assert.equal(fs.statSync(at("first")).ino, fs.statSync(at("second")).ino);
  assert.equal(fs.statSync(at("first")).mode & 0o7777, 0o600);
  assert.equal(fs.statSync(path.join(layer.folder, "d")).mtimeMs, 2_000_000);
  assert.throws(
    () => unpack([{ name: "d/.wh.old" }, { name: "d/first", type: "link", linkName: "d/old" }]),
    /hard link to "d\/old", which the layer removes/,
  );
});

test("packLayer() gives back what LayerUnpacker took, and always the same bytes", () => {
  const members: readonly TestMember[] = [
    { name: "d/", mode: 0o1755, uid: 1 },
    { name: "d/.wh.gone" },
    { name: "d/f", content: "f", mode: 0o640, gid: 9, xattrs: new Map([["user.a", Buffer.from([0, 1])]]) },
    { name: "d/h", type: "link", linkName: "d/f" },
    { name: "o/" },
    { name: "o/.wh..wh..opq" },
    link("s", "/d/f"),
  ];
  const { folder } = unpack(members);
  const first = Buffer.concat([...packLayer(folder)]);
  assert.equal(first.equals(Buffer.concat([...packLayer(folder)])), true);
  const names: string[] = [];
  const reader = new TarReader({
    entry: (entry) => names.push(`${entry.type} ${entry.name}`),
    data: () => {},
    entryEnd: () => {},
  });
  reader.feed(first);
  reader.finish();
  assert.deepEqual(names, [
    "folder d/",
    "file d/f",
    "file d/.wh.gone",
    "link d/h",
    "folder o/",
    "file o/.wh..wh..opq",
    "symlink s",
  ]);
  const clamped = Buffer.concat([...packLayer(folder, { mtimeMax: 5 })]);
  assert.equal(clamped.equals(first), false);
});

test("LayeredView shows what the overlay would", () => {
  const low = unpack([
    { name: "d/" },
    { name: "d/a", content: "low" },
    { name: "d/b", content: "b" },
    { name: "o/x", content: "x" },
    link("l", "/d"),
  ]);
  const high = unpack([
    { name: "d/.wh.b" },
    { name: "d/c", content: "c" },
    { name: "o/" },
    { name: "o/.wh..wh..opq" },
    { name: "o/y", content: "y" },
  ]);
  const view = new LayeredView([high.folder, low.folder]);
  assert.deepEqual(view.list(["d"]), ["a", "c"]);
  assert.deepEqual(view.list(["o"]), ["y"]);
  assert.equal(view.find(["d", "b"]), undefined);
  assert.equal(view.find(["o", "x"]), undefined);
  assert.deepEqual(view.resolve("l/../l/c"), ["d", "c"]);
  assert.deepEqual(view.resolve("../../l/a"), ["d", "a"]);
  assert.equal(view.readFile("/l/a", 100)?.toString(), "low");
});
