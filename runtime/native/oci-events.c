/* See oci.h. events: usage at every interval and out-of-memory events, one JSON object a line, in runc's form. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "oci.h"
#include "sys.h"
#include "util.h"

enum { STAT_BYTES_MAX = 16384, DEFAULT_INTERVAL_S = 5 };

static bool read_group(const char *folder, const char *name, char text[STAT_BYTES_MAX]) {
  return folder != NULL && read_file(AT_FDCWD, oci_format("%s/%s", folder, name), text, STAT_BYTES_MAX) > 0;
}

/* One number in a file; "max" and what is missing count as `fallback`. */
static unsigned long long value_of(const char *folder, const char *name, unsigned long long fallback) {
  char text[STAT_BYTES_MAX];
  return read_group(folder, name, text) && *text >= '0' && *text <= '9' ? strtoull(text, NULL, 10) : fallback;
}

/* "key value" lines. */
static unsigned long long field_of(const char *folder, const char *name, const char *key) {
  char text[STAT_BYTES_MAX];
  size_t length = strlen(key);
  if (!read_group(folder, name, text)) return 0;
  char *rest = text;
  for (char *line; (line = strsep(&rest, "\n")) != NULL;)
    if (strncmp(line, key, length) == 0 && line[length] == ' ') return strtoull(line + length, NULL, 10);
  return 0;
}

static void put_fields(FILE *out, const char *folder, const char *name) {
  char text[STAT_BYTES_MAX];
  bool is_first = true;
  fputs("\"raw\":{", out);
  char *rest = read_group(folder, name, text) ? text : NULL;
  for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
    char *space = strchr(line, ' ');
    if (space == NULL) continue;
    *space = 0;
    fprintf(out, "%s\"%s\":%s", is_first ? "" : ",", line, space + 1);
    is_first = false;
  }
  fputc('}', out);
}

static void put_cpu(FILE *out, const struct job *job) {
  char text[STAT_BYTES_MAX];
  const char *v2 = oci_cgroup_v2(job), *v1 = oci_cgroup_v1(job, "cpuacct"), *cpu = oci_cgroup_v1(job, "cpu");
  /* v1 counts user and system time in ticks of 10 ms, v2 all in microseconds. */
  unsigned long long tick_ns = v2 == NULL ? 10000000 : 1000;
  unsigned long long total = v2 != NULL ? field_of(v2, "cpu.stat", "usage_usec") * 1000 : value_of(v1, "cpuacct.usage", 0);
  unsigned long long user = v2 != NULL ? field_of(v2, "cpu.stat", "user_usec") : field_of(v1, "cpuacct.stat", "user");
  unsigned long long system = v2 != NULL ? field_of(v2, "cpu.stat", "system_usec") : field_of(v1, "cpuacct.stat", "system");
  const char *throttled = v2 != NULL ? v2 : cpu;
  fprintf(out, "\"cpu\":{\"usage\":{\"total\":%llu", total);
  if (v2 == NULL && read_group(v1, "cpuacct.usage_percpu", text)) {
    char *rest = text;
    const char *separator = ",\"percpu\":[";
    for (char *word; (word = strsep(&rest, " \n")) != NULL;) {
      if (*word == 0) continue;
      fprintf(out, "%s%s", separator, word);
      separator = ",";
    }
    fputs("]", out);
  }
  fprintf(out, ",\"kernel\":%llu,\"user\":%llu},\"throttling\":{\"periods\":%llu,\"throttledPeriods\":%llu,\"throttledTime\":%llu}}",
          system * tick_ns, user * tick_ns, field_of(throttled, "cpu.stat", "nr_periods"), field_of(throttled, "cpu.stat", "nr_throttled"),
          v2 != NULL ? field_of(v2, "cpu.stat", "throttled_usec") * 1000 : field_of(cpu, "cpu.stat", "throttled_time"));
}

static void put_counter(FILE *out, const char *name, const char *folder, const char *prefix) {
  fprintf(out, "\"%s\":{\"limit\":%llu,\"usage\":%llu,\"max\":%llu,\"failcnt\":%llu}", name,
          value_of(folder, oci_format("%slimit_in_bytes", prefix), 0), value_of(folder, oci_format("%susage_in_bytes", prefix), 0),
          value_of(folder, oci_format("%smax_usage_in_bytes", prefix), 0), value_of(folder, oci_format("%sfailcnt", prefix), 0));
}

static void put_memory(FILE *out, const struct job *job) {
  const char *v2 = oci_cgroup_v2(job), *v1 = oci_cgroup_v1(job, "memory");
  fputs(",\"memory\":{", out);
  if (v2 == NULL) {
    fprintf(out, "\"cache\":%llu,", field_of(v1, "memory.stat", "cache"));
    put_counter(out, "usage", v1, "memory.");
    fputc(',', out);
    put_counter(out, "swap", v1, "memory.memsw.");
    fputc(',', out);
    put_counter(out, "kernel", v1, "memory.kmem.");
    fputc(',', out);
    put_counter(out, "kernelTCP", v1, "memory.kmem.tcp.");
  } else {
    fprintf(out, "\"cache\":%llu,\"usage\":{\"limit\":%llu,\"usage\":%llu,\"max\":%llu,\"failcnt\":%llu}", field_of(v2, "memory.stat", "file"),
            value_of(v2, "memory.max", UINT64_MAX), value_of(v2, "memory.current", 0), value_of(v2, "memory.peak", 0),
            field_of(v2, "memory.events", "max"));
    fprintf(out, ",\"swap\":{\"limit\":%llu,\"usage\":%llu,\"failcnt\":0}", value_of(v2, "memory.swap.max", UINT64_MAX),
            value_of(v2, "memory.swap.current", 0));
  }
  fputc(',', out);
  put_fields(out, v2 != NULL ? v2 : v1, "memory.stat");
  fputs("}", out);
}

