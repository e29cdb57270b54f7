/** Which AppArmor profile a container gets, and that the default one is a profile. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { AppArmor, defaultProfile } from "./apparmor.ts";

test("AppArmor.profileOf() is the one asked for, else the default, and nothing without the kernel", () => {
  const on = new AppArmor({ isEnabled: true, defaultName: "d" });
  assert.equal(on.profileOf({}), "d");
  assert.equal(on.profileOf({ SecurityOpt: ["apparmor=mine"] }), "mine");
  assert.equal(on.profileOf({ SecurityOpt: ["apparmor=unconfined"] }), "unconfined");
  assert.equal(on.profileOf({ Privileged: true }), "unconfined");
  assert.equal(on.profileOf({ Privileged: true, SecurityOpt: ["apparmor:mine"] }), "mine");
  const off = new AppArmor({ isEnabled: false, defaultName: undefined });
  assert.equal(off.profileOf({ SecurityOpt: ["apparmor=mine"] }), undefined);
  assert.equal(off.shownFor({ SecurityOpt: ["apparmor=mine"] }), "mine");
  assert.equal(off.shownFor({}), "");
});

test("defaultProfile() is accepted by AppArmor's parser", (context) => {
  const parse = (text: string): ReturnType<typeof spawnSync> =>
    spawnSync("apparmor_parser", ["--skip-kernel-load", "--skip-cache", "--debug"], { input: text });
  if (parse("").error !== undefined) return context.skip("apparmor_parser is not installed");
  assert.equal(parse(defaultProfile()).status, 0, String(parse(defaultProfile()).stderr));
  assert.notEqual(parse(defaultProfile().replace("deny mount,", "deny nonsense mount,")).status, 0);
});
