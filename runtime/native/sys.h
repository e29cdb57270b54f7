/*
 * System calls and structures that the C library does not know: their numbers are the same on x86-64 and arm64.
 * Every part of the program includes this. Nothing here holds state.
 */
#ifndef SHOAL_SYS_H
#define SHOAL_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NR_pidfd_send_signal 424
#define NR_open_tree 428
#define NR_move_mount 429
#define NR_fsopen 430
#define NR_fsconfig 431
#define NR_fsmount 432
#define NR_pidfd_open 434
#define NR_clone3 435
#define NR_close_range 436
#define NR_openat2 437
#define NR_mount_setattr 442

#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC 02000000
#define AT_RECURSIVE 0x8000
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#define MOVE_MOUNT_F_EMPTY_PATH 0x4
#define MOVE_MOUNT_T_EMPTY_PATH 0x40

#define FSOPEN_CLOEXEC 1
#define FSMOUNT_CLOEXEC 1
#define FSCONFIG_SET_FLAG 0
#define FSCONFIG_SET_STRING 1
#define FSCONFIG_CMD_CREATE 6

#define ATTR_RDONLY 0x1
#define ATTR_NOSUID 0x2
#define ATTR_NODEV 0x4
#define ATTR_NOEXEC 0x8
#define ATTR_NOATIME_MASK 0x70
#define ATTR_IDMAP 0x100000

#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define RESOLVE_IN_ROOT 0x10

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif
#define X_CLONE_PIDFD 0x00001000ULL
#define X_CLONE_INTO_CGROUP 0x200000000ULL

struct x_clone_args {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

struct x_open_how {
  uint64_t flags, mode, resolve;
};

struct x_mount_attr {
  uint64_t attr_set, attr_clr, propagation, userns_fd;
};

static inline int x_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
  struct x_open_how how = {flags, mode, resolve};
  return (int)syscall(NR_openat2, dir, path, &how, sizeof how);
}
static inline int x_open_tree(int dir, const char *path, unsigned flags) {
  return (int)syscall(NR_open_tree, dir, path, flags | OPEN_TREE_CLOEXEC);
}
/* Mounts the tree `from` on the file or folder that `to` is open on: no path is looked up again. */
static inline int x_move_mount(int from, int to) {
  return (int)syscall(NR_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}
static inline int x_mount_setattr(int fd, unsigned flags, struct x_mount_attr *attr) {
  return (int)syscall(NR_mount_setattr, fd, "", flags | AT_EMPTY_PATH, attr, sizeof *attr);
}
static inline long x_clone3(struct x_clone_args *args) { return syscall(NR_clone3, args, sizeof *args); }
static inline int x_close_range(unsigned first, unsigned last, unsigned flags) {
  return (int)syscall(NR_close_range, first, last, flags);
}
static inline int x_pidfd_open(int pid) { return (int)syscall(NR_pidfd_open, pid, 0); }
static inline int x_pidfd_signal(int fd, int signal) {
  return (int)syscall(NR_pidfd_send_signal, fd, signal, NULL, 0);
}

#endif
