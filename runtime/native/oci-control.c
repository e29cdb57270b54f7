/* See oci.h. The verbs that look at a container or change it from outside. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf.h"
#include "cgroup.h"
#include "oci.h"
#include "sys.h"
#include "util.h"

enum { PROCESS_COUNT_MAX = 32768, KILL_WAIT_MS = 10000 };

static struct oci_container load_one(const char *verb, char **arguments, int count) {
  struct oci_flag none[] = {{0}};
  char **rest;
  count = oci_parse_flags(verb, none, arguments, count, &rest);
  oci_expect(verb, count, 1, 1, "a container id");
  return oci_load(rest[0]);
}

static const char *owner_of(const struct oci_container *container) {
  static char name[256];
  struct stat stat;
  if (fstat(container->dir, &stat) != 0) return "";
  const struct passwd *entry = getpwuid(stat.st_uid);
  snprintf(name, sizeof name, "%s", entry == NULL ? oci_format("#%u", stat.st_uid) : entry->pw_name);
  return name;
}

static int shown_pid(const struct oci_container *container) { return strcmp(container->status, "stopped") == 0 ? 0 : container->pid; }

static void put_field(FILE *out, const char *indent, const char *name, const char *value, bool is_last) {
  fprintf(out, "%s\"%s\": ", indent, name);
  json_put_text(out, value);
  fputs(is_last ? "\n" : ",\n", out);
}

static void put_state(FILE *out, const struct oci_container *container, const char *indent) {
  put_field(out, indent, "ociVersion", container->version, false);
  put_field(out, indent, "id", container->id, false);
  fprintf(out, "%s\"pid\": %d,\n", indent, shown_pid(container));
  put_field(out, indent, "status", container->status, false);
  put_field(out, indent, "bundle", container->bundle, false);
  put_field(out, indent, "rootfs", container->rootfs, false);
  put_field(out, indent, "created", container->created, false);
  const struct json *annotations = json_get(container->config, "annotations");
  if (annotations != NULL) {
    fprintf(out, "%s\"annotations\": ", indent);
    json_put(out, annotations);
    fputs(",\n", out);
  }
  put_field(out, indent, "owner", owner_of(container), true);
}

int oci_state(char **arguments, int count) {
  struct oci_container container = load_one("state", arguments, count);
  fputs("{\n", stdout);
  put_state(stdout, &container, "  ");
  fputs("}\n", stdout);
  return 0;
}

static int signal_number(const char *given) {
  static const struct {
    const char *name;
    int number;
  } names[] = {{"HUP", SIGHUP},       {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"ILL", SIGILL},     {"TRAP", SIGTRAP}, {"ABRT", SIGABRT},
               {"BUS", SIGBUS},       {"FPE", SIGFPE},   {"KILL", SIGKILL}, {"USR1", SIGUSR1},   {"SEGV", SIGSEGV}, {"USR2", SIGUSR2},
               {"PIPE", SIGPIPE},     {"ALRM", SIGALRM}, {"TERM", SIGTERM}, {"STKFLT", 16},      {"CHLD", SIGCHLD}, {"CONT", SIGCONT},
               {"STOP", SIGSTOP},     {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU},   {"URG", SIGURG},   {"XCPU", SIGXCPU},
               {"XFSZ", SIGXFSZ},     {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH}, {"IO", SIGIO}, {"POLL", SIGIO},
               {"PWR", SIGPWR},       {"SYS", SIGSYS},   {"RTMIN", 34},     {"RTMAX", 64}};
  char *end;
  long number = strtol(given, &end, 10);
  if (*given != 0 && *end == 0 && number > 0 && number < 65) return (int)number;
  const char *name = strncasecmp(given, "SIG", 3) == 0 ? given + 3 : given;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcasecmp(names[i].name, name) == 0) return names[i].number;
  /* RTMIN+3, RTMAX-1 */
  if (strncasecmp(name, "RTMIN+", 6) == 0 && (number = 34 + atoi(name + 6)) < 65) return (int)number;
  if (strncasecmp(name, "RTMAX-", 6) == 0 && (number = 64 - atoi(name + 6)) > 33) return (int)number;
  oci_fail(1, "unknown signal \"%s\"", given);
}

