/** mount(2) and umount2(2) for volumes with options, off the event loop because a network file system may take its time. */
import { closeSync, constants, openSync, readFileSync } from "node:fs";
import { getSystemErrorName } from "node:util";
import koffi from "koffi";
import { ClusterError } from "../../common/errors.ts";
import { inUserNamespace } from "../../common/user-namespace.ts";

const libc = koffi.load(null);
const mountCall = libc.func(
  "int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)",
);
const umountCall = libc.func("int umount2(const char *target, int flags)");

const FLAGS: Readonly<Record<string, number>> = {
  ro: 1,
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  sync: 16,
  remount: 32,
  mand: 64,
  dirsync: 128,
  noatime: 1024,
  nodiratime: 2048,
  bind: 4096,
  rbind: 4096 | 16_384,
  relatime: 1 << 21,
  strictatime: 1 << 24,
};
/** Take a flag back, or say what is so anyway. */
const NO_FLAGS: ReadonlySet<string> = new Set([
  "rw",
  "suid",
  "dev",
  "exec",
  "async",
  "atime",
  "defaults",
  "",
]);
const MS_RDONLY = 1;
const MS_NODEV = 4;
const MS_REC = 16_384;
const MS_SHARED = 1 << 20;
const MS_REMOUNT = 32;
const MS_BIND = 4096;
const MNT_DETACH = 2;

export interface MountRequest {
  readonly source: string;
  readonly target: string;
  readonly type: string;
  /** As after `mount -o`. */
  readonly options: string;
}

interface SystemCall {
  async(...args: readonly unknown[]): void;
}

/** Runs a call in koffi's threads; rejects with the error's name as Linux has it. */
function call(func: SystemCall, args: readonly unknown[], what: string): Promise<void> {
  return new Promise((resolve, reject) => {
    func.async(...args, (error: Error | null, answer: number) => {
      // The callback has the errno of its own call.
      const errno = koffi.errno();
      if (error !== null) reject(error);
      else if (answer === 0) resolve();
      else {
        const code = getSystemErrorName(-errno);
        reject(new ClusterError("internal", `${what}: ${code}`, { details: { errno } }));
      }
    });
  });
}

export function splitMountOptions(options: string): { readonly flags: number; readonly data: string } {
  let flags = 0;
  const data: string[] = [];
  for (const option of options.split(",")) {
    if (NO_FLAGS.has(option)) continue;
    const flag = FLAGS[option];
    if (flag === undefined) data.push(option);
    else flags |= flag;
  }
  return { flags, data: data.join(",") };
}

export async function mountVolume(request: MountRequest): Promise<void> {
  const { flags, data } = splitMountOptions(request.options);
  const what = `failed to mount local volume: mount ${request.source}:${request.target}, data: ${data}`;
  const type = request.type === "none" ? "" : request.type;
  await call(mountCall, [request.source, request.target, type, flags, data], what);
  // A bind ignores "ro" until it is mounted again.
  if ((flags & MS_BIND) !== 0 && (flags & MS_RDONLY) !== 0) {
    await call(mountCall, ["", request.target, "", flags | MS_REMOUNT, ""], what);
  }
}

/**
 * Shows layers as one read-only tree at `target`; the topmost first, at least two. They are named by descriptors, since the kernel takes
 * one page of options.
 */
export async function mountLayers(layers: readonly string[], target: string): Promise<void> {
  const folders = layers.map((layer) => openSync(layer, constants.O_RDONLY | constants.O_DIRECTORY));
  try {
    const lower = folders.map((fd) => `/proc/self/fd/${fd}`).join(":");
    const data = `lowerdir=${lower}${inUserNamespace() ? ",userxattr" : ""}`;
    const what = `failed to mount image at ${target}: ${layers.length} layers`;
    await call(mountCall, ["overlay", target, "overlay", MS_RDONLY | MS_NODEV, data], what);
  } finally {
    for (const fd of folders) closeSync(fd);
  }
}

export function unmountVolume(target: string): Promise<void> {
  return call(umountCall, [target, MNT_DETACH], `failed to unmount local volume ${target}`);
}

/** Mounts made below it show in its copies in other namespaces and the other way round. */
export function makeShared(target: string): Promise<void> {
  return call(mountCall, ["", target, "", MS_SHARED | MS_REC, ""], `failed to share mounts of ${target}`);
}

/** Where something is mounted, in the order it was. */
function mountTargets(): readonly string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .flatMap((line) => line.split(" ")[4] ?? [])
    .map((text) =>
      text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8))),
    );
}

/** Whether something is mounted exactly there. */
export function isMounted(target: string): boolean {
  return mountTargets().includes(target);
}

/** Unmounts what is mounted on the folder and below it, the last one first. */
export async function unmountBelow(folder: string): Promise<void> {
  const isBelow = (target: string): boolean => target === folder || target.startsWith(`${folder}/`);
  for (const target of mountTargets().filter(isBelow).toReversed()) await unmountVolume(target);
}
