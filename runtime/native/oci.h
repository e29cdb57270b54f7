/*
 * The OCI command line: runc's verbs over the same job, mounts, cgroups and process steps that the launcher uses. One process per
 * verb; between verbs a container is a folder ROOT/ID (state.json, a copy of config.json, and start.sock until it is started).
 */
#ifndef SHOAL_OCI_H
#define SHOAL_OCI_H

#include <stdbool.h>
#include <stdint.h>

#include "job.h"
#include "json.h"

enum { EXIT_EXEC_FAILED = 255 };

struct oci_options {
  const char *program; /* as called */
  const char *root, *log_path;
  bool is_log_json, is_debug, is_rootless;
};
extern struct oci_options oci_options;

/* oci-main.c. Ends the process after undoing what `oci_on_failure` was set to undo. Text in runc's form. */
extern void (*oci_on_failure)(void);
_Noreturn __attribute__((format(printf, 2, 3))) void oci_fail(int exit_code, const char *format, ...);
__attribute__((format(printf, 1, 2))) void oci_warn(const char *format, ...);
__attribute__((format(printf, 1, 2))) char *oci_format(const char *format, ...);

/* oci-arguments.c: flags as runc has them, "--name value", "--name=value" or "-n value". */
struct oci_flag {
  const char *name; /* without dashes */
  char letter; /* or 0 */
  bool takes_value;
  const char *value; /* last one given; "true" or "false" for a switch */
  const char **values; /* every one given */
  uint32_t count;
};
/* Fills the flags and returns how many arguments remain, moved to the front of `rest`. Stops at the first that is no flag, or at "--". */
int oci_parse_flags(const char *verb, struct oci_flag *flags, char **arguments, int count, char ***rest);
const char *oci_flag(const struct oci_flag *flags, const char *name);
bool oci_switch(const struct oci_flag *flags, const char *name);
const struct oci_flag *oci_flag_all(const struct oci_flag *flags, const char *name);
/* Ends with what was wanted and what was given, unless there are `least` to `most` arguments. */
void oci_expect(const char *verb, int count, int least, int most, const char *what);

/* oci-state.c */
struct oci_container {
  const char *id;
  int dir; /* its folder, open; -1: none */
  const struct json *config; /* as it was at create */
  const char *bundle, *rootfs, *created, *version;
  int pid;
  uint64_t start_ticks;
  struct job groups; /* only its cgroups */
  const char *status; /* created, running, paused, stopped */
};
void oci_check_id(const char *id);
/* Ends with runc's "container does not exist" if there is none. */
struct oci_container oci_load(const char *id);
bool oci_try_load(const char *id, struct oci_container *container);
void oci_save(const struct oci_container *container);
void oci_remove(const struct oci_container *container);
/* Calls for every container there is, by name. */
void oci_each(void (*run)(const struct oci_container *container, void *context), void *context);
/* State as the specification has it, for hooks and `state`; `pid` 0 leaves it out. */
char *oci_state_text(const struct oci_container *container, const char *status, int pid);
bool oci_is_alive(const struct oci_container *container);

/* oci-spec.c, oci-mounts.c: config.json to job. They end the process on what is wrong, before anything is made. */
void oci_translate(const struct json *config, const char *bundle, struct job *job);
void oci_translate_process(const struct json *process, struct job *job);
void oci_translate_mounts(const struct json *config, const char *bundle, struct job *job);
uint64_t oci_capability(const char *name);
/* Their names, as members of a JSON list. */
void oci_put_capabilities(FILE *out);

/* oci-cgroups.c, oci-resources.c */
void oci_cgroup_paths(const char *id, const char *cgroups_path, struct job *job);
/*
 * Makes the folders, with what v1 cpusets and v2 subtrees need from above, and sets the limits. Those that can't be made are left out
 * unless they are needed. NULL or an error text.
 */
const char *oci_cgroup_make(struct job *job, bool is_needed);
/* The folder with this v1 controller; NULL where it is not on v1. */
const char *oci_cgroup_v1(const struct job *job, const char *controller);
/* The v2 folder if limits are set there, else NULL. */
const char *oci_cgroup_v2(const struct job *job);
const char *oci_cgroup_unified(const struct job *job);
/* The mounts that a mount of type cgroup stands for. */
void oci_cgroup_mount(const struct mount_record *wanted, struct job *job);
void oci_translate_resources(const struct json *resources, bool is_update, struct job *job);
void oci_translate_devices(const struct json *resources, struct job *job);
/* Freezes or thaws; NULL or an error text. */
const char *oci_cgroup_freeze(const struct job *job, bool is_frozen);
bool oci_cgroup_is_frozen(const struct job *job);
uint32_t oci_cgroup_processes(const struct job *job, int *pids, uint32_t room);

/* oci-seccomp.c */
void oci_translate_seccomp(const struct json *seccomp, struct job *job);

/* oci-hooks.c: NULL or an error text. */
const char *oci_run_hooks(const struct json *config, const char *name, const char *state);

/* The verbs: arguments behind the verb; they return the exit code. */
int oci_create(char **arguments, int count);
int oci_run(char **arguments, int count);
int oci_start(char **arguments, int count);
int oci_exec(char **arguments, int count);
int oci_state(char **arguments, int count);
int oci_kill(char **arguments, int count);
int oci_delete(char **arguments, int count);
int oci_list(char **arguments, int count);
int oci_ps(char **arguments, int count);
int oci_pause(char **arguments, int count);
int oci_resume(char **arguments, int count);
int oci_update(char **arguments, int count);
int oci_events(char **arguments, int count);
int oci_spec(char **arguments, int count);
int oci_features(char **arguments, int count);
int oci_seccomp(char **arguments, int count);

/* Its number, written to a temporary name first; nothing for a NULL path. */
void oci_write_pid_file(const char *path, int pid);
/* Takes a container apart: what runs in it, its cgroups, hooks, folder. */
void oci_destroy(struct oci_container *container);

/* oci-terminal.c */
/* Sends the terminal to whoever listens at `socket_path`. */
void oci_send_console(const char *socket_path, int terminal);
/* Signals wait from here on until oci_attend passes them on: one may come as soon as the program runs. */
void oci_hold_signals(void);
/* Waits for the process, passes signals on, and moves bytes between our terminal and its one (-1: none). Returns its exit code. */
int oci_attend(int pid, int terminal);

int oci_main(int count, char *arguments[]);

#endif
