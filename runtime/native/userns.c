/* See userns.h. The order on both sides is the root first, then binds as the job lists them. */
#define _GNU_SOURCE
#include "userns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mounts.h"
#include "sys.h"
#include "util.h"

enum { MAP_BYTES_MAX = 4096, TREE_ABSENT = 'N', TREE_PRESENT = 'M', NO_SETUID_FIXUP = 4 };

static char failure[PATH_BYTES_MAX + 512];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

bool userns_wanted(const struct job *job) {
  if (job->flags & J_NEW_USER) return true;
  for (uint32_t i = 0; i < job->join.count; i++)
    if (job->join.items[i].number == CLONE_NEWUSER) return true;
  return false;
}

int64_t userns_outside(const struct map_record *maps, uint32_t count, uint32_t inside) {
  for (uint32_t i = 0; i < count; i++)
    if (inside >= maps[i].inside && inside - maps[i].inside < maps[i].count) return (int64_t)maps[i].outside + (inside - maps[i].inside);
  return -1;
}

static const char *write_map(int pid, const char *name, const struct map_record *maps, uint32_t count) {
  char path[64], text[MAP_BYTES_MAX];
  size_t used = 0;
  for (uint32_t i = 0; i < count; i++) {
    used += (size_t)snprintf(text + used, sizeof text - used, "%u %u %u\n", maps[i].inside, maps[i].outside, maps[i].count);
    if (used >= sizeof text) return FAIL("writing %s: %u ranges are more than the kernel takes", name, count);
  }
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int error = count == 0 ? 0 : write_file(AT_FDCWD, path, text);
  return error < 0 ? FAIL("writing %s: %s", name, strerror(-error)) : NULL;
}

const char *userns_write_maps(const struct job *job, int pid) {
  const char *error = write_map(pid, "uid_map", job->uid_map.items, job->uid_map.count);
  /* An ordinary user may map its own group only where nobody can then leave groups, which may be what keeps them out. */
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
  if (error == NULL && geteuid() != 0) write_file(AT_FDCWD, path, "deny");
  return error == NULL ? write_map(pid, "gid_map", job->gid_map.items, job->gid_map.count) : error;
}

/* True if the tree now shows its files' ids through the map of `namespace`. */
static bool map_tree(int tree, int namespace) {
  struct x_mount_attr attr = {ATTR_IDMAP, 0, 0, (uint64_t)namespace};
  return tree >= 0 && x_mount_setattr(tree, 0, &attr) == 0;
}

/* Puts a mapped copy of `folder` at ROOT_PLACE/NUMBER and gives that name. */
static const char *place_layer(const char *folder, unsigned number, int namespace, char name[32]) {
  int tree = x_open_tree(AT_FDCWD, folder, OPEN_TREE_CLONE);
  if (!map_tree(tree, namespace))
    return FAIL("mapping ids of layer %s: %s (the kernel and the file system of the data root must support idmapped mounts)", folder,
                strerror(errno));
  snprintf(name, 32, ROOT_PLACE "/%u", number);
  if (mkdir(name, 0700) != 0) return FAIL("place for layer %s: %s", folder, strerror(errno));
  int target = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (target < 0 || x_move_mount(tree, target) != 0) return FAIL("mounting layer %s: %s", folder, strerror(errno));
  close(target);
  close(tree);
  return NULL;
}

