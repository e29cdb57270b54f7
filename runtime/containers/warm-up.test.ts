/** The container that is never made must pass every check of one that is, else it warms nothing up, and must break nothing if it doesn't. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "../../common/log.ts";
import { AppArmor } from "./apparmor.ts";
import { availableCapabilities, capabilityMask, capabilityNames } from "./capabilities.ts";
import { Cgroups, parseHierarchies } from "./cgroups.ts";
import { compileProfile } from "./seccomp/profiles.ts";
import { unmadeJob, warmUp } from "./warm-up.ts";

const host = {
  execRoot: "/run/x",
  nativeBinary: "/x",
  cgroups: new Cgroups(
    parseHierarchies("", () => ""),
    "/p",
  ),
  idMaps: undefined,
  appArmor: new AppArmor({ isEnabled: false, defaultName: undefined }),
};

test("unmadeJob() is what a container without options would be started with", () => {
  const job = Buffer.from(unmadeJob(host));
  const available = availableCapabilities();
  const mask = capabilityMask({ add: [], drop: [], isPrivileged: false, available });
  const filter = compileProfile("default", capabilityNames(mask));
  assert.ok(filter !== undefined && job.includes(filter));
  assert.ok(job.includes(`/run/x/c/${"0".repeat(64)}`));
});

test("warmUp() tells nobody but the log that it didn't work", () => {
  const said: string[] = [];
  const log = { ...silentLogger, debug: (text: string) => void said.push(text) };
  const appArmor = Object.assign(new AppArmor({ isEnabled: true, defaultName: undefined }), {
    profileOf: () => {
      throw new Error("no");
    },
  });
  warmUp({ ...host, appArmor, log });
  assert.deepEqual(said, ["not warmed up"]);
});
