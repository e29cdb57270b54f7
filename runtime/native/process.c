/*
 * See process.h. Order matters and follows from the kernel's rules: bounding set, groups, ids, capability sets, ambient. The filter goes in
 * as late as it can: last with no_new_privs, else (loading needs CAP_SYS_ADMIN then) just before the capabilities.
 */
#define _GNU_SOURCE
#include "process.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "sys.h"
#include "util.h"

enum { ACCOUNT_FILE_BYTES_MAX = 1 << 20, DEVPTS_MAGIC = 0x1cd1, PROC_MAGIC = 0x9fa0 };
#define TIOCGPTPEER_ 0x5441
#define SECCOMP_SET_MODE_FILTER_ 1

static char failure[PATH_BYTES_MAX + 512];
static char program[PATH_BYTES_MAX];

#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

/* Strict: digits only, below 2^31 (a leftover after the number must not become somebody's uid). */
static bool parse_id(const char *text, uint32_t *id) {
  if (*text == 0) return false;
  uint64_t value = 0;
  for (const char *at = text; *at != 0; at++) {
    if (*at < '0' || *at > '9') return false;
    value = value * 10 + (uint64_t)(*at - '0');
    if (value > INT32_MAX) return false;
  }
  *id = (uint32_t)value;
  return true;
}

/* Reads a file of the container whole; NULL if missing, not regular or too big. The root is already the container's. */
static char *read_account_file(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct stat stat;
  if (fd < 0) return NULL;
  if (fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode) || stat.st_size > ACCOUNT_FILE_BYTES_MAX) {
    close(fd);
    return NULL;
  }
  char *text = malloc((size_t)stat.st_size + 1);
  size_t used = 0;
  while (text != NULL && used < (size_t)stat.st_size) {
    ssize_t count = read(fd, text + used, (size_t)stat.st_size - used);
    if (count <= 0) break;
    used += (size_t)count;
  }
  if (text != NULL) text[used] = 0;
  close(fd);
  return text;
}

/* Splits the line at `*text` into `count` fields; moves on to the next line. False at the end. */
static bool next_line(char **text, char *fields[], int count) {
  if (*text == NULL || **text == 0) return false;
  char *line = strsep(text, "\n");
  for (int i = 0; i < count; i++) {
    fields[i] = line == NULL ? "" : strsep(&line, ":");
    if (fields[i] == NULL) fields[i] = "";
  }
  return true;
}

static void add_group(struct identity *identity, uint32_t gid) {
  for (uint32_t i = 0; i < identity->group_count; i++)
    if (identity->groups[i] == gid) return;
  if (identity->group_count < 256) identity->groups[identity->group_count++] = gid;
}

static bool is_member(char *members, const char *name) {
  for (char *one; (one = strsep(&members, ",")) != NULL;)
    if (strcmp(one, name) == 0) return true;
  return false;
}

/* A number, but none that an id can be. */
static bool is_beyond_ids(const char *text) {
  uint32_t id;
  return *text != 0 && text[strspn(text, "0123456789")] == 0 && !parse_id(text, &id);
}

static const char *find_user(const char *wanted, struct identity *identity, char name[256]) {
  uint32_t number = 0;
  bool is_number = parse_id(wanted, &number);
  char *text = read_account_file("/etc/passwd"), *at = text, *fields[7];
  bool is_found = false;
  while (!is_found && next_line(&at, fields, 7)) {
    uint32_t uid, gid;
    if (!parse_id(fields[2], &uid) || !parse_id(fields[3], &gid)) continue;
    if (is_number ? uid != number : strcmp(fields[0], wanted) != 0) continue;
    is_found = true;
    identity->uid = uid;
    identity->gid = gid;
    snprintf(name, 256, "%s", fields[0]);
    if (*fields[5] != 0) snprintf(identity->home, sizeof identity->home, "%s", fields[5]);
  }
  free(text);
  if (is_found) return NULL;
  if (is_beyond_ids(wanted)) return FAIL("uids and gids must be in range 0-%d", INT32_MAX);
  if (!is_number) return FAIL("unable to find user %s: no matching entries in passwd file", wanted);
  identity->uid = number;
  return NULL;
}

