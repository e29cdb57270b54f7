/*
 * See oci.h. A container between two verbs: ROOT/ID, 0711, with state.json (written once, temporary then renamed), the config as it was at create
 * (later changes to the bundle have no effect), and start.sock, which is there exactly until the start.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "oci.h"
#include "util.h"

enum { ID_BYTES_MAX = 1024 };

void oci_check_id(const char *id) {
  bool is_good = *id != 0 && *id != '.' && strlen(id) < ID_BYTES_MAX;
  for (const char *at = id; *at != 0 && is_good; at++)
    is_good = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || strchr("_+.-", *at) != NULL;
  if (!is_good) oci_fail(1, "invalid container id format: want letters, digits, \"_+.-\" and no leading dot, got \"%s\"", id);
}

/* A process that waits to be reaped has ended. */
bool oci_is_alive(const struct oci_container *container) {
  char path[32], text[1024];
  if (container->pid <= 0 || process_start_ticks(container->pid) != container->start_ticks) return false;
  snprintf(path, sizeof path, "/proc/%d/stat", container->pid);
  if (read_file(AT_FDCWD, path, text, sizeof text) <= 0) return false;
  char *at = strrchr(text, ')');
  return at != NULL && at[1] == ' ' && at[2] != 'Z' && at[2] != 'X';
}

static const char *status_of(const struct oci_container *container) {
  if (!oci_is_alive(container)) return "stopped";
  if (oci_cgroup_is_frozen(&container->groups)) return "paused";
  return faccessat(container->dir, "start.sock", F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? "created" : "running";
}

bool oci_try_load(const char *id, struct oci_container *container) {
  const char *error;
  int64_t pid = 0;
  memset(container, 0, sizeof *container);
  container->id = strdup(id);
  container->dir = open(oci_format("%s/%s", oci_options.root, id), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (container->dir < 0) return false;
  const struct json *state = json_read(container->dir, "state.json", &error);
  container->config = state == NULL ? NULL : json_read(container->dir, "config.json", &error);
  if (container->config == NULL) {
    close(container->dir);
    container->dir = -1;
    return false;
  }
  json_integer(state, "pid", &pid);
  container->pid = (int)pid;
  json_unsigned(state, "startTicks", &container->start_ticks);
  container->bundle = json_text(state, "bundle", "");
  container->rootfs = json_text(state, "rootfs", "");
  container->created = json_text(state, "created", "");
  container->version = json_text(container->config, "ociVersion", "");
  JSON_EACH(group, json_get(state, "cgroups")) {
    struct pair_record *record = JOB_ADD(container->groups.cgroups);
    int64_t version = 1;
    json_integer(group, "version", &version);
    record->number = (uint32_t)version;
    record->key = json_text(group, "folder", "");
    record->value = json_text(group, "controllers", "");
  }
  container->status = status_of(container);
  return true;
}

struct oci_container oci_load(const char *id) {
  struct oci_container container;
  oci_check_id(id);
  if (!oci_try_load(id, &container)) oci_fail(1, "container \"%s\" does not exist", id);
  return container;
}

void oci_save(const struct oci_container *container) {
  int fd = openat(container->dir, "state.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
  if (out == NULL) oci_fail(1, "writing the state of container %s: %s", container->id, strerror(errno));
  fprintf(out, "{\"id\":\"%s\",\"pid\":%d,\"startTicks\":%llu,\"created\":\"%s\",\"bundle\":", container->id, container->pid,
          (unsigned long long)container->start_ticks, container->created);
  json_put_text(out, container->bundle);
  fputs(",\"rootfs\":", out);
  json_put_text(out, container->rootfs);
  fputs(",\"cgroups\":[", out);
  for (uint32_t i = 0; i < container->groups.cgroups.count; i++) {
    const struct pair_record *group = &container->groups.cgroups.items[i];
    fprintf(out, "%s{\"version\":%u,\"controllers\":", i == 0 ? "" : ",", group->number);
    json_put_text(out, group->value);
    fputs(",\"folder\":", out);
    json_put_text(out, group->key);
    fputc('}', out);
  }
  fputs("]}\n", out);
  bool is_bad = ferror(out) != 0;
  if (fclose(out) != 0 || is_bad || renameat(container->dir, "state.new", container->dir, "state.json") != 0)
    oci_fail(1, "writing the state of container %s: %s", container->id, strerror(errno));
}

void oci_remove(const struct oci_container *container) {
  static const char *const files[] = {"start.sock", "config.json", "state.new", "state.json"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlinkat(container->dir, files[i], 0);
  if (rmdir(oci_format("%s/%s", oci_options.root, container->id)) != 0 && errno != ENOENT)
    oci_warn("removing %s/%s: %s", oci_options.root, container->id, strerror(errno));
}

static int is_container(const struct dirent *entry) { return entry->d_name[0] != '.'; }

void oci_each(void (*run)(const struct oci_container *container, void *context), void *context) {
  struct dirent **entries;
  int count = scandir(oci_options.root, &entries, is_container, alphasort);
  for (int i = 0; i < count; i++) {
    struct oci_container container;
    if (!oci_try_load(entries[i]->d_name, &container)) continue;
    run(&container, context);
    close(container.dir);
  }
}

char *oci_state_text(const struct oci_container *container, const char *status, int pid) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  if (out == NULL) abort();
  fputs("{\"ociVersion\":", out);
  json_put_text(out, container->version);
  fprintf(out, ",\"id\":\"%s\",\"status\":\"%s\"", container->id, status);
  if (pid > 0) fprintf(out, ",\"pid\":%d", pid);
  fputs(",\"bundle\":", out);
  json_put_text(out, container->bundle);
  const struct json *annotations = json_get(container->config, "annotations");
  if (annotations != NULL) {
    fputs(",\"annotations\":", out);
    json_put(out, annotations);
  }
  fputc('}', out);
  fclose(out);
  return text;
}