/* The job's layers become mapped mounts in memory at ROOT_PLACE, where the overlay takes them from and then covers them. */
static const char *map_layers(struct job *job, int namespace) {
  static char upper[PATH_BYTES_MAX], work[PATH_BYTES_MAX];
  char name[32], folder[PATH_BYTES_MAX];
  const char *error;
  if (mount("tmpfs", ROOT_PLACE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0711") != 0)
    return FAIL("place for layers: %s", strerror(errno));
  for (uint32_t i = 0; i < job->lower.count; i++) {
    if ((error = place_layer(job->lower.items[i], i, namespace, name)) != NULL) return error;
    job->lower.items[i] = strdup(name);
  }
  if (job->upper == NULL) return NULL;
  /* The overlay wants both on one mount, so the folder that holds them is mapped. */
  snprintf(folder, sizeof folder, "%s", job->upper);
  char *slash = strrchr(folder, '/');
  size_t length = slash == NULL ? 0 : (size_t)(slash - folder);
  if (length == 0 || job->work == NULL || strncmp(job->work, folder, length + 1) != 0)
    return FAIL("writable layer %s must be beside its work folder", job->upper);
  *slash = 0;
  if ((error = place_layer(folder, job->lower.count, namespace, name)) != NULL) return error;
  snprintf(upper, sizeof upper, "%s/%s", name, job->upper + length + 1);
  snprintf(work, sizeof work, "%s/%s", name, job->work + length + 1);
  job->upper = upper;
  job->work = work;
  return NULL;
}

/*
 * The overlay works with the rights and ids of who mounts it. It makes folders in the work folder, which only takes ids that its map
 * knows: so those of the container's root, with the rights of the host's (which a change of ids would take away otherwise).
 */
static const char *act_as_mapped_root(const struct job *job) {
  int64_t uid = userns_outside(job->uid_map.items, job->uid_map.count, 0);
  int64_t gid = userns_outside(job->gid_map.items, job->gid_map.count, 0);
  if (uid < 0 || gid < 0) return FAIL("id maps must say what root is");
  if (prctl(PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0) != 0) return FAIL("securebits: %s", strerror(errno));
  setfsgid((gid_t)gid);
  setfsuid((uid_t)uid);
  return NULL;
}

static const char *build_trees(struct job *job, int pid, int sync) {
  char path[64];
  int root = -1;
  snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
  int namespace = open(path, O_RDONLY | O_CLOEXEC);
  if (namespace < 0) return FAIL("user namespace: %s", strerror(errno));
  const char *error = mounts_open_sources(job);
  if (error != NULL) return error;
  for (uint32_t i = 0; i < job->mounts.count; i++) {
    struct mount_record *mount = &job->mounts.items[i];
    /* A file system that can't do it (an NFS volume, say) shows its files as they are. */
    if (mount->flags & MF_ID_MAP && mount->tree >= 0) map_tree(mount->tree, namespace);
  }
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
    return FAIL("mount namespace for layers: %s", strerror(errno));
  if (job->root_dir == NULL && (error = map_layers(job, namespace)) != NULL) return error;
  if (job->root_dir == NULL && (error = act_as_mapped_root(job)) != NULL) return error;
  if ((error = mounts_place_root(job, &root)) != NULL) return error;
  int tree = x_open_tree(root, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH);
  if (tree < 0) return FAIL("root of the container: %s", strerror(errno));
  bool is_taken = send_descriptor(sync, TREE_PRESENT, tree);
  for (uint32_t i = 0; i < job->mounts.count && is_taken; i++) {
    const struct mount_record *mount = &job->mounts.items[i];
    if (mount->kind != M_BIND) continue;
    is_taken = mount->tree >= 0 ? send_descriptor(sync, TREE_PRESENT, mount->tree)
                                : send(sync, &(char){TREE_ABSENT}, 1, MSG_NOSIGNAL) == 1;
  }
  return NULL;
}

const char *userns_send_trees(struct job *job, int pid, int sync) {
  int words[2];
  if (pipe2(words, O_CLOEXEC) != 0) return FAIL("pipe: %s", strerror(errno));
  pid_t builder = fork();
  if (builder == 0) {
    const char *error = build_trees(job, pid, sync);
    if (error != NULL) write_all(words[1], error, strlen(error));
    _exit(0);
  }
  close(words[1]);
  size_t used = 0;
  ssize_t count;
  while (builder > 0 && used < sizeof failure - 1 && (count = read(words[0], failure + used, sizeof failure - 1 - used)) != 0) {
    if (count < 0 && errno != EINTR) break;
    if (count > 0) used += (size_t)count;
  }
  failure[used] = 0;
  close(words[0]);
  if (builder < 0) return FAIL("fork: %s", strerror(errno));
  while (waitpid(builder, NULL, 0) < 0 && errno == EINTR) continue;
  return used > 0 ? failure : NULL;
}

/* False at the end of the socket. */
static bool take_tree(int sync, int *tree) {
  char tag;
  return receive_descriptor(sync, &tag, 1, tree) == 1;
}

const char *userns_receive_trees(struct job *job, int sync, int *root) {
  bool is_taken = take_tree(sync, root) && *root >= 0;
  for (uint32_t i = 0; i < job->mounts.count && is_taken; i++)
    if (job->mounts.items[i].kind == M_BIND) is_taken = take_tree(sync, &job->mounts.items[i].tree);
  return is_taken ? NULL : "mounts of the container did not come";
}
