/** Docker's defaults for a container: what is mounted, masked, readable, which devices may be used. Data only. */
import { MountAttribute, MountFlag, type LaunchMount } from "./launch-spec.ts";

export const DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
export const DEFAULT_SHM_BYTES: number = 64 * 1024 * 1024;
export const DEFAULT_STOP_TIMEOUT_SECONDS = 10;
export const DEFAULT_LOG_FILE_COUNT = 1;

export const MASKED_PATHS: readonly string[] = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
];

export const READONLY_PATHS: readonly string[] = [
  "/proc/bus",
  "/proc/fs",
  "/proc/irq",
  "/proc/sys",
  "/proc/sysrq-trigger",
];

/** Rules of the devices controller: null, zero, full, random, urandom, tty, console, ptmx, pts, and making any node. */
export const DEVICE_RULES: readonly string[] = [
  "c *:* m",
  "b *:* m",
  "c 1:3 rwm",
  "c 1:5 rwm",
  "c 1:7 rwm",
  "c 1:8 rwm",
  "c 1:9 rwm",
  "c 5:0 rwm",
  "c 5:1 rwm",
  "c 5:2 rwm",
  "c 136:* rwm",
];

const { readonly, nosuid, nodev, noexec } = MountAttribute;

export function filesystem(
  type: string,
  target: string,
  attributes: number,
  options = "",
  flags = 0,
): LaunchMount {
  return {
    kind: "filesystem",
    flags,
    propagation: 0,
    attributes,
    type,
    source: type,
    subpath: "",
    target,
    options,
  };
}

/** What every container has, before binds and volumes. `shmBytes` undefined: /dev/shm comes from elsewhere. */
export function baseMounts(options: {
  readonly isPrivileged: boolean;
  readonly shmBytes: number | undefined;
  readonly hasOwnIpc: boolean;
}): readonly LaunchMount[] {
  const { isPrivileged, shmBytes, hasOwnIpc } = options;
  return [
    filesystem("proc", "/proc", nosuid | nodev | noexec, "", MountFlag.noSymlinkTarget),
    filesystem("tmpfs", "/dev", nosuid, "mode=755,size=65536k", MountFlag.noSymlinkTarget),
    filesystem("devpts", "/dev/pts", nosuid | noexec, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    filesystem(
      "sysfs",
      "/sys",
      nosuid | nodev | noexec | (isPrivileged ? 0 : readonly),
      "",
      MountFlag.noSymlinkTarget,
    ),
    ...(hasOwnIpc ? [filesystem("mqueue", "/dev/mqueue", nosuid | nodev | noexec)] : []),
    ...(shmBytes === undefined
      ? []
      : [filesystem("tmpfs", "/dev/shm", nosuid | nodev | noexec, `mode=1777,size=${shmBytes}`)]),
  ];
}
