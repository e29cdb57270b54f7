/* See bpf.h. Loads and attaches before any process enters the group. */
#include "bpf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cgroup.h"
#include "sys.h"

enum { PROG_LOAD = 5, PROG_ATTACH = 8, TYPE_CGROUP_DEVICE = 15, ATTACH_CGROUP_DEVICE = 6, ALLOW_MULTI = 2 };

struct load_attributes {
  uint32_t type, count;
  uint64_t instructions, license;
  uint32_t log_level, log_size;
  uint64_t log_buffer;
  uint32_t kernel_version, flags;
};
struct attach_attributes {
  uint32_t target, program, type, flags;
};

const char *bpf_attach_devices(const struct job *job) {
  static char failure[256];
  if (job->device_bpf_bytes == 0) return NULL;
  int group = cgroup_open_v2(job);
  struct load_attributes load = {.type = TYPE_CGROUP_DEVICE,
                                 .count = job->device_bpf_bytes / 8,
                                 .instructions = (uint64_t)(uintptr_t)job->device_bpf,
                                 .license = (uint64_t)(uintptr_t) "Apache-2.0"};
  int program = (int)syscall(SYS_bpf, PROG_LOAD, &load, sizeof load);
  struct attach_attributes attach = {(uint32_t)group, (uint32_t)program, ATTACH_CGROUP_DEVICE, ALLOW_MULTI};
  bool done = group >= 0 && program >= 0 && syscall(SYS_bpf, PROG_ATTACH, &attach, sizeof attach) == 0;
  snprintf(failure, sizeof failure, "device rules: %s", strerror(errno));
  close(program);
  close(group);
  return done ? NULL : failure;
}
