import assert from "node:assert/strict";
import { test } from "node:test";
import {
  applySettings,
  checkPrivileges,
  defaultSettings,
  encodePluginConfig,
  parsePluginConfig,
  privilegesOf,
} from "./plugin-config.ts";

function parse(value: unknown): ReturnType<typeof parsePluginConfig> {
  return parsePluginConfig(Buffer.from(JSON.stringify(value)));
}

const BASE = {
  entrypoint: ["/run"],
  interface: { types: ["docker.volumedriver/1.0"], socket: "plugin.sock" },
};

const FULL = {
  ...BASE,
  network: { type: "host" },
  ipchost: true,
  PIDHOST: true,
  propagatedMount: "/mnt",
  args: { name: "args", settable: ["value"], value: ["a"] },
  env: [
    { name: "DEBUG", settable: ["value"], value: "0" },
    { name: "FIXED", value: "1" },
    { name: "EMPTY", settable: ["value"] },
  ],
  mounts: [
    { name: "data", source: "/srv", destination: "/data", type: "bind", settable: ["source"] },
    { name: "later", destination: "/later", type: "bind", settable: ["source", "other"] },
  ],
  linux: {
    capabilities: ["CAP_SYS_ADMIN"],
    allowAllDevices: true,
    devices: [{ name: "fuse", path: "/dev/fuse", settable: ["path"] }],
  },
};

test("parsePluginConfig() reads names of any case and keeps what was stored", () => {
  const config = parse(FULL);
  assert.equal(config.PidHost, true);
  assert.deepEqual(config.Interface, { Types: ["docker.volumedriver/1.0"], Socket: "plugin.sock" });
  assert.deepEqual(parsePluginConfig(encodePluginConfig(config)), config);
});

for (const [title, value, message] of [
  [
    "a socket that is a path",
    { interface: { socket: "../x.sock" } },
    /Interface\.Socket must be a file name/,
  ],
  ["no socket", { interface: {} }, /Interface\.Socket must be a file name/],
  [
    "a type without a version",
    { interface: { socket: "a.sock", types: ["x"] } },
    /Interface\.Types must be like/,
  ],
  [
    "an entrypoint that is no list",
    { ...BASE, entrypoint: "/run" },
    /Entrypoint must be a list of strings, got "\/run"/,
  ],
  ["a mount that is no object", { ...BASE, mounts: ["x"] }, /Mounts\[0\] must be an object, got "x"/],
  [
    "a relative propagated mount",
    { ...BASE, propagatedMount: "mnt" },
    /PropagatedMount must be an absolute path/,
  ],
  ["a list", [], /config must be an object/],
] as const) {
  test(`parsePluginConfig() refuses ${title}`, () => {
    assert.throws(() => parse(value), { code: "invalid_argument", message });
  });
}

test("privilegesOf() names all that the plugin asks of the host", () => {
  assert.deepEqual(
    privilegesOf(parse(FULL)).map(({ Name, Value }) => [Name, ...Value]),
    [
      ["network", "host"],
      ["host ipc namespace", "true"],
      ["host pid namespace", "true"],
      ["mount", "/srv"],
      ["device", "/dev/fuse"],
      ["allow-all-devices", "true"],
      ["capabilities", "CAP_SYS_ADMIN"],
    ],
  );
  assert.deepEqual(privilegesOf(parse(BASE)), []);
});

test("checkPrivileges() wants exactly what is asked for, in any order", () => {
  const config = parse(FULL);
  const all = privilegesOf(config).map((each) => ({ ...each, Value: [...each.Value] }));
  checkPrivileges(config, all.toReversed());
  assert.throws(() => checkPrivileges(config, all.slice(1)), /incorrect privileges/);
  assert.throws(() => checkPrivileges(config, []), /incorrect privileges/);
  assert.throws(() => checkPrivileges(parse(BASE), all), /incorrect privileges/);
});

test("applySettings() sets what the config lets be set", () => {
  const config = parse(FULL);
  const settings = applySettings(config, defaultSettings(config), [
    "DEBUG=2",
    "EMPTY=x=y",
    "args=b c",
    "data.source=/other",
    "fuse=/dev/null",
    "later.source=/l",
  ]);
  assert.deepEqual(settings.Env, ["DEBUG=2", "FIXED=1", "EMPTY=x=y"]);
  assert.deepEqual(settings.Args, ["b", "c"]);
  assert.deepEqual(
    settings.Mounts.map(({ Source }) => Source),
    ["/other", "/l"],
  );
  assert.deepEqual(
    settings.Devices.map(({ Path }) => Path),
    ["/dev/null"],
  );
});

for (const [setting, message] of [
  ["FIXED=2", /"FIXED" is not settable/],
  ["DEBUG.name=2", /"DEBUG.name" is not settable/],
  ["later=/l", /multiple fields are settable, one must be specified/],
  ["nosuch=1", /setting "nosuch" not found in the plugin configuration/],
  ["=1", /invalid format, must be <name>\[\.<field>\]\[=<value>\]/],
] as const) {
  test(`applySettings() refuses ${setting}`, () => {
    const config = parse(FULL);
    assert.throws(() => applySettings(config, defaultSettings(config), [setting]), { message });
  });
}