static bool has_own_pids(const struct oci_container *container) {
  JSON_EACH(item, json_get(container->config, "linux.namespaces"))
    if (strcmp(json_text(item, "type", ""), "pid") == 0 && *json_text(item, "path", "") == 0) return true;
  return false;
}

static void signal_all(const struct oci_container *container, int number) {
  static int pids[PROCESS_COUNT_MAX];
  uint32_t count = oci_cgroup_processes(&container->groups, pids, PROCESS_COUNT_MAX);
  for (uint32_t i = 0; i < count; i++) kill(pids[i], number);
}

/* By descriptor, so that a later process with the same number is never meant. False if it is gone. */
static bool signal_first(const struct oci_container *container, int number) {
  int pidfd = x_pidfd_open(container->pid);
  bool done = pidfd >= 0 && oci_is_alive(container) && x_pidfd_signal(pidfd, number) == 0;
  if (pidfd >= 0) close(pidfd);
  return done;
}

int oci_kill(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "all", .letter = 'a'}, {0}};
  char **rest;
  count = oci_parse_flags("kill", flags, arguments, count, &rest);
  oci_expect("kill", count, 1, 2, "a container id and at most a signal");
  int number = signal_number(count > 1 ? rest[1] : "SIGTERM");
  struct oci_container container = oci_load(rest[0]);
  bool is_all = oci_switch(flags, "all");
  if (is_all) signal_all(&container, number);
  else if (strcmp(container.status, "stopped") == 0 || !signal_first(&container, number)) oci_fail(1, "container not running");
  /* Without a pid namespace the others outlive the first. */
  if (number == SIGKILL && !has_own_pids(&container)) cgroup_kill(&container.groups);
  return 0;
}

static void wait_gone(const struct oci_container *container) {
  int pidfd = x_pidfd_open(container->pid);
  if (pidfd < 0) return;
  struct pollfd polled = {pidfd, POLLIN, 0};
  if (process_start_ticks(container->pid) == container->start_ticks) poll(&polled, 1, KILL_WAIT_MS);
  close(pidfd);
}

void oci_destroy(struct oci_container *container) {
  if (oci_is_alive(container)) {
    /* A frozen process on v1 does not even die. */
    if (oci_cgroup_is_frozen(&container->groups)) oci_cgroup_freeze(&container->groups, false);
    signal_first(container, SIGKILL);
    wait_gone(container);
  }
  if (!has_own_pids(container)) cgroup_kill(&container->groups);
  cgroup_remove(&container->groups);
  oci_run_hooks(container->config, "poststop", oci_state_text(container, "stopped", 0));
  oci_remove(container);
}

int oci_delete(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "force", .letter = 'f'}, {0}};
  char **rest;
  struct oci_container container;
  count = oci_parse_flags("delete", flags, arguments, count, &rest);
  oci_expect("delete", count, 1, 1, "a container id");
  oci_check_id(rest[0]);
  bool is_forced = oci_switch(flags, "force");
  if (!oci_try_load(rest[0], &container)) {
    if (is_forced) return 0;
    oci_fail(1, "container \"%s\" does not exist", rest[0]);
  }
  bool is_done = strcmp(container.status, "stopped") == 0 || strcmp(container.status, "created") == 0;
  if (!is_done && !is_forced) oci_fail(1, "cannot delete container %s that is not stopped: %s", container.id, container.status);
  oci_destroy(&container);
  return 0;
}

struct listing {
  const char *format;
  bool is_quiet, is_first;
};

static void list_one(const struct oci_container *container, void *context) {
  struct listing *listing = context;
  if (listing->is_quiet) {
    printf("%s\n", container->id);
  } else if (strcmp(listing->format, "json") == 0) {
    fputs(listing->is_first ? "{\n" : ",{\n", stdout);
    put_state(stdout, container, "");
    fputs("}", stdout);
  } else {
    printf("%-11s %-11d %-11s %s   %s   %s\n", container->id, shown_pid(container), container->status, container->bundle,
           container->created, owner_of(container));
  }
  listing->is_first = false;
}

