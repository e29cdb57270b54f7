/*
 * See oci.h. Where a container's cgroups are: one folder in every v1 hierarchy that is mounted here, and one in the v2 tree. Limits are
 * on v2 where that tree has the memory controller, else on v1; killing and freezing prefer v2 wherever it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "oci.h"
#include "sys.h"
#include "util.h"

enum { FREEZE_ROUNDS = 1000, FREEZE_ROUND_US = 2000 };

static bool has_word(const char *list, const char *word) {
  size_t length = strlen(word);
  for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
    if ((at == list || at[-1] == ',' || at[-1] == ' ') && (at[length] == 0 || strchr(", \n", at[length]) != NULL)) return true;
  return false;
}

/* Our own group in the hierarchy with these controllers; what a relative path begins at. */
static const char *own_group(const char *controllers) {
  static char text[16384];
  if (*text == 0 && read_file(AT_FDCWD, "/proc/self/cgroup", text, sizeof text) <= 0) return "/";
  char *copy = strdup(text);
  for (char *line; (line = strsep(&copy, "\n")) != NULL;) {
    char *names = strchr(line, ':'), *path = names == NULL ? NULL : strchr(names + 1, ':');
    if (path == NULL) continue;
    *path++ = 0;
    if (strcmp(names + 1, controllers) == 0) return path;
  }
  return "/";
}

/* Of the options of a v1 mount, those that name controllers. */
static char *controllers_of(char *options) {
  char *kept = "";
  for (char *word; (word = strsep(&options, ",")) != NULL;) {
    bool is_flag = strcmp(word, "rw") == 0 || strcmp(word, "ro") == 0 || strcmp(word, "xattr") == 0 || strcmp(word, "clone_children") == 0;
    is_flag |= strncmp(word, "release_agent=", 14) == 0 || strstr(word, "favordynmods") != NULL || strstr(word, "_mode") != NULL;
    if (!is_flag) kept = oci_format("%s%s%s", kept, *kept == 0 ? "" : ",", word);
  }
  return kept;
}

static bool is_known(const struct job *job, uint32_t version, const char *controllers) {
  for (uint32_t i = 0; i < job->cgroups.count; i++)
    if (job->cgroups.items[i].number == version && strcmp(job->cgroups.items[i].value, controllers) == 0) return true;
  return false;
}

static void add_group(char *line, const char *path, struct job *job) {
  char *back = strstr(line, " - "), *root, *point;
  if (back == NULL) return;
  *back = 0;
  strsep(&line, " ");
  strsep(&line, " ");
  strsep(&line, " ");
  root = strsep(&line, " ");
  point = strsep(&line, " ");
  back += 3;
  char *type = strsep(&back, " ");
  strsep(&back, " ");
  if (point == NULL || back == NULL || (strcmp(type, "cgroup") != 0 && strcmp(type, "cgroup2") != 0)) return;
  uint32_t version = strcmp(type, "cgroup2") == 0 ? 2 : 1;
  char *controllers = version == 2 ? "" : controllers_of(back);
  if (is_known(job, version, controllers)) return;
  const char *own = *path == '/' ? "" : own_group(controllers);
  /* In a container's own view a mount begins further down. */
  if (strcmp(root, "/") != 0 && strncmp(own, root, strlen(root)) == 0) own += strlen(root);
  struct pair_record *group = JOB_ADD(job->cgroups);
  group->number = version;
  group->value = controllers;
  group->key = oci_format("%s%s%s%s", point, strcmp(own, "/") == 0 ? "" : own, *path == '/' ? "" : "/", path);
}

/* Whether one of its parts is "..". */
static bool leads_up(const char *path) {
  for (const char *at = path; (at = strstr(at, "..")) != NULL; at++)
    if ((at == path || at[-1] == '/') && (at[2] == 0 || at[2] == '/')) return true;
  return false;
}

void oci_cgroup_paths(const char *id, const char *cgroups_path, struct job *job) {
  char *mounts = NULL;
  size_t size;
  ssize_t count;
  FILE *file = fopen("/proc/self/mountinfo", "re");
  const char *path = cgroups_path == NULL || *cgroups_path == 0 ? id : cgroups_path;
  if (leads_up(path) || strlen(path) > 1024) oci_fail(1, "linux.cgroupsPath: want a path without \"..\", got \"%s\"", path);
  if (strchr(path, ':') != NULL && *path != '/') oci_fail(1, "linux.cgroupsPath: systemd's form is not supported, got \"%s\"", path);
  if (strspn(path, "/") == strlen(path)) oci_fail(1, "linux.cgroupsPath: the root group can't be a container's");
  while (file != NULL && (count = getline(&mounts, &size, file)) > 0) {
    mounts[count - 1] = 0;
    add_group(mounts, path, job);
  }
  if (file != NULL) fclose(file);
}

