/* See json.h. Used by the OCI command line only; config files come from whoever calls it, so nothing in them is trusted. */
#define _GNU_SOURCE
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util.h"

enum { DEPTH_MAX = 64, FILE_BYTES_MAX = 16 << 20 };

struct parser {
  char *start, *at, *end;
  const char *problem;
};

static struct json *parse_value(struct parser *parser, int depth);

static struct json *refuse(struct parser *parser, const char *problem) {
  if (parser->problem == NULL) parser->problem = problem;
  return NULL;
}

static char peek(struct parser *parser) {
  while (parser->at < parser->end && strchr(" \t\r\n", *parser->at) != NULL && *parser->at != 0) parser->at++;
  return parser->at < parser->end ? *parser->at : 0;
}

static int hex_digits(const struct parser *parser) {
  int value = 0;
  if (parser->end - parser->at < 4) return -1;
  for (int i = 0; i < 4; i++) {
    char digit = parser->at[i];
    int bits = digit >= '0' && digit <= '9'   ? digit - '0'
               : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
               : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                              : -1;
    if (bits < 0) return -1;
    value = value << 4 | bits;
  }
  return value;
}

/* The four digits behind "\u", and the second half of a pair. 0 is refused. Writes UTF-8, never longer than what it replaces. */
static char *parse_escape(struct parser *parser, char *out) {
  int code = hex_digits(parser);
  if (code <= 0) return NULL;
  parser->at += 4;
  if (code >= 0xd800 && code < 0xdc00 && parser->end - parser->at >= 6 && parser->at[0] == '\\' && parser->at[1] == 'u') {
    parser->at += 2;
    int low = hex_digits(parser);
    if (low < 0xdc00 || low > 0xdfff) return NULL;
    parser->at += 4;
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  } else if (code >= 0xd800 && code <= 0xdfff) {
    code = 0xfffd;
  }
  if (code < 0x80) {
    *out++ = (char)code;
    return out;
  }
  int extra = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  *out++ = (char)((extra == 1 ? 0xc0 : extra == 2 ? 0xe0 : 0xf0) | code >> (6 * extra));
  while (extra-- > 0) *out++ = (char)(0x80 | (code >> (6 * extra) & 0x3f));
  return out;
}

/* In place: the text never gets longer. */
static const char *parse_text(struct parser *parser) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  char *start = ++parser->at, *out = start;
  while (parser->at < parser->end) {
    char byte = *parser->at++;
    if (byte == '"') {
      *out = 0;
      return start;
    }
    if ((unsigned char)byte < 0x20) break;
    if (byte != '\\') {
      *out++ = byte;
      continue;
    }
    if (parser->at == parser->end) break;
    char name = *parser->at++;
    const char *known = name == 0 ? NULL : strchr(names, name);
    if (known != NULL) *out++ = values[known - names];
    else if (name != 'u' || (out = parse_escape(parser, out)) == NULL) break;
  }
  refuse(parser, "bad text");
  return NULL;
}

static struct json *make(enum json_kind kind) {
  struct json *value = calloc(1, sizeof *value);
  if (value == NULL) abort();
  value->kind = kind;
  return value;
}

static struct json *parse_members(struct parser *parser, enum json_kind kind, int depth) {
  struct json *list = make(kind), **tail = &list->first;
  char close = kind == JSON_OBJECT ? '}' : ']';
  parser->at++;
  if (peek(parser) == close) {
    parser->at++;
    return list;
  }
  for (;;) {
    const char *key = NULL;
    if (kind == JSON_OBJECT) {
      if (peek(parser) != '"' || (key = parse_text(parser)) == NULL) return refuse(parser, "a member must begin with its name");
      if (peek(parser) != ':') return refuse(parser, "a name must be followed by a colon");
      parser->at++;
    }
    struct json *member = parse_value(parser, depth);
    if (member == NULL) return NULL;
    member->key = key;
    *tail = member;
    tail = &member->next;
    list->count++;
    char after = peek(parser);
    parser->at++;
    if (after == close) return list;
    if (after != ',') return refuse(parser, "members must be separated by commas");
  }
}

static struct json *parse_number(struct parser *parser) {
  char *start = parser->at;
  while (parser->at < parser->end && *parser->at != 0 && strchr("+-.0123456789eE", *parser->at) != NULL) parser->at++;
  size_t length = (size_t)(parser->at - start);
  if (length == 0 || length > 64) return refuse(parser, "unexpected character");
  struct json *value = make(JSON_NUMBER);
  value->text = strndup(start, length);
  return value;
}

static struct json *parse_word(struct parser *parser, const char *word, enum json_kind kind) {
  size_t length = strlen(word);
  if ((size_t)(parser->end - parser->at) < length || memcmp(parser->at, word, length) != 0)
    return refuse(parser, "unexpected character");
  parser->at += length;
  struct json *value = make(kind);
  value->is_true = *word == 't';
  return value;
}

