/** Checks of a service's container: image, mounts, health check, files, kernel settings. Pure. */
import { tryParseReference } from "../../../model/image-reference.ts";
import type { ContainerSpec, FileTarget, HealthConfig, Mount } from "../../../model/specs.ts";
import { checkTemplates } from "../../../model/templates.ts";
import { checkNotNegative, checkWord, firstDuplicate, refuse } from "./rules.ts";

const NANOS_PER_MS = 1e6;
const MOUNT_TYPES = ["bind", "volume", "tmpfs", "image"] as const;
const ENV_NAME = /^[^=\0]+(?:=|$)/;
const MODE_MAX = 0o7777;
const SIGNAL = /^(?:SIG)?[A-Z][A-Z0-9+-]*$|^\d{1,2}$/i;

/** `serviceLabels`: what placeholders of the container's spec may name. */
export function checkContainerSpec(
  spec: ContainerSpec | undefined,
  serviceLabels: Readonly<Record<string, string>> = {},
): void {
  if (spec === undefined)
    throw refuse("ContainerSpec: missing in service spec", "TaskTemplate.ContainerSpec");
  if ((spec.Image ?? "") === "") throw refuse("ContainerSpec: image reference must be provided", "Image");
  if (tryParseReference(spec.Image) === undefined && !/^sha256:[0-9a-f]{64}$/.test(spec.Image)) {
    throw refuse(`ContainerSpec: "${spec.Image}" is not a valid repository/tag`, "Image");
  }
  checkNotNegative(spec.StopGracePeriod, "ContainerSpec: StopGracePeriod cannot be negative");
  if (spec.StopSignal !== undefined && spec.StopSignal !== "" && !SIGNAL.test(spec.StopSignal)) {
    throw refuse(`invalid stop signal: "${spec.StopSignal}"`, "StopSignal");
  }
  checkNoNul(spec);
  checkTemplates(spec, serviceLabels);
  checkMounts(spec.Mounts ?? []);
  checkHealth(spec.Healthcheck);
  checkFiles(spec);
  checkWord(spec.Privileges?.Seccomp?.Mode, ["default", "unconfined", "custom"], "Privileges.Seccomp.Mode");
  checkWord(spec.Privileges?.AppArmor?.Mode, ["default", "disabled"], "Privileges.AppArmor.Mode");
  for (const entry of spec.Env ?? []) {
    if (!ENV_NAME.test(entry)) throw refuse(`invalid environment variable: ${entry}`, "Env");
  }
  if (spec.OomScoreAdj !== undefined && Math.abs(spec.OomScoreAdj) > 1000) {
    throw refuse(`OomScoreAdj must be between -1000 and 1000, got ${spec.OomScoreAdj}`, "OomScoreAdj");
  }
  const sysctl = Object.keys(spec.Sysctls ?? {}).find((key) => !/^[a-z0-9_.\-/]+$/i.test(key));
  if (sysctl !== undefined) throw refuse(`invalid sysctl: "${sysctl}"`, "Sysctls");
}

/** The kernel ends a text at its first NUL: what comes after would be lost without a word. */
function checkNoNul(spec: ContainerSpec): void {
  const texts: readonly (readonly [string, readonly string[] | undefined])[] = [
    ["Env", spec.Env],
    ["Command", spec.Command],
    ["Args", spec.Args],
    ["Hosts", spec.Hosts],
    ["Groups", spec.Groups],
    ["Labels", Object.entries(spec.Labels ?? {}).flat()],
    ["Sysctls", Object.entries(spec.Sysctls ?? {}).flat()],
    ["Hostname, Dir or User", [spec.Hostname ?? "", spec.Dir ?? "", spec.User ?? ""]],
    ["Healthcheck.Test", spec.Healthcheck?.Test],
    ["Mounts", (spec.Mounts ?? []).flatMap((mount) => [mount.Source ?? "", mount.Target ?? ""])],
  ];
  for (const [field, values] of texts) {
    const bad = values?.find((value) => value.includes("\0"));
    if (bad !== undefined)
      throw refuse(`ContainerSpec: ${field} must hold no NUL character, got ${JSON.stringify(bad)}`, field);
  }
}

function checkMounts(mounts: readonly Mount[]): void {
  for (const mount of mounts) checkMount(mount);
  const twice = firstDuplicate(mounts.map((mount) => mount.Target.replace(/(?<=.)\/+$/, "")));
  if (twice !== undefined) throw refuse(`ContainerSpec: duplicate mount point: ${twice}`, "Mounts");
}