static const struct pair_record *v2_group(const struct job *job) {
  for (uint32_t i = 0; i < job->cgroups.count; i++)
    if (job->cgroups.items[i].number == 2) return &job->cgroups.items[i];
  return NULL;
}

const char *oci_cgroup_v1(const struct job *job, const char *controller) {
  for (uint32_t i = 0; i < job->cgroups.count; i++)
    if (job->cgroups.items[i].number == 1 && has_word(job->cgroups.items[i].value, controller)) return job->cgroups.items[i].key;
  return NULL;
}

const char *oci_cgroup_unified(const struct job *job) {
  const struct pair_record *group = v2_group(job);
  return group == NULL ? NULL : group->key;
}

const char *oci_cgroup_v2(const struct job *job) {
  return oci_cgroup_v1(job, "memory") == NULL && oci_cgroup_v1(job, "pids") == NULL ? oci_cgroup_unified(job) : NULL;
}

/* v1: a group takes no process before its cpus and mems are set; they come from the one above. */
static void fill_cpuset(const char *folder) {
  static const char *const names[] = {"cpuset.cpus", "cpuset.mems"};
  char text[4096];
  for (int i = 0; i < 2; i++) {
    char *own = oci_format("%s/%s", folder, names[i]), *above = oci_format("%s/../%s", folder, names[i]);
    if (read_file(AT_FDCWD, own, text, sizeof text) > 1 || read_file(AT_FDCWD, above, text, sizeof text) <= 0) continue;
    write_file(AT_FDCWD, own, text);
  }
}

/* v2: the group above must pass each controller on. Those that are on already, and those that can't be, show when a limit is set. */
static void pass_controllers(const char *folder) {
  char text[1024], one[64];
  char *above = oci_format("%s/..", folder);
  if (read_file(AT_FDCWD, oci_format("%s/cgroup.controllers", above), text, sizeof text) <= 0) return;
  char *rest = text;
  for (char *name; (name = strsep(&rest, " \n")) != NULL;) {
    if (*name == 0) continue;
    snprintf(one, sizeof one, "+%.60s", name);
    write_file(AT_FDCWD, oci_format("%s/cgroup.subtree_control", above), one);
  }
}

/* Every folder on the way down, each made ready before the next. 0 or -errno. */
static int make_group(const struct pair_record *group) {
  char *path = strdup(group->key);
  int error = 0;
  for (char *slash = strchr(path + 1, '/'); error == 0; slash = strchr(slash + 1, '/')) {
    if (slash != NULL) *slash = 0;
    bool is_new = mkdir(path, 0755) == 0;
    if (!is_new && errno != EEXIST) error = -errno;
    if (is_new && group->number == 1 && has_word(group->value, "cpuset")) fill_cpuset(path);
    if (is_new && group->number == 2) pass_controllers(path);
    if (slash == NULL) break;
    *slash = '/';
  }
  free(path);
  return error;
}

/* Kernels and schedulers differ in the name of the file. */
static void choose_weight_file(struct job *job) {
  for (uint32_t i = 0; i < job->cgroup_writes.count; i++) {
    struct pair_record *one = &job->cgroup_writes.items[i];
    const char *name = strrchr(one->key, '/') + 1;
    if (access(one->key, F_OK) == 0 || (strncmp(name, "blkio.weight", 12) != 0 && strcmp(name, "io.weight") != 0)) continue;
    const char *dot = strchr(name, '.');
    one->key = oci_format("%.*sbfq%s", (int)(dot + 1 - one->key), one->key, dot);
  }
}

const char *oci_cgroup_make(struct job *job, bool is_needed) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    int error = make_group(&job->cgroups.items[i]);
    if (error < 0 && is_needed) return oci_format("unable to make cgroup %s: %s", job->cgroups.items[i].key, strerror(-error));
    if (error == 0) job->cgroups.items[kept++] = job->cgroups.items[i];
  }
  job->cgroups.count = kept;
  if (kept == 0) job->cgroup_writes.count = 0;
  choose_weight_file(job);
  return cgroup_create(job);
}

static struct mount_record *add_mount(const struct mount_record *wanted, struct job *job) {
  struct mount_record *mount = JOB_ADD(job->mounts);
  *mount = *wanted;
  mount->options = "";
  return mount;
}

