/* See cgroup.h. Called by the monitor; which groups and limits there are comes with the job. */
#define _GNU_SOURCE
#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "sys.h"
#include "util.h"

enum { PAUSE_US_MIN = 100, PAUSE_US_MAX = 20000, REMOVE_ATTEMPTS = 60, KILL_ROUNDS = 60 };

static char failure[PATH_BYTES_MAX + 256];

static const char *fail(const char *what, const char *path, int error) {
  snprintf(failure, sizeof failure, "%s %s: %s", what, path, strerror(error));
  return failure;
}

/* Short at first: what is waited for mostly takes microseconds. */
static void pause_for(int attempt) {
  long length = PAUSE_US_MIN << (attempt < 8 ? attempt : 8);
  if (length > PAUSE_US_MAX) length = PAUSE_US_MAX;
  struct timespec span = {0, length * 1000};
  nanosleep(&span, NULL);
}

const char *cgroup_make_v2(const struct job *job) {
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    if (job->cgroups.items[i].number != 2) continue;
    int error = make_folders(job->cgroups.items[i].key, 0755);
    if (error < 0) return fail("unable to make cgroup", job->cgroups.items[i].key, -error);
  }
  return NULL;
}

const char *cgroup_create(const struct job *job) {
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    int error = make_folders(job->cgroups.items[i].key, 0755);
    if (error < 0) return fail("unable to make cgroup", job->cgroups.items[i].key, -error);
  }
  for (uint32_t i = 0; i < job->cgroup_writes.count; i++) {
    const struct pair_record *one = &job->cgroup_writes.items[i];
    int error = write_file(AT_FDCWD, one->key, one->value);
    if (error < 0 && one->number == 0) {
      snprintf(failure, sizeof failure, "unable to apply cgroup configuration: failed to write \"%s\" to %s: %s", one->value,
               one->key, strerror(-error));
      return failure;
    }
  }
  return NULL;
}

int cgroup_open_v2(const struct job *job) {
  for (uint32_t i = 0; i < job->cgroups.count; i++)
    if (job->cgroups.items[i].number == 2)
      return open(job->cgroups.items[i].key, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return -1;
}

static bool group_file(char path[PATH_BYTES_MAX], const char *folder, const char *name) {
  return snprintf(path, PATH_BYTES_MAX, "%s/%s", folder, name) < PATH_BYTES_MAX;
}

const char *cgroup_open_for_clone(const struct job *job, struct cgroup_entry *entry) {
  for (uint32_t i = 0; i < job->cgroups.count && entry->v2 < 0; i++) {
    if (job->cgroups.items[i].number != 2) continue;
    entry->v2 = cgroup_open_v2(job);
    if (entry->v2 < 0) return fail("unable to enter cgroup", job->cgroups.items[i].key, errno);
  }
  return NULL;
}

const char *cgroup_open_for_v1(const struct job *job, struct cgroup_entry *entry) {
  char path[PATH_BYTES_MAX];
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    const struct pair_record *group = &job->cgroups.items[i];
    if (group->number == 2) continue;
    if (entry->count == CGROUP_HIERARCHIES_MAX) return fail("unable to enter cgroup", group->key, E2BIG);
    int fd = group_file(path, group->key, "tasks") ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    if (fd < 0) return fail("unable to enter cgroup", group->key, errno);
    entry->tasks[entry->count++] = fd;
  }
  return NULL;
}

void cgroup_close_entry(struct cgroup_entry *entry) {
  if (entry->v2 >= 0) close(entry->v2);
  for (uint32_t i = 0; i < entry->count; i++) close(entry->tasks[i]);
  entry->v2 = -1;
  entry->count = 0;
}

long cgroup_clone(const struct cgroup_entry *entry, struct x_clone_args *arguments, bool *is_in_v2) {
  *is_in_v2 = entry->v2 >= 0;
  if (!*is_in_v2) return x_clone3(arguments);
  struct x_clone_args within = *arguments;
  within.flags |= X_CLONE_INTO_CGROUP;
  within.cgroup = (uint64_t)entry->v2;
  long pid = x_clone3(&within);
  if (pid >= 0) return pid;
  /* Delegation may not reach that far. */
  *is_in_v2 = false;
  return x_clone3(arguments);
}

const char *cgroup_join_v1(const struct job *job, const struct cgroup_entry *entry) {
  uint32_t next = 0;
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    if (job->cgroups.items[i].number == 2) continue;
    if (next == entry->count) return fail("unable to enter cgroup", job->cgroups.items[i].key, EMFILE);
    if (write(entry->tasks[next++], "0", 1) != 1) return fail("unable to enter cgroup", job->cgroups.items[i].key, errno);
  }
  return NULL;
}

