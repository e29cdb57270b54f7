/*
 * Parses a job. Every length is checked against the buffer, every string must end with its NUL inside its record. Called by
 * the process that does the job, never by the launcher itself: a bad job ends that process alone.
 */
#include "job.h"

#include <stdlib.h>
#include <string.h>

struct reader {
  const uint8_t *at, *end;
  bool bad;
};

static uint64_t take_number(struct reader *reader, unsigned width) {
  uint64_t value = 0;
  if (reader->end - reader->at < (ptrdiff_t)width) {
    reader->bad = true;
    return 0;
  }
  memcpy(&value, reader->at, width);
  reader->at += width;
  return value;
}

static uint32_t take32(struct reader *reader) { return (uint32_t)take_number(reader, 4); }
static uint64_t take64(struct reader *reader) { return take_number(reader, 8); }

static const char *take_text(struct reader *reader) {
  const uint8_t *start = reader->at;
  const uint8_t *nul = reader->bad ? NULL : memchr(start, 0, (size_t)(reader->end - start));
  if (nul == NULL) {
    reader->bad = true;
    return "";
  }
  reader->at = nul + 1;
  return (const char *)start;
}

void *job_grow(void **items, uint32_t *count, size_t size) {
  if (*count % 16 == 0) {
    void *more = realloc(*items, (*count + 17) * size);
    if (more == NULL) abort();
    *items = more;
  }
  char *slot = (char *)*items + *count * size;
  memset(slot, 0, 2 * size);
  *count += 1;
  return slot;
}
#define ADD_TEXT(list, reader) *(const char **)JOB_ADD(list) = take_text(reader)

static void parse_mount(struct job *job, struct reader *reader) {
  struct mount_record *mount = JOB_ADD(job->mounts);
  mount->kind = take32(reader);
  mount->flags = take32(reader);
  mount->propagation = take32(reader);
  mount->attributes = take64(reader);
  mount->type = take_text(reader);
  mount->source = take_text(reader);
  mount->subpath = take_text(reader);
  mount->target = take_text(reader);
  mount->options = take_text(reader);
  mount->tree = -1;
}

static void parse_device(struct job *job, struct reader *reader) {
  struct device_record *device = JOB_ADD(job->devices);
  device->path = take_text(reader);
  device->type = take32(reader);
  device->major = take32(reader);
  device->minor = take32(reader);
  device->mode = take32(reader);
  device->uid = take32(reader);
  device->gid = take32(reader);
  device->host_path = take_text(reader);
}

static void parse_file(struct job *job, struct reader *reader) {
  struct file_record *file = JOB_ADD(job->files);
  file->path = take_text(reader);
  file->mode = take32(reader);
  file->uid = take32(reader);
  file->gid = take32(reader);
  file->content = reader->at;
  file->length = (uint32_t)(reader->end - reader->at);
}

static void parse_log(struct job *job, struct reader *reader) {
  job->log_driver = take32(reader);
  job->log_path = take_text(reader);
  job->log_bytes_max = take64(reader);
  job->log_file_count = take32(reader);
  job->log_attributes = take_text(reader);
  job->log_ring_bytes = take32(reader);
}

static void parse_pair(struct pair_record *pair, struct reader *reader) {
  pair->number = take32(reader);
  pair->key = take_text(reader);
  pair->value = take_text(reader);
}

static void parse_map(struct map_record *map, struct reader *reader) {
  map->inside = take32(reader);
  map->outside = take32(reader);
  map->count = take32(reader);
}

static void parse_limit(struct job *job, struct reader *reader) {
  struct limit_record *limit = JOB_ADD(job->limits);
  limit->resource = take32(reader);
  limit->soft = take64(reader);
  limit->hard = take64(reader);
}

