import assert from "node:assert/strict";
import { test } from "node:test";
import {
  HOST_PLATFORM,
  isForPlatform,
  normalizePlatform,
  parsePlatformText,
  platformScore,
  platformText,
} from "./platforms.ts";

const platform = (architecture: string, variant = ""): Parameters<typeof platformText>[0] => ({
  os: "linux",
  architecture,
  variant,
});

test("parsePlatformText() reads what docker's --platform takes, and platformText() writes it", () => {
  for (const text of ["linux/amd64", "linux/arm/v7", "linux/arm64/v8", "linux/arm64"])
    assert.equal(platformText(parsePlatformText(text)), text);
  assert.deepEqual(parsePlatformText("Linux/AArch64"), platform("arm64"));
  assert.deepEqual(parsePlatformText("armhf"), platform("arm", "v7"));
  assert.deepEqual(parsePlatformText("linux"), HOST_PLATFORM);
  for (const text of ["", "linux/", "a/b/c/d", "linux/arm 64"])
    assert.throws(() => parsePlatformText(text), { code: "invalid_argument" }, text);
});

test("normalizePlatform() gives one form to all names of a platform", () => {
  const same = [
    [platform("arm64"), platform("arm64", "v8"), platform("aarch64", "8"), platform("ARM64", "v8.0")],
    [platform("amd64"), platform("x86_64"), platform("x86-64", "v1")],
    [platform("arm"), platform("arm", "7"), platform("armhf")],
    [platform("arm", "v6"), platform("armel")],
    [platform("386"), platform("i386")],
  ];
  const forms = same.map((names) => new Set(names.map((each) => platformText(normalizePlatform(each)))));
  assert.deepEqual(
    forms.map((set) => [...set]),
    [["linux/arm64/v8"], ["linux/amd64/v1"], ["linux/arm/v7"], ["linux/arm/v6"], ["linux/386"]],
  );
});

test("platformScore() prefers the same, takes what is below it, and refuses the rest", () => {
  const score = (offered: string, wanted: string): number | undefined =>
    platformScore(parsePlatformText(offered), parsePlatformText(wanted));
  assert.equal(score("linux/arm64", "linux/arm64/v8"), 100);
  assert.equal(score("linux/arm/v7", "linux/arm"), 100);
  assert.equal(score("linux/arm/v6", "linux/arm/v7"), 6);
  assert.equal(score("linux/arm/v5", "linux/arm/v7"), 5);
  assert.equal(score("linux/amd64", "linux/amd64/v3"), 1);
  for (const [offered, wanted] of [
    ["linux/arm/v7", "linux/arm/v6"],
    ["linux/amd64/v2", "linux/amd64"],
    ["linux/arm/v7", "linux/arm64"],
    ["linux/arm64/v8", "linux/arm64/x"],
    ["windows/amd64", "linux/amd64"],
  ] as const)
    assert.equal(score(offered, wanted), undefined, `${offered} for ${wanted}`);
});

test("isForPlatform() takes a variant that the image does not name for the wanted one", () => {
  assert.ok(isForPlatform(platform("arm"), platform("arm", "v6")));
  assert.ok(isForPlatform(platform("arm64"), platform("arm64", "v8")));
  assert.ok(isForPlatform(platform("arm64", "v8"), platform("arm64")));
  assert.ok(!isForPlatform(platform("arm", "v7"), platform("arm", "v6")));
  assert.ok(!isForPlatform(platform("amd64"), platform("arm64")));
});