static struct json *parse_value(struct parser *parser, int depth) {
  if (depth >= DEPTH_MAX) return refuse(parser, "nested too deeply");
  switch (peek(parser)) {
    case '{': return parse_members(parser, JSON_OBJECT, depth + 1);
    case '[': return parse_members(parser, JSON_ARRAY, depth + 1);
    case 't': return parse_word(parser, "true", JSON_BOOL);
    case 'f': return parse_word(parser, "false", JSON_BOOL);
    case 'n': return parse_word(parser, "null", JSON_NULL);
    case '"': {
      const char *text = parse_text(parser);
      if (text == NULL) return NULL;
      struct json *value = make(JSON_TEXT);
      value->text = text;
      return value;
    }
    default: return parse_number(parser);
  }
}

struct json *json_parse(char *bytes, size_t length, const char **error) {
  static char failure[128];
  struct parser parser = {bytes, bytes, bytes + length, NULL};
  bytes[length] = 0;
  struct json *value = parse_value(&parser, 0);
  if (value != NULL && (peek(&parser) != 0 || parser.at != parser.end)) value = refuse(&parser, "more follows the end");
  if (value != NULL) return value;
  snprintf(failure, sizeof failure, "%s at byte %zu", parser.problem == NULL ? "unexpected end" : parser.problem,
           (size_t)(parser.at - parser.start));
  *error = failure;
  return NULL;
}

struct json *json_read(int dir, const char *path, const char **error) {
  struct stat stat;
  int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
  *error = strerror(errno);
  if (fd < 0) return NULL;
  *error = "not a file of at most 16 MiB";
  char *bytes = NULL;
  if (fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && stat.st_size <= FILE_BYTES_MAX) bytes = malloc((size_t)stat.st_size + 1);
  bool is_whole = bytes != NULL && read_all(fd, bytes, (size_t)stat.st_size);
  close(fd);
  return is_whole ? json_parse(bytes, (size_t)stat.st_size, error) : NULL;
}

const struct json *json_get(const struct json *object, const char *path) {
  while (object != NULL) {
    size_t length = strcspn(path, ".");
    const struct json *found = NULL;
    if (object->kind != JSON_OBJECT) return NULL;
    JSON_EACH(member, object)
      if (strlen(member->key) == length && memcmp(member->key, path, length) == 0) found = member;
    if (found == NULL || found->kind == JSON_NULL) return NULL;
    if (path[length] == 0) return found;
    path += length + 1;
    object = found;
  }
  return NULL;
}

const char *json_text(const struct json *object, const char *path, const char *fallback) {
  const struct json *value = json_get(object, path);
  return value != NULL && value->kind == JSON_TEXT ? value->text : fallback;
}

bool json_flag(const struct json *object, const char *path, bool fallback) {
  const struct json *value = json_get(object, path);
  return value != NULL && value->kind == JSON_BOOL ? value->is_true : fallback;
}

static const char *number_at(const struct json *object, const char *path) {
  const struct json *value = *path == 0 ? object : json_get(object, path);
  return value != NULL && value->kind == JSON_NUMBER ? value->text : NULL;
}

bool json_integer(const struct json *object, const char *path, int64_t *value) {
  const char *text = number_at(object, path);
  char *end;
  if (text == NULL) return false;
  errno = 0;
  int64_t number = strtoll(text, &end, 10);
  if (errno != 0 || *end != 0) return false;
  *value = number;
  return true;
}

bool json_unsigned(const struct json *object, const char *path, uint64_t *value) {
  const char *text = number_at(object, path);
  char *end;
  if (text == NULL || *text == '-') return false;
  errno = 0;
  uint64_t number = strtoull(text, &end, 10);
  if (errno != 0 || *end != 0) return false;
  *value = number;
  return true;
}

void json_put_text(FILE *out, const char *text) {
  fputc('"', out);
  for (const unsigned char *at = (const unsigned char *)text; *at != 0; at++) {
    if (*at == '"' || *at == '\\') fprintf(out, "\\%c", *at);
    else if (*at == '\n') fputs("\\n", out);
    else if (*at < 0x20) fprintf(out, "\\u%04x", *at);
    else fputc(*at, out);
  }
  fputc('"', out);
}

void json_put(FILE *out, const struct json *value) {
  switch (value->kind) {
    case JSON_NULL: fputs("null", out); return;
    case JSON_BOOL: fputs(value->is_true ? "true" : "false", out); return;
    case JSON_NUMBER: fputs(value->text, out); return;
    case JSON_TEXT: json_put_text(out, value->text); return;
    case JSON_ARRAY:
    case JSON_OBJECT: break;
  }
  bool is_object = value->kind == JSON_OBJECT;
  fputc(is_object ? '{' : '[', out);
  JSON_EACH(member, value) {
    if (member != value->first) fputc(',', out);
    if (is_object) {
      json_put_text(out, member->key);
      fputc(':', out);
    }
    json_put(out, member);
  }
  fputc(is_object ? '}' : ']', out);
}