/* One hierarchy below the folder of all; without a cgroup namespace of its own the container sees its own group only, as a bind. */
static void mount_hierarchy(const struct mount_record *wanted, const struct pair_record *group, const char *target, struct job *job) {
  struct mount_record *mount = add_mount(wanted, job);
  mount->target = target;
  mount->subpath = "";
  if (job->flags & J_NEW_CGROUP) {
    mount->kind = M_FILESYSTEM;
    mount->type = group->number == 2 ? "cgroup2" : "cgroup";
    mount->source = "cgroup";
    /* "name=systemd" alone asks for a hierarchy without controllers. */
    mount->options = strncmp(group->value, "name=", 5) == 0 ? oci_format("none,%s", group->value) : group->value;
    return;
  }
  mount->kind = M_BIND;
  mount->source = group->key;
  mount->propagation = MS_PRIVATE;
}

void oci_cgroup_mount(const struct mount_record *wanted, struct job *job) {
  if (oci_cgroup_v2(job) != NULL || job->cgroups.count == 0) {
    const struct pair_record none = {.number = 2, .key = "/sys/fs/cgroup", .value = ""}, *group = v2_group(job);
    mount_hierarchy(wanted, group == NULL ? &none : group, wanted->target, job);
    return;
  }
  struct mount_record *base = add_mount(wanted, job);
  base->kind = M_FILESYSTEM;
  base->type = base->source = "tmpfs";
  base->options = "mode=755";
  if (base->attributes & ATTR_RDONLY) base->flags |= MF_LATE_READONLY;
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    const struct pair_record *group = &job->cgroups.items[i];
    if (group->number == 2) {
      mount_hierarchy(wanted, group, oci_format("%s/unified", wanted->target), job);
      continue;
    }
    const char *name = strncmp(group->value, "name=", 5) == 0 ? group->value + 5 : group->value;
    mount_hierarchy(wanted, group, oci_format("%s/%s", wanted->target, name), job);
    if (strchr(name, ',') == NULL) continue;
    char *names = strdup(name);
    for (char *one; (one = strsep(&names, ",")) != NULL;) {
      struct pair_record *link = JOB_ADD(job->links);
      link->key = oci_format("%s/%s", wanted->target, one);
      link->value = name;
    }
  }
}

static bool is_frozen_now(const char *path, bool is_v2) {
  char text[512];
  if (read_file(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  return is_v2 ? strstr(text, "frozen 1") != NULL : strncmp(text, "FROZEN", 6) == 0;
}

bool oci_cgroup_is_frozen(const struct job *job) {
  const char *v2 = oci_cgroup_unified(job), *v1 = oci_cgroup_v1(job, "freezer");
  return (v2 != NULL && is_frozen_now(oci_format("%s/cgroup.events", v2), true)) ||
         (v1 != NULL && is_frozen_now(oci_format("%s/freezer.state", v1), false));
}

const char *oci_cgroup_freeze(const struct job *job, bool is_frozen) {
  const char *v2 = oci_cgroup_unified(job), *v1 = oci_cgroup_v1(job, "freezer");
  if (v2 == NULL && v1 == NULL) return "this machine has no freezer cgroup";
  char *file = v2 != NULL ? oci_format("%s/cgroup.freeze", v2) : oci_format("%s/freezer.state", v1);
  char *state = v2 != NULL ? oci_format("%s/cgroup.events", v2) : file;
  const char *word = v2 != NULL ? (is_frozen ? "1" : "0") : (is_frozen ? "FROZEN" : "THAWED");
  for (int round = 0; round < FREEZE_ROUNDS; round++) {
    /* v1: a fork in the wrong moment leaves it FREEZING, and writing again helps. */
    int error = write_file(AT_FDCWD, file, word);
    if (error < 0) return oci_format("%s: %s", file, strerror(-error));
    if (is_frozen_now(state, v2 != NULL) == is_frozen) return NULL;
    usleep(FREEZE_ROUND_US);
  }
  return oci_format("%s: processes did not follow in time", file);
}

static uint32_t collect(const char *folder, int *pids, uint32_t count, uint32_t room) {
  char line[32];
  FILE *file = fopen(oci_format("%s/cgroup.procs", folder), "re");
  while (file != NULL && count < room && fgets(line, sizeof line, file) != NULL)
    if (atoi(line) > 0) pids[count++] = atoi(line);
  if (file != NULL) fclose(file);
  return count;
}

uint32_t oci_cgroup_processes(const struct job *job, int *pids, uint32_t room) {
  const char *folder = oci_cgroup_unified(job);
  if (folder == NULL && job->cgroups.count > 0) folder = job->cgroups.items[0].key;
  return folder == NULL ? 0 : collect(folder, pids, 0, room);
}
