/** `--security-opt` and `--privileged`, parsed once. Pure. */
import { ClusterError } from "../../common/errors.ts";
import type { HostConfig } from "../../model/engine.ts";

export interface SecurityOptions {
  readonly hasNoNewPrivileges: boolean;
  /** "default", "unconfined" or the profile's JSON text. */
  readonly seccomp: string;
  /** Profile name, "unconfined", or undefined for the default. */
  readonly apparmor: string | undefined;
  readonly isSystemPathsUnconfined: boolean;
}

export function parseSecurityOptions(
  hostConfig: Pick<HostConfig, "SecurityOpt" | "Privileged">,
): SecurityOptions {
  let hasNoNewPrivileges = false;
  let seccomp = hostConfig.Privileged === true ? "unconfined" : "default";
  let apparmor: string | undefined;
  let isSystemPathsUnconfined = false;
  for (const option of hostConfig.SecurityOpt ?? []) {
    const [, key = option, value = ""] = /^([a-z-]+)[=:]([\s\S]*)$/.exec(option) ?? [];
    switch (key) {
      case "no-new-privileges":
        if (!["", "true", "false"].includes(value)) refuse(option);
        hasNoNewPrivileges = value !== "false";
        break;
      case "seccomp":
        seccomp = value === "builtin" ? "default" : value;
        break;
      case "apparmor":
        apparmor = value;
        break;
      case "systempaths":
        if (value !== "unconfined") refuse(option);
        isSystemPathsUnconfined = true;
        break;
      case "label":
      case "writable-cgroups":
        break;
      default:
        refuse(option);
    }
  }
  return { hasNoNewPrivileges, seccomp, apparmor, isSystemPathsUnconfined };
}

function refuse(option: string): never {
  throw new ClusterError("invalid_argument", `invalid --security-opt 1: "${option}"`);
}
