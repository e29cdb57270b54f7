/* See oci.h. exec: another process in a running container, with the rights of the container's own unless told otherwise. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container.h"
#include "exec.h"
#include "oci.h"
#include "sys.h"
#include "util.h"

static struct job job;

static uint32_t strict_id(const char *text, const char *what) {
  char *end;
  errno = 0;
  unsigned long value = strtoul(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != 0 || errno != 0 || value > INT32_MAX) oci_fail(1, "%s: want a number, got \"%s\"", what, text);
  return (uint32_t)value;
}

static void override_user(const char *given) {
  char *user = strdup(given), *group = strchr(user, ':');
  if (group != NULL) *group++ = 0;
  const char *old_group = strchr(job.user, ':');
  job.user = oci_format("%u:%u", strict_id(user, "--user"), group != NULL ? strict_id(group, "--user") : strict_id(old_group + 1, "--user"));
}

/* The process of the container's config, changed by what the command line says. */
static void from_flags(const struct oci_container *container, const struct oci_flag *flags, char **command) {
  const struct oci_flag *variables = oci_flag_all(flags, "env"), *groups = oci_flag_all(flags, "additional-gids");
  const struct oci_flag *capabilities = oci_flag_all(flags, "cap");
  oci_translate_process(json_get(container->config, "process"), &job);
  job.args.count = 0;
  for (; *command != NULL; command++) *(const char **)JOB_ADD(job.args) = *command;
  if (oci_flag(flags, "cwd") != NULL) job.cwd = oci_flag(flags, "cwd");
  if (*job.cwd != '/') oci_fail(1, "--cwd: want an absolute path, got \"%s\"", job.cwd);
  if (oci_flag(flags, "user") != NULL) override_user(oci_flag(flags, "user"));
  for (uint32_t i = 0; i < variables->count; i++) *(const char **)JOB_ADD(job.env) = variables->values[i];
  for (uint32_t i = 0; i < groups->count; i++) {
    strict_id(groups->values[i], "--additional-gids");
    *(const char **)JOB_ADD(job.groups) = groups->values[i];
  }
  for (uint32_t i = 0; i < capabilities->count; i++) {
    uint64_t bit = oci_capability(capabilities->values[i]);
    for (int set = 0; set < 3; set++) job.caps[set] |= bit;
  }
  job.flags &= ~(uint32_t)J_TTY;
  if (oci_switch(flags, "tty")) job.flags |= J_TTY;
  if (oci_flag(flags, "no-new-privs") != NULL) {
    job.flags &= ~(uint32_t)J_NO_NEW_PRIVS;
    if (oci_switch(flags, "no-new-privs")) job.flags |= J_NO_NEW_PRIVS;
  }
  if (oci_flag(flags, "apparmor") != NULL) job.apparmor = oci_flag(flags, "apparmor");
}

/* Those of the container that are not ours already. */
static uint32_t foreign_namespaces(int pid) {
  static const struct {
    const char *name;
    uint32_t kind;
  } kinds[] = {{"user", CLONE_NEWUSER}, {"mnt", CLONE_NEWNS},   {"pid", CLONE_NEWPID},       {"net", CLONE_NEWNET},
               {"ipc", CLONE_NEWIPC},   {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80}};
  uint32_t foreign = 0;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    struct stat own, other;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, kinds[i].name);
    if (stat(path, &other) != 0 || stat(oci_format("/proc/self/ns/%s", kinds[i].name), &own) != 0) continue;
    if (own.st_ino != other.st_ino || own.st_dev != other.st_dev) foreign |= kinds[i].kind;
  }
  return foreign;
}

/* A process that nobody reaps would hold up the end of the container's pid namespace. */
static _Noreturn void fail_launch(int pid, const char *error) {
  if (pid > 0) waitpid(pid, NULL, __WALL);
  oci_fail(EXIT_EXEC_FAILED, "exec failed: %s", error);
}

