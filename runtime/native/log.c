/*
 * See log.h. What a full disk refuses is kept and tried again, so that it holds the container back rather than losing lines.
 * Nobody waits for it in here: the monitor must go on passing signals, or the container could not even be removed.
 */
#define _GNU_SOURCE
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log-ring.h"
#include "util.h"

enum { LINE_BYTES_MAX = 16384, OUT_BYTES = 131072, ATTRIBUTES_BYTES_MAX = 16384 };

struct log_file {
  int fd;
  char *path, *attributes;
  uint64_t size, bytes_max;
  uint32_t file_count;
  char *partial[2];
  uint32_t partial_length[2];
  char *out;
  uint32_t out_length;
  bool is_stuck; /* the disk has refused what is in `out` */
  uint64_t torn; /* bytes at the end of a file of lines that are a line begun */
  char *rest; /* output of one stream that found no room in `out` */
  uint32_t rest_length;
  int rest_stream;
  uint64_t rest_nanoseconds;
  bool is_local, is_cut[2]; /* the last piece of a stream was no whole line */
  struct log_ring *ring; /* non-blocking: what comes goes there */
};

static void make_log_folder(const char *path) {
  char folder[PATH_BYTES_MAX];
  snprintf(folder, sizeof folder, "%s", path);
  char *slash = strrchr(folder, '/');
  if (slash != NULL) *slash = 0;
  mkdir(folder, 0700);
}

/* Length of the record at `offset`, with its own two lengths; 0 if there is no whole one. */
static uint64_t record_at(int fd, uint64_t offset, uint64_t size) {
  unsigned char head[4], tail[4];
  if (size - offset < 8 || pread(fd, head, 4, (off_t)offset) != 4) return 0;
  uint64_t length = (uint64_t)head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3];
  if (length == 0 || size - offset < length + 8) return 0;
  if (pread(fd, tail, 4, (off_t)(offset + 4 + length)) != 4 || memcmp(head, tail, 4) != 0) return 0;
  return length + 8;
}

/* Where the whole records of a file end: a loss of power may have cut the last one short, and what came after it could not be read. */
static uint64_t whole_size(const char *path, uint64_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return size;
  unsigned char tail[4];
  uint64_t end = 0;
  if (size >= 8 && pread(fd, tail, 4, (off_t)size - 4) == 4) {
    uint64_t length = (uint64_t)tail[0] << 24 | tail[1] << 16 | tail[2] << 8 | tail[3];
    if (length + 8 <= size && record_at(fd, size - length - 8, size) == length + 8) end = size;
  }
  if (end == 0)
    for (uint64_t next = record_at(fd, 0, size); next > 0; next = record_at(fd, end, size)) end += next;
  close(fd);
  return end;
}

