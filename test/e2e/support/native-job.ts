/** Jobs for the native program without an engine around them: a plain root folder, and what the test adds. */
import { capabilitySets } from "../../../runtime/containers/capabilities.ts";
import type { LaunchSpec } from "../../../runtime/containers/launch-spec.ts";
import { JobFlag } from "../../../runtime/containers/native-job.ts";

/** `args` in `rootFolder` with a pid namespace of its own and no rights. */
export function plainSpec(
  id: string,
  options: { readonly rootFolder: string; readonly stateDir: string; readonly args: readonly string[] },
  more: Partial<LaunchSpec> = {},
): LaunchSpec {
  return {
    id,
    stateDir: options.stateDir,
    socket: `m/${id}.sock`,
    log: { kind: 0, path: "", bytesMax: 0, fileCountMax: 1, attributes: "", ringBytes: 0 },
    flags: JobFlag.newPid,
    process: {
      args: options.args,
      env: ["PATH=/bin"],
      cwd: "/",
      user: "",
      groups: [],
      capabilities: capabilitySets(0n),
      seccomp: undefined,
      rlimits: [],
      umask: undefined,
      apparmor: undefined,
      consoleSize: { rows: 0, columns: 0 },
    },
    oomScoreAdj: undefined,
    hostname: "",
    domainname: "",
    sysctls: [],
    root: { kind: "folder", path: options.rootFolder },
    mounts: [],
    devices: [],
    files: [],
    maskedPaths: [],
    readonlyPaths: [],
    cgroups: [],
    cgroupWrites: [],
    joinNamespaces: [],
    uidMaps: [],
    gidMaps: [],
    deviceProgram: undefined,
    ...more,
  };
}