const char *cgroup_move_v2(const struct cgroup_entry *entry, int pid) {
  char number[16];
  if (entry->v2 < 0) return NULL;
  snprintf(number, sizeof number, "%d", pid);
  int error = write_file(entry->v2, "cgroup.procs", number);
  return error < 0 ? fail("unable to enter cgroup", "of v2", -error) : NULL;
}

/* Calls `each` for every process in the folder and below; returns how many there were. */
static int for_each_process(const char *folder, void (*each)(int pid)) {
  char path[PATH_BYTES_MAX], line[32];
  int count = 0;
  if (group_file(path, folder, "cgroup.procs")) {
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
      int pid = atoi(line);
      if (pid <= 0) continue;
      each(pid);
      count++;
    }
    if (file != NULL) fclose(file);
  }
  DIR *dir = opendir(folder);
  for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    if (group_file(path, folder, entry->d_name)) count += for_each_process(path, each);
  }
  if (dir != NULL) closedir(dir);
  return count;
}

static void kill_one(int pid) { kill(pid, SIGKILL); }

void cgroup_kill(const struct job *job) {
  char path[PATH_BYTES_MAX];
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    if (job->cgroups.items[i].number != 2) continue;
    if (group_file(path, job->cgroups.items[i].key, "cgroup.freeze")) write_file(AT_FDCWD, path, "0");
    if (group_file(path, job->cgroups.items[i].key, "cgroup.kill") && write_file(AT_FDCWD, path, "1") == 0) return;
  }
  /* No v2 tree: a fork may run away from one round, so go on until a round finds nobody. */
  for (int round = 0; round < KILL_ROUNDS && job->cgroups.count > 0; round++) {
    const char *folder = job->cgroups.items[0].key;
    for (uint32_t i = 0; i < job->cgroups.count; i++)
      if (group_file(path, job->cgroups.items[i].key, "freezer.state")) write_file(AT_FDCWD, path, "THAWED");
    if (for_each_process(folder, kill_one) == 0) return;
    pause_for(round);
  }
}

static bool remove_tree(const char *folder) {
  if (rmdir(folder) == 0 || errno == ENOENT) return true;
  char path[PATH_BYTES_MAX];
  DIR *dir = opendir(folder);
  for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
    if (entry->d_type == DT_DIR && entry->d_name[0] != '.' && group_file(path, folder, entry->d_name)) remove_tree(path);
  if (dir != NULL) closedir(dir);
  return rmdir(folder) == 0 || errno == ENOENT;
}

void cgroup_remove(const struct job *job) {
  for (uint32_t i = 0; i < job->cgroups.count; i++)
    /* A process that has just been killed still counts for a moment. */
    for (int attempt = 0; attempt < REMOVE_ATTEMPTS && !remove_tree(job->cgroups.items[i].key); attempt++)
      pause_for(attempt);
}

/* False where the file is none of that folder's. */
static bool read_counter(const char *folder, const char *name, const char *field, uint32_t *value) {
  char path[PATH_BYTES_MAX], text[512];
  if (!group_file(path, folder, name) || read_file(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  size_t length = strlen(field);
  for (char *line = text; line != NULL && *line != 0; line = strchr(line, '\n')) {
    if (*line == '\n') line++;
    if (strncmp(line, field, length) == 0 && line[length] == ' ') *value = (uint32_t)strtoul(line + length, NULL, 10);
  }
  return true;
}

uint32_t cgroup_oom_kills(const struct job *job) {
  uint32_t kills = 0;
  /* Memory is counted in one hierarchy only. */
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    const struct pair_record *group = &job->cgroups.items[i];
    if (read_counter(group->key, group->number == 2 ? "memory.events" : "memory.oom_control", "oom_kill", &kills)) break;
  }
  return kills;
}

int cgroup_oom_events(const struct job *job, bool *is_hint) {
  *is_hint = false;
  char path[PATH_BYTES_MAX], line[64];
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    if (job->cgroups.items[i].number != 1 || !group_file(path, job->cgroups.items[i].key, "memory.oom_control")) continue;
    int control = open(path, O_RDONLY | O_CLOEXEC);
    if (control < 0) continue;
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(line, sizeof line, "%d %d", event, control);
    bool done = group_file(path, job->cgroups.items[i].key, "cgroup.event_control") && write_file(AT_FDCWD, path, line) == 0;
    close(control);
    if (done) return event;
    close(event);
  }
  /* v2 has a file that changes, for lesser reasons too. */
  *is_hint = true;
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    if (job->cgroups.items[i].number != 2 || !group_file(path, job->cgroups.items[i].key, "memory.events")) continue;
    int changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (changes >= 0 && inotify_add_watch(changes, path, IN_MODIFY) >= 0) return changes;
    close(changes);
  }
  return -1;
}