static int launch(const struct oci_container *container, int target, int *terminal) {
  int sync[2], pid = 0;
  char text[PATH_BYTES_MAX + 1024];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0) oci_fail(EXIT_EXEC_FAILED, "%s", strerror(errno));
  struct container_start start = {.job = &job, .sync = sync[1], .stdio = {0, 1, 2}, .hidden = {sync[0], container->dir}, .hidden_count = 2};
  const char *error;
  pid_t helper = exec_enter(&start, target, &error);
  close(sync[1]);
  if (error == NULL) error = exec_wait(sync[0], &pid, terminal);
  if (helper > 0) waitpid(helper, NULL, 0);
  /* Whoever traces the child in there could have said the number: it must be of a child of ours. */
  siginfo_t info;
  if (error == NULL && waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) != 0) error = "exec process is not ours";
  if (error == NULL && send(sync[0], "S", 1, MSG_NOSIGNAL) != 1) error = "process ended before its start";
  if (error != NULL) fail_launch(pid, error);
  /* The socket closes by execve, or says why not. */
  ssize_t count;
  do count = read(sync[0], text, sizeof text - 1);
  while (count < 0 && errno == EINTR);
  close(sync[0]);
  if (count <= 0) return pid;
  text[count] = 0;
  fail_launch(pid, text + 1);
}

static struct oci_container load_running(const char *id, bool is_paused_fine) {
  struct oci_container container = oci_load(id);
  if (strcmp(container.status, "stopped") == 0) oci_fail(EXIT_EXEC_FAILED, "cannot exec in a stopped container");
  if (strcmp(container.status, "paused") == 0 && !is_paused_fine)
    oci_fail(EXIT_EXEC_FAILED, "cannot exec in a paused container (use --ignore-paused to override)");
  return container;
}

static const struct json *read_process(const char *path) {
  const char *error;
  const struct json *process = json_read(AT_FDCWD, path, &error);
  if (process == NULL) oci_fail(1, "--process %s: %s", path, error);
  return process;
}

int oci_exec(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "console-socket", .takes_value = true},
                             {.name = "cwd", .takes_value = true},
                             {.name = "env", .letter = 'e', .takes_value = true},
                             {.name = "tty", .letter = 't'},
                             {.name = "user", .letter = 'u', .takes_value = true},
                             {.name = "additional-gids", .letter = 'g', .takes_value = true},
                             {.name = "process", .letter = 'p', .takes_value = true},
                             {.name = "detach", .letter = 'd'},
                             {.name = "pid-file", .takes_value = true},
                             {.name = "process-label", .takes_value = true},
                             {.name = "apparmor", .takes_value = true},
                             {.name = "no-new-privs"},
                             {.name = "cap", .letter = 'c', .takes_value = true},
                             {.name = "preserve-fds", .takes_value = true},
                             {.name = "cgroup", .takes_value = true},
                             {.name = "ignore-paused"},
                             {0}};
  char **rest;
  int terminal = -1;
  count = oci_parse_flags("exec", flags, arguments, count, &rest);
  const char *process = oci_flag(flags, "process"), *console = oci_flag(flags, "console-socket"), *preserved = oci_flag(flags, "preserve-fds");
  oci_expect("exec", count, process == NULL ? 2 : 1, INT32_MAX, process == NULL ? "a container id and a command" : "a container id");
  struct oci_container container = load_running(rest[0], oci_switch(flags, "ignore-paused"));
  if (process != NULL) oci_translate_process(read_process(process), &job);
  else from_flags(&container, flags, rest + (count > 2 && strcmp(rest[1], "--") == 0 ? 2 : 1));
  oci_translate_seccomp(json_get(container.config, "linux.seccomp"), &job);
  if (job.env.count == 0) {
    JOB_ADD(job.env);
    job.env.count = 0;
  }
  bool is_tty = (job.flags & J_TTY) != 0, is_detached = oci_switch(flags, "detach");
  if (is_tty && is_detached && console == NULL) oci_fail(EXIT_EXEC_FAILED, "cannot allocate tty if runc will detach without setting console socket");
  if (preserved != NULL) job.preserved_fd_count = strict_id(preserved, "--preserve-fds");
  if (oci_flag(flags, "cgroup") != NULL) oci_fail(1, "--cgroup is not supported");
  job.cgroups.items = container.groups.cgroups.items;
  job.cgroups.count = container.groups.cgroups.count;
  job.exec_pid = (uint32_t)container.pid;
  job.exec_namespaces = foreign_namespaces(container.pid);
  int target = x_pidfd_open(container.pid);
  if (target < 0 || !oci_is_alive(&container)) oci_fail(EXIT_EXEC_FAILED, "cannot exec in a stopped container");
  if (!is_detached) oci_hold_signals();
  int pid = launch(&container, target, &terminal);
  close(target);
  if (console != NULL) {
    oci_send_console(console, terminal);
    terminal = -1;
  }
  oci_write_pid_file(oci_flag(flags, "pid-file"), pid);
  return is_detached ? 0 : oci_attend(pid, terminal);
}
