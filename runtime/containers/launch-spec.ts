/**
 * What the native program is told to run, fully decided: paths, mounts, limits, rights. Made by spec.ts, written by
 * native-job.ts.
 */

export interface LaunchMount {
  readonly kind: "bind" | "filesystem";
  /** MountFlag bits. */
  readonly flags: number;
  /** MS_PRIVATE and the like, 0 for the kind's default. */
  readonly propagation: number;
  /** MountAttribute bits. */
  readonly attributes: number;
  readonly type: string;
  readonly source: string;
  /** Below a bind's source, looked up without leaving it; or "". */
  readonly subpath: string;
  readonly target: string;
  /** "key=value,key" of a file system. */
  readonly options: string;
}

export const MountFlag = {
  recursive: 1,
  readonlyRecursive: 2,
  noSymlinkTarget: 4,
  copyUp: 8,
  optional: 16,
  /** A bind whose files show through the container's id map. */
  idMap: 64,
} as const;

export const MountAttribute = { readonly: 1, nosuid: 2, nodev: 4, noexec: 8, noatime: 0x10 } as const;

export interface LaunchDevice {
  readonly path: string;
  /** Bound from there where nodes can't be made. */
  readonly hostPath: string;
  readonly type: "c" | "b" | "p";
  readonly major: number;
  readonly minor: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface CapabilitySets {
  readonly bounding: bigint;
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly inheritable: bigint;
  readonly ambient: bigint;
}

export interface LaunchProcess {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  /** name|uid[:group|gid], looked up inside the container; "" is root. */
  readonly user: string;
  readonly groups: readonly string[];
  readonly capabilities: CapabilitySets;
  /** Compiled filter, absent: unconfined. */
  readonly seccomp: Uint8Array | undefined;
  readonly rlimits: readonly { readonly resource: number; readonly soft: bigint; readonly hard: bigint }[];
  readonly umask: number | undefined;
  readonly apparmor: string | undefined;
  readonly consoleSize: { readonly rows: number; readonly columns: number };
}

export interface LaunchLog {
  /** 0: none, 1: json-file, 2: local. */
  readonly kind: 0 | 1 | 2;
  readonly path: string;
  /** 0: never rotated. */
  readonly bytesMax: number;
  readonly fileCountMax: number;
  /** JSON object that each line carries as `attrs`, or "". */
  readonly attributes: string;
  /** Lines that may wait in memory while the disk is slow; 0: writing holds the container back. */
  readonly ringBytes: number;
}

export interface IdMap {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

/** Another OCI runtime, which makes the container of the bundle in the state folder. */
export interface LaunchRuntime {
  /** Absolute path, with runc's command line. */
  readonly program: string;
  readonly args: readonly string[];
  /** Its own state folder. */
  readonly root: string;
}

export interface LaunchSpec {
  readonly id: string;
  /** Folder of this container in the exec root: exit file, and the place its root is mounted on in its own namespace. */
  readonly stateDir: string;
  /** Of the monitor, relative to the exec root. */
  readonly socket: string;
  readonly log: LaunchLog;
  /** JobFlag bits. */
  readonly flags: number;
  readonly process: LaunchProcess;
  readonly oomScoreAdj: number | undefined;
  readonly hostname: string;
  readonly domainname: string;
  readonly sysctls: readonly (readonly [string, string])[];
  readonly root:
    | {
        readonly kind: "overlay";
        readonly lower: readonly string[];
        readonly upper: string;
        readonly work: string;
      }
    | { readonly kind: "folder"; readonly path: string };
  readonly mounts: readonly LaunchMount[];
  readonly devices: readonly LaunchDevice[];
  readonly files: readonly {
    readonly path: string;
    readonly mode: number;
    readonly uid: number;
    readonly gid: number;
    readonly data: Uint8Array;
  }[];
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly cgroups: readonly { readonly version: 1 | 2; readonly folder: string }[];
  readonly cgroupWrites: readonly {
    readonly file: string;
    readonly value: string;
    readonly isOptional: boolean;
  }[];
  readonly joinNamespaces: readonly { readonly flag: number; readonly path: string }[];
  readonly uidMaps: readonly IdMap[];
  readonly gidMaps: readonly IdMap[];
  /** BPF program of the device rules, on hosts with the v2 controller. */
  readonly deviceProgram: Uint8Array | undefined;
  /** Absent: ours. */
  readonly runtime?: LaunchRuntime;
}
