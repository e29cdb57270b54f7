/*
 * See mounts.h. Every target is looked up below the new root by openat2 with RESOLVE_IN_ROOT, and the mount is made on the
 * descriptor that came of it: links that an image or another container plants can't lead out. Called in the
 * child before it becomes the container's first process.
 */
#define _GNU_SOURCE
#include "mounts.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "copy-up.h"
#include "sys.h"
#include "util.h"

static char failure[PATH_BYTES_MAX + 512];
static int null_device = -1;
static int private_proc = -1;

__attribute__((format(printf, 1, 2))) static const char *fail(const char *format, ...) {
  int error = errno;
  va_list arguments;
  va_start(arguments, format);
  int used = vsnprintf(failure, sizeof failure - 128, format, arguments);
  va_end(arguments);
  if (used > 0 && error != 0) {
    size_t at = strlen(failure);
    snprintf(failure + at, sizeof failure - at, ": %s", strerror(error));
    /* Go's words for an errno begin in lower case; clients match them. */
    failure[at + 2] = (char)tolower((unsigned char)failure[at + 2]);
  }
  return failure;
}

/* A new file system that is mounted nowhere yet; `options` are "key=value,key". -1 and errno. */
static int make_filesystem(const char *type, const char *source, const char *options, uint64_t attributes) {
  int context = (int)syscall(NR_fsopen, type, FSOPEN_CLOEXEC);
  if (context < 0) return -1;
  if (source != NULL && *source != 0) syscall(NR_fsconfig, context, FSCONFIG_SET_STRING, "source", source, 0);
  char copy[PATH_BYTES_MAX];
  snprintf(copy, sizeof copy, "%s", options == NULL ? "" : options);
  char *rest = copy;
  for (char *option; (option = strsep(&rest, ",")) != NULL;) {
    if (*option == 0) continue;
    char *value = strchr(option, '=');
    if (value != NULL) *value++ = 0;
    long done = value == NULL ? syscall(NR_fsconfig, context, FSCONFIG_SET_FLAG, option, NULL, 0)
                              : syscall(NR_fsconfig, context, FSCONFIG_SET_STRING, option, value, 0);
    if (done != 0) goto bad;
  }
  if (syscall(NR_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0) goto bad;
  int mount_fd = (int)syscall(NR_fsmount, context, FSMOUNT_CLOEXEC, (unsigned)attributes);
  if (mount_fd < 0) goto bad;
  close(context);
  return mount_fd;
bad:;
  int error = errno;
  close(context);
  errno = error;
  return -1;
}

const char *mounts_open_sources(struct job *job) {
  for (uint32_t i = 0; i < job->mounts.count; i++) {
    struct mount_record *mount = &job->mounts.items[i];
    if (mount->kind != M_BIND) continue;
    unsigned clone = OPEN_TREE_CLONE | (mount->flags & MF_RECURSIVE ? AT_RECURSIVE : 0);
    if (*mount->subpath == 0) {
      mount->tree = x_open_tree(AT_FDCWD, mount->source, clone);
    } else {
      /* A container that shares the volume may swap the sub-folder for a link at any time. */
      int base = open(mount->source, O_PATH | O_DIRECTORY | O_CLOEXEC);
      int sub = base < 0 ? -1 : x_openat2(base, mount->subpath, O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
      mount->tree = sub < 0 ? -1 : x_open_tree(sub, "", clone | AT_EMPTY_PATH);
      int error = errno;
      if (sub >= 0) close(sub);
      if (base >= 0) close(base);
      errno = error;
    }
    if (mount->tree < 0 && !(mount->flags & MF_OPTIONAL)) {
      if (errno == ENOENT) {
        /* These words must not be "no such file": clients would take it for a missing command. */
        errno = 0;
        if (*mount->subpath != 0)
          return fail("error mounting \"%s\" to rootfs at \"%s\": subpath \"%s\" does not exist", mount->source, mount->target, mount->subpath);
        return fail("error mounting \"%s\" to rootfs at \"%s\": bind source path does not exist", mount->source, mount->target);
      }
      return fail("error mounting \"%s\" to rootfs at \"%s\"", mount->source, mount->target);
    }
  }
  return NULL;
}

const char *mounts_open_null(void) {
  null_device = open("/dev/null", O_PATH | O_CLOEXEC);
  struct stat stat;
  if (null_device < 0 || fstat(null_device, &stat) != 0 || !S_ISCHR(stat.st_mode) || stat.st_rdev != makedev(1, 3)) {
    errno = 0;
    return fail("/dev/null of the host is not the null device");
  }
  return NULL;
}

/*
 * The mark by which the kernel refuses a layer that a crash may have spoiled. Each mount leaves it, also one of which no run came (a
 * file was copied into a container before its start). It says nothing here: after a crash such containers are removed.
 */
static void forget_volatile(const char *work) {
  static const char *const marks[] = {"work/incompat/volatile", "work/incompat"};
  int folder = open(work, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  unlinkat(folder, "work/incompat/volatile/dirty", 0);
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) unlinkat(folder, marks[i], AT_REMOVEDIR);
  close(folder);
}

/*
 * The writable layer over the image's layers. The place is one folder of the exec root (the working folder) for all containers, which
 * each covers in its own namespace: removing a folder that was mounted on waits for the kernel's clean-up, so it never is.
 */
static const char *mount_overlay(const struct job *job) {
  int context = (int)syscall(NR_fsopen, "overlay", FSOPEN_CLOEXEC);
  if (context < 0) return fail("overlay");
  for (uint32_t i = 0; i < job->lower.count; i++)
    if (syscall(NR_fsconfig, context, FSCONFIG_SET_STRING, "lowerdir+", job->lower.items[i], 0) != 0)
      return fail("overlay lower layer %s", job->lower.items[i]);
  if (job->upper != NULL && syscall(NR_fsconfig, context, FSCONFIG_SET_STRING, "upperdir", job->upper, 0) != 0)
    return fail("overlay upper layer %s", job->upper);
  if (job->work != NULL && syscall(NR_fsconfig, context, FSCONFIG_SET_STRING, "workdir", job->work, 0) != 0)
    return fail("overlay work folder %s", job->work);
  /* Attributes of the kernel's own are out of reach there. */
  if (in_user_namespace()) syscall(NR_fsconfig, context, FSCONFIG_SET_FLAG, "userxattr", NULL, 0);
  bool is_volatile = job->flags & J_VOLATILE && job->work != NULL;
  if (is_volatile) forget_volatile(job->work);
  /* Kernels before 5.10 sync at the end, which is no harm. */
  if (is_volatile) syscall(NR_fsconfig, context, FSCONFIG_SET_FLAG, "volatile", NULL, 0);
  if (syscall(NR_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0) return fail("overlay at %s", ROOT_PLACE);
  int mount_fd = (int)syscall(NR_fsmount, context, FSMOUNT_CLOEXEC, 0);
  int state = open(ROOT_PLACE, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (mount_fd < 0 || state < 0 || x_move_mount(mount_fd, state) != 0) return fail("overlay at %s", ROOT_PLACE);
  close(context);
  close(mount_fd);
  close(state);
  return NULL;
}

/* Kernels before 6.7 have no "lowerdir+" and take one page of options. */
static const char *mount_overlay_in_one_page(const struct job *job) {
  static char options[4096];
  size_t used = 0;
  if (job->upper != NULL) used = (size_t)snprintf(options, sizeof options, "upperdir=%s,workdir=%s,", job->upper, job->work);
  used += (size_t)snprintf(options + used, sizeof options - used, "lowerdir=");
  for (uint32_t i = 0; i < job->lower.count && used < sizeof options; i++)
    used += (size_t)snprintf(options + used, sizeof options - used, "%s%s", i == 0 ? "" : ":", job->lower.items[i]);
  errno = E2BIG;
  if (used >= sizeof options) return fail("overlay of %u layers", job->lower.count);
  if (in_user_namespace()) used += (size_t)snprintf(options + used, sizeof options - used, ",userxattr");
  if (used >= sizeof options) return fail("overlay of %u layers", job->lower.count);
  errno = 0;
  if (mount("overlay", ROOT_PLACE, "overlay", 0, options) != 0) return fail("overlay at %s", ROOT_PLACE);
  return NULL;
}

static const char *place_tree(int tree) {
  int state = open(ROOT_PLACE, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (tree < 0 || state < 0 || x_move_mount(tree, state) != 0) return fail("root at %s", ROOT_PLACE);
  close(tree);
  close(state);
  return NULL;
}

/* What is mounted on the host below the root's folder later shows in the container too. Nothing goes the other way. */
static bool follows_host(const struct job *job) { return (job->root_propagation & (MS_SLAVE | MS_SHARED)) != 0; }

const char *mounts_place_root(const struct job *job, int *root) {
  const char *error = NULL;
  if (*root >= 0) {
    if ((error = place_tree(*root)) != NULL) return error;
  } else if (job->root_dir != NULL) {
    int tree = x_open_tree(AT_FDCWD, job->root_dir, OPEN_TREE_CLONE | AT_RECURSIVE);
    if (tree < 0) return fail("root folder %s", job->root_dir);
    if ((error = place_tree(tree)) != NULL) return error;
  } else {
    error = mount_overlay(job);
    if (error != NULL && errno == EINVAL) error = mount_overlay_in_one_page(job);
    if (error != NULL) return error;
  }
  *root = open(ROOT_PLACE, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (*root < 0) return fail("root %s", ROOT_PLACE);
  if (follows_host(job)) return NULL;
  struct x_mount_attr attr = {0, 0, MS_PRIVATE, 0};
  if (x_mount_setattr(*root, AT_RECURSIVE, &attr) != 0) return fail("making the root private");
  return NULL;
}

/* Makes what `path` names below `root`, and the folders above it, where they are missing, and opens it. */
static int make_target(int root, const char *path, bool is_folder, uint64_t resolve) {
  char part[PATH_BYTES_MAX];
  size_t length = strlen(path);
  while (length > 1 && path[length - 1] == '/') length--;
  if (length == 0 || length >= sizeof part) {
    errno = length == 0 ? ENOENT : ENAMETOOLONG;
    return -1;
  }
  memcpy(part, path, length);
  part[length] = 0;
  char *slash = strrchr(part, '/');
  const char *name = slash == NULL ? part : slash + 1, *above = slash == NULL || slash == part ? "/" : part;
  if (slash != NULL) *slash = 0;
  int parent = x_openat2(root, above, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, resolve);
  if (parent < 0 && errno == ENOENT) parent = make_target(root, above, true, resolve);
  if (parent < 0) return -1;
  int made = is_folder ? mkdirat(parent, name, 0755) : openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_WRONLY, 0644);
  int problem = made < 0 ? errno : 0;
  if (made >= 0 && !is_folder) close(made);
  close(parent);
  if (problem != 0 && problem != EEXIST) {
    errno = problem;
    return -1;
  }
  return x_openat2(root, path, O_PATH | O_CLOEXEC, 0, resolve);
}

/* Opens `path` below `root`, making folders and, if `is_folder` is false, an empty file. */
static int open_target(int root, const char *path, bool is_folder, uint64_t resolve) {
  resolve |= RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  int fd = x_openat2(root, path, O_PATH | O_CLOEXEC, 0, resolve);
  return fd >= 0 || errno != ENOENT ? fd : make_target(root, path, is_folder, resolve);
}

static const char *set_propagation(int fd, uint32_t propagation, bool is_recursive) {
  if (propagation == 0) return NULL;
  struct x_mount_attr attr = {0, 0, propagation, 0};
  if (x_mount_setattr(fd, is_recursive ? AT_RECURSIVE : 0, &attr) != 0) return fail("setting propagation");
  return NULL;
}

/* Attributes that count for the mounts below as well. */
static const char *set_recursive(const struct mount_record *mount, int tree) {
  struct x_mount_attr attr = {mount->recursive_set, mount->recursive_cleared, 0, 0};
  if (attr.attr_set & ATTR_NOATIME_MASK) attr.attr_clr |= ATTR_NOATIME_MASK;
  if ((attr.attr_set | attr.attr_clr) == 0 || x_mount_setattr(tree, AT_RECURSIVE, &attr) == 0) return NULL;
  return fail("error mounting \"%s\" to rootfs at \"%s\": set attributes of the mounts below", mount->source, mount->target);
}

static const char *mount_bind(int root, struct mount_record *mount) {
  if (mount->tree < 0) return NULL;
  struct stat stat;
  if (fstat(mount->tree, &stat) != 0) return fail("error mounting \"%s\" to rootfs at \"%s\"", mount->source, mount->target);
  int target = open_target(root, mount->target, S_ISDIR(stat.st_mode), 0);
  if (target < 0) return fail("error mounting \"%s\" to rootfs at \"%s\": create mountpoint", mount->source, mount->target);
  struct x_mount_attr attr = {mount->attributes, mount->cleared, 0, 0};
  if (mount->attributes & ATTR_NOATIME_MASK) attr.attr_clr |= ATTR_NOATIME_MASK;
  bool is_recursive = (mount->flags & MF_READONLY_RECURSIVE) != 0;
  if ((attr.attr_set | attr.attr_clr) != 0 && x_mount_setattr(mount->tree, is_recursive ? AT_RECURSIVE : 0, &attr) != 0)
    return fail("error mounting \"%s\" to rootfs at \"%s\": set attributes", mount->source, mount->target);
  const char *error = set_recursive(mount, mount->tree);
  if (error == NULL) {
    bool is_deep = (mount->flags & MF_FLAT_PROPAGATION) == 0;
    error = set_propagation(mount->tree, mount->propagation == 0 ? MS_PRIVATE : mount->propagation, is_deep);
  }
  if (error != NULL) return error;
  if (x_move_mount(mount->tree, target) != 0) {
    struct stat place;
    /* What mount(2) says of a file over a folder, or the other way round; move_mount(2) finds it invalid. */
    if (errno == EINVAL && fstat(target, &place) == 0) errno = S_ISDIR(place.st_mode) == S_ISDIR(stat.st_mode) ? EINVAL : ENOTDIR;
    return fail("error mounting \"%s\" to rootfs at \"%s\"", mount->source, mount->target);
  }
  close(target);
  close(mount->tree);
  mount->tree = -1;
  return NULL;
}

/* A tmpfs that says nothing of its mode gets that of the folder it covers, as runc has it. */
static const char *options_of(const struct mount_record *mount, int target, bool was_there, char text[PATH_BYTES_MAX]) {
  struct stat stat;
  const char *given = mount->options == NULL ? "" : mount->options;
  if (!was_there || strcmp(mount->type, "tmpfs") != 0 || strstr(given, "mode=") != NULL || fstat(target, &stat) != 0) return given;
  snprintf(text, PATH_BYTES_MAX, "mode=%04o%s%s", stat.st_mode & 07777, *given == 0 ? "" : ",", given);
  return text;
}

/* cgroup mounts of v1 name their controllers by flags and may be asked for by several; "name=systemd" is a string. */
static const char *mount_filesystem(int root, struct mount_record *mount) {
  uint64_t resolve = (mount->flags & MF_NO_SYMLINK_TARGET ? RESOLVE_NO_SYMLINKS : 0) | RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  char text[PATH_BYTES_MAX];
  int target = x_openat2(root, mount->target, O_PATH | O_CLOEXEC, 0, resolve);
  bool was_there = target >= 0;
  if (!was_there && errno == ENOENT) target = make_target(root, mount->target, true, resolve);
  if (target < 0) return fail("error mounting \"%s\" to rootfs at \"%s\"", mount->type, mount->target);
  uint64_t attributes = mount->flags & MF_LATE_READONLY ? mount->attributes & ~(uint64_t)ATTR_RDONLY : mount->attributes;
  int tree = make_filesystem(mount->type, mount->source, options_of(mount, target, was_there, text), attributes);
  if (tree < 0 && mount->flags & MF_OPTIONAL) {
    close(target);
    return NULL;
  }
  if (tree >= 0 && mount->flags & MF_COPY_UP && copy_tree(target, tree) != 0)
    return fail("error mounting \"%s\" to rootfs at \"%s\": copying what is there", mount->type, mount->target);
  if (tree < 0 || x_move_mount(tree, target) != 0)
    return fail("error mounting \"%s\" to rootfs at \"%s\"", mount->type, mount->target);
  const char *error = set_propagation(tree, mount->propagation, true);
  close(tree);
  close(target);
  return error;
}

struct node {
  const char *name;
  unsigned major, minor;
};

/* `is_bound`: it is the host's own node, whose owner must stay. */
static const char *make_node(int folder, const char *name, mode_t mode, dev_t number, const char *host_path, bool *is_bound) {
  *is_bound = false;
  if (mknodat(folder, name, mode, number) == 0 || errno == EEXIST) {
    /* mknod is subject to the umask. */
    if (fchmodat(folder, name, mode & 07777, 0) != 0) return fail("device %s", name);
    return NULL;
  }
  if (errno != EPERM) return fail("device %s", name);
  /* Not allowed in a user namespace: the host's node is bound instead. */
  int made = openat(folder, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_WRONLY, 0600);
  int tree = x_open_tree(AT_FDCWD, host_path, OPEN_TREE_CLONE);
  int target = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  bool done = tree >= 0 && target >= 0 && x_move_mount(tree, target) == 0;
  *is_bound = true;
  close(made);
  close(tree);
  close(target);
  return done ? NULL : fail("device %s", name);
}

static const char *fill_dev(int root) {
  static const struct node nodes[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
  static const char *const links[][2] = {{"pts/ptmx", "ptmx"},          {"/proc/self/fd", "fd"},       {"/proc/self/fd/0", "stdin"},
                                         {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"}};
  int place = open_target(root, "/dev", true, RESOLVE_NO_SYMLINKS);
  close(place);
  int dev = x_openat2(root, "/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
  if (dev < 0) return fail("/dev");
  const char *error = NULL;
  char host[64];
  bool is_bound;
  for (size_t i = 0; i < sizeof nodes / sizeof *nodes && error == NULL; i++) {
    snprintf(host, sizeof host, "/dev/%s", nodes[i].name);
    error = make_node(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor), host, &is_bound);
  }
  for (size_t i = 0; i < sizeof links / sizeof *links && error == NULL; i++)
    if (symlinkat(links[i][0], dev, links[i][1]) != 0 && errno != EEXIST) error = fail("/dev/%s", links[i][1]);
  close(dev);
  return error;
}

static const char *make_device(int root, const struct device_record *device) {
  char folder[PATH_BYTES_MAX];
  snprintf(folder, sizeof folder, "%s", device->path);
  char *slash = strrchr(folder, '/');
  if (slash == NULL || slash[1] == 0) return fail("device path %s is not absolute", device->path);
  char name[256];
  snprintf(name, sizeof name, "%s", slash + 1);
  *slash = 0;
  int parent = open_target(root, *folder == 0 ? "/" : folder, true, 0);
  if (parent < 0) return fail("device %s", device->path);
  int opened = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  close(parent);
  unlinkat(opened, name, 0);
  bool is_bound;
  mode_t type = device->type == 'b' ? S_IFBLK : device->type == 'p' ? S_IFIFO : S_IFCHR;
  const char *error = make_node(opened, name, type | (device->mode & 07777), makedev(device->major, device->minor),
                                device->host_path, &is_bound);
  if (error == NULL && !is_bound && fchownat(opened, name, device->uid, device->gid, AT_SYMLINK_NOFOLLOW) != 0)
    error = fail("device %s", device->path);
  close(opened);
  return error;
}

/* Secrets and configs: one file system in memory that only this container has, each file bound where it is wanted. */
static const char *inject_files(const struct job *job, int root) {
  if (job->files.count == 0) return NULL;
  int memory = make_filesystem("tmpfs", "tmpfs", "mode=0700", ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
  int hidden = open_target(root, "/dev/shm", true, 0);
  if (memory < 0 || hidden < 0) return fail("memory file system for secrets");
  /* Mounted for the time of the copy only, so that single files can be cloned from it. */
  if (x_move_mount(memory, hidden) != 0) return fail("memory file system for secrets");
  for (uint32_t i = 0; i < job->files.count; i++) {
    const struct file_record *file = &job->files.items[i];
    char name[16];
    snprintf(name, sizeof name, "%u", i);
    int fd = openat(memory, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 || !write_all(fd, file->content, file->length) || fchown(fd, file->uid, file->gid) != 0 ||
        fchmod(fd, file->mode & 07777) != 0)
      return fail("file %s", file->path);
    close(fd);
    int tree = x_open_tree(memory, name, OPEN_TREE_CLONE);
    int target = open_target(root, file->path, false, 0);
    struct x_mount_attr attr = {ATTR_RDONLY, 0, 0, 0};
    if (tree < 0 || target < 0 || x_mount_setattr(tree, 0, &attr) != 0 || x_move_mount(tree, target) != 0)
      return fail("file %s", file->path);
    close(tree);
    close(target);
  }
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
  if (umount2(path, MNT_DETACH) != 0) return fail("memory file system for secrets");
  close(memory);
  close(hidden);
  return NULL;
}

/* Names of co-mounted controllers, below a file system that was just mounted. */
static const char *make_links(const struct job *job, int root) {
  for (uint32_t i = 0; i < job->links.count; i++) {
    const struct pair_record *link = &job->links.items[i];
    const char *slash = strrchr(link->key, '/');
    char folder[PATH_BYTES_MAX];
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - link->key), link->key);
    int parent = x_openat2(root, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (parent < 0 || (symlinkat(link->value, parent, slash + 1) != 0 && errno != EEXIST)) return fail("link %s", link->key);
    close(parent);
  }
  return NULL;
}

static bool shows_groups(const struct mount_record *mount) {
  return mount->kind == M_FILESYSTEM && strncmp(mount->type, "cgroup", 6) == 0;
}

const char *mounts_build(struct job *job, int *root, const struct mounts_entry *entry) {
  const char *error;
  bool is_dev_filled = false;
  if (mount(NULL, "/", NULL, MS_REC | (follows_host(job) ? MS_SLAVE : MS_PRIVATE), NULL) != 0) return fail("making mounts private");
  if ((error = mounts_place_root(job, root)) != NULL) return error;
  for (uint32_t i = 0; i < job->mounts.count; i++) {
    struct mount_record *mount = &job->mounts.items[i];
    if (entry != NULL && shows_groups(mount) && (error = entry->enter(entry->context)) != NULL) return error;
    error = mount->kind == M_BIND ? mount_bind(*root, mount) : mount_filesystem(*root, mount);
    if (error != NULL) return error;
    /* Devices belong to the /dev just mounted, before anything is mounted below it. */
    if (job->flags & J_FILL_DEV && strcmp(mount->target, "/dev") == 0) {
      if ((error = fill_dev(*root)) != NULL) return error;
      is_dev_filled = true;
    }
  }
  if (job->flags & J_FILL_DEV && !is_dev_filled && (error = fill_dev(*root)) != NULL) return error;
  if ((error = make_links(job, *root)) != NULL) return error;
  for (uint32_t i = 0; i < job->devices.count; i++)
    if ((error = make_device(*root, &job->devices.items[i])) != NULL) return error;
  if ((error = inject_files(job, *root)) != NULL) return error;
  private_proc = make_filesystem("proc", "proc", "", ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
  if (private_proc < 0 && job->sysctls.count > 0) return fail("private proc");
  return NULL;
}

/* Where the old root is the kernel's first one, which can't be left: the new one is moved over it. */
static const char *move_root(int root) {
  if (fchdir(root) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0) return fail("moving the new root");
  if (chroot(".") != 0 || chdir("/") != 0) return fail("new root");
  return NULL;
}

static const char *set_root_propagation(const struct job *job) {
  if (job->root_propagation != 0 && mount(NULL, "/", NULL, job->root_propagation, NULL) != 0) return fail("root propagation");
  return NULL;
}

const char *mounts_pivot(const struct job *job, int root) {
  if (job->flags & J_NO_PIVOT) {
    const char *error = move_root(root);
    return error == NULL ? set_root_propagation(job) : error;
  }
  int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (old < 0) return fail("old root");
  if (fchdir(root) != 0) return fail("new root");
  if (syscall(SYS_pivot_root, ".", ".") != 0) return fail("pivot_root");
  /* The old root, stacked over the new one now. By its descriptor: "." is the new one, whose shared mounts must stay so. */
  if (fchdir(old) != 0 || mount(NULL, ".", NULL, MS_REC | MS_SLAVE, NULL) != 0) return fail("old root");
  if (umount2(".", MNT_DETACH) != 0) return fail("leaving the old root");
  close(old);
  if (chdir("/") != 0) return fail("new root");
  return set_root_propagation(job);
}

static const char *write_sysctl(const struct pair_record *sysctl) {
  char path[512] = "sys/";
  size_t used = 4;
  for (const char *at = sysctl->key; *at != 0 && used < sizeof path - 1; at++) path[used++] = *at == '.' ? '/' : *at;
  path[used] = 0;
  int fd = x_openat2(private_proc, path, O_WRONLY | O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
  if (fd < 0) return fail("sysctl %s", sysctl->key);
  bool done = write(fd, sysctl->value, strlen(sysctl->value)) >= 0;
  const char *error = done ? NULL : fail("sysctl %s = %s", sysctl->key, sysctl->value);
  close(fd);
  return error;
}

static const char *mask_path(int slash, const char *path, int *empty) {
  int target = x_openat2(slash, path, O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (target < 0) return errno == ENOENT || errno == ENOTDIR ? NULL : fail("masked path %s", path);
  struct stat stat;
  int tree = -1;
  if (fstat(target, &stat) == 0 && S_ISDIR(stat.st_mode)) {
    /* The first masked folder gets the empty file system itself, the others the same one again. */
    tree = *empty < 0 ? make_filesystem("tmpfs", "tmpfs", "size=0,nr_inodes=2", ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)
                      : x_open_tree(*empty, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  } else {
    tree = x_open_tree(null_device, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  }
  if (tree < 0 || x_move_mount(tree, target) != 0) return fail("masked path %s", path);
  if (S_ISDIR(stat.st_mode) && *empty < 0) *empty = tree;
  else close(tree);
  close(target);
  return NULL;
}

static const char *protect_path(int slash, const char *path) {
  int target = x_openat2(slash, path, O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (target < 0) return errno == ENOENT || errno == ENOTDIR ? NULL : fail("readonly path %s", path);
  int tree = x_open_tree(target, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH);
  struct x_mount_attr attr = {ATTR_RDONLY, 0, 0, 0};
  if (tree < 0 || x_mount_setattr(tree, AT_RECURSIVE, &attr) != 0 || x_move_mount(tree, target) != 0)
    return fail("readonly path %s", path);
  close(tree);
  close(target);
  return NULL;
}

static const char *seal_mount(int slash, const char *path) {
  struct x_mount_attr attr = {ATTR_RDONLY, 0, 0, 0};
  int target = x_openat2(slash, path, O_PATH | O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
  if (target < 0 || x_mount_setattr(target, 0, &attr) != 0) return fail("making %s read-only", path);
  close(target);
  return NULL;
}

/*
 * A mount that is nowhere, once closed, is taken apart at once, for which the kernel waits for all CPUs (0.1 to 0.9 ms). In the tree that is about to be
 * left it goes together with that.
 */
static void leave_behind(const struct job *job, int mount) {
  int here = job->flags & J_NO_PIVOT || mount < 0 ? -1 : open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (here >= 0) {
    x_move_mount(mount, here);
    close(here);
  }
  close(mount);
}

const char *mounts_seal(const struct job *job, int slash) {
  const char *error = NULL;
  for (uint32_t i = 0; i < job->sysctls.count; i++)
    if ((error = write_sysctl(&job->sysctls.items[i])) != NULL) return error;
  int empty = -1;
  for (uint32_t i = 0; i < job->readonly.count; i++)
    if ((error = protect_path(slash, job->readonly.items[i])) != NULL) return error;
  for (uint32_t i = 0; i < job->masked.count; i++)
    if ((error = mask_path(slash, job->masked.items[i], &empty)) != NULL) return error;
  for (uint32_t i = 0; i < job->mounts.count; i++)
    if (job->mounts.items[i].flags & MF_LATE_READONLY && (error = seal_mount(slash, job->mounts.items[i].target)) != NULL) return error;
  if (job->flags & J_READONLY_ROOT) {
    struct x_mount_attr attr = {ATTR_RDONLY, 0, 0, 0};
    if (x_mount_setattr(slash, 0, &attr) != 0) return fail("read-only root");
  }
  close(empty);
  close(null_device);
  leave_behind(job, private_proc);
  null_device = private_proc = -1;
  return NULL;
}
