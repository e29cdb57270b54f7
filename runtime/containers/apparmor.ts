/**
 * AppArmor: which profile a container's programs run under, and the default one, which is loaded when the engine
 * starts. On a kernel without AppArmor profiles are remembered and shown but not applied, as with Docker.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import type { Logger } from "../../common/log.ts";
import type { HostConfig } from "../../model/engine.ts";
import { parseSecurityOptions } from "./security-options.ts";

const DEFAULT_PROFILE_NAME = "shoal-default";

/**
 * What the default profile takes away, on top of capabilities, masks and the filter: mounts, writes to the kernel's
 * settings, and looking into processes that are not of containers.
 */
export function defaultProfile(name: string = DEFAULT_PROFILE_NAME): string {
  return `#include <tunables/global>

profile ${name} flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # the daemon and people on the host may end and stop what is inside
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (send,receive) peer=${name},
  ptrace (trace,read,tracedby,readby) peer=${name},

  deny mount,

  # everything of /proc that is not a process, but for shared memory and its like
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`;
}

function isEnabled(): boolean {
  try {
    return readFileSync("/sys/module/apparmor/parameters/enabled", "utf8").startsWith("Y");
  } catch {
    return false;
  }
}

/** Feeds a profile to the kernel. Resolves with what was wrong, or "". */
function loadProfile(text: string): Promise<string> {
  return new Promise((resolve) => {
    const parser = spawn("apparmor_parser", ["--skip-cache", "--replace"], {
      stdio: ["pipe", "ignore", "pipe"],
    });
    let words = "";
    parser.stderr.on("data", (chunk: Buffer) => (words += chunk.toString()));
    parser.once("error", (error) => resolve(error.message));
    parser.once("exit", (code) => resolve(code === 0 ? "" : words.trim() || `exit status ${code}`));
    parser.stdin.on("error", () => undefined);
    parser.stdin.end(text);
  });
}

export class AppArmor {
  readonly isEnabled: boolean;
  /** Profile of containers that name none; undefined: theirs is unconfined. */
  readonly defaultName: string | undefined;

  constructor(options: { readonly isEnabled: boolean; readonly defaultName: string | undefined }) {
    this.isEnabled = options.isEnabled;
    this.defaultName = options.defaultName;
  }

  /** Loads the default profile where the kernel takes one. Without the parser, containers run without a profile of ours. */
  static async open(log: Logger): Promise<AppArmor> {
    if (!isEnabled()) return new AppArmor({ isEnabled: false, defaultName: undefined });
    const problem = await loadProfile(defaultProfile());
    if (problem === "") return new AppArmor({ isEnabled: true, defaultName: DEFAULT_PROFILE_NAME });
    log.warn("default AppArmor profile not loaded, containers run without (Debian package apparmor)", {
      error: problem,
    });
    return new AppArmor({ isEnabled: true, defaultName: undefined });
  }

  /** What the program is to run under; undefined where there is nothing to apply. */
  profileOf(hostConfig: Pick<HostConfig, "SecurityOpt" | "Privileged">): string | undefined {
    if (!this.isEnabled) return undefined;
    const asked = parseSecurityOptions(hostConfig).apparmor ?? "";
    if (asked !== "") return asked;
    return hostConfig.Privileged === true ? "unconfined" : this.defaultName;
  }

  /** As inspect shows it. */
  shownFor(hostConfig: Pick<HostConfig, "SecurityOpt" | "Privileged">): string {
    return parseSecurityOptions(hostConfig).apparmor ?? this.profileOf(hostConfig) ?? "";
  }
}