static const char *find_group(const char *wanted, uint32_t *gid) {
  if (parse_id(wanted, gid)) return NULL;
  char *text = read_account_file("/etc/group"), *at = text, *fields[4];
  bool is_found = false;
  while (!is_found && next_line(&at, fields, 4)) is_found = strcmp(fields[0], wanted) == 0 && parse_id(fields[2], gid);
  free(text);
  if (!is_found && is_beyond_ids(wanted)) return FAIL("uids and gids must be in range 0-%d", INT32_MAX);
  return is_found ? NULL : FAIL("unable to find group %s: no matching entries in group file", wanted);
}

const char *process_identity(const struct job *job, struct identity *identity) {
  memset(identity, 0, sizeof *identity);
  snprintf(identity->home, sizeof identity->home, "/");
  char wanted[512], name[256] = "";
  snprintf(wanted, sizeof wanted, "%s", job->user);
  char *group = strchr(wanted, ':');
  if (group != NULL) *group++ = 0;
  const char *error = find_user(*wanted == 0 ? "0" : wanted, identity, name);
  if (error == NULL && group != NULL && *group != 0) error = find_group(group, &identity->gid);
  if (error != NULL) return error;
  /* Among the supplementary groups too: else a set-group-id program sheds the primary one, and with it what is denied to that group (CVE-2022-36109). */
  add_group(identity, identity->gid);
  /* Memberships from the group file only where the user named no group. */
  char *text = *name != 0 && (group == NULL || *group == 0) ? read_account_file("/etc/group") : NULL;
  char *at = text, *fields[4];
  uint32_t gid;
  while (next_line(&at, fields, 4))
    if (parse_id(fields[2], &gid) && is_member(fields[3], name)) add_group(identity, gid);
  free(text);
  for (uint32_t i = 0; i < job->groups.count && error == NULL; i++) {
    error = find_group(job->groups.items[i], &gid);
    if (error == NULL) add_group(identity, gid);
  }
  return error;
}

static const char *variable(const struct job *job, const char *name) {
  size_t length = strlen(name);
  for (uint32_t i = 0; i < job->env.count; i++)
    if (strncmp(job->env.items[i], name, length) == 0 && job->env.items[i][length] == '=') return job->env.items[i] + length + 1;
  return NULL;
}

/* A container's own folder is made where the image lacks it; a process that joins later must name one that is there. */
static const char *enter_folder(const char *path, const struct identity *identity, bool may_make) {
  int problem = chdir(path) == 0 ? 0 : errno;
  if (problem == ENOENT && may_make) {
    int error = make_folders(path, 0755);
    if (error < 0) return FAIL("mkdir %s: %s", path, strerror(-error));
    if (identity->uid != 0) chown(path, identity->uid, identity->gid);
    problem = chdir(path) == 0 ? 0 : errno;
  }
  if (problem != 0) {
    /* Go's words for an errno begin in lower case; clients match them. */
    char words[96];
    snprintf(words, sizeof words, "%s", strerror(problem));
    words[0] = (char)tolower((unsigned char)words[0]);
    return FAIL("chdir to cwd (\"%s\") set in config.json failed: %s", path, words);
  }
  char here[PATH_BYTES_MAX];
  if (getcwd(here, sizeof here) == NULL || here[0] != '/')
    return FAIL("current working directory is outside of container mount namespace root");
  return NULL;
}

const char *process_prepare(struct job *job, const struct identity *identity) {
  for (uint32_t i = 0; i < job->limits.count; i++) {
    const struct limit_record *limit = &job->limits.items[i];
    struct rlimit value = {limit->soft, limit->hard};
    if (setrlimit((int)limit->resource, &value) != 0)
      return FAIL("error setting rlimits for ready process: error setting rlimit type %u: %s", limit->resource, strerror(errno));
  }
  umask(job->umask_bits);
  if (job->has_personality && personality(job->personality) < 0) return FAIL("personality %u: %s", job->personality, strerror(errno));
  if (job->io_priority != 0 && syscall(SYS_ioprio_set, 1 /* this process */, 0, job->io_priority) != 0)
    return FAIL("io priority: %s", strerror(errno));
  const char *home = variable(job, "HOME");
  if (home == NULL || *home == 0) {
    static char entry[sizeof identity->home + 8];
    snprintf(entry, sizeof entry, "HOME=%s", identity->home);
    const char **more = calloc(job->env.count + 2, sizeof *more);
    if (more == NULL) return FAIL("out of memory");
    memcpy(more, job->env.items, job->env.count * sizeof *more);
    more[job->env.count++] = entry;
    job->env.items = more;
  }
  return enter_folder(*job->cwd == 0 ? "/" : job->cwd, identity, job->exec_pid == 0);
}