int oci_list(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "format", .letter = 'f', .takes_value = true}, {.name = "quiet", .letter = 'q'}, {0}};
  char **rest;
  count = oci_parse_flags("list", flags, arguments, count, &rest);
  oci_expect("list", count, 0, 0, "no argument");
  const char *format = oci_flag(flags, "format");
  struct listing listing = {format == NULL ? "table" : format, oci_switch(flags, "quiet"), true};
  if (strcmp(listing.format, "table") != 0 && strcmp(listing.format, "json") != 0) oci_fail(1, "invalid format option: want table or json, got %s", format);
  bool is_json = strcmp(listing.format, "json") == 0 && !listing.is_quiet;
  if (is_json) fputs("[", stdout);
  else if (!listing.is_quiet) printf("%-11s %-11s %-11s %s   %s   %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER");
  oci_each(list_one, &listing);
  if (is_json) fputs("]\n", stdout);
  return 0;
}

/* Lines of ps(1) whose PID is the container's. */
static int print_table(char **arguments, const int *pids, uint32_t count) {
  char line[4096];
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) oci_fail(1, "%s", strerror(errno));
  pid_t child = fork();
  if (child == 0) {
    dup2(output[1], 1);
    execvp("ps", arguments);
    _exit(127);
  }
  close(output[1]);
  FILE *in = fdopen(output[0], "r");
  int column = -1;
  while (in != NULL && fgets(line, sizeof line, in) != NULL) {
    char *copy = strdup(line), *rest = copy, *word;
    bool is_ours = column < 0;
    for (int field = 0; (word = strsep(&rest, " \t\n")) != NULL;) {
      if (*word == 0) continue;
      if (is_ours && column < 0 && strcmp(word, "PID") == 0) column = field;
      for (uint32_t i = 0; i < count && field == column; i++) is_ours |= atoi(word) == pids[i];
      field++;
    }
    if (column < 0) break;
    if (is_ours) fputs(line, stdout);
    free(copy);
  }
  int status;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) oci_fail(1, "ps is not installed here: use --format json");
  return column < 0 ? 1 : 0;
}

int oci_ps(char **arguments, int count) {
  static int pids[PROCESS_COUNT_MAX];
  struct oci_flag flags[] = {{.name = "format", .letter = 'f', .takes_value = true}, {0}};
  char **rest, *usual[] = {"ps", "-ef", NULL};
  count = oci_parse_flags("ps", flags, arguments, count, &rest);
  oci_expect("ps", count, 1, INT32_MAX, "a container id");
  const char *format = oci_flag(flags, "format") == NULL ? "table" : oci_flag(flags, "format");
  struct oci_container container = oci_load(rest[0]);
  uint32_t found = oci_cgroup_processes(&container.groups, pids, PROCESS_COUNT_MAX);
  if (strcmp(format, "json") == 0) {
    for (uint32_t i = 0; i < found; i++) printf("%s%d", i == 0 ? "[" : ",", pids[i]);
    puts(found == 0 ? "[]" : "]");
    return 0;
  }
  if (strcmp(format, "table") != 0) oci_fail(1, "invalid format option: want table or json, got %s", format);
  /* The place of the id serves as the name of the program. */
  return print_table(count > 1 ? rest : usual, pids, found);
}

static int freeze(const char *verb, char **arguments, int count, bool is_frozen) {
  struct oci_container container = load_one(verb, arguments, count);
  bool is_paused = strcmp(container.status, "paused") == 0;
  if (is_frozen && strcmp(container.status, "running") != 0 && strcmp(container.status, "created") != 0)
    oci_fail(1, "container not running or created: %s", container.status);
  if (!is_frozen && !is_paused) oci_fail(1, "container not paused");
  const char *error = oci_cgroup_freeze(&container.groups, is_frozen);
  if (error != NULL) oci_fail(1, "%s", error);
  return 0;
}

int oci_pause(char **arguments, int count) { return freeze("pause", arguments, count, true); }
int oci_resume(char **arguments, int count) { return freeze("resume", arguments, count, false); }

/* Flags to the member of linux.resources they stand for. */
static const char *const update_flags[][2] = {
    {"blkio-weight", "blockIO.weight"}, {"cpu-period", "cpu.period"},     {"cpu-quota", "cpu.quota"},
    {"cpu-burst", "cpu.burst"},         {"cpu-share", "cpu.shares"},      {"cpu-rt-period", "cpu.realtimePeriod"},
    {"cpu-rt-runtime", "cpu.realtimeRuntime"}, {"cpuset-cpus", "cpu.cpus"}, {"cpuset-mems", "cpu.mems"},
    {"cpu-idle", "cpu.idle"},           {"memory", "memory.limit"},       {"memory-reservation", "memory.reservation"},
    {"memory-swap", "memory.swap"},     {"pids-limit", "pids.limit"}};