struct log_file *log_open(const struct job *job) {
  if (job->log_driver == 0 || job->log_path == NULL) return NULL;
  struct log_file *log = calloc(1, sizeof *log);
  if (log == NULL) return NULL;
  log->path = strdup(job->log_path);
  log->attributes = strdup(job->log_attributes == NULL ? "" : job->log_attributes);
  log->bytes_max = job->log_bytes_max;
  log->file_count = job->log_file_count == 0 ? 1 : job->log_file_count;
  log->is_local = job->log_driver == 2;
  if (log->is_local) make_log_folder(log->path);
  log->fd = open(log->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  struct stat stat;
  if (log->fd >= 0 && fstat(log->fd, &stat) == 0) log->size = (uint64_t)stat.st_size;
  if (log->is_local && log->fd >= 0 && log->size > 0) {
    uint64_t whole = whole_size(log->path, log->size);
    if (whole < log->size && ftruncate(log->fd, (off_t)whole) == 0) log->size = whole;
  }
  if (log->fd >= 0 && job->log_ring_bytes > 0) log->ring = log_ring_open(log, job->log_ring_bytes);
  return log;
}

static void pause_a_little(void) {
  struct timespec span = {0, LOG_RETRY_MS * 1000000L};
  nanosleep(&span, NULL);
}

/* The daemon holds it while it puts a compressed file in the place of a plain one. */
static int lock_folder(const struct log_file *log) {
  char folder[PATH_BYTES_MAX];
  snprintf(folder, sizeof folder, "%s", log->path);
  char *slash = strrchr(folder, '/');
  if (slash != NULL) *slash = 0;
  int fd = slash == NULL ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  while (fd >= 0 && flock(fd, LOCK_EX) != 0 && errno == EINTR) continue;
  return fd;
}

/* log, log.1, log.2 …: the oldest is dropped. A reader holds its file open and goes on to the next by inode. */
static void rotate(struct log_file *log) {
  char from[PATH_BYTES_MAX], to[PATH_BYTES_MAX];
  if (log->file_count <= 1) {
    if (ftruncate(log->fd, 0) == 0) log->size = 0;
    return;
  }
  int folder = lock_folder(log);
  snprintf(to, sizeof to, "%s.%u", log->path, log->file_count - 1);
  unlink(to);
  snprintf(to, sizeof to, "%s.%u.gz", log->path, log->file_count - 1);
  unlink(to);
  for (uint32_t i = log->file_count - 1; i >= 1; i--) {
    snprintf(to, sizeof to, "%s.%u", log->path, i);
    if (i == 1) snprintf(from, sizeof from, "%s", log->path);
    else snprintf(from, sizeof from, "%s.%u", log->path, i - 1);
    rename(from, to);
    /* Compressed ones move along; the daemon compresses. */
    size_t used = strlen(to);
    snprintf(to + used, sizeof to - used, ".gz");
    used = strlen(from);
    snprintf(from + used, sizeof from - used, ".gz");
    if (i > 1) rename(from, to);
  }
  int fresh = open(log->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  close(folder);
  if (fresh < 0) return;
  close(log->fd);
  log->fd = fresh;
  log->size = 0;
}

/* False if the disk has no room: what is left waits at the beginning of `out`. */
static bool flush(struct log_file *log) {
  const char *at = log->out;
  uint32_t left = log->out_length;
  log->is_stuck = false;
  while (left > 0 && log->fd >= 0) {
    ssize_t count = write(log->fd, at, left);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO)) {
      log->is_stuck = true;
      break;
    }
    if (count < 0) {
      left = 0;
      break;
    }
    const char *end = memrchr(at, '\n', (size_t)count);
    log->torn = end == NULL ? log->torn + (uint64_t)count : (uint64_t)(at + count - end - 1);
    at += count;
    left -= (uint32_t)count;
    log->size += (uint64_t)count;
  }
  if (log->fd < 0) left = 0;
  if (left > 0 && at != log->out) memmove(log->out, at, left);
  log->out_length = left;
  return !log->is_stuck;
}

/* Length of the valid UTF-8 sequence at `at`, or 0. */
static uint32_t utf8_length(const unsigned char *at, const unsigned char *end) {
  uint32_t need = *at >= 0xf0 && *at <= 0xf4 ? 4 : *at >= 0xe0 && *at < 0xf0 ? 3 : *at >= 0xc2 && *at < 0xe0 ? 2 : 0;
  if (need == 0 || end - at < (ptrdiff_t)need) return 0;
  for (uint32_t i = 1; i < need; i++)
    if ((at[i] & 0xc0) != 0x80) return 0;
  if (*at == 0xe0 && at[1] < 0xa0) return 0;
  if (*at == 0xed && at[1] > 0x9f) return 0;
  if (*at == 0xf0 && at[1] < 0x90) return 0;
  if (*at == 0xf4 && at[1] > 0x8f) return 0;
  return need;
}

static char *escape(char *out, const unsigned char *at, uint32_t length) {
  static const char hex[] = "0123456789abcdef";
  const unsigned char *end = at + length;
  while (at < end) {
    if (*at >= 0x20 && *at < 0x7f && *at != '"' && *at != '\\') {
      *out++ = (char)*at++;
      continue;
    }
    uint32_t sequence = *at >= 0x80 ? utf8_length(at, end) : 0;
    if (sequence > 0) {
      memcpy(out, at, sequence);
      out += sequence;
      at += sequence;
      continue;
    }
    *out++ = '\\';
    switch (*at) {
      case '"': *out++ = '"'; break;
      case '\\': *out++ = '\\'; break;
      case '\n': *out++ = 'n'; break;
      case '\r': *out++ = 'r'; break;
      case '\t': *out++ = 't'; break;
      default:
        if (*at >= 0x80) {
          memcpy(out, "ufffd", 5);
        } else {
          memcpy(out, "u00", 3);
          out[3] = hex[*at >> 4];
          out[4] = hex[*at & 15];
        }
        out += 5;
    }
    at++;
  }
  return out;
}

