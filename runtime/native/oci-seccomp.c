/*
 * See oci.h. linux.seccomp to a filter program: a balanced tree of comparisons over ranges of call numbers, the same program, byte for byte, that
 * runtime/containers/seccomp/compiler.ts makes of the same rules (a test compares them).
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "oci.h"
#include "syscalls.h"

enum {
  INSTRUCTION_COUNT_MAX = 4096,
  RULE_CONDITIONS_MAX = 6,
  OFFSET_NUMBER = 0,
  OFFSET_ARCH = 4,
  OFFSET_ARGUMENTS = 16,
  OP_LOAD = 0x20,
  OP_AND = 0x54,
  OP_JUMP = 0x05,
  OP_EQUAL = 0x15,
  OP_GREATER = 0x25,
  OP_AT_LEAST = 0x35,
  OP_RETURN = 0x06,
  PASS = 254, /* labels inside one rule, resolved when it is whole */
  FAIL = 255,
};
#define KILL_PROCESS 0x80000000u
#define ERRNO_ENOSYS (0x00050000u | 38)
#define X32_BIT 0x40000000u

struct instruction {
  uint16_t code;
  uint8_t yes, no;
  uint32_t k;
};
struct block {
  struct instruction *items;
  uint32_t count;
};
struct condition {
  const char *op;
  uint32_t index;
  uint64_t value, value_two;
};
struct rule {
  const struct json *names;
  uint32_t action, condition_count;
  struct condition conditions[RULE_CONDITIONS_MAX];
};
struct profile {
  uint32_t default_action;
  LIST(struct rule) rules;
  const struct json *syscalls;
};
/* One call number of a table and a rule that names it; sorted by number, then in the profile's order. */
struct use {
  int number;
  uint32_t rule;
};
struct range {
  uint32_t start;
  struct block leaf;
};

static void emit(struct block *block, uint16_t code, uint32_t k, uint8_t yes, uint8_t no) {
  struct instruction *one = job_grow((void **)&block->items, &block->count, sizeof *block->items);
  *one = (struct instruction){code, yes, no, k};
}

static void append(struct block *block, const struct block *more) {
  for (uint32_t i = 0; i < more->count; i++) emit(block, more->items[i].code, more->items[i].k, more->items[i].yes, more->items[i].no);
}

/* One argument against a value, in two halves of 32 bits. */
static void emit_condition(struct block *block, const struct condition *test) {
  uint32_t low = OFFSET_ARGUMENTS + 8 * test->index, high = (uint32_t)(test->value >> 32), rest = (uint32_t)test->value;
  const char *op = test->op + strlen("SCMP_CMP_");
  emit(block, OP_LOAD, low + 4, 0, 0);
  if (strcmp(op, "EQ") == 0 || strcmp(op, "NE") == 0) {
    bool is_equal = *op == 'E';
    emit(block, OP_EQUAL, high, 0, is_equal ? FAIL : PASS);
    emit(block, OP_LOAD, low, 0, 0);
    emit(block, OP_EQUAL, rest, is_equal ? 0 : FAIL, is_equal ? FAIL : PASS);
  } else if (strcmp(op, "MASKED_EQ") == 0) {
    emit(block, OP_AND, high, 0, 0);
    emit(block, OP_EQUAL, (uint32_t)(test->value_two >> 32), 0, FAIL);
    emit(block, OP_LOAD, low, 0, 0);
    emit(block, OP_AND, rest, 0, 0);
    emit(block, OP_EQUAL, (uint32_t)test->value_two, 0, FAIL);
  } else {
    bool is_greater = *op == 'G', is_strict = op[1] == 'T';
    emit(block, OP_GREATER, high, is_greater ? PASS : FAIL, 0);
    emit(block, OP_EQUAL, high, 0, is_greater ? FAIL : PASS);
    emit(block, OP_LOAD, low, 0, 0);
    /* "Less" is "not at least", "at most" is "not greater". */
    emit(block, is_greater == is_strict ? OP_GREATER : OP_AT_LEAST, rest, is_greater ? 0 : FAIL, is_greater ? FAIL : 0);
  }
}

/* Conditions of one rule, then its action; falls out behind itself if one does not hold. */
static void emit_rule(struct block *block, const struct rule *rule) {
  struct block whole = {0};
  uint32_t ends[RULE_CONDITIONS_MAX];
  for (uint32_t i = 0; i < rule->condition_count; i++) {
    emit_condition(&whole, &rule->conditions[i]);
    ends[i] = whole.count;
  }
  emit(&whole, OP_RETURN, rule->action, 0, 0);
  for (uint32_t at = 0, test = 0; at + 1 < whole.count; at++) {
    if (at == ends[test]) test++;
    struct instruction *one = &whole.items[at];
    if (one->yes >= PASS) one->yes = (uint8_t)((one->yes == PASS ? ends[test] : whole.count) - at - 1);
    if (one->no >= PASS) one->no = (uint8_t)((one->no == PASS ? ends[test] : whole.count) - at - 1);
  }
  append(block, &whole);
  free(whole.items);
}