/* v1: "8:0 Read 4096"; v2: "8:0 rbytes=4096 wbytes=0". */
static void put_block(FILE *out, const struct job *job) {
  char text[STAT_BYTES_MAX], operation[16];
  unsigned major, minor;
  unsigned long long bytes;
  const char *v2 = oci_cgroup_v2(job), *separator = "";
  fputs(",\"blkio\":{\"ioServiceBytesRecursive\":[", out);
  bool is_read = v2 != NULL ? read_group(v2, "io.stat", text) : read_group(oci_cgroup_v1(job, "blkio"), "blkio.throttle.io_service_bytes_recursive", text);
  char *rest = is_read ? text : NULL;
  for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
    const char *reading = v2 == NULL ? NULL : strstr(line, "rbytes="), *writing = v2 == NULL ? NULL : strstr(line, "wbytes=");
    if (v2 == NULL && sscanf(line, "%u:%u %15s %llu", &major, &minor, operation, &bytes) == 4) {
      fprintf(out, "%s{\"major\":%u,\"minor\":%u,\"op\":\"%s\",\"value\":%llu}", separator, major, minor, operation, bytes);
      separator = ",";
    } else if (reading != NULL && writing != NULL && sscanf(line, "%u:%u", &major, &minor) == 2) {
      fprintf(out, "%s{\"major\":%u,\"minor\":%u,\"op\":\"Read\",\"value\":%llu},{\"major\":%u,\"minor\":%u,\"op\":\"Write\",\"value\":%llu}",
              separator, major, minor, strtoull(reading + 7, NULL, 10), major, minor, strtoull(writing + 7, NULL, 10));
      separator = ",";
    }
  }
  fputs("]}", out);
}

static void put_stats(FILE *out, const struct oci_container *container) {
  const struct job *job = &container->groups;
  const char *pids = oci_cgroup_v2(job) != NULL ? oci_cgroup_v2(job) : oci_cgroup_v1(job, "pids");
  fprintf(out, "{\"type\":\"stats\",\"id\":\"%s\",\"data\":{", container->id);
  put_cpu(out, job);
  put_memory(out, job);
  fprintf(out, ",\"pids\":{\"current\":%llu,\"limit\":%llu}", value_of(pids, "pids.current", 0), value_of(pids, "pids.max", 0));
  put_block(out, job);
  fputs(",\"hugetlb\":{},\"intel_rdt\":{},\"network_interfaces\":null}}\n", out);
  fflush(out);
}

/* "5s", "200ms", "1m" or seconds, in milliseconds. */
static int interval_of(const char *given) {
  char *end;
  if (given == NULL) return DEFAULT_INTERVAL_S * 1000;
  double value = strtod(given, &end);
  double unit = strcmp(end, "ms") == 0 ? 1 : strcmp(end, "s") == 0 || *end == 0 ? 1000 : strcmp(end, "m") == 0 ? 60000 : 0;
  if (end == given || unit == 0 || value * unit < 1 || value * unit > 86400000) oci_fail(1, "duration interval must be greater than 0: want one like 5s, got \"%s\"", given);
  return (int)(value * unit);
}

int oci_events(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "interval", .takes_value = true}, {.name = "stats"}, {0}};
  char **rest, bytes[512];
  count = oci_parse_flags("events", flags, arguments, count, &rest);
  oci_expect("events", count, 1, 1, "a container id");
  int interval_ms = interval_of(oci_flag(flags, "interval"));
  struct oci_container container = oci_load(rest[0]);
  if (strcmp(container.status, "stopped") == 0) oci_fail(1, "container with id %s is not running", container.id);
  if (oci_switch(flags, "stats")) {
    put_stats(stdout, &container);
    return 0;
  }
  bool is_hint;
  int end = x_pidfd_open(container.pid), oom = cgroup_oom_events(&container.groups, &is_hint);
  uint32_t kills = cgroup_oom_kills(&container.groups);
  while (oci_is_alive(&container)) {
    struct pollfd polled[2] = {{end, POLLIN, 0}, {oom, POLLIN, 0}};
    int ready = poll(polled, 2, interval_ms);
    if (ready < 0 && errno != EINTR) break;
    if (polled[1].revents != 0 && read(oom, bytes, sizeof bytes) > 0) {
      /* The event comes before the count, and also when the group goes away. */
      uint32_t now = cgroup_oom_kills(&container.groups);
      if (now != kills || (!is_hint && oci_is_alive(&container))) {
        printf("{\"type\":\"oom\",\"id\":\"%s\"}\n", container.id);
        fflush(stdout);
      }
      kills = now;
    }
    if (ready == 0) put_stats(stdout, &container);
  }
  return 0;
}
