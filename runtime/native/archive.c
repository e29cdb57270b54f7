/*
 * See archive.h. A process of its own sees the container's tree: of a running one by entering its mount namespace, of a stopped
 * one by mounting its layers in a namespace of this process alone. It never runs anything of the container's, and it looks up
 * every path below an open root with RESOLVE_IN_ROOT, so that links swapped meanwhile lead nowhere else.
 */
#define _GNU_SOURCE
#include "archive.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mounts.h"
#include "process.h"
#include "sys.h"
#include "tar.h"
#include "util.h"

static char failure[PATH_BYTES_MAX + 512];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

enum { IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

/* Opens the root of the tree that the container has or would have. */
static const char *open_root(struct job *job, int *root) {
  if (job->exec_pid != 0) {
    int target = x_pidfd_open((int)job->exec_pid);
    if (target < 0 || process_start_ticks((int)job->exec_pid) != job->exec_start_ticks) return "container is not running";
    int kinds = CLONE_NEWNS | (job->exec_namespaces & CLONE_NEWUSER);
    if (setns(target, kinds) != 0) return FAIL("entering the container's mounts: %s", strerror(errno));
    if (kinds & CLONE_NEWUSER && (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)) return "becoming root of the user namespace";
    *root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *root < 0 ? strerror(errno) : NULL;
  }
  if (unshare(CLONE_NEWNS) != 0) return FAIL("mount namespace: %s", strerror(errno));
  const char *error = mounts_open_sources(job);
  if (error == NULL) error = mounts_build(job, root, NULL);
  if (error != NULL) return error;
  int readable = openat(*root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  *root = readable;
  return readable < 0 ? strerror(errno) : NULL;
}

/* Name of the thing itself, its folder resolved: the last part may be a link, which is what is asked about. */
static int open_parent(int root, const char *path, char name[256]) {
  char folder[PATH_BYTES_MAX];
  snprintf(folder, sizeof folder, "/%s", path);
  size_t length = strlen(folder);
  while (length > 1 && folder[length - 1] == '/') folder[--length] = 0;
  char *slash = strrchr(folder, '/');
  snprintf(name, 256, "%s", slash[1] == 0 ? "." : slash + 1);
  if (slash == folder) slash[1] = 0;
  else *slash = 0;
  return x_openat2(root, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_ROOT);
}

static void send_stat(int connection, const struct stat *stat, const char *name, const char *link) {
  char text[PATH_BYTES_MAX * 2];
  int length = snprintf(text, sizeof text, "%lld\n%u\n%lld\n%ld\n%s\n%s", (long long)stat->st_size, stat->st_mode,
                        (long long)stat->st_mtim.tv_sec, stat->st_mtim.tv_nsec, name, link);
  send_frame(connection, F_DONE, text, (uint32_t)length);
}

static const char *find(int root, const char *path, int *parent, char name[256], struct stat *stat) {
  *parent = open_parent(root, path, name);
  if (*parent < 0 || fstatat(*parent, name, stat, AT_SYMLINK_NOFOLLOW) != 0)
    return FAIL("%s: %s", errno == ENOENT || errno == ENOTDIR ? "ENOENT" : "EIO", strerror(errno));
  /* A trailing slash asks for what a link leads to. */
  size_t length = strlen(path);
  if (!S_ISLNK(stat->st_mode) || length < 2 || (path[length - 1] != '/' && !(path[length - 1] == '.' && path[length - 2] == '/')))
    return NULL;
  int target = x_openat2(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_ROOT);
  if (target < 0 || fstat(target, stat) != 0) return FAIL("ENOENT: %s", strerror(errno));
  close(*parent);
  *parent = target;
  snprintf(name, 256, ".");
  return NULL;
}

/* Where a link leads inside the container, as a path of the container; "" if it is no link. */
static void resolve_link(int root, const char *path, const struct stat *stat, char out[PATH_BYTES_MAX]) {
  out[0] = 0;
  if (!S_ISLNK(stat->st_mode)) return;
  char name[256], target[PATH_BYTES_MAX];
  int parent = open_parent(root, path, name);
  ssize_t length = parent < 0 ? -1 : readlinkat(parent, name, target, sizeof target - 1);
  close(parent);
  if (length < 0) return;
  target[length] = 0;
  snprintf(out, PATH_BYTES_MAX, "%s", target);
}

static const char *put(struct job *job, int root, int connection) {
  int folder = x_openat2(root, job->archive_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_ROOT);
  if (folder < 0)
    return errno == ENOTDIR ? FAIL("ENOTDIR: extraction point is not a directory")
                            : FAIL("%s: %s", errno == ENOENT ? "ENOENT" : "EIO", strerror(errno));
  struct identity identity = {0};
  if (*job->user != 0) {
    /* Accounts are those of the container, whose root it is from here on. */
    if (fchdir(root) != 0 || chroot(".") != 0) return FAIL("entering the container's root: %s", strerror(errno));
    const char *unknown = process_identity(job, &identity);
    if (unknown != NULL) return unknown;
  }
  if (faccessat(folder, ".", W_OK, 0) != 0 && errno == EROFS) {
    struct stat top, place;
    bool is_volume = fstat(root, &top) == 0 && fstat(folder, &place) == 0 && top.st_dev != place.st_dev;
    return FAIL("EROFS: %s is marked read-only", is_volume ? "mounted volume" : "container rootfs");
  }
  send_frame(connection, F_DONE, NULL, 0);
  struct tar_owner owner = {identity.uid, identity.gid};
  const char *error = tar_unpack(connection, folder, job->keeps_kind, *job->user == 0 ? NULL : &owner);
  if (error != NULL) return error;
  send_frame(connection, F_DONE, NULL, 0);
  return NULL;
}

void archive_serve(struct job *job, int connection) {
  prctl(PR_SET_NAME, "shoal-archive", 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  umask(0);
  int root = -1, parent = -1;
  char name[256], link[PATH_BYTES_MAX];
  struct stat stat;
  const char *error = open_root(job, &root);
  enum archive_mode mode = (enum archive_mode)job->archive_mode;
  if (error == NULL && mode == ARCHIVE_PUT) {
    error = put(job, root, connection);
    if (error == NULL) _exit(0);
  }
  if (error == NULL && mode == ARCHIVE_EXPORT) {
    send_frame(connection, F_DONE, NULL, 0);
    error = tar_pack_tree(connection, root, ".", "");
    if (error == NULL) _exit(0);
  }
  if (error == NULL) error = find(root, job->archive_path, &parent, name, &stat);
  if (error == NULL) {
    resolve_link(root, job->archive_path, &stat, link);
    send_stat(connection, &stat, name, link);
    /* Entries are named by what the client asked for, which "." at its end does not show. */
    if (mode == ARCHIVE_GET) error = tar_pack_tree(connection, parent, name, job->archive_prefix);
  }
  if (error != NULL) {
    send_text_frame(connection, F_ERROR, error);
    _exit(1);
  }
  _exit(0);
}
