/**
 * Writes the job that the native launcher is given: records of key, length, value (runtime/native/job.h reads them).
 * Knows the form only; what goes in is decided by spec.ts.
 */
import type { LaunchSpec, LaunchMount, LaunchRuntime } from "./launch-spec.ts";
import { refuseNul } from "./texts.ts";

const Key = {
  id: 1,
  stateDir: 2,
  socket: 3,
  log: 4,
  arg: 5,
  env: 6,
  cwd: 7,
  user: 8,
  groupAdd: 9,
  flags: 10,
  caps: 11,
  seccomp: 12,
  rlimit: 13,
  oomAdj: 14,
  hostname: 15,
  domainname: 16,
  sysctl: 17,
  masked: 18,
  readonly: 19,
  lower: 20,
  upper: 21,
  work: 22,
  rootDir: 23,
  mount: 24,
  device: 25,
  file: 26,
  cgroup: 27,
  cgroupWrite: 28,
  joinNs: 29,
  uidMap: 30,
  gidMap: 31,
  umask: 32,
  winsize: 33,
  apparmor: 34,
  deviceBpf: 35,
  execTarget: 36,
  rootPropagation: 37,
  archive: 38,
  runtime: 39,
  runtimeArg: 40,
} as const;

export const JobFlag = {
  tty: 1,
  openStdin: 2,
  stdinOnce: 4,
  readonlyRoot: 8,
  noNewPrivileges: 16,
  newNet: 32,
  newPid: 64,
  newIpc: 128,
  newUts: 256,
  newCgroup: 512,
  newUser: 1024,
  fillDev: 2048,
  discardOutput: 4096,
  unmountLate: 131072,
  volatile: 262144,
  tellBorn: 1048576,
} as const;

export const NamespaceFlag = {
  mount: 0x00020000,
  cgroup: 0x02000000,
  uts: 0x04000000,
  ipc: 0x08000000,
  user: 0x10000000,
  pid: 0x20000000,
  net: 0x40000000,
} as const;

/** Most jobs fit at once; those with secrets grow. */
const FIRST_BYTES = 8 * 1024;

/** Collects records in one buffer. Text must hold no NUL: it would cut the value short on the other side. */
class JobWriter {
  #buffer = Buffer.allocUnsafe(FIRST_BYTES);
  #length = 0;

  record(key: number, ...values: readonly (number | bigint | string | Uint8Array)[]): void {
    this.#number(key);
    const sizeAt = this.#length;
    this.#number(0);
    for (const value of values) {
      if (typeof value === "number") this.#number(value);
      else if (typeof value === "bigint") this.#wide(value);
      else if (typeof value === "string") this.#text(value);
      else this.#bytes(value);
    }
    this.#buffer.writeUInt32LE(this.#length - sizeAt - 4, sizeAt);
  }

  each(key: number, values: readonly string[]): void {
    for (const value of values) this.record(key, value);
  }

  bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  #number(value: number): void {
    this.#reserve(4);
    this.#length = this.#buffer.writeInt32LE(value | 0, this.#length);
  }

  #wide(value: bigint): void {
    this.#reserve(8);
    this.#length = this.#buffer.writeBigUInt64LE(BigInt.asUintN(64, value), this.#length);
  }

  #text(value: string): void {
    // Requests are checked; what else it may be must not end up cut short.
    refuseNul(value, "text");
    // At most three bytes for each unit of UTF-16, and the closing NUL.
    this.#reserve(value.length * 3 + 1);
    this.#length += this.#buffer.write(value, this.#length);
    this.#buffer[this.#length++] = 0;
  }

  #bytes(value: Uint8Array): void {
    this.#reserve(value.byteLength);
    this.#buffer.set(value, this.#length);
    this.#length += value.byteLength;
  }

  #reserve(count: number): void {
    const needed = this.#length + count;
    if (needed <= this.#buffer.byteLength) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, this.#buffer.byteLength * 2));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }
}