function checkMount(mount: Mount): void {
  const type = mount.Type ?? "volume";
  const bad = (text: string): Error => refuse(`invalid mount config for type "${type}": ${text}`, "Mounts");
  if (type === "cluster") throw bad("cluster volumes need a CSI plugin, and nodes here have none");
  checkWord(type, MOUNT_TYPES, "mount type");
  if ((mount.Target ?? "") === "") throw bad("field Target must not be empty");
  if (!mount.Target.startsWith("/") && !mount.Target.startsWith("{{")) {
    throw bad(`invalid mount path: '${mount.Target}' mount path must be absolute`);
  }
  if (mount.Target.replace(/\/+/g, "/") === "/") throw bad("invalid specification: destination can't be '/'");
  const source = mount.Source ?? "";
  if (type === "bind") {
    if (source === "") throw bad("field Source must not be empty");
    if (!source.startsWith("/") && !source.startsWith("{{")) {
      throw bad(`invalid mount path: '${source}' mount path must be absolute`);
    }
  }
  if (type === "tmpfs" && source !== "") throw bad("field Source must not be specified");
  if (type === "volume" && source.startsWith("/")) throw bad(`"${source}" is not a name of a volume`);
  if (mount.VolumeOptions !== undefined && type !== "volume")
    throw bad("field VolumeOptions must not be specified");
  if (mount.ImageOptions !== undefined && type !== "image")
    throw bad("field ImageOptions must not be specified");
  checkSubpath(mount, bad);
  if (type === "image" && tryParseReference(source) === undefined && !source.startsWith("{{")) {
    throw bad(`field Source must be the name of an image, got "${source}"`);
  }
  if (mount.BindOptions !== undefined && type !== "bind")
    throw bad("field BindOptions must not be specified");
  if (mount.TmpfsOptions !== undefined && type !== "tmpfs")
    throw bad("field TmpfsOptions must not be specified");
  checkNotNegative(mount.TmpfsOptions?.SizeBytes, "invalid tmpfs size: must not be negative");
  checkWord(
    mount.BindOptions?.Propagation,
    ["private", "rprivate", "shared", "rshared", "slave", "rslave"],
    "bind propagation",
  );
}

/** What leads out of a volume or an image is refused here; links that do, where it is mounted. */
function checkSubpath(mount: Mount, bad: (text: string) => Error): void {
  const subpath = mount.VolumeOptions?.Subpath ?? mount.ImageOptions?.Subpath ?? "";
  if (subpath.startsWith("/") || subpath.split("/").includes(".."))
    throw bad(`subpath must be a relative path that stays inside, got "${subpath}"`);
}

function checkHealth(health: HealthConfig | undefined): void {
  if (health === undefined) return;
  for (const field of ["Interval", "Timeout", "StartPeriod", "StartInterval"] as const) {
    const nanos = health[field];
    if (nanos !== undefined && nanos !== 0 && nanos < NANOS_PER_MS) {
      throw refuse(
        `ContainerSpec: ${field} in HealthConfig cannot be less than one millisecond`,
        "Healthcheck",
      );
    }
  }
  checkNotNegative(health.Retries, "ContainerSpec: Retries in HealthConfig cannot be negative");
  const kind = health.Test?.[0];
  if (kind !== undefined && !["", "NONE", "CMD", "CMD-SHELL"].includes(kind)) {
    throw refuse(`ContainerSpec: unknown type "${kind}" of HealthConfig.Test`, "Healthcheck");
  }
}

function checkFiles(spec: ContainerSpec): void {
  const secrets = (spec.Secrets ?? []).map((reference) => ({
    kind: "secret" as const,
    id: reference.SecretID,
    name: reference.SecretName,
    file: reference.File,
  }));
  const configs = (spec.Configs ?? []).map((reference) => ({
    kind: "config" as const,
    id: reference.ConfigID,
    name: reference.ConfigName,
    file: reference.File,
    isRuntime: reference.Runtime !== undefined,
  }));
  const byPath = new Map<string, string>();
  for (const reference of [...secrets, ...configs]) {
    const { kind, name, file } = reference;
    if ((reference.id ?? "") === "" && (name ?? "") === "") throw refuse(`malformed ${kind} reference`);
    if (file === undefined) {
      if ("isRuntime" in reference && reference.isRuntime) continue;
      throw refuse(`malformed ${kind} reference "${name}": File target must be provided`);
    }
    checkFile(kind, file);
    const path =
      kind === "secret" && !file.Name.startsWith("/") ? `/run/secrets/${file.Name}` : rooted(file.Name);
    const other = byPath.get(path);
    if (other !== undefined && other !== name) {
      throw refuse(`${kind} references '${other}' and '${name}' have a conflicting target: '${file.Name}'`);
    }
    byPath.set(path, name);
  }
}

function rooted(name: string): string {
  return name.startsWith("/") ? name : `/${name}`;
}

function checkFile(kind: string, file: FileTarget): void {
  const name = file.Name ?? "";
  if (name === "" || name.split("/").includes("..") || name.endsWith("/")) {
    throw refuse(`invalid ${kind} target "${name}": want the path of a file, without ".."`);
  }
  for (const [field, value] of [
    ["UID", file.UID],
    ["GID", file.GID],
  ] as const) {
    if (value !== undefined && value !== "" && !/^\d{1,10}$/.test(value)) {
      throw refuse(`invalid ${field} of ${kind} target "${name}": "${value}" is not a number`);
    }
  }
  if (file.Mode !== undefined && (file.Mode < 0 || (file.Mode & 0o777777) > (MODE_MAX | 0o100000))) {
    throw refuse(`invalid mode of ${kind} target "${name}": ${file.Mode}`);
  }
}
