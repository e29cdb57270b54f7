/*
 * A job: what the daemon asks the launcher to run, as one frame of key-length-value records (see runtime/containers/native-job.ts,
 * which writes them). Strings point into the job's buffer; nothing is copied. Policy (what to mount, which limits) is
 * the daemon's: the job says all of it.
 */
#ifndef SHOAL_JOB_H
#define SHOAL_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_type {
  /* to the launcher */
  F_CREATE = 1,
  F_EXEC = 2,
  F_HOLD = 3,
  F_ARCHIVE = 4,
  F_RETIRE = 5,
  F_SPARE = 6, /* prepares for a creation, whose frame comes later */
  F_REMOVE = 7, /* folders; its payload is no job but their paths */
  /* to a monitor */
  F_START = 10,
  F_SIGNAL = 11,
  F_RESIZE = 12,
  F_STDIN = 13,
  F_CLOSE_STDIN = 14,
  F_ATTACH = 15,
  F_WATCH = 16,
  F_NAMES = 17,
  /* from a monitor */
  F_DONE = 20,
  F_ERROR = 21,
  F_STDOUT = 22,
  F_STDERR = 23,
  F_EXIT = 24,
  F_OOM = 25,
  F_GONE = 26, /* after F_EXIT: the groups are gone, and what is left is only the file systems' unmounting */
  F_BORN = 27, /* before a creation's F_DONE, if J_TELL_BORN: the process is there with its namespaces; its number */
};

enum { JOB_BYTES_MAX = 32 << 20, PATH_BYTES_MAX = 4096 };

enum record_key {
  K_ID = 1,
  K_STATE_DIR,
  K_SOCKET,
  K_LOG,
  K_ARG,
  K_ENV,
  K_CWD,
  K_USER,
  K_GROUP_ADD,
  K_FLAGS,
  K_CAPS,
  K_SECCOMP,
  K_RLIMIT,
  K_OOM_ADJ,
  K_HOSTNAME,
  K_DOMAINNAME,
  K_SYSCTL,
  K_MASKED,
  K_READONLY,
  K_LOWER,
  K_UPPER,
  K_WORK,
  K_ROOT_DIR,
  K_MOUNT,
  K_DEVICE,
  K_FILE,
  K_CGROUP,
  K_CGROUP_WRITE,
  K_JOIN_NS,
  K_UID_MAP,
  K_GID_MAP,
  K_UMASK,
  K_WINSIZE,
  K_APPARMOR,
  K_DEVICE_BPF,
  K_EXEC_TARGET,
  K_ROOT_PROPAGATION,
  K_ARCHIVE,
  K_RUNTIME,
  K_RUNTIME_ARG,
  K_LAST,
};

enum job_flag {
  J_TTY = 1 << 0,
  J_OPEN_STDIN = 1 << 1,
  J_STDIN_ONCE = 1 << 2,
  J_READONLY_ROOT = 1 << 3,
  J_NO_NEW_PRIVS = 1 << 4,
  J_NEW_NET = 1 << 5,
  J_NEW_PID = 1 << 6,
  J_NEW_IPC = 1 << 7,
  J_NEW_UTS = 1 << 8,
  J_NEW_CGROUP = 1 << 9,
  J_NEW_USER = 1 << 10,
  J_FILL_DEV = 1 << 11,
  J_DISCARD_OUTPUT = 1 << 12,
  J_NEW_TIME = 1 << 13,
  /* The OCI command line: the mount namespace is the caller's, so nothing is mounted and the root is only changed. */
  J_HOST_MOUNTS = 1 << 14,
  J_NO_PIVOT = 1 << 15,
  J_SAME_KEYRING = 1 << 16,
  /* Nothing of the host's is mounted in it: its file systems may go after its end was told, which may wait for the disk. */
  J_UNMOUNT_LATE = 1 << 17,
  /* The writable layer is thrown away at the end, so nothing of it need ever reach the disk. */
  J_VOLATILE = 1 << 18,
  J_TELL_BORN = 1 << 20,
};