static struct block leaf_of(const struct profile *profile, const struct use *uses, uint32_t count, uint32_t otherwise) {
  struct block leaf = {0};
  for (uint32_t i = 0; i < count; i++) {
    const struct rule *rule = &profile->rules.items[uses[i].rule];
    if (rule->condition_count > 0) continue;
    emit(&leaf, OP_RETURN, rule->action, 0, 0);
    return leaf;
  }
  for (uint32_t i = 0; i < count; i++) emit_rule(&leaf, &profile->rules.items[uses[i].rule]);
  emit(&leaf, OP_RETURN, otherwise, 0, 0);
  return leaf;
}

struct ranges {
  LIST(struct range) list;
};

static void add_range(struct ranges *ranges, uint32_t start, struct block leaf) {
  if (ranges->list.count > 0) {
    const struct block *last = &ranges->list.items[ranges->list.count - 1].leaf;
    if (last->count == leaf.count && memcmp(last->items, leaf.items, leaf.count * sizeof *leaf.items) == 0) {
      free(leaf.items);
      return;
    }
  }
  *(struct range *)JOB_ADD(ranges->list) = (struct range){start, leaf};
}

static int by_number(const void *a, const void *b) {
  const struct use *x = a, *y = b;
  return x->number != y->number ? x->number - y->number : (int)x->rule - (int)y->rule;
}

/* Calls younger than the profile: libraries fall back on "no such call" but not on "not permitted". */
static uint32_t action_of_unknown(uint32_t default_action) {
  uint32_t kind = default_action & 0xffff0000u;
  return kind == 0x7fff0000u || kind == 0x7ffc0000u || kind == 0x7ff00000u ? default_action : ERRNO_ENOSYS;
}

static struct ranges ranges_of(const struct profile *profile, const struct syscall_table *table) {
  LIST(struct use) uses = {0};
  struct ranges ranges = {0};
  int newest = -1;
  for (uint32_t i = 0; i < profile->rules.count; i++)
    JSON_EACH(name, profile->rules.items[i].names) {
      int number = name->kind == JSON_TEXT ? syscall_number(table, name->text) : -1;
      if (number >= 0) *(struct use *)JOB_ADD(uses) = (struct use){number, i};
    }
  /* A rule that says what happens anyway still shows which calls the profile knows. */
  JSON_EACH(entry, profile->syscalls)
    JSON_EACH(name, json_get(entry, "names")) {
      int number = name->kind == JSON_TEXT ? syscall_number(table, name->text) : -1;
      if (number > newest) newest = number;
    }
  if (uses.count > 0) qsort(uses.items, uses.count, sizeof *uses.items, by_number);
  uint32_t at = 0;
  for (int number = 0; number <= newest; number++) {
    uint32_t first = at;
    while (at < uses.count && uses.items[at].number == number) at++;
    add_range(&ranges, (uint32_t)number, leaf_of(profile, uses.items + first, at - first, profile->default_action));
  }
  add_range(&ranges, (uint32_t)(newest + 1), leaf_of(profile, NULL, 0, action_of_unknown(profile->default_action)));
  if (strcmp(syscall_table_arch(table), "SCMP_ARCH_X86_64") == 0) add_range(&ranges, X32_BIT, leaf_of(profile, NULL, 0, ERRNO_ENOSYS));
  return ranges;
}

static void emit_tree(struct block *block, const struct range *ranges, uint32_t count) {
  if (count == 1) return append(block, &ranges->leaf);
  uint32_t middle = count / 2;
  struct block left = {0};
  emit_tree(&left, ranges, middle);
  /* Conditional jumps reach 255 instructions, unconditional ones as far as it takes. */
  if (left.count <= 255) {
    emit(block, OP_AT_LEAST, ranges[middle].start, (uint8_t)left.count, 0);
  } else {
    emit(block, OP_AT_LEAST, ranges[middle].start, 0, 1);
    emit(block, OP_JUMP, left.count, 0, 0);
  }
  append(block, &left);
  free(left.items);
  emit_tree(block, ranges + middle, count - middle);
}

static uint32_t action_of(const struct json *owner, const char *path, const char *errno_path, const char *what) {
  static const struct {
    const char *name;
    uint32_t value;
    bool has_errno;
  } actions[] = {{"SCMP_ACT_ALLOW", 0x7fff0000, false},    {"SCMP_ACT_LOG", 0x7ffc0000, false},
                 {"SCMP_ACT_TRACE", 0x7ff00000, true},     {"SCMP_ACT_ERRNO", 0x00050000, true},
                 {"SCMP_ACT_TRAP", 0x00030000, false},     {"SCMP_ACT_KILL", 0, false},
                 {"SCMP_ACT_KILL_THREAD", 0, false},       {"SCMP_ACT_KILL_PROCESS", KILL_PROCESS, false}};
  const char *name = json_text(owner, path, "");
  uint64_t number = 1; /* EPERM */
  bool has_number = json_get(owner, errno_path) != NULL;
  if (has_number && (!json_unsigned(owner, errno_path, &number) || number > 0xffff))
    oci_fail(1, "linux.seccomp: %s: %s: want a number up to 65535", what, errno_path);
  for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
    if (strcmp(actions[i].name, name) != 0) continue;
    if (has_number && !actions[i].has_errno) oci_fail(1, "linux.seccomp: %s: %s takes no %s", what, name, errno_path);
    return actions[i].value | (actions[i].has_errno ? (uint32_t)number : 0);
  }
  oci_fail(1, "linux.seccomp: %s: action \"%s\" is not supported", what, name);
}

