/**
 * The profile that containers get unless told otherwise, with the meaning of Docker's default: every call is allowed
 * but those that reach beyond the container, which need the capability named here. Data only.
 */
import type { Profile } from "./profile-format.ts";
import { SYSCALL_TABLES } from "./syscall-tables.ts";

/** Allowed only with one of the capabilities. */
const BY_CAPABILITY: readonly (readonly [readonly string[], readonly string[]])[] = [
  [["CAP_DAC_READ_SEARCH"], ["open_by_handle_at"]],
  [
    ["CAP_SYS_ADMIN"],
    [
      "bpf",
      "clone",
      "clone3",
      "fanotify_init",
      "fsconfig",
      "fsmount",
      "fsopen",
      "fspick",
      "lookup_dcookie",
      "lsm_get_self_attr",
      "lsm_list_modules",
      "lsm_set_self_attr",
      "mount",
      "mount_setattr",
      "move_mount",
      "open_tree",
      "open_tree_attr",
      "perf_event_open",
      "quotactl",
      "quotactl_fd",
      "setdomainname",
      "sethostname",
      "setns",
      "statmount",
      "listmount",
      "syslog",
      "umount",
      "umount2",
      "unshare",
    ],
  ],
  [["CAP_SYS_BOOT"], ["kexec_file_load", "kexec_load", "reboot"]],
  [["CAP_SYS_CHROOT"], ["chroot"]],
  [["CAP_SYS_MODULE"], ["delete_module", "finit_module", "init_module"]],
  [["CAP_SYS_PACCT"], ["acct"]],
  [["CAP_SYS_PTRACE"], ["kcmp", "pidfd_getfd", "process_madvise"]],
  [["CAP_SYS_RAWIO"], ["ioperm", "iopl"]],
  [["CAP_SYS_TIME"], ["clock_settime", "clock_settime64", "settimeofday", "stime"]],
  [["CAP_SYS_TTY_CONFIG"], ["vhangup"]],
  [["CAP_SYS_NICE"], ["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]],
  [["CAP_SYSLOG"], ["syslog"]],
  [["CAP_BPF"], ["bpf"]],
  [["CAP_PERFMON"], ["perf_event_open"]],
];

/** Never allowed: key rings and NUMA moves cross containers, the rest is obsolete or a known way out. */
const NEVER: readonly string[] = [
  "_sysctl",
  "add_key",
  "afs_syscall",
  "bdflush",
  "break",
  "create_module",
  "epoll_ctl_old",
  "epoll_wait_old",
  "file_getattr",
  "file_setattr",
  "ftime",
  "get_kernel_syms",
  "getpmsg",
  "gtty",
  "idle",
  "io_uring_enter",
  "io_uring_register",
  "io_uring_setup",
  "keyctl",
  "lock",
  "migrate_pages",
  "move_pages",
  "mpx",
  "nfsservctl",
  "pivot_root",
  "prof",
  "profil",
  "putpmsg",
  "query_module",
  "request_key",
  "security",
  "stty",
  "swapoff",
  "swapon",
  "sysfs",
  "tuxcall",
  "ulimit",
  "uselib",
  "userfaultfd",
  "ustat",
  "vm86",
  "vm86old",
  "vserver",
];

/** Decided by their arguments below. */
const BY_ARGUMENT: readonly string[] = ["personality", "socket", "clone", "clone3"];

/** Namespace flags of clone: none of them without CAP_SYS_ADMIN. */
const CLONE_NAMESPACES = 0x7e020000;
const ENOSYS = 38;
const EPERM = 1;

function alwaysAllowed(): readonly string[] {
  const excluded = new Set([...NEVER, ...BY_ARGUMENT, ...BY_CAPABILITY.flatMap(([, names]) => names)]);
  const names = new Set(SYSCALL_TABLES.flatMap((table) => [...table.numbers.keys()]));
  return [...names].filter((name) => !excluded.has(name)).sort();
}

export const DEFAULT_PROFILE: Profile = {
  defaultAction: "SCMP_ACT_ERRNO",
  defaultErrnoRet: EPERM,
  syscalls: [
    { names: alwaysAllowed(), action: "SCMP_ACT_ALLOW" },
    ...[0x0, 0x0008, 0x20000, 0x20008, 0xffffffff].map((value) => ({
      names: ["personality"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value, op: "SCMP_CMP_EQ" }],
    })),
    // AF_ALG (38) and AF_VSOCK (40) stay closed.
    {
      names: ["socket"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value: 38, op: "SCMP_CMP_LT" }],
    },
    {
      names: ["socket"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value: 39, op: "SCMP_CMP_EQ" }],
    },
    {
      names: ["socket"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value: 40, op: "SCMP_CMP_GT" }],
    },
    ...BY_CAPABILITY.map(([caps, names]) => ({ names, action: "SCMP_ACT_ALLOW", includes: { caps } })),
    {
      names: ["clone"],
      action: "SCMP_ACT_ALLOW",
      args: [{ index: 0, value: CLONE_NAMESPACES, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }],
      excludes: { caps: ["CAP_SYS_ADMIN"] },
    },
    // Its flags are behind a pointer, which a filter can't follow: libraries fall back to clone.
    {
      names: ["clone3"],
      action: "SCMP_ACT_ERRNO",
      errnoRet: ENOSYS,
      excludes: { caps: ["CAP_SYS_ADMIN"] },
    },
  ],
};
