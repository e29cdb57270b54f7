import assert from "node:assert/strict";
import { test } from "node:test";
import { parseRunMount, toRunMount, type RunMount } from "./run-mounts.ts";

const words = { escape: "\\", variables: new Map([["DIR", "/var/dir"]]) };

function mount(text: string): RunMount {
  return toRunMount(parseRunMount(text, 3), words, "/app");
}

test("toRunMount() reads what BuildKit reads", () => {
  assert.deepEqual(mount("target=/x"), {
    type: "bind",
    target: "/x",
    source: "/",
    from: "",
    isReadonly: true,
  });
  assert.deepEqual(mount("type=bind,src=a/../b,dst=y,from=base,rw"), {
    type: "bind",
    target: "/app/y",
    source: "/b",
    from: "base",
    isReadonly: false,
  });
  assert.deepEqual(mount('type=cache,"target=$DIR/a,b",sharing=locked,mode=0700,uid=5,readonly=true'), {
    type: "cache",
    target: "/var/dir/a,b",
    id: "/var/dir/a,b",
    sharing: "locked",
    isReadonly: true,
    mode: 0o700,
    uid: 5,
    gid: 0,
  });
  assert.deepEqual(mount("type=tmpfs,target=/t,size=2m"), {
    type: "tmpfs",
    target: "/t",
    sizeBytes: 2 * 1024 * 1024,
  });
  assert.deepEqual(mount("type=secret,target=/run/key,required"), {
    type: "secret",
    id: "key",
    target: "/run/key",
    env: "",
    isRequired: true,
    mode: 0o400,
    uid: 0,
    gid: 0,
  });
  assert.deepEqual(mount("type=secret,id=token,env=TOKEN,uid=5"), {
    type: "secret",
    id: "token",
    target: "",
    env: "TOKEN",
    isRequired: false,
    mode: 0o400,
    uid: 5,
    gid: 0,
  });
  assert.deepEqual(mount("type=ssh"), {
    type: "ssh",
    id: "default",
    target: "",
    isRequired: false,
    mode: 0o600,
    uid: 0,
    gid: 0,
  });
});

const BAD: readonly (readonly [string, RegExp])[] = [
  ["type=nosuch,target=/x", /line 3: unsupported mount type "nosuch"/],
  ["target=/x,foo=1", /unexpected key 'foo' in 'foo=1'/],
  ["type=tmpfs,target=/x,from=a", /unexpected key 'from'/],
  ["target", /invalid field 'target' must be a key=value pair/],
  ["type=cache", /target is required/],
  ["type=secret", /a secret needs an id or a target/],
  ["type=secret,id=x,mode=rw", /mode must be a number up to 7777, got "rw"/],
  ["target=/", /target must be below "\/"/],
  ["target=../..", /target must be below "\/", got "\.\.\/\.\."/],
  ["type=cache,target=/x,from=a", /a cache mount starts empty/],
  ["type=cache,target=/x,sharing=some", /unsupported sharing value "some"/],
  ["type=cache,target=/x,mode=9", /mode must be a number up to 7777, got "9"/],
  ["type=cache,target=/x,uid=4294967295", /uid must be a number/],
  ["type=tmpfs,target=/x,size=big", /Invalid size "big"/],
  ["target=/x,ro=maybe", /ro must be true or false, got "maybe"/],
];

for (const [text, message] of BAD) {
  test(`RUN --mount=${text} is refused`, () => {
    assert.throws(() => mount(text), { code: "invalid_argument", message });
  });
}
