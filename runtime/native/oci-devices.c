/*
 * See oci.h. Device rules: denied unless allowed, the given ones in their order, then what every container may use. Lines for the v1
 * controller, one BPF program for v2, in which the last rule that speaks of the access decides.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "oci.h"

struct rule {
  char type; /* a, b or c */
  int64_t major, minor; /* -1: any */
  uint32_t access; /* m 1, r 2, w 4 */
  bool is_allowed;
};

static const struct rule usual[] = {
    {'c', -1, -1, 1, true}, {'b', -1, -1, 1, true},  {'c', 1, 3, 7, true}, {'c', 1, 8, 7, true}, {'c', 1, 7, 7, true},  {'c', 5, 0, 7, true},
    {'c', 1, 5, 7, true},   {'c', 1, 9, 7, true},    {'c', 136, -1, 7, true}, {'c', 5, 2, 7, true}, {'c', 5, 1, 7, true}};

static char *number_or_any(int64_t value) { return value < 0 ? strdup("*") : oci_format("%lld", (long long)value); }

static void add_line(struct job *job, const char *folder, const struct rule *rule) {
  char access[4] = "", *at = access;
  if (rule->access & 2) *at++ = 'r';
  if (rule->access & 4) *at++ = 'w';
  if (rule->access & 1) *at++ = 'm';
  *at = 0;
  struct pair_record *one = JOB_ADD(job->cgroup_writes);
  one->key = oci_format("%s/devices.%s", folder, rule->is_allowed ? "allow" : "deny");
  one->value = rule->type == 'a' ? "a" : oci_format("%c %s:%s %s", rule->type, number_or_any(rule->major), number_or_any(rule->minor), access);
}

struct instruction {
  uint8_t code, registers; /* to, then from in the high half */
  int16_t offset;
  int32_t value;
};

static uint32_t emit(struct instruction *program, uint32_t at, uint8_t code, uint8_t registers, int32_t value) {
  program[at] = (struct instruction){code, registers, 0, value};
  return at + 1;
}

/*
 * Registers: 2 type, 3 access, 4 major, 5 minor of what is asked; 1 scratch. A rule that does not match jumps behind itself. To allow, all
 * that is asked must be granted; to deny, one forbidden kind of access is enough.
 */
static uint32_t emit_rule(struct instruction *program, uint32_t at, const struct rule *rule) {
  enum { COPY = 0xbf, AND = 0x57, MOVE = 0xb7, EXIT = 0x95, JUMP_UNLESS = 0x55, JUMP_UNLESS_REGISTER = 0x5d, JUMP_IF = 0x15 };
  uint32_t start = at;
  if (rule->type != 'a') at = emit(program, at, JUMP_UNLESS, 2, rule->type == 'b' ? 1 : 2);
  if (rule->access != 7) {
    at = emit(program, at, COPY, 0x31, 0);
    at = emit(program, at, AND, 1, (int32_t)rule->access);
    at = rule->is_allowed ? emit(program, at, JUMP_UNLESS_REGISTER, 0x31, 0) : emit(program, at, JUMP_IF, 1, 0);
  }
  if (rule->major >= 0) at = emit(program, at, JUMP_UNLESS, 4, (int32_t)rule->major);
  if (rule->minor >= 0) at = emit(program, at, JUMP_UNLESS, 5, (int32_t)rule->minor);
  at = emit(program, at, MOVE, 0, rule->is_allowed);
  at = emit(program, at, EXIT, 0, 0);
  for (uint32_t i = start; i < at; i++)
    if (program[i].code == JUMP_UNLESS || program[i].code == JUMP_UNLESS_REGISTER || program[i].code == JUMP_IF)
      program[i].offset = (int16_t)(at - i - 1);
  return at;
}

static void compile(struct job *job, const struct rule *rules, uint32_t count) {
  struct instruction *program = calloc(count * 10 + 8, sizeof *program);
  if (program == NULL) abort();
  uint32_t at = 0;
  at = emit(program, at, 0x61, 0x12, 0); /* type and access share a word */
  at = emit(program, at, 0xbf, 0x23, 0);
  at = emit(program, at, 0x57, 2, 0xffff);
  at = emit(program, at, 0x77, 3, 16);
  at = emit(program, at, 0x61, 0x14, 0);
  program[at - 1].offset = 4;
  at = emit(program, at, 0x61, 0x15, 0);
  program[at - 1].offset = 8;
  for (uint32_t i = count; i > 0; i--) at = emit_rule(program, at, &rules[i - 1]);
  at = emit(program, at, 0xb7, 0, 0);
  at = emit(program, at, 0x95, 0, 0);
  job->device_bpf = (const uint8_t *)program;
  job->device_bpf_bytes = at * (uint32_t)sizeof *program;
}

static struct rule take_rule(const struct json *item) {
  const char *type = json_text(item, "type", "a"), *access = json_text(item, "access", "rwm");
  struct rule rule = {*type == 0 ? 'a' : *type == 'u' ? 'c' : *type, -1, -1, 0, json_flag(item, "allow", false)};
  if (strlen(type) > 1 || strchr("abc", rule.type) == NULL) oci_fail(1, "linux.resources.devices: want type a, b or c, got \"%s\"", type);
  for (const char *at = access; *at != 0; at++) {
    const char *found = strchr("mrw", *at);
    if (found == NULL) oci_fail(1, "linux.resources.devices: want access of r, w and m, got \"%s\"", access);
    rule.access |= *at == 'm' ? 1 : *at == 'r' ? 2 : 4;
  }
  json_integer(item, "major", &rule.major);
  json_integer(item, "minor", &rule.minor);
  /* For all types there are no single numbers. */
  if (rule.type == 'a') rule = (struct rule){'a', -1, -1, 7, rule.is_allowed};
  return rule;
}

void oci_translate_devices(const struct json *resources, struct job *job) {
  const struct json *list = json_get(resources, "devices");
  const uint32_t usual_count = sizeof usual / sizeof *usual;
  struct rule *rules = calloc(usual_count + 1 + (list == NULL ? 0 : list->count), sizeof *rules);
  uint32_t count = 0;
  if (rules == NULL) abort();
  rules[count++] = (struct rule){'a', -1, -1, 7, false};
  JSON_EACH(item, list) rules[count++] = take_rule(item);
  memcpy(rules + count, usual, sizeof usual);
  count += usual_count;
  const char *v1 = oci_cgroup_v1(job, "devices");
  for (uint32_t i = 0; i < count && v1 != NULL; i++) add_line(job, v1, &rules[i]);
  if (v1 == NULL && oci_cgroup_unified(job) != NULL) compile(job, rules, count);
}
