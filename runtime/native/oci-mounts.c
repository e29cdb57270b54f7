/* See oci.h. The mounts of config.json, with every option that mount(8) and runc know. Data that is left over belongs to the file system. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mount.h>

#include "oci.h"
#include "sys.h"

#define ATTR_NODIRATIME 0x80u
#define ATTR_NOSYMFOLLOW 0x200000u
#define ATTR_STRICTATIME 0x20u

struct option {
  const char *name;
  uint32_t set, clear;
};

/* With "r" in front they mean the mounts below as well. */
static const struct option attributes[] = {
    {"ro", ATTR_RDONLY, 0},
    {"rw", 0, ATTR_RDONLY},
    {"nosuid", ATTR_NOSUID, 0},
    {"suid", 0, ATTR_NOSUID},
    {"nodev", ATTR_NODEV, 0},
    {"dev", 0, ATTR_NODEV},
    {"noexec", ATTR_NOEXEC, 0},
    {"exec", 0, ATTR_NOEXEC},
    {"noatime", 0x10, ATTR_NOATIME_MASK},
    {"atime", 0, ATTR_NOATIME_MASK},
    {"relatime", 0, ATTR_NOATIME_MASK},
    {"norelatime", ATTR_STRICTATIME, ATTR_NOATIME_MASK},
    {"strictatime", ATTR_STRICTATIME, ATTR_NOATIME_MASK},
    {"nostrictatime", 0, ATTR_NOATIME_MASK},
    {"nodiratime", ATTR_NODIRATIME, 0},
    {"diratime", 0, ATTR_NODIRATIME},
    {"nosymfollow", ATTR_NOSYMFOLLOW, 0},
    {"symfollow", 0, ATTR_NOSYMFOLLOW},
};

static const struct option propagations[] = {
    {"private", MS_PRIVATE, 0}, {"slave", MS_SLAVE, 0}, {"shared", MS_SHARED, 0}, {"unbindable", MS_UNBINDABLE, 0}};

struct parsed {
  struct mount_record *mount;
  char *data;
  bool is_bind;
};

static const struct option *find(const struct option *options, size_t count, const char *name) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(options[i].name, name) == 0) return &options[i];
  return NULL;
}
#define FIND(options, name) find(options, sizeof(options) / sizeof *(options), name)

static void take_option(struct parsed *parsed, const char *name) {
  struct mount_record *mount = parsed->mount;
  bool is_deep = *name == 'r' && name[1] != 0;
  const struct option *found = FIND(attributes, name);
  if (strcmp(name, "defaults") == 0 || strcmp(name, "async") == 0 || strcmp(name, "nomand") == 0 || strcmp(name, "loud") == 0) return;
  if (strcmp(name, "bind") == 0 || strcmp(name, "rbind") == 0) {
    parsed->is_bind = true;
    if (is_deep) mount->flags |= MF_RECURSIVE;
  } else if (found != NULL) {
    mount->attributes = (mount->attributes & ~(uint64_t)found->clear) | found->set;
    mount->cleared = (mount->cleared | found->clear) & ~(uint64_t)(found->clear & ATTR_NOATIME_MASK ? 0 : found->set);
  } else if (is_deep && (found = FIND(attributes, name + 1)) != NULL) {
    mount->recursive_set = (mount->recursive_set & ~(uint64_t)found->clear) | found->set;
    mount->recursive_cleared |= found->clear;
  } else if ((found = FIND(propagations, name)) != NULL) {
    mount->propagation = found->set;
    mount->flags |= MF_FLAT_PROPAGATION;
  } else if (is_deep && (found = FIND(propagations, name + 1)) != NULL) {
    mount->propagation = found->set;
    mount->flags &= ~(uint32_t)MF_FLAT_PROPAGATION;
  } else if (strcmp(name, "tmpcopyup") == 0) {
    mount->flags |= MF_COPY_UP;
  } else if (strcmp(name, "idmap") == 0 || strcmp(name, "ridmap") == 0) {
    oci_fail(1, "mounts: %s: option %s is not supported", mount->target, name);
  } else {
    parsed->data = oci_format("%s%s%s", parsed->data, *parsed->data == 0 ? "" : ",", name);
  }
}

static void take_mount(const struct json *item, const char *bundle, struct job *job) {
  struct mount_record *mount = JOB_ADD(job->mounts);
  struct parsed parsed = {mount, "", false};
  const char *target = json_text(item, "destination", ""), *source = json_text(item, "source", "");
  mount->type = json_text(item, "type", "");
  mount->tree = -1;
  mount->subpath = "";
  /* Relative ones were tolerated once, and are below the root anyway. */
  mount->target = *target == '/' ? target : oci_format("/%s", target);
  if (*target == 0) oci_fail(1, "mounts: destination: want an absolute path, got nothing");
  if (strlen(target) >= PATH_BYTES_MAX) oci_fail(1, "mounts: destination: want at most %d bytes", PATH_BYTES_MAX);
  if (json_get(item, "uidMappings") != NULL || json_get(item, "gidMappings") != NULL)
    oci_fail(1, "mounts: %s: mappings of a single mount are not supported", target);
  JSON_EACH(option, json_get(item, "options"))
    if (option->kind == JSON_TEXT && *option->text != 0) take_option(&parsed, option->text);
  mount->options = parsed.data;
  if (strcmp(mount->type, "bind") == 0 || parsed.is_bind) {
    mount->kind = M_BIND;
    mount->source = *source == '/' ? source : oci_format("%s/%s", bundle, source);
    if (*source == 0) oci_fail(1, "mounts: %s: a bind mount needs a source", target);
    /* What nobody chose follows the host, as runc has it. */
    if (mount->propagation == 0) mount->propagation = job->root_propagation == 0 ? MS_SLAVE : job->root_propagation & ~(uint32_t)MS_REC;
    return;
  }
  mount->kind = M_FILESYSTEM;
  mount->source = source;
  if (*mount->type == 0) oci_fail(1, "mounts: %s: want a type or the option bind", target);
  if (strcmp(mount->type, "proc") == 0 || strcmp(mount->type, "sysfs") == 0) mount->flags |= MF_NO_SYMLINK_TARGET;
  if (strcmp(mount->type, "tmpfs") == 0 && mount->attributes & ATTR_RDONLY) mount->flags |= MF_LATE_READONLY;
  if (strcmp(mount->type, "cgroup") == 0) {
    struct mount_record wanted = *mount;
    job->mounts.count--;
    memset(&job->mounts.items[job->mounts.count], 0, sizeof *mount);
    oci_cgroup_mount(&wanted, job);
  }
}

void oci_translate_mounts(const struct json *config, const char *bundle, struct job *job) {
  bool is_dev_bound = false;
  if (job->flags & J_HOST_MOUNTS) {
    /* There they would stay mounted on the host. */
    if (json_get(config, "mounts") != NULL) oci_warn("no mount namespace is asked for, so no mounts are made");
    return;
  }
  JSON_EACH(item, json_get(config, "mounts")) take_mount(item, bundle, job);
  for (uint32_t i = 0; i < job->mounts.count; i++) {
    const struct mount_record *mount = &job->mounts.items[i];
    if (mount->kind == M_BIND && (strcmp(mount->target, "/dev") == 0 || strcmp(mount->target, "/dev/") == 0)) is_dev_bound = true;
  }
  if (!is_dev_bound) job->flags |= J_FILL_DEV;
}
