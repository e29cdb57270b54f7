/*
 * See oci.h. linux.resources to values for cgroup files, in the order in which the kernel takes them. Zero means "not given" where runc has it
 * so; a limit whose controller is missing here is an error, never ignored.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "oci.h"
#include "util.h"

enum { MAY_FAIL = 1 };

/* `controller`: of v1; NULL for the v2 group. */
static void put(struct job *job, const char *controller, const char *file, uint32_t mode, char *value) {
  const char *folder = controller == NULL ? oci_cgroup_unified(job) : oci_cgroup_v1(job, controller);
  if (folder == NULL)
    oci_fail(1, "linux.resources: %s wants the %s cgroup, which is not mounted here", file, controller == NULL ? "unified" : controller);
  struct pair_record *one = JOB_ADD(job->cgroup_writes);
  one->key = oci_format("%s/%s", folder, file);
  one->value = value;
  one->number = mode;
}

static char *number(int64_t value) { return oci_format("%lld", (long long)value); }
static char *limit(int64_t value) { return value < 0 ? "max" : number(value); }

/* A number that is given and not zero. */
static bool take(const struct json *object, const char *path, int64_t *value) {
  const struct json *given = json_get(object, path);
  *value = 0;
  if (given == NULL) return false;
  uint64_t big;
  if (!json_integer(object, path, value)) {
    if (!json_unsigned(object, path, &big)) oci_fail(1, "linux.resources.%s: want a whole number", path);
    *value = INT64_MAX;
  }
  return *value != 0;
}

/* v1: memory may never be above memory and swap, so the order depends on what is there. */
static void put_memory_v1(const struct json *resources, bool is_update, struct job *job) {
  int64_t memory, swap, value;
  char text[64] = "";
  bool has_memory = take(resources, "memory.limit", &memory), has_swap = take(resources, "memory.swap", &swap);
  if (has_memory && memory == -1 && !has_swap) has_swap = true, swap = -1;
  const char *folder = oci_cgroup_v1(job, "memory");
  bool is_swap_first = false;
  if (is_update && has_memory && has_swap && folder != NULL) {
    read_file(AT_FDCWD, oci_format("%s/memory.memsw.limit_in_bytes", folder), text, sizeof text);
    is_swap_first = memory < 0 || (uint64_t)memory > strtoull(text, NULL, 10);
  }
  uint32_t swap_mode = swap < 0 ? MAY_FAIL : 0;
  if (has_swap && is_swap_first) put(job, "memory", "memory.memsw.limit_in_bytes", swap_mode, number(swap));
  if (has_memory) put(job, "memory", "memory.limit_in_bytes", 0, number(memory));
  if (has_swap && !is_swap_first) put(job, "memory", "memory.memsw.limit_in_bytes", swap_mode, number(swap));
  if (take(resources, "memory.reservation", &value)) put(job, "memory", "memory.soft_limit_in_bytes", 0, number(value));
  if (take(resources, "memory.kernelTCP", &value)) put(job, "memory", "memory.kmem.tcp.limit_in_bytes", 0, number(value));
  if (json_get(resources, "memory.swappiness") != NULL) {
    take(resources, "memory.swappiness", &value);
    if (value < 0 || value > 100) oci_fail(1, "linux.resources.memory.swappiness: want 0 to 100, got %lld", (long long)value);
    put(job, "memory", "memory.swappiness", 0, number(value));
  }
  if (json_flag(resources, "memory.disableOOMKiller", false)) put(job, "memory", "memory.oom_control", 0, "1");
}

static void put_memory_v2(const struct json *resources, struct job *job) {
  int64_t memory, swap, value;
  bool has_memory = take(resources, "memory.limit", &memory), has_swap = take(resources, "memory.swap", &swap);
  if (has_swap && swap > 0 && (!has_memory || memory < 0 || swap < memory))
    oci_fail(1, "linux.resources.memory.swap: want at least memory.limit, which it includes");
  if (has_memory && memory < 0 && !has_swap) has_swap = true, swap = -1;
  if (has_swap) put(job, NULL, "memory.swap.max", swap < 0 ? MAY_FAIL : 0, swap < 0 ? "max" : number(swap - memory));
  if (has_memory) put(job, NULL, "memory.max", 0, limit(memory));
  if (take(resources, "memory.reservation", &value)) put(job, NULL, "memory.low", 0, limit(value));
}

/* Shares (2 to 262144, usually 1024) to weight (1 to 10000, usually 100), so that the usual meets the usual. */
static int64_t weight_of(int64_t shares) {
  double exponent = log2((double)(shares < 2 ? 2 : shares > 262144 ? 262144 : shares));
  double weight = ceil(pow(10, (exponent * exponent + 125 * exponent) / 612.0 - 7.0 / 34.0));
  return weight < 1 ? 1 : weight > 10000 ? 10000 : (int64_t)weight;
}

