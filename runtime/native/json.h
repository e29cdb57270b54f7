/* JSON in: a tree read once from a buffer whose bytes it then points into. Bounds are checked; depth and size are limited. */
#ifndef SHOAL_JSON_H
#define SHOAL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_TEXT, JSON_ARRAY, JSON_OBJECT };

struct json {
  enum json_kind kind;
  bool is_true;
  uint32_t count; /* of an array's or object's members */
  const char *key; /* in an object */
  const char *text; /* of a text, or a number as it was written */
  struct json *first, *next;
};

/*
 * Parses `length` bytes, which must have room for one more and are changed. NULL and an error text (static buffer) if they are no JSON.
 * Text with a NUL in it is refused: it would be cut short on its way to the kernel.
 */
struct json *json_parse(char *bytes, size_t length, const char **error);
/* Reads a whole file; the tree lives until the process ends. */
struct json *json_read(int dir, const char *path, const char **error);

/* The member at a dotted path ("linux.resources.memory"), the last one of equal keys; NULL if there is none or it is null. */
const struct json *json_get(const struct json *object, const char *path);
/* Text at the path, or `fallback` where it is missing or no text. */
const char *json_text(const struct json *object, const char *path, const char *fallback);
bool json_flag(const struct json *object, const char *path, bool fallback);
/* False where it is missing or no whole number that fits. */
bool json_integer(const struct json *object, const char *path, int64_t *value);
/* The same for numbers above 2^63: limits are unsigned. */
bool json_unsigned(const struct json *object, const char *path, uint64_t *value);
#define JSON_EACH(item, list) \
  for (const struct json *item = (list) == NULL ? NULL : (list)->first; item != NULL; item = item->next)

/* JSON out. */
void json_put_text(FILE *out, const char *text);
/* As it was read, on one line. */
void json_put(FILE *out, const struct json *value);

#endif
