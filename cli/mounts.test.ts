import assert from "node:assert/strict";
import { test } from "node:test";
import { hasCode } from "../common/errors.ts";
import { parseMount } from "./mounts.ts";

test("parseMount() reads every field under each of its names", () => {
  assert.deepEqual(parseMount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave,bind-nonrecursive=1"), {
    Type: "bind",
    Source: "/a",
    Target: "/b",
    ReadOnly: true,
    BindOptions: { Propagation: "rslave", NonRecursive: true },
  });
  assert.deepEqual(
    parseMount(
      "source=data,destination=/d,readonly=false,volume-nocopy,volume-subpath=s,volume-driver=nfs," +
        "volume-label=a=1=2,volume-label=b,volume-opt=o=rw,volume-opt=__proto__=x,consistency=cached",
    ),
    {
      Type: "volume",
      Source: "data",
      Target: "/d",
      ReadOnly: false,
      Consistency: "cached",
      VolumeOptions: {
        NoCopy: true,
        Subpath: "s",
        Labels: { a: "1=2", b: "" },
        DriverConfig: { Name: "nfs", Options: { o: "rw", ["__proto__"]: "x" } },
      },
    },
  );
  assert.deepEqual(parseMount("type=image,src=tools:2,dst=/x,image-subpath=bin"), {
    Type: "image",
    Source: "tools:2",
    Target: "/x",
    ImageOptions: { Subpath: "bin" },
  });
  assert.deepEqual(parseMount('TYPE=tmpfs,"target=/t,u",tmpfs-size=64M,tmpfs-mode=1770'), {
    Type: "tmpfs",
    Target: "/t,u",
    TmpfsOptions: { SizeBytes: 67_108_864, Mode: 0o1770 },
  });
});

test("parseMount() names the word, the field, what is wanted and what was given", () => {
  for (const [text, why] of [
    ["type=disk,target=/x", /type must be one of bind, .*, got "disk"$/],
    ["type=image,target=/x", /source is required for type=image$/],
    ["source=v,target=/x,image-subpath=a", /image-\* fields need type=image$/],
    ["type=tmpfs,target=/x,tmpfs-size=abc", /tmpfs-size must be bytes as in "64M" or "1.5GiB", got "abc"$/],
    ["type=tmpfs,target=/x,tmpfs-mode=9", /tmpfs-mode must be octal, got "9"$/],
    ["type=bind,source=/a,target=/x,bind-propagation=up", /bind-propagation must be one of .*, got "up"$/],
    ["target=/x,ro=maybe", /ro must be true or false, got "maybe"$/],
    ["target=/x,constructor=1", /unknown field "constructor"$/],
    ["source=a", /target is required$/],
    ["type=bind,target=/x", /source is required for type=bind$/],
    ["type=bind,source=/a,target=/x,volume-nocopy", /volume-\* fields need type=volume$/],
  ] as const) {
    assert.throws(
      () => parseMount(text),
      (error) =>
        hasCode(error, "invalid_argument") &&
        error.message.startsWith(`Invalid mount "${text}": `) &&
        why.test(error.message),
      text,
    );
  }
});