static char *put_varint(char *out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *out++ = (char)(value | 0x80);
  *out++ = (char)value;
  return out;
}

static char *put_length(char *out, uint32_t length) {
  for (int shift = 24; shift >= 0; shift -= 8) *out++ = (char)(length >> shift);
  return out;
}

/* A record of Docker's `local` driver: length, message (source, time, line, partial and whether it is the last of its line), length. */
static char *put_record(struct log_file *log, char *start, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds) {
  char *out = start + 4;
  bool is_whole = length > 0 && bytes[length - 1] == '\n', is_part = !is_whole || log->is_cut[stream - 1];
  memcpy(out, stream == 1 ? "\x0a\x06stdout" : "\x0a\x06stderr", 8);
  out = put_varint(out + 8, 0x10);
  out = put_varint(out, nanoseconds);
  out = put_varint(out, 0x1a);
  out = put_varint(out, length);
  memcpy(out, bytes, length);
  out += length;
  if (is_part) {
    memcpy(out, is_whole ? "\x20\x01\x2a\x02\x08\x01" : "\x20\x01\x2a\x00", is_whole ? 6 : 4);
    out += is_whole ? 6 : 4;
  }
  log->is_cut[stream - 1] = !is_whole;
  uint32_t size = (uint32_t)(out - start - 4);
  put_length(start, size);
  return put_length(out, size);
}

/* False if a line of this length can't be taken before the disk has room. */
static bool make_room(struct log_file *log, uint32_t length) {
  /* Six characters for one at worst. */
  uint32_t worst = length * 6 + 128 + ATTRIBUTES_BYTES_MAX;
  if (log->out_length + worst > OUT_BYTES + LINE_BYTES_MAX * 6 + ATTRIBUTES_BYTES_MAX && !flush(log)) return false;
  if (log->bytes_max > 0 && log->size + log->out_length >= log->bytes_max) {
    if (!flush(log)) return false;
    rotate(log);
  }
  return true;
}

static void put_line(struct log_file *log, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds) {
  char *out = log->out + log->out_length, time[31];
  if (log->is_local) {
    log->out_length = (uint32_t)(put_record(log, out, stream, bytes, length, nanoseconds) - log->out);
    return;
  }
  format_time(nanoseconds, time);
  memcpy(out, "{\"log\":\"", 8);
  out = escape(out + 8, (const unsigned char *)bytes, length);
  memcpy(out, "\",\"stream\":\"", 12);
  memcpy(out + 12, stream == 1 ? "stdout" : "stderr", 6);
  out += 18;
  *out++ = '"';
  *out++ = ',';
  size_t attributes = strlen(log->attributes);
  if (attributes > 0 && attributes < ATTRIBUTES_BYTES_MAX - 16) {
    memcpy(out, "\"attrs\":", 8);
    memcpy(out + 8, log->attributes, attributes);
    out += 8 + attributes;
    *out++ = ',';
  }
  memcpy(out, "\"time\":\"", 8);
  memcpy(out + 8, time, 30);
  memcpy(out + 38, "\"}\n", 3);
  log->out_length = (uint32_t)(out + 41 - log->out);
}

bool log_write(struct log_file *log, int stream, const char *bytes, uint32_t length) {
  if (log == NULL || log->fd < 0) return true;
  if (log->ring == NULL) return log_write_at(log, stream, bytes, length, wall_nanoseconds());
  log_ring_put(log->ring, stream, bytes, length, wall_nanoseconds());
  return true;
}

bool log_is_stuck(const struct log_file *log) { return log != NULL && log->is_stuck; }