static void parse_record(struct job *job, uint32_t key, struct reader *reader) {
  switch ((enum record_key)key) {
    case K_ID: job->id = take_text(reader); break;
    case K_STATE_DIR: job->state_dir = take_text(reader); break;
    case K_SOCKET: job->socket = take_text(reader); break;
    case K_LOG: parse_log(job, reader); break;
    case K_ARG: ADD_TEXT(job->args, reader); break;
    case K_ENV: ADD_TEXT(job->env, reader); break;
    case K_CWD: job->cwd = take_text(reader); break;
    case K_USER: job->user = take_text(reader); break;
    case K_GROUP_ADD: ADD_TEXT(job->groups, reader); break;
    case K_FLAGS: job->flags = take32(reader); break;
    case K_CAPS:
      for (int i = 0; i < 5; i++) job->caps[i] = take64(reader);
      break;
    case K_SECCOMP:
      job->seccomp_flags = take32(reader);
      job->seccomp = reader->at;
      job->seccomp_bytes = (uint32_t)(reader->end - reader->at);
      break;
    case K_RLIMIT: parse_limit(job, reader); break;
    case K_OOM_ADJ:
      job->oom_adj = (int32_t)take32(reader);
      job->has_oom_adj = true;
      break;
    case K_HOSTNAME: job->hostname = take_text(reader); break;
    case K_DOMAINNAME: job->domainname = take_text(reader); break;
    case K_SYSCTL: parse_pair(JOB_ADD(job->sysctls), reader); break;
    case K_MASKED: ADD_TEXT(job->masked, reader); break;
    case K_READONLY: ADD_TEXT(job->readonly, reader); break;
    case K_LOWER: ADD_TEXT(job->lower, reader); break;
    case K_UPPER: job->upper = take_text(reader); break;
    case K_WORK: job->work = take_text(reader); break;
    case K_ROOT_DIR: job->root_dir = take_text(reader); break;
    case K_MOUNT: parse_mount(job, reader); break;
    case K_DEVICE: parse_device(job, reader); break;
    case K_FILE: parse_file(job, reader); break;
    case K_CGROUP: parse_pair(JOB_ADD(job->cgroups), reader); break;
    case K_CGROUP_WRITE: parse_pair(JOB_ADD(job->cgroup_writes), reader); break;
    case K_JOIN_NS: parse_pair(JOB_ADD(job->join), reader); break;
    case K_UID_MAP: parse_map(JOB_ADD(job->uid_map), reader); break;
    case K_GID_MAP: parse_map(JOB_ADD(job->gid_map), reader); break;
    case K_UMASK: job->umask_bits = take32(reader); break;
    case K_WINSIZE:
      job->rows = (uint16_t)take32(reader);
      job->columns = (uint16_t)take32(reader);
      break;
    case K_APPARMOR: job->apparmor = take_text(reader); break;
    case K_DEVICE_BPF:
      job->device_bpf = reader->at;
      job->device_bpf_bytes = (uint32_t)(reader->end - reader->at);
      break;
    case K_EXEC_TARGET:
      job->exec_pid = take32(reader);
      job->exec_namespaces = take32(reader);
      job->exec_start_ticks = take64(reader);
      break;
    case K_ROOT_PROPAGATION: job->root_propagation = take32(reader); break;
    case K_ARCHIVE:
      job->archive_mode = take32(reader);
      job->keeps_kind = take32(reader) != 0;
      job->archive_path = take_text(reader);
      job->archive_prefix = take_text(reader);
      break;
    case K_RUNTIME:
      job->runtime = take_text(reader);
      job->runtime_root = take_text(reader);
      job->runtime_process = take_text(reader);
      break;
    case K_RUNTIME_ARG: ADD_TEXT(job->runtime_args, reader); break;
    case K_LAST: break;
  }
}

const char *job_parse(struct job *job, const uint8_t *bytes, uint32_t length) {
  memset(job, 0, sizeof *job);
  job->umask_bits = 022;
  job->cwd = "/";
  job->user = "";
  struct reader all = {bytes, bytes + length, false};
  while (all.at < all.end) {
    uint32_t key = take32(&all);
    uint32_t size = take32(&all);
    if (all.bad || size > (size_t)(all.end - all.at)) return "job: record is cut off";
    if (key == 0 || key >= K_LAST) return "job: unknown record, launcher and daemon are of different versions";
    struct reader one = {all.at, all.at + size, false};
    parse_record(job, key, &one);
    if (one.bad) return "job: record is too short";
    all.at += size;
  }
  if (job->args.count == 0 && job->archive_mode == 0) return "job: no arguments";
  /* The closing NULL that execve needs is there from job_grow(); an empty environment has none yet. */
  if (job->env.count == 0) {
    JOB_ADD(job->env);
    job->env.count = 0;
  }
  return NULL;
}