function writeMount(writer: JobWriter, mount: LaunchMount): void {
  writer.record(
    Key.mount,
    mount.kind === "bind" ? 1 : 2,
    mount.flags,
    mount.propagation,
    BigInt(mount.attributes),
    mount.type,
    mount.source,
    mount.subpath,
    mount.target,
    mount.options,
  );
}

function writeProcess(writer: JobWriter, spec: LaunchSpec["process"]): void {
  writer.each(Key.arg, spec.args);
  writer.each(Key.env, spec.env);
  writer.record(Key.cwd, spec.cwd);
  writer.record(Key.user, spec.user);
  writer.each(Key.groupAdd, spec.groups);
  const { bounding, effective, permitted, inheritable, ambient } = spec.capabilities;
  writer.record(Key.caps, bounding, effective, permitted, inheritable, ambient);
  if (spec.seccomp !== undefined) writer.record(Key.seccomp, 0, spec.seccomp);
  for (const limit of spec.rlimits) writer.record(Key.rlimit, limit.resource, limit.soft, limit.hard);
  if (spec.umask !== undefined) writer.record(Key.umask, spec.umask);
  if (spec.apparmor !== undefined) writer.record(Key.apparmor, spec.apparmor);
  const { rows, columns } = spec.consoleSize;
  if (rows > 0 || columns > 0) writer.record(Key.winsize, rows, columns);
}

function writeFilesystem(writer: JobWriter, spec: LaunchSpec): void {
  const { root } = spec;
  if (root.kind === "folder") {
    writer.record(Key.rootDir, root.path);
  } else {
    writer.each(Key.lower, root.lower);
    writer.record(Key.upper, root.upper);
    writer.record(Key.work, root.work);
  }
  for (const mount of spec.mounts) writeMount(writer, mount);
  for (const device of spec.devices) {
    writer.record(
      Key.device,
      device.path,
      device.type.charCodeAt(0),
      device.major,
      device.minor,
      device.mode,
      device.uid,
      device.gid,
      device.hostPath,
    );
  }
  for (const file of spec.files) writer.record(Key.file, file.path, file.mode, file.uid, file.gid, file.data);
  writer.each(Key.masked, spec.maskedPaths);
  writer.each(Key.readonly, spec.readonlyPaths);
}

function writeCgroups(writer: JobWriter, spec: Pick<LaunchSpec, "cgroups" | "cgroupWrites">): void {
  for (const group of spec.cgroups) writer.record(Key.cgroup, group.version, group.folder, "");
  for (const one of spec.cgroupWrites) {
    writer.record(Key.cgroupWrite, one.isOptional ? 1 : 0, one.file, one.value);
  }
}

function writeIdMaps(writer: JobWriter, maps: Pick<LaunchSpec, "uidMaps" | "gidMaps">): void {
  for (const map of maps.uidMaps) writer.record(Key.uidMap, map.inside, map.outside, map.count);
  for (const map of maps.gidMaps) writer.record(Key.gidMap, map.inside, map.outside, map.count);
}

function writeRuntime(writer: JobWriter, runtime: LaunchRuntime, processFile: string): void {
  writer.record(Key.runtime, runtime.program, runtime.root, processFile);
  writer.each(Key.runtimeArg, runtime.args);
}

