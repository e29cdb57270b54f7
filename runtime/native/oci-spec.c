/*
 * See oci.h. config.json to job: identity, rights, namespaces, devices, paths. Everything is checked here, before a process or cgroup
 * exists; messages name the field, the wanted and the given.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "oci.h"
#include "sys.h"

static const char *const capability_names[] = {
    "CHOWN",          "DAC_OVERRIDE",  "DAC_READ_SEARCH", "FOWNER",        "FSETID",       "KILL",       "SETGID",
    "SETUID",         "SETPCAP",       "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK",       "IPC_OWNER",     "SYS_MODULE",      "SYS_RAWIO",     "SYS_CHROOT",   "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN",      "SYS_BOOT",      "SYS_NICE",        "SYS_RESOURCE",  "SYS_TIME",     "SYS_TTY_CONFIG", "MKNOD",
    "LEASE",          "AUDIT_WRITE",   "AUDIT_CONTROL",   "SETFCAP",       "MAC_OVERRIDE", "MAC_ADMIN",  "SYSLOG",
    "WAKE_ALARM",     "BLOCK_SUSPEND", "AUDIT_READ",      "PERFMON",       "BPF",          "CHECKPOINT_RESTORE"};

static const struct {
  const char *name;
  int number;
} rlimit_names[] = {{"AS", RLIMIT_AS},         {"CORE", RLIMIT_CORE},         {"CPU", RLIMIT_CPU},       {"DATA", RLIMIT_DATA},
                    {"FSIZE", RLIMIT_FSIZE},   {"LOCKS", RLIMIT_LOCKS},       {"MEMLOCK", RLIMIT_MEMLOCK}, {"MSGQUEUE", RLIMIT_MSGQUEUE},
                    {"NICE", RLIMIT_NICE},     {"NOFILE", RLIMIT_NOFILE},     {"NPROC", RLIMIT_NPROC},   {"RSS", RLIMIT_RSS},
                    {"RTPRIO", RLIMIT_RTPRIO}, {"RTTIME", RLIMIT_RTTIME},     {"SIGPENDING", RLIMIT_SIGPENDING}, {"STACK", RLIMIT_STACK}};

static const struct {
  const char *name;
  uint32_t kind, flag;
} namespace_names[] = {{"pid", CLONE_NEWPID, J_NEW_PID},       {"network", CLONE_NEWNET, J_NEW_NET}, {"mount", CLONE_NEWNS, 0},
                       {"ipc", CLONE_NEWIPC, J_NEW_IPC},       {"uts", CLONE_NEWUTS, J_NEW_UTS},     {"user", CLONE_NEWUSER, J_NEW_USER},
                       {"cgroup", CLONE_NEWCGROUP, J_NEW_CGROUP}, {"time", 0x80, J_NEW_TIME}};

uint64_t oci_capability(const char *name) {
  if (strncasecmp(name, "CAP_", 4) == 0) name += 4;
  for (size_t i = 0; i < sizeof capability_names / sizeof *capability_names; i++)
    if (strcasecmp(capability_names[i], name) == 0) return 1ull << i;
  oci_warn("ignoring unknown capability %s", name);
  return 0;
}

void oci_put_capabilities(FILE *out) {
  for (size_t i = 0; i < sizeof capability_names / sizeof *capability_names; i++)
    fprintf(out, "%s\"CAP_%s\"", i == 0 ? "" : ", ", capability_names[i]);
}

static uint32_t take_id(const struct json *object, const char *path, uint32_t fallback) {
  uint64_t value;
  const struct json *given = *path == 0 ? object : json_get(object, path);
  if (given == NULL) return fallback;
  if (!json_unsigned(object, path, &value) || value > INT32_MAX)
    oci_fail(1, "%s: want a number from 0 to %d, got %s", *path == 0 ? "id" : path, INT32_MAX, given->text == NULL ? "something else" : given->text);
  return (uint32_t)value;
}

static void translate_user(const struct json *user, struct job *job) {
  job->user = oci_format("%u:%u", take_id(user, "uid", 0), take_id(user, "gid", 0));
  JSON_EACH(group, json_get(user, "additionalGids"))
    *(const char **)JOB_ADD(job->groups) = oci_format("%u", take_id(group, "", 0));
  job->umask_bits = take_id(user, "umask", 022) & 0777;
}

static void translate_capabilities(const struct json *capabilities, struct job *job) {
  static const char *const sets[] = {"bounding", "effective", "permitted", "inheritable", "ambient"};
  for (int i = 0; i < 5; i++)
    JSON_EACH(name, json_get(capabilities, sets[i]))
      if (name->kind == JSON_TEXT) job->caps[i] |= oci_capability(name->text);
  /* What we don't have ourselves can't be given. */
  uint64_t missing = 0;
  for (int cap = 0; cap < 64; cap++)
    if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != 1) missing |= 1ull << cap;
  for (size_t cap = 0; cap < sizeof capability_names / sizeof *capability_names; cap++)
    if ((job->caps[0] | job->caps[2]) & missing & 1ull << cap) oci_warn("ignoring unavailable capability CAP_%s", capability_names[cap]);
  if (!(job->flags & J_NEW_USER))
    for (int i = 0; i < 5; i++) job->caps[i] &= ~missing;
}