static struct condition take_condition(const struct json *item) {
  static const char *const ops[] = {"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"};
  struct condition condition = {.op = json_text(item, "op", "")};
  uint64_t index = 0;
  bool is_known = false;
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) is_known |= strcmp(ops[i], condition.op) == 0;
  if (!is_known) oci_fail(1, "linux.seccomp: comparison \"%s\" is unknown", condition.op);
  if (!json_unsigned(item, "index", &index) || index > 5) oci_fail(1, "linux.seccomp: want an argument index from 0 to 5");
  condition.index = (uint32_t)index;
  if (!json_unsigned(item, "value", &condition.value)) oci_fail(1, "linux.seccomp: want a value that is a number and not negative");
  json_unsigned(item, "valueTwo", &condition.value_two);
  return condition;
}

static void add_rule(struct profile *profile, const struct json *entry) {
  const struct json *args = json_get(entry, "args");
  struct rule rule = {.names = json_get(entry, "names"), .action = action_of(entry, "action", "errnoRet", "syscalls")};
  uint32_t seen[RULE_CONDITIONS_MAX] = {0};
  bool is_any = false;
  if (rule.names == NULL || rule.names->count == 0) oci_fail(1, "linux.seccomp: syscalls: want at least one name");
  if (rule.action == profile->default_action) return;
  JSON_EACH(item, args) is_any |= ++seen[take_condition(item).index] > 1;
  if (!is_any) {
    JSON_EACH(item, args) rule.conditions[rule.condition_count++] = take_condition(item);
    *(struct rule *)JOB_ADD(profile->rules) = rule;
    return;
  }
  /* The same argument twice: any of the conditions is enough, as runc has it. */
  JSON_EACH(item, args) {
    rule.condition_count = 1;
    rule.conditions[0] = take_condition(item);
    *(struct rule *)JOB_ADD(profile->rules) = rule;
  }
}

static uint32_t take_flags(const struct json *seccomp) {
  static const struct {
    const char *name;
    uint32_t value;
  } flags[] = {{"SECCOMP_FILTER_FLAG_TSYNC", 0}, {"SECCOMP_FILTER_FLAG_LOG", 2}, {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4}};
  uint32_t value = 0;
  JSON_EACH(item, json_get(seccomp, "flags")) {
    bool is_known = false;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
      if (item->kind == JSON_TEXT && strcmp(flags[i].name, item->text) == 0) {
        is_known = true;
        value |= flags[i].value;
      }
    if (!is_known) oci_fail(1, "linux.seccomp: flag \"%s\" is not supported", item->kind == JSON_TEXT ? item->text : "");
  }
  return value;
}

static bool wants(const struct json *architectures, const struct syscall_table *table, unsigned index) {
  if (index == 0) return true;
  JSON_EACH(item, architectures)
    if (item->kind == JSON_TEXT && strcmp(item->text, syscall_table_arch(table)) == 0) return true;
  return false;
}

void oci_translate_seccomp(const struct json *seccomp, struct job *job) {
  struct profile profile = {0};
  struct block program = {0};
  if (seccomp == NULL) return;
  profile.default_action = action_of(seccomp, "defaultAction", "defaultErrnoRet", "defaultAction");
  profile.syscalls = json_get(seccomp, "syscalls");
  JSON_EACH(entry, profile.syscalls) add_rule(&profile, entry);
  emit(&program, OP_LOAD, OFFSET_ARCH, 0, 0);
  const struct syscall_table *table;
  for (unsigned i = 0; (table = syscall_table_at(i)) != NULL; i++) {
    if (!wants(json_get(seccomp, "architectures"), table, i)) continue;
    struct ranges ranges = ranges_of(&profile, table);
    struct block body = {0};
    emit(&body, OP_LOAD, OFFSET_NUMBER, 0, 0);
    emit_tree(&body, ranges.list.items, ranges.list.count);
    emit(&program, OP_EQUAL, syscall_table_audit_arch(table), 1, 0);
    emit(&program, OP_JUMP, body.count, 0, 0);
    append(&program, &body);
  }
  emit(&program, OP_RETURN, KILL_PROCESS, 0, 0);
  if (program.count > INSTRUCTION_COUNT_MAX)
    oci_fail(1, "linux.seccomp: the profile is too long: %u instructions, at most %d", program.count, INSTRUCTION_COUNT_MAX);
  job->seccomp = (const uint8_t *)program.items;
  job->seccomp_bytes = program.count * (uint32_t)sizeof *program.items;
  job->seccomp_flags = take_flags(seccomp);
}