export function encodeCreateJob(spec: LaunchSpec): Buffer {
  const writer = new JobWriter();
  writer.record(Key.id, spec.id);
  writer.record(Key.stateDir, spec.stateDir);
  writer.record(Key.socket, spec.socket);
  const { log } = spec;
  writer.record(
    Key.log,
    log.kind,
    log.path,
    BigInt(log.bytesMax),
    log.fileCountMax,
    log.attributes,
    log.ringBytes,
  );
  writer.record(Key.flags, spec.flags);
  writeProcess(writer, spec.process);
  if (spec.oomScoreAdj !== undefined) writer.record(Key.oomAdj, spec.oomScoreAdj);
  writer.record(Key.hostname, spec.hostname);
  writer.record(Key.domainname, spec.domainname);
  for (const [key, value] of spec.sysctls) writer.record(Key.sysctl, 0, key, value);
  writeFilesystem(writer, spec);
  writeCgroups(writer, spec);
  for (const join of spec.joinNamespaces) writer.record(Key.joinNs, join.flag, join.path, "");
  writeIdMaps(writer, spec);
  if (spec.deviceProgram !== undefined) writer.record(Key.deviceBpf, spec.deviceProgram);
  if (spec.runtime !== undefined) writeRuntime(writer, spec.runtime, "");
  return writer.bytes();
}

export interface ExecJob {
  readonly flags: number;
  readonly process: LaunchSpec["process"];
  readonly cgroups: LaunchSpec["cgroups"];
  readonly pid: number;
  readonly pidStartTicks: bigint;
  readonly namespaces: number;
  /** The container's. */
  readonly oomScoreAdj: number;
  /** Of the container's user namespace. */
  readonly uidMaps: LaunchSpec["uidMaps"];
  readonly gidMaps: LaunchSpec["gidMaps"];
  /** Of a container that another runtime made; the process is described in the file. */
  readonly delegated?: {
    readonly runtime: LaunchRuntime;
    readonly containerId: string;
    readonly stateDir: string;
    readonly processFile: string;
  };
}

export function encodeExecJob(job: ExecJob): Buffer {
  const writer = new JobWriter();
  writer.record(Key.flags, job.flags);
  writeProcess(writer, job.process);
  writer.record(Key.oomAdj, job.oomScoreAdj);
  writeCgroups(writer, { cgroups: job.cgroups, cgroupWrites: [] });
  writer.record(Key.execTarget, job.pid, job.namespaces, job.pidStartTicks);
  writeIdMaps(writer, job);
  if (job.delegated !== undefined) {
    writer.record(Key.id, job.delegated.containerId);
    writer.record(Key.stateDir, job.delegated.stateDir);
    writeRuntime(writer, job.delegated.runtime, job.delegated.processFile);
  }
  return writer.bytes();
}

export const ArchiveMode = { stat: 1, get: 2, put: 3, export: 4 } as const;

export interface ArchiveJob {
  readonly flags: number;
  readonly mode: number;
  readonly path: string;
  /** First part of the entries' names. */
  readonly prefix: string;
  /** Unpacking never replaces a folder by something else, or the other way round. */
  readonly keepsKind: boolean;
  /** Who shall own what is unpacked, an account of the container; "": whom the archive names. */
  readonly user: string;
  /** Of a running container; else the tree below is mounted. */
  readonly process:
    | { readonly pid: number; readonly startTicks: bigint; readonly namespaces: number }
    | undefined;
  readonly stateDir: string;
  readonly lower: readonly string[];
  /** Absent: the tree is only read. */
  readonly upper: string | undefined;
  readonly work: string | undefined;
  readonly mounts: readonly LaunchMount[];
}

export function encodeArchiveJob(job: ArchiveJob): Buffer {
  const writer = new JobWriter();
  writer.record(Key.flags, job.flags);
  writer.record(Key.archive, job.mode, job.keepsKind ? 1 : 0, job.path, job.prefix);
  if (job.user !== "") writer.record(Key.user, job.user);
  if (job.process !== undefined) {
    writer.record(Key.execTarget, job.process.pid, job.process.namespaces, job.process.startTicks);
    return writer.bytes();
  }
  writer.record(Key.stateDir, job.stateDir);
  writer.each(Key.lower, job.lower);
  if (job.upper !== undefined) writer.record(Key.upper, job.upper);
  if (job.work !== undefined) writer.record(Key.work, job.work);
  for (const mount of job.mounts) writeMount(writer, mount);
  return writer.bytes();
}