/* 0, or why `path` is no program. */
static int program_error(const char *path) {
  struct stat stat_;
  if (stat(path, &stat_) != 0) return errno;
  if (S_ISDIR(stat_.st_mode)) return EISDIR;
  if ((stat_.st_mode & 0111) == 0) return EACCES;
  return 0;
}

static const char *describe(const char *name, int error) {
  switch (error) {
    case ENOENT: return FAIL("exec: \"%s\": stat %s: no such file or directory", name, name);
    case ENOTDIR: return FAIL("exec: \"%s\": stat %s: not a directory", name, name);
    case EISDIR: return FAIL("exec: \"%s\": is a directory: permission denied", name);
    case EACCES: return FAIL("exec: \"%s\": permission denied", name);
    default: return FAIL("exec: \"%s\": %s", name, strerror(error));
  }
}

const char *process_find(const struct job *job) {
  const char *name = job->args.items[0];
  if (strchr(name, '/') != NULL) {
    snprintf(program, sizeof program, "%s", name);
    int error = program_error(program);
    return error == 0 ? NULL : describe(name, error);
  }
  const char *path = variable(job, "PATH");
  int worst = ENOENT;
  while (path != NULL && *name != 0) {
    const char *end = strchrnul(path, ':');
    int length = (int)(end - path);
    snprintf(program, sizeof program, "%.*s%s%s", length, path, length == 0 ? "./" : "/", name);
    int error = program_error(program);
    if (error == 0) return NULL;
    if (error == EACCES) worst = EACCES;
    path = *end == 0 ? NULL : end + 1;
  }
  if (worst == EACCES) return describe(name, worst);
  return FAIL("exec: \"%s\": executable file not found in $PATH", name);
}

static const char *load_filter(const struct job *job) {
  if (job->seccomp_bytes == 0) return NULL;
  struct {
    unsigned short count;
    const void *instructions;
  } program_ = {(unsigned short)(job->seccomp_bytes / 8), job->seccomp};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER_, job->seccomp_flags, &program_) != 0)
    return FAIL("unable to init seccomp: error loading seccomp filter: %s", strerror(errno));
  return NULL;
}

static const char *put_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
  struct {
    uint32_t version;
    int pid;
  } head = {0x20080522, 0};
  uint32_t sets[6];
  for (int half = 0; half < 2; half++) {
    sets[half * 3] = (uint32_t)(effective >> 32 * half);
    sets[half * 3 + 1] = (uint32_t)(permitted >> 32 * half);
    sets[half * 3 + 2] = (uint32_t)(inheritable >> 32 * half);
  }
  if (syscall(SYS_capset, &head, sets) != 0) return FAIL("unable to apply caps: %s", strerror(errno));
  return NULL;
}

/* Drops the bounding set and becomes the user; the capabilities stay until they are set. */
static const char *become_user(const struct job *job, const struct identity *identity) {
  for (int cap = 0; cap < 64; cap++) {
    if (job->caps[0] >> cap & 1 || prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0) continue;
    /* The first number that the kernel doesn't know; all its own were gone through. */
    if (errno == EINVAL && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) < 0) break;
    return FAIL("unable to drop capability %d: %s", cap, strerror(errno));
  }
  prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
  gid_t groups[256];
  for (uint32_t i = 0; i < identity->group_count; i++) groups[i] = identity->groups[i];
  if (setgroups(identity->group_count, groups) != 0 && errno != EPERM) return FAIL("unable to set groups: %s", strerror(errno));
  if (setresgid(identity->gid, identity->gid, identity->gid) != 0) return FAIL("unable to setgid: %s", strerror(errno));
  if (setresuid(identity->uid, identity->uid, identity->uid) != 0) return FAIL("unable to setuid: %s", strerror(errno));
  prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
  return NULL;
}