static void translate_rlimits(const struct json *list, struct job *job) {
  JSON_EACH(item, list) {
    const char *type = json_text(item, "type", "");
    int number = -1;
    for (size_t i = 0; i < sizeof rlimit_names / sizeof *rlimit_names; i++)
      if (strncmp(type, "RLIMIT_", 7) == 0 && strcmp(type + 7, rlimit_names[i].name) == 0) number = rlimit_names[i].number;
    if (number < 0) oci_fail(1, "process.rlimits: want a type like RLIMIT_NOFILE, got \"%s\"", type);
    for (uint32_t i = 0; i < job->limits.count; i++)
      if (job->limits.items[i].resource == (uint32_t)number) oci_fail(1, "process.rlimits: %s is given twice", type);
    struct limit_record limit = {.resource = (uint32_t)number};
    if (!json_unsigned(item, "soft", &limit.soft) || !json_unsigned(item, "hard", &limit.hard))
      oci_fail(1, "process.rlimits: %s: want soft and hard as numbers that are not negative", type);
    if (limit.soft > limit.hard) oci_fail(1, "process.rlimits: %s: soft is above hard", type);
    *(struct limit_record *)JOB_ADD(job->limits) = limit;
  }
}

static void translate_io_priority(const struct json *priority, struct job *job) {
  static const char *const classes[] = {"", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"};
  int64_t level = 0;
  if (priority == NULL) return;
  const char *class = json_text(priority, "class", "");
  json_integer(priority, "priority", &level);
  uint32_t number = 0;
  for (uint32_t i = 1; i < 4; i++)
    if (strcmp(classes[i], class) == 0) number = i;
  if (number == 0 || level < 0 || level > 7)
    oci_fail(1, "process.ioPriority: want IOPRIO_CLASS_RT, _BE or _IDLE and a priority from 0 to 7, got \"%s\" and %lld", class, (long long)level);
  job->io_priority = number << 13 | (uint32_t)level;
}

void oci_translate_process(const struct json *process, struct job *job) {
  int64_t number;
  if (process == NULL) oci_fail(1, "process property must not be empty");
  const char *cwd = json_text(process, "cwd", "");
  if (*cwd != '/') oci_fail(1, "process.cwd: want an absolute path, got \"%s\"", cwd);
  job->cwd = cwd;
  JSON_EACH(argument, json_get(process, "args"))
    if (argument->kind == JSON_TEXT) *(const char **)JOB_ADD(job->args) = argument->text;
  if (job->args.count == 0) oci_fail(1, "process.args: want at least one argument");
  JSON_EACH(variable, json_get(process, "env"))
    if (variable->kind == JSON_TEXT) *(const char **)JOB_ADD(job->env) = variable->text;
  translate_user(json_get(process, "user"), job);
  translate_capabilities(json_get(process, "capabilities"), job);
  translate_rlimits(json_get(process, "rlimits"), job);
  translate_io_priority(json_get(process, "ioPriority"), job);
  if (json_get(process, "scheduler") != NULL) oci_fail(1, "process.scheduler is not supported");
  if (json_flag(process, "noNewPrivileges", false)) job->flags |= J_NO_NEW_PRIVS;
  if (json_flag(process, "terminal", false)) job->flags |= J_TTY;
  if (json_integer(process, "consoleSize.height", &number)) job->rows = (uint16_t)number;
  if (json_integer(process, "consoleSize.width", &number)) job->columns = (uint16_t)number;
  if (json_get(process, "oomScoreAdj") != NULL) {
    if (!json_integer(process, "oomScoreAdj", &number) || number < -1000 || number > 1000)
      oci_fail(1, "process.oomScoreAdj: want a number from -1000 to 1000, got %s", json_get(process, "oomScoreAdj")->text);
    job->oom_adj = (int32_t)number;
    job->has_oom_adj = true;
  }
  job->apparmor = json_text(process, "apparmorProfile", NULL);
  job->selinux = json_text(process, "selinuxLabel", NULL);
  if (job->apparmor != NULL && *job->apparmor != 0 && access("/sys/kernel/security/apparmor", F_OK) != 0)
    oci_fail(1, "process.apparmorProfile: \"%s\" is given but this machine has no AppArmor", job->apparmor);
  if (job->selinux != NULL && *job->selinux != 0 && access("/sys/fs/selinux", F_OK) != 0)
    oci_fail(1, "process.selinuxLabel: \"%s\" is given but this machine has no SELinux", job->selinux);
}

static void translate_namespace(const struct json *item, uint32_t *seen, struct job *job) {
  const char *type = json_text(item, "type", ""), *path = json_text(item, "path", "");
  for (size_t i = 0; i < sizeof namespace_names / sizeof *namespace_names; i++) {
    if (strcmp(namespace_names[i].name, type) != 0) continue;
    uint32_t kind = namespace_names[i].kind;
    if (*seen & kind) oci_fail(1, "linux.namespaces: \"%s\" is given twice", type);
    *seen |= kind;
    if (*path == 0) {
      job->flags |= namespace_names[i].flag;
      return;
    }
    struct stat stat_;
    if (*path != '/') oci_fail(1, "linux.namespaces: %s: want an absolute path, got \"%s\"", type, path);
    if (stat(path, &stat_) != 0) oci_fail(1, "linux.namespaces: %s: %s: %s", type, path, strerror(errno));
    struct pair_record *join = JOB_ADD(job->join);
    join->number = kind;
    join->key = path;
    return;
  }
  oci_fail(1, "linux.namespaces: want pid, network, mount, ipc, uts, user, cgroup or time, got \"%s\"", type);
}

static void translate_maps(const struct json *list, const char *name, void *maps) {
  LIST(struct map_record) *records = maps;
  JSON_EACH(item, list) {
    uint64_t inside, outside, size;
    if (!json_unsigned(item, "containerID", &inside) || !json_unsigned(item, "hostID", &outside) || !json_unsigned(item, "size", &size) ||
        size == 0 || (inside | outside | size) > UINT32_MAX)
      oci_fail(1, "linux.%s: want containerID, hostID and size as numbers, size above 0", name);
    struct map_record *map = JOB_ADD(*records);
    *map = (struct map_record){(uint32_t)inside, (uint32_t)outside, (uint32_t)size};
  }
}

static bool joins(const struct job *job, uint32_t kind) {
  for (uint32_t i = 0; i < job->join.count; i++)
    if (job->join.items[i].number == kind) return true;
  return false;
}

static void translate_namespaces(const struct json *config, struct job *job) {
  uint32_t seen = 0;
  JSON_EACH(item, json_get(config, "linux.namespaces")) translate_namespace(item, &seen, job);
  if (!(seen & CLONE_NEWNS)) job->flags |= J_HOST_MOUNTS;
  translate_maps(json_get(config, "linux.uidMappings"), "uidMappings", &job->uid_map);
  translate_maps(json_get(config, "linux.gidMappings"), "gidMappings", &job->gid_map);
  if (job->flags & J_NEW_USER && (job->uid_map.count == 0 || job->gid_map.count == 0))
    oci_fail(1, "linux.namespaces: a new user namespace needs linux.uidMappings and linux.gidMappings");
  if (!(seen & CLONE_NEWUSER) && job->uid_map.count + job->gid_map.count > 0)
    oci_fail(1, "linux.uidMappings and gidMappings need a user namespace");
  const struct json *offsets = json_get(config, "linux.timeOffsets");
  if (offsets != NULL && !(job->flags & J_NEW_TIME)) oci_fail(1, "linux.timeOffsets needs a new time namespace");
  char *text = "";
  JSON_EACH(clock, offsets) {
    int64_t seconds = 0, nanoseconds = 0;
    if (strcmp(clock->key, "monotonic") != 0 && strcmp(clock->key, "boottime") != 0)
      oci_fail(1, "linux.timeOffsets: want monotonic or boottime, got \"%s\"", clock->key);
    json_integer(clock, "secs", &seconds);
    json_integer(clock, "nanosecs", &nanoseconds);
    text = oci_format("%s%s %lld %lld\n", text, clock->key, (long long)seconds, (long long)nanoseconds);
  }
  job->time_offsets = text;
}

static void translate_device(const struct json *item, struct job *job) {
  const char *path = json_text(item, "path", ""), *type = json_text(item, "type", "");
  if (*path != '/') oci_fail(1, "linux.devices: want an absolute path, got \"%s\"", path);
  if (strlen(type) != 1 || strchr("cbup", *type) == NULL) oci_fail(1, "linux.devices: %s: want type c, b, u or p, got \"%s\"", path, type);
  struct device_record *device = JOB_ADD(job->devices);
  device->path = device->host_path = path;
  device->type = *type == 'u' ? 'c' : (uint32_t)*type;
  device->major = take_id(item, "major", 0);
  device->minor = take_id(item, "minor", 0);
  device->mode = take_id(item, "fileMode", 0666) & 07777;
  device->uid = take_id(item, "uid", 0);
  device->gid = take_id(item, "gid", 0);
}

/* The names that exist once for each namespace; others are the host's. */
static void check_sysctl(const char *key, const struct job *job) {
  bool has_net = job->flags & J_NEW_NET || joins(job, CLONE_NEWNET), has_ipc = job->flags & J_NEW_IPC || joins(job, CLONE_NEWIPC);
  bool has_uts = job->flags & J_NEW_UTS || joins(job, CLONE_NEWUTS), has_user = job->flags & J_NEW_USER || joins(job, CLONE_NEWUSER);
  static const char *const ipc[] = {"kernel.msgmax",          "kernel.msgmnb", "kernel.msgmni", "kernel.sem",         "kernel.shmall",
                                    "kernel.shmmax",          "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msg_next_id",
                                    "kernel.sem_next_id",     "kernel.shm_next_id"};
  char name[256];
  snprintf(name, sizeof name, "%s", key);
  /* A slash as separator is allowed; a dot is then part of a name. */
  if (strcspn(name, "/") < strcspn(name, "."))
    for (char *at = name; *at != 0; at++) *at = *at == '/' ? '.' : *at == '.' ? '/' : *at;
  bool is_good = strstr(name, "..") == NULL && name[0] != '.' && strlen(key) < sizeof name;
  bool is_ipc = strncmp(name, "fs.mqueue.", 10) == 0;
  for (size_t i = 0; i < sizeof ipc / sizeof *ipc; i++) is_ipc |= strcmp(name, ipc[i]) == 0;
  if (is_good && is_ipc && has_ipc) return;
  if (is_good && strncmp(name, "net.", 4) == 0 && has_net) return;
  if (is_good && strncmp(name, "user.", 5) == 0 && has_user) return;
  if (is_good && strcmp(name, "kernel.domainname") == 0 && has_uts) return;
  if (is_good && strcmp(name, "kernel.hostname") == 0) oci_fail(1, "linux.sysctl: %s: use the hostname property", key);
  oci_fail(1, "linux.sysctl: \"%s\" is not in a separate namespace of the container", key);
}

static void translate_names(const struct json *config, struct job *job) {
  job->hostname = json_text(config, "hostname", NULL);
  job->domainname = json_text(config, "domainname", NULL);
  bool has_names = (job->hostname != NULL && *job->hostname != 0) || (job->domainname != NULL && *job->domainname != 0);
  if (has_names && !(job->flags & J_NEW_UTS) && !joins(job, CLONE_NEWUTS))
    oci_fail(1, "unable to set hostname without a private UTS namespace");
  JSON_EACH(item, json_get(config, "linux.sysctl")) {
    check_sysctl(item->key, job);
    struct pair_record *pair = JOB_ADD(job->sysctls);
    pair->key = item->key;
    pair->value = item->kind == JSON_TEXT ? item->text : "";
  }
}

static void translate_paths(const struct json *config, struct job *job) {
  JSON_EACH(path, json_get(config, "linux.maskedPaths"))
    if (path->kind == JSON_TEXT) *(const char **)JOB_ADD(job->masked) = path->text;
  JSON_EACH(path, json_get(config, "linux.readonlyPaths"))
    if (path->kind == JSON_TEXT) *(const char **)JOB_ADD(job->readonly) = path->text;
  if (json_flag(config, "root.readonly", false)) job->flags |= J_READONLY_ROOT;
  const char *propagation = json_text(config, "linux.rootfsPropagation", "");
  static const struct {
    const char *name;
    uint32_t flags;
  } kinds[] = {{"shared", MS_SHARED}, {"slave", MS_SLAVE}, {"private", MS_PRIVATE}, {"unbindable", MS_UNBINDABLE}};
  if (*propagation == 0) return;
  const char *base = *propagation == 'r' ? propagation + 1 : propagation;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, base) == 0) job->root_propagation = kinds[i].flags | (base == propagation ? 0 : MS_REC);
  if (job->root_propagation == 0)
    oci_fail(1, "linux.rootfsPropagation: want shared, slave, private or unbindable, got \"%s\"", propagation);
}