enum { UPDATE_FLAG_COUNT = sizeof update_flags / sizeof *update_flags };

/* "512M" and the like are taken for memory. */
static char *size_text(const char *given) {
  char *end;
  long long value = strtoll(given, &end, 10);
  const char *units = "bkmgtp", *unit = *end == 0 ? units : strchr(units, *end | 0x20);
  if (end == given || unit == NULL || (*end != 0 && end[1] != 0 && strcasecmp(end + 1, "b") != 0)) oci_fail(1, "want a size like 512M, got \"%s\"", given);
  for (long shift = unit - units; shift > 0; shift--) value *= 1024;
  return oci_format("%lld", value);
}

static const struct json *resources_of(const struct oci_flag *flags) {
  const char *groups[] = {"blockIO", "cpu", "memory", "pids"}, *error;
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  fputc('{', out);
  for (int group = 0; group < 4; group++) {
    fprintf(out, "%s\"%s\":{", group == 0 ? "" : ",", groups[group]);
    bool is_first = true;
    for (int i = 0; i < UPDATE_FLAG_COUNT; i++) {
      const char *value = oci_flag(flags, update_flags[i][0]), *dot = strchr(update_flags[i][1], '.');
      if (value == NULL || strncmp(update_flags[i][1], groups[group], (size_t)(dot - update_flags[i][1])) != 0) continue;
      fprintf(out, "%s\"%s\":", is_first ? "" : ",", dot + 1);
      if (strncmp(update_flags[i][0], "cpuset", 6) == 0) json_put_text(out, value);
      else fputs(group == 2 ? size_text(value) : value, out);
      is_first = false;
    }
    fputc('}', out);
  }
  fputs("}", out);
  fclose(out);
  char *room = malloc(size + 1);
  memcpy(room, text, size);
  const struct json *resources = json_parse(room, size, &error);
  if (resources == NULL) oci_fail(1, "update: want numbers as limits: %s", error);
  return resources;
}

static const struct json *read_resources(const char *path) {
  const char *error;
  char *bytes;
  if (strcmp(path, "-") != 0) {
    const struct json *resources = json_read(AT_FDCWD, path, &error);
    if (resources == NULL) oci_fail(1, "--resources %s: %s", path, error);
    return resources;
  }
  enum { INPUT_BYTES_MAX = 1 << 20 };
  bytes = malloc(INPUT_BYTES_MAX + 1);
  size_t length = fread(bytes, 1, INPUT_BYTES_MAX, stdin);
  const struct json *resources = json_parse(bytes, length, &error);
  if (resources == NULL) oci_fail(1, "--resources -: %s", error);
  return resources;
}

int oci_update(char **arguments, int count) {
  struct oci_flag flags[UPDATE_FLAG_COUNT + 4] = {{.name = "resources", .letter = 'r', .takes_value = true},
                                                  {.name = "kernel-memory", .takes_value = true},
                                                  {.name = "kernel-memory-tcp", .takes_value = true}};
  for (int i = 0; i < UPDATE_FLAG_COUNT; i++) flags[3 + i] = (struct oci_flag){.name = update_flags[i][0], .takes_value = true};
  char **rest;
  count = oci_parse_flags("update", flags, arguments, count, &rest);
  oci_expect("update", count, 1, 1, "a container id");
  struct oci_container container = oci_load(rest[0]);
  if (strcmp(container.status, "stopped") == 0) oci_fail(1, "container not running");
  struct job job = container.groups;
  const struct json *resources = oci_flag(flags, "resources") != NULL ? read_resources(oci_flag(flags, "resources")) : resources_of(flags);
  oci_translate_resources(resources, true, &job);
  if (json_get(resources, "devices") != NULL) oci_translate_devices(resources, &job);
  const char *error = oci_cgroup_make(&job, true);
  if (error == NULL) error = bpf_attach_devices(&job);
  if (error != NULL) oci_fail(1, "%s", error);
  return 0;
}