static const char *set_capabilities(const struct job *job) {
  const char *error = put_capabilities(job->caps[1], job->caps[2], job->caps[3]);
  if (error != NULL) return error;
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (int cap = 0; cap < 64; cap++)
    if (job->caps[4] >> cap & 1) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
  return NULL;
}

/* After the change of user only the right to load the filter is still needed, so a filter may forbid all that came before. */
static const char *load_filter_early(const struct job *job) {
  const uint64_t admin = 1ull << 21;
  if (job->seccomp_bytes == 0) return NULL;
  const char *error = put_capabilities(admin | job->caps[1], admin | job->caps[1] | job->caps[2], job->caps[3]);
  return error == NULL ? load_filter(job) : error;
}

/* Of a security module, for the program to come. The container's /proc is trusted only as far as it is one, with nothing mounted in it. */
static const char *set_label(const char *attribute, const char *label) {
  struct statfs system;
  if (label == NULL || *label == 0) return NULL;
  int proc = x_openat2(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
  if (proc < 0 || fstatfs(proc, &system) != 0 || system.f_type != PROC_MAGIC) return FAIL("security label %s: /proc is no procfs", label);
  int fd = x_openat2(proc, attribute, O_WRONLY | O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS);
  close(proc);
  /* Whether the module is there was asked before. */
  if (fd < 0 && errno == ENOENT) return NULL;
  bool done = fd >= 0 && write(fd, label, strlen(label)) >= 0;
  close(fd);
  return done ? NULL : FAIL("security label %s: %s", label, strerror(errno));
}

static const char *set_labels(const struct job *job) {
  char profile[512];
  if (job->apparmor != NULL && *job->apparmor != 0) {
    snprintf(profile, sizeof profile, "exec %s", job->apparmor);
    const char *error = set_label("self/attr/apparmor/exec", profile);
    if (error != NULL) return error;
  }
  return set_label("self/attr/exec", job->selinux);
}

const char *process_exec(const struct job *job, const struct identity *identity) {
  const char *error = set_labels(job);
  if (error != NULL) return error;
  bool is_filter_last = (job->flags & J_NO_NEW_PRIVS) != 0;
  if ((error = become_user(job, identity)) != NULL) return error;
  if (is_filter_last) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  else if ((error = load_filter_early(job)) != NULL) return error;
  if ((error = set_capabilities(job)) != NULL) return error;
  if (is_filter_last && (error = load_filter(job)) != NULL) return error;
  execve(program, (char *const *)job->args.items, (char *const *)job->env.items);
  if (errno == ENOEXEC) {
    /* The container did start; its program says why it is none. */
    char line[PATH_BYTES_MAX + 32];
    int length = snprintf(line, sizeof line, "exec %s: exec format error\n", program);
    write_all(2, line, (size_t)length);
    _exit(255);
  }
  return describe(job->args.items[0], errno);
}

const char *process_terminal(const struct job *job, const struct identity *identity, int sync) {
  int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  struct statfs system;
  if (master < 0) return FAIL("open terminal: %s", strerror(errno));
  /* A container may put anything at this path: it must be a terminal multiplexer of a devpts. */
  if (fstatfs(master, &system) != 0 || system.f_type != DEVPTS_MAGIC) return FAIL("open terminal: /dev/pts is no devpts");
  int unlock = 0;
  ioctl(master, TIOCSPTLCK, &unlock);
  int slave = ioctl(master, TIOCGPTPEER_, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) return FAIL("open terminal: %s", strerror(errno));
  fchown(slave, identity->uid, (gid_t)-1);
  if (job->rows != 0 || job->columns != 0) {
    struct winsize size = {job->rows, job->columns, 0, 0};
    ioctl(slave, TIOCSWINSZ, &size);
  }
  if (!send_descriptor(sync, 'T', master)) return FAIL("hand over terminal: %s", strerror(errno));
  close(master);
  ioctl(slave, TIOCSCTTY, 0);
  for (int fd = 0; fd < 3; fd++)
    if (dup2(slave, fd) < 0) return FAIL("terminal: %s", strerror(errno));
  close(slave);
  return NULL;
}