enum mount_kind { M_BIND = 1, M_FILESYSTEM = 2 };
enum mount_flag {
  MF_RECURSIVE = 1,
  MF_READONLY_RECURSIVE = 2,
  MF_NO_SYMLINK_TARGET = 4,
  MF_COPY_UP = 8,
  MF_OPTIONAL = 16,
  MF_READONLY_STRICT = 32,
  MF_ID_MAP = 64, /* a bind whose files show through the container's id map */
  MF_LATE_READONLY = 128, /* filled first, read-only at the end */
  MF_FLAT_PROPAGATION = 256, /* not for the mounts below it */
};

struct mount_record {
  uint32_t kind, flags, propagation;
  uint64_t attributes, cleared; /* ATTR_* */
  uint64_t recursive_set, recursive_cleared;
  const char *type, *source, *subpath, *target, *options;
  int tree; /* detached clone of a bind's source, or -1 */
};
struct device_record {
  const char *path, *host_path;
  uint32_t type, major, minor, mode, uid, gid;
};
struct file_record {
  const char *path;
  uint32_t mode, uid, gid, length;
  const uint8_t *content;
};
struct limit_record {
  uint32_t resource;
  uint64_t soft, hard;
};
struct pair_record {
  const char *key, *value;
  uint32_t number;
};
struct map_record {
  uint32_t inside, outside, count;
};

#define LIST(T) \
  struct { \
    T *items; \
    uint32_t count; \
  }

struct job {
  const char *id, *state_dir, *socket, *cwd, *user, *hostname, *domainname, *upper, *work, *root_dir, *apparmor;
  const char *log_path, *log_attributes;
  /* Of another OCI runtime: its program, state folder, and for an exec the process's file in the container's state folder. */
  const char *runtime, *runtime_root, *runtime_process;
  uint64_t log_bytes_max;
  uint32_t log_driver, log_file_count, log_ring_bytes; /* 0: writing holds the container back */
  uint32_t flags, umask_bits, root_propagation;
  int32_t oom_adj;
  bool has_oom_adj, has_personality;
  uint32_t personality, preserved_fd_count, io_priority;
  const char *time_offsets, *selinux;
  uint16_t rows, columns;
  uint64_t caps[5]; /* bounding, effective, permitted, inheritable, ambient */
  const uint8_t *seccomp, *device_bpf;
  uint32_t seccomp_bytes, seccomp_flags, device_bpf_bytes;
  uint32_t exec_pid, exec_namespaces;
  uint64_t exec_start_ticks;
  uint32_t archive_mode;
  bool keeps_kind;
  const char *archive_path, *archive_prefix;
  LIST(const char *) args;
  LIST(const char *) env;
  LIST(const char *) runtime_args;
  LIST(const char *) groups;
  LIST(const char *) masked;
  LIST(const char *) readonly;
  LIST(const char *) lower;
  LIST(struct mount_record) mounts;
  LIST(struct device_record) devices;
  LIST(struct file_record) files;
  LIST(struct limit_record) limits;
  LIST(struct pair_record) sysctls;
  LIST(struct pair_record) cgroups; /* key: folder, number: 1 or 2 */
  LIST(struct pair_record) cgroup_writes; /* key: file, value, number: 1 = may fail */
  LIST(struct pair_record) links; /* key: path in the container, value: what it points to */
  LIST(struct pair_record) join; /* number: CLONE_NEW*, key: path */
  LIST(struct map_record) uid_map;
  LIST(struct map_record) gid_map;
};

/* Adds one zeroed item; a zeroed one always follows the last. */
void *job_grow(void **items, uint32_t *count, size_t size);
#define JOB_ADD(list) job_grow((void **)&(list).items, &(list).count, sizeof *(list).items)

/* Fills `job` from `bytes`. Returns NULL, or what is wrong. Arguments and environment end with a NULL item. */
const char *job_parse(struct job *job, const uint8_t *bytes, uint32_t length);

#endif