int log_descriptor(const struct log_file *log) { return log->fd; }

int log_waiting(const struct log_file *log) { return log == NULL ? -1 : log_ring_waiting(log->ring); }

/* Takes lines until the disk has no room for more. Returns how many bytes it took. */
static uint32_t take_lines(struct log_file *log, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds) {
  char **partial = &log->partial[stream - 1];
  uint32_t *held = &log->partial_length[stream - 1], left = length;
  while (left > 0) {
    const char *newline = memchr(bytes, '\n', left);
    uint32_t take = newline == NULL ? left : (uint32_t)(newline - bytes) + 1;
    bool is_whole = newline != NULL;
    uint32_t room = LINE_BYTES_MAX - *held;
    if (take > room) {
      take = room;
      is_whole = false;
    }
    bool is_line = is_whole || *held + take == LINE_BYTES_MAX;
    if (is_line && !make_room(log, *held + take)) break;
    if (*held == 0 && is_line) {
      put_line(log, stream, bytes, take, nanoseconds);
    } else {
      if (*partial == NULL && (*partial = malloc(LINE_BYTES_MAX)) == NULL) return length;
      memcpy(*partial + *held, bytes, take);
      *held += take;
      if (is_line) {
        put_line(log, stream, *partial, *held, nanoseconds);
        *held = 0;
      }
    }
    bytes += take;
    left -= take;
  }
  return length - left;
}

bool log_write_at(struct log_file *log, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds) {
  if (log->rest != NULL) return false;
  if (log->out == NULL) log->out = malloc(OUT_BYTES + 2 * (LINE_BYTES_MAX * 6 + ATTRIBUTES_BYTES_MAX));
  if (log->out == NULL) return false;
  uint32_t taken = take_lines(log, stream, bytes, length, nanoseconds);
  flush(log);
  if (taken < length && (log->rest = malloc(length - taken)) != NULL) {
    log->rest_length = length - taken;
    log->rest_stream = stream;
    log->rest_nanoseconds = nanoseconds;
    memcpy(log->rest, bytes + taken, log->rest_length);
    /* Also where there was room again in between: somebody must come back for it. */
    log->is_stuck = true;
  }
  /* A quiet container's monitor stays small. */
  char **partial = &log->partial[stream - 1];
  if (log->partial_length[stream - 1] == 0 && *partial != NULL) {
    free(*partial);
    *partial = NULL;
  }
  return true;
}

void log_continue(struct log_file *log) {
  if (log == NULL) return;
  if (log->ring != NULL) {
    log_ring_flush(log->ring);
    return;
  }
  if (!log->is_stuck || !flush(log) || log->rest == NULL) return;
  char *rest = log->rest;
  log->rest = NULL;
  log_write_at(log, log->rest_stream, rest, log->rest_length, log->rest_nanoseconds);
  free(rest);
}

void log_give_up(struct log_file *log) {
  if (log == NULL || log->ring != NULL || log->fd < 0) return;
  /* What is written after the container's next start must not go on in the middle of a line. */
  if (log->is_stuck && !log->is_local && log->torn > 0 && ftruncate(log->fd, (off_t)(log->size - log->torn)) == 0)
    log->size -= log->torn;
  free(log->rest);
  log->rest = NULL;
  log->out_length = 0;
  log->is_stuck = false;
  close(log->fd);
  log->fd = -1;
}

void log_close(struct log_file *log) {
  if (log == NULL) return;
  if (log->ring != NULL) {
    /* The writer has the file and what is left of lines. */
    log_ring_close(log->ring);
    log->ring = NULL;
    close(log->fd);
    log->fd = -1;
    return;
  }
  for (int stream = 1; stream <= 2; stream++) {
    uint32_t *held = &log->partial_length[stream - 1];
    if (*held > 0 && make_room(log, *held)) put_line(log, stream, log->partial[stream - 1], *held, wall_nanoseconds());
  }
  flush(log);
  for (int waited = 0; log->is_stuck && waited < LOG_LAST_MS; waited += LOG_RETRY_MS) {
    pause_a_little();
    log_continue(log);
  }
  log_give_up(log);
}
