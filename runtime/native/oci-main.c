/* See oci.h. Global flags, the log, errors, and the table of verbs. Called by main() as `shoal-oci` or `shoal-runtime oci`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oci.h"
#include "util.h"

struct oci_options oci_options;
void (*oci_on_failure)(void);

static const struct {
  const char *name;
  int (*run)(char **arguments, int count);
  const char *help;
} verbs[] = {
    {"create", oci_create, "create a container from a bundle"},
    {"start", oci_start, "run the program of a created container"},
    {"run", oci_run, "create and start a container"},
    {"state", oci_state, "print a container's state as JSON"},
    {"kill", oci_kill, "send a signal (SIGTERM) to a container's first process"},
    {"delete", oci_delete, "remove what a stopped container holds"},
    {"exec", oci_exec, "run another process in a running container"},
    {"list", oci_list, "list containers"},
    {"ps", oci_ps, "list the processes of a container"},
    {"pause", oci_pause, "freeze all processes of a container"},
    {"resume", oci_resume, "thaw them"},
    {"update", oci_update, "change the limits of a container"},
    {"events", oci_events, "print out-of-memory events and usage as JSON lines"},
    {"spec", oci_spec, "write a config.json to begin with"},
    {"features", oci_features, "print what this runtime can do"},
    {"seccomp", oci_seccomp, "print the filter that a bundle's linux.seccomp makes, in hexadecimal"},
};

static char *format_text(const char *format, va_list arguments) {
  char *text = NULL;
  if (vasprintf(&text, format, arguments) < 0) abort();
  return text;
}

char *oci_format(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char *text = format_text(format, arguments);
  va_end(arguments);
  return text;
}

/* One line of the log, in the two forms that callers of runc parse. */
static void log_line(FILE *out, const char *level, const char *text, bool is_json) {
  char when[31];
  format_time(wall_nanoseconds(), when);
  memcpy(when + 19, "Z", 2);
  if (is_json) {
    fprintf(out, "{\"level\":\"%s\",\"msg\":", level);
    json_put_text(out, text);
    fprintf(out, ",\"time\":\"%s\"}\n", when);
    return;
  }
  fprintf(out, "time=\"%s\" level=%s msg=", when, level);
  json_put_text(out, text);
  fputc('\n', out);
}

static void report(const char *level, const char *text) {
  FILE *file = oci_options.log_path == NULL ? NULL : fopen(oci_options.log_path, "ae");
  log_line(file == NULL ? stderr : file, level, text, oci_options.is_log_json);
  if (file == NULL) return;
  fclose(file);
  /* Whoever looks at the terminal sees it too. */
  if (strcmp(level, "error") == 0) fprintf(stderr, "%s\n", text);
}

void oci_fail(int exit_code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char *text = format_text(format, arguments);
  va_end(arguments);
  void (*undo)(void) = oci_on_failure;
  oci_on_failure = NULL;
  if (undo != NULL) undo();
  report("error", text);
  exit(exit_code);
}

void oci_warn(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char *text = format_text(format, arguments);
  va_end(arguments);
  report("warning", text);
  free(text);
}

static void usage(FILE *out) {
  fprintf(out, "usage: %s [--root DIR] [--log FILE] [--log-format text|json] [--debug] [--rootless true|false|auto] VERB [...]\n\n",
          oci_options.program);
  for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) fprintf(out, "  %-9s %s\n", verbs[i].name, verbs[i].help);
}

static void set_options(const struct oci_flag *flags) {
  const char *format = oci_flag(flags, "log-format"), *rootless = oci_flag(flags, "rootless");
  if (format != NULL && strcmp(format, "json") != 0 && strcmp(format, "text") != 0)
    oci_fail(1, "invalid log-format: want text or json, got %s", format);
  oci_options.is_log_json = format != NULL && strcmp(format, "json") == 0;
  oci_options.log_path = oci_flag(flags, "log");
  oci_options.is_debug = oci_switch(flags, "debug");
  if (rootless != NULL && strcmp(rootless, "auto") != 0 && strcmp(rootless, "true") != 0 && strcmp(rootless, "false") != 0)
    oci_fail(1, "invalid rootless: want true, false or auto, got %s", rootless);
  oci_options.is_rootless = rootless != NULL && strcmp(rootless, "auto") != 0 ? strcmp(rootless, "true") == 0 : geteuid() != 0;
  if (oci_switch(flags, "systemd-cgroup")) oci_fail(1, "systemd cgroups are not supported: leave out --systemd-cgroup");
  oci_options.root = oci_flag(flags, "root");
  const char *runtime_dir = getenv("XDG_RUNTIME_DIR");
  if (oci_options.root == NULL)
    oci_options.root = oci_options.is_rootless && runtime_dir != NULL ? oci_format("%s/shoal-oci", runtime_dir) : "/run/shoal-oci";
  if (*oci_options.root == 0) oci_fail(1, "invalid --root: it is empty");
  /* Verbs may change the working folder. */
  if (*oci_options.root != '/') oci_options.root = oci_format("%s/%s", get_current_dir_name(), oci_options.root);
}

int oci_main(int count, char *arguments[]) {
  struct oci_flag flags[] = {{.name = "root", .takes_value = true},       {.name = "log", .takes_value = true},
                             {.name = "log-format", .takes_value = true}, {.name = "rootless", .takes_value = true},
                             {.name = "debug"},                           {.name = "systemd-cgroup"},
                             {.name = "help", .letter = 'h'},             {.name = "version", .letter = 'v'},
                             {.name = "criu", .takes_value = true},       {0}};
  char **rest;
  oci_options.program = arguments[0];
  /* State and logs are nobody else's. */
  umask(022);
  int left = oci_parse_flags("", flags, arguments + 1, count - 1, &rest);
  if (oci_switch(flags, "version")) {
    printf("shoal-oci version %s\nspec: 1.2.0\n", BUILD_ID);
    return 0;
  }
  if (left == 0 || oci_switch(flags, "help") || strcmp(rest[0], "help") == 0) {
    usage(left == 0 && !oci_switch(flags, "help") ? stderr : stdout);
    return left == 0 && !oci_switch(flags, "help") ? 1 : 0;
  }
  set_options(flags);
  for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
    if (strcmp(verbs[i].name, rest[0]) == 0) return verbs[i].run(rest + 1, left - 1);
  if (strcmp(rest[0], "checkpoint") == 0 || strcmp(rest[0], "restore") == 0) oci_fail(1, "%s is not supported", rest[0]);
  oci_fail(1, "unknown command %s: --help lists them", rest[0]);
}