static void put_cpu(const struct json *resources, bool is_v2, struct job *job) {
  static const char *const v1[][2] = {{"cpu.shares", "cpu.shares"},        {"cpu.period", "cpu.cfs_period_us"},
                                      {"cpu.quota", "cpu.cfs_quota_us"},   {"cpu.burst", "cpu.cfs_burst_us"},
                                      {"cpu.realtimePeriod", "cpu.rt_period_us"}, {"cpu.realtimeRuntime", "cpu.rt_runtime_us"},
                                      {"cpu.idle", "cpu.idle"}};
  int64_t value, quota, period;
  for (size_t i = 0; i < sizeof v1 / sizeof *v1 && !is_v2; i++)
    if (take(resources, v1[i][0], &value)) put(job, "cpu", v1[i][1], 0, number(value));
  if (is_v2) {
    if (take(resources, "cpu.shares", &value)) put(job, NULL, "cpu.weight", 0, number(weight_of(value)));
    bool has_period = take(resources, "cpu.period", &period);
    if (take(resources, "cpu.quota", &quota) || has_period)
      put(job, NULL, "cpu.max", 0, oci_format("%s %lld", quota > 0 ? number(quota) : "max", (long long)(has_period ? period : 100000)));
    if (take(resources, "cpu.burst", &value)) put(job, NULL, "cpu.max.burst", 0, number(value));
    if (take(resources, "cpu.idle", &value)) put(job, NULL, "cpu.idle", 0, number(value));
  }
  const char *cpus = json_text(resources, "cpu.cpus", ""), *mems = json_text(resources, "cpu.mems", "");
  const char *controller = is_v2 ? NULL : "cpuset";
  if (*cpus != 0) put(job, controller, "cpuset.cpus", 0, strdup(cpus));
  if (*mems != 0) put(job, controller, "cpuset.mems", 0, strdup(mems));
}

static void put_block(const struct json *resources, bool is_v2, struct job *job) {
  static const char *const throttles[][3] = {
      {"throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"},
      {"throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"},
      {"throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"},
      {"throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"}};
  const struct json *block = json_get(resources, "blockIO");
  const char *controller = is_v2 ? NULL : "blkio";
  int64_t value, major, minor;
  if (take(block, "weight", &value)) put(job, controller, is_v2 ? "io.weight" : "blkio.weight", 0, number(value));
  if (take(block, "leafWeight", &value) && !is_v2) put(job, "blkio", "blkio.leaf_weight", 0, number(value));
  JSON_EACH(device, json_get(block, "weightDevice")) {
    take(device, "major", &major);
    take(device, "minor", &minor);
    char *name = oci_format("%lld:%lld", (long long)major, (long long)minor);
    if (take(device, "weight", &value)) put(job, controller, is_v2 ? "io.weight" : "blkio.weight_device", 0, oci_format("%s %lld", name, (long long)value));
    if (take(device, "leafWeight", &value) && !is_v2) put(job, "blkio", "blkio.leaf_weight_device", 0, oci_format("%s %lld", name, (long long)value));
  }
  for (size_t i = 0; i < sizeof throttles / sizeof *throttles; i++)
    JSON_EACH(device, json_get(block, throttles[i][0])) {
      take(device, "major", &major);
      take(device, "minor", &minor);
      take(device, "rate", &value);
      char *line = oci_format("%lld:%lld %s%s%lld", (long long)major, (long long)minor, is_v2 ? throttles[i][2] : "", is_v2 ? "=" : "", (long long)value);
      put(job, controller, is_v2 ? "io.max" : throttles[i][1], 0, line);
    }
}

static void put_others(const struct json *resources, bool is_v2, struct job *job) {
  int64_t value;
  if (take(resources, "pids.limit", &value)) put(job, is_v2 ? NULL : "pids", "pids.max", 0, limit(value));
  JSON_EACH(page, json_get(resources, "hugepageLimits")) {
    const char *size = json_text(page, "pageSize", "");
    take(page, "limit", &value);
    if (strchr(size, '/') != NULL || *size == 0) oci_fail(1, "linux.resources.hugepageLimits: want a pageSize like 2MB, got \"%s\"", size);
    put(job, is_v2 ? NULL : "hugetlb", oci_format(is_v2 ? "hugetlb.%s.max" : "hugetlb.%s.limit_in_bytes", size), 0, number(value));
  }
  if (take(resources, "network.classID", &value)) put(job, "net_cls", "net_cls.classid", 0, number(value));
  JSON_EACH(priority, json_get(resources, "network.priorities")) {
    take(priority, "priority", &value);
    put(job, "net_prio", "net_prio.ifpriomap", 0, oci_format("%s %lld", json_text(priority, "name", ""), (long long)value));
  }
  JSON_EACH(device, json_get(resources, "rdma")) {
    char *line = strdup(device->key);
    if (take(device, "hcaHandles", &value)) line = oci_format("%s hca_handle=%lld", line, (long long)value);
    if (take(device, "hcaObjects", &value)) line = oci_format("%s hca_object=%lld", line, (long long)value);
    put(job, is_v2 ? NULL : "rdma", "rdma.max", 0, line);
  }
  JSON_EACH(file, json_get(resources, "unified")) {
    if (strchr(file->key, '/') != NULL) oci_fail(1, "linux.resources.unified: want the name of a file, got \"%s\"", file->key);
    if (file->kind == JSON_TEXT) put(job, NULL, file->key, 0, strdup(file->text));
  }
}

void oci_translate_resources(const struct json *resources, bool is_update, struct job *job) {
  bool is_v2 = oci_cgroup_v2(job) != NULL;
  if (is_v2) put_memory_v2(resources, job);
  else put_memory_v1(resources, is_update, job);
  put_cpu(resources, is_v2, job);
  put_block(resources, is_v2, job);
  put_others(resources, is_v2, job);
}