static void translate_root(const struct json *config, const char *bundle, struct job *job) {
  struct stat stat_;
  const char *path = json_text(config, "root.path", "");
  if (json_get(config, "root") == NULL || *path == 0) oci_fail(1, "root.path: want a folder, got nothing");
  char *joined = *path == '/' ? strdup(path) : oci_format("%s/%s", bundle, path);
  job->root_dir = realpath(joined, NULL);
  if (job->root_dir == NULL || stat(job->root_dir, &stat_) != 0 || !S_ISDIR(stat_.st_mode))
    oci_fail(1, "invalid rootfs: want a folder, got %s: %s", joined, errno == 0 ? "no folder" : strerror(errno));
  if (strcmp(job->root_dir, "/") == 0) oci_fail(1, "invalid rootfs: the host's own root can't be one");
}

static void translate_personality(const struct json *config, struct job *job) {
  const char *domain = json_text(config, "linux.personality.domain", NULL);
  if (domain == NULL) return;
  if (strcmp(domain, "LINUX") != 0 && strcmp(domain, "LINUX32") != 0)
    oci_fail(1, "linux.personality.domain: want LINUX or LINUX32, got \"%s\"", domain);
  job->has_personality = true;
  job->personality = strcmp(domain, "LINUX32") == 0 ? 8 : 0;
}

void oci_translate(const struct json *config, const char *bundle, struct job *job) {
  const char *version = json_text(config, "ociVersion", "1.0.0");
  if (config->kind != JSON_OBJECT) oci_fail(1, "config.json: want an object");
  if (strncmp(version, "1.", 2) != 0) oci_fail(1, "ociVersion: want 1.x, got \"%s\"", version);
  if (json_get(config, "linux.intelRdt") != NULL) oci_fail(1, "linux.intelRdt is not supported");
  if (json_get(config, "linux.netDevices") != NULL) oci_fail(1, "linux.netDevices is not supported");
  translate_root(config, bundle, job);
  translate_namespaces(config, job);
  translate_names(config, job);
  translate_paths(config, job);
  translate_personality(config, job);
  oci_translate_process(json_get(config, "process"), job);
  JSON_EACH(item, json_get(config, "linux.devices")) translate_device(item, job);
  if (job->env.count == 0) {
    JOB_ADD(job->env);
    job->env.count = 0;
  }
}
