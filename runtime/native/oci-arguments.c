/* See oci.h. Flags of a verb, in the forms that runc takes. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "oci.h"

static struct oci_flag *find(struct oci_flag *flags, const char *name, size_t length) {
  for (struct oci_flag *flag = flags; flag->name != NULL; flag++) {
    if (strlen(flag->name) == length && memcmp(flag->name, name, length) == 0) return flag;
    if (length == 1 && flag->letter == *name) return flag;
  }
  return NULL;
}

static void add_value(struct oci_flag *flag, const char *value) {
  const char **more = realloc(flag->values, (flag->count + 1) * sizeof *more);
  if (more == NULL) abort();
  flag->values = more;
  flag->values[flag->count++] = flag->value = value;
}

int oci_parse_flags(const char *verb, struct oci_flag *flags, char **arguments, int count, char ***rest) {
  int at = 0;
  for (; at < count && arguments[at][0] == '-' && arguments[at][1] != 0; at++) {
    const char *word = arguments[at] + 1;
    if (strcmp(word, "-") == 0) {
      at++;
      break;
    }
    if (*word == '-') word++;
    size_t length = strcspn(word, "=");
    struct oci_flag *flag = find(flags, word, length);
    if (flag == NULL) oci_fail(1, "%s%sflag provided but not defined: %s", verb, *verb == 0 ? "" : ": ", arguments[at]);
    if (word[length] == '=') {
      const char *value = word + length + 1;
      if (!flag->takes_value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
        oci_fail(1, "invalid value for --%s: want true or false, got \"%s\"", flag->name, value);
      add_value(flag, value);
    } else if (!flag->takes_value) {
      add_value(flag, "true");
    } else {
      if (at + 1 >= count) oci_fail(1, "flag needs an argument: --%s", flag->name);
      add_value(flag, arguments[++at]);
    }
  }
  *rest = arguments + at;
  return count - at;
}

const struct oci_flag *oci_flag_all(const struct oci_flag *flags, const char *name) {
  for (; flags->name != NULL; flags++)
    if (strcmp(flags->name, name) == 0) return flags;
  abort();
}

const char *oci_flag(const struct oci_flag *flags, const char *name) { return oci_flag_all(flags, name)->value; }

bool oci_switch(const struct oci_flag *flags, const char *name) {
  const char *value = oci_flag(flags, name);
  return value != NULL && strcmp(value, "true") == 0;
}

void oci_expect(const char *verb, int count, int least, int most, const char *what) {
  if (count >= least && count <= most) return;
  oci_fail(1, "%s: want %s, got %d argument%s", verb, what, count, count == 1 ? "" : "s");
}
