/* See bpf.h. Programs live as long as the group that they are attached to; nothing here has to be undone. */
#include "bpf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cgroup.h"
#include "sys.h"

enum { PROG_LOAD = 5, PROG_ATTACH = 8, ALLOW_MULTI = 2 };
enum { TYPE_CGROUP_DEVICE = 15, TYPE_CGROUP_SOCKET_ADDRESS = 18 };
enum { AT_DEVICE = 6, AT_CONNECT4 = 10, AT_CONNECT6 = 11, AT_SEND4 = 14, AT_RECEIVE4 = 19, AT_RECEIVE6 = 20, AT_PEER4 = 29, AT_PEER6 = 30 };

struct load_attributes {
  uint32_t type, count;
  uint64_t instructions, license;
  uint32_t log_level, log_size;
  uint64_t log_buffer;
  uint32_t kernel_version, flags;
  char name[16];
  uint32_t interface, attach_type;
};
struct attach_attributes {
  uint32_t target, program, type, flags;
};
struct instruction {
  uint8_t code, registers; /* low half: the one written */
  int16_t offset;
  uint32_t value;
};

/* True if the group's processes run under the program from now on. */
static bool attach(int group, const struct load_attributes *load, uint32_t place, uint32_t flags) {
  int program = (int)syscall(SYS_bpf, PROG_LOAD, load, sizeof *load);
  if (program < 0) return false;
  struct attach_attributes attributes = {(uint32_t)group, (uint32_t)program, place, flags};
  bool done = syscall(SYS_bpf, PROG_ATTACH, &attributes, sizeof attributes) == 0;
  int problem = errno;
  close(program);
  errno = problem;
  return done;
}

const char *bpf_attach_devices(const struct job *job) {
  static char failure[256];
  if (job->device_bpf_bytes == 0) return NULL;
  int group = cgroup_open_v2(job);
  struct load_attributes load = {.type = TYPE_CGROUP_DEVICE,
                                 .count = job->device_bpf_bytes / 8,
                                 .instructions = (uint64_t)(uintptr_t)job->device_bpf,
                                 .license = (uint64_t)(uintptr_t) "Apache-2.0"};
  bool done = group >= 0 && attach(group, &load, AT_DEVICE, ALLOW_MULTI);
  snprintf(failure, sizeof failure, "device rules: %s", strerror(errno));
  close(group);
  return done ? NULL : failure;
}

enum { LOAD = 0x61, STORE = 0x63, MOVE = 0xb7, MOVE_WORD = 0xb4, NOT_EQUAL_WORD = 0x56, EXIT = 0x95 };
/* Of struct bpf_sock_addr: addresses and port as on the wire. */
enum { CALL_IP4 = 4, CALL_IP6 = 8, CALL_PORT = 24 };
enum { RENAME_INSTRUCTIONS_MAX = 16 };

struct rename {
  struct instruction items[RENAME_INSTRUCTIONS_MAX];
  uint32_t count;
};

static void add(struct rename *program, uint8_t code, uint8_t registers, int16_t offset, uint32_t value) {
  program->items[program->count++] = (struct instruction){code, registers, offset, value};
}

/* Goes on if the word at `offset` of the call is `value`; where to otherwise is filled in at the end. */
static void require_word(struct rename *program, int16_t offset, uint32_t value) {
  add(program, LOAD, 0x12, offset, 0);
  add(program, NOT_EQUAL_WORD, 0x02, 0, value);
}

/* Where a socket call of the group names address `from` (network order) and port 53, it means `to`. `mapped`: as ::ffff:a.b.c.d. */
static bool attach_rename(int group, uint32_t from, uint32_t to, uint32_t place, bool mapped) {
  struct rename program = {.count = 0};
  int16_t address = mapped ? CALL_IP6 + 12 : CALL_IP4;
  require_word(&program, address, from);
  require_word(&program, CALL_PORT, (uint32_t)htons(53));
  if (mapped) {
    require_word(&program, CALL_IP6 + 8, htonl(0xffff));
    require_word(&program, CALL_IP6 + 4, 0);
    require_word(&program, CALL_IP6, 0);
  }
  add(&program, MOVE_WORD, 0x02, 0, to);
  add(&program, STORE, 0x21, address, 0);
  uint32_t end = program.count;
  add(&program, MOVE, 0x00, 0, 1);
  add(&program, EXIT, 0, 0, 0);
  for (uint32_t i = 0; i < end; i++)
    if (program.items[i].code == NOT_EQUAL_WORD) program.items[i].offset = (int16_t)(end - i - 1);
  struct load_attributes load = {.type = TYPE_CGROUP_SOCKET_ADDRESS,
                                 .count = program.count,
                                 .instructions = (uint64_t)(uintptr_t)program.items,
                                 .license = (uint64_t)(uintptr_t) "Apache-2.0",
                                 .attach_type = place};
  /* Not ALLOW_MULTI: a second server takes the first one's place. */
  return attach(group, &load, place, 0);
}

const char *bpf_attach_names(const struct job *job, uint32_t server) {
  static char failure[256];
  uint32_t known = htonl(NAME_SERVER_ADDRESS);
  int group = cgroup_open_v2(job);
  /* What a v6 socket sends to a mapped address passes AT_SEND of v4. */
  bool done = group >= 0 && attach_rename(group, known, server, AT_CONNECT4, false) &&
              attach_rename(group, known, server, AT_CONNECT6, true) && attach_rename(group, known, server, AT_SEND4, false) &&
              attach_rename(group, server, known, AT_RECEIVE4, false) && attach_rename(group, server, known, AT_RECEIVE6, true) &&
              attach_rename(group, server, known, AT_PEER4, false) && attach_rename(group, server, known, AT_PEER6, true);
  snprintf(failure, sizeof failure, "name server address: %s", group < 0 ? "no cgroup v2 tree" : strerror(errno));
  if (group >= 0) close(group);
  return done ? NULL : failure;
}
