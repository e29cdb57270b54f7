/* See log-ring.h. Frames on the pipe: length, stream, time, bytes. */
#define _GNU_SOURCE
#include "log-ring.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "sys.h"
#include "util.h"

enum { PART_BYTES_MAX = 32768, GROWTH_BYTES = 65536 };

struct frame_head {
  uint32_t length, stream;
  uint64_t nanoseconds;
};

/* Where a stream stands: only whole lines are dropped, else halves of two would become one. */
struct stream_place {
  bool is_open; /* what was taken last goes on */
  bool is_skipping; /* what was dropped last goes on */
};

struct log_ring {
  int pipe;
  struct stream_place places[2];
  pid_t writer;
  char *held;
  uint32_t bytes_max, start, length, size;
};

/* The monitor has nothing more to come. */
static volatile sig_atomic_t is_ending;

static void note_end(int signal) {
  (void)signal;
  is_ending = 1;
}

/* A full disk holds only this process up, and not beyond the container's end. */
static void wait_for_room(struct log_file *log) {
  const struct timespec span = {0, LOG_RETRY_MS * 1000000L};
  for (int waited = 0; log_is_stuck(log); waited += is_ending ? LOG_RETRY_MS : 0) {
    if (waited >= LOG_LAST_MS) log_give_up(log);
    nanosleep(&span, NULL);
    log_continue(log);
  }
}

static _Noreturn void write_lines(struct log_file *log, int pipe) {
  static char part[PART_BYTES_MAX];
  struct frame_head head;
  const struct sigaction ending = {.sa_handler = note_end, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &ending, NULL);
  prctl(PR_SET_NAME, "shoal-log", 0, 0, 0);
  /* Clients must see the monitor's end, not this one's. */
  int kept = log_descriptor(log), first = kept < pipe ? kept : pipe, last = kept < pipe ? pipe : kept;
  if (first > 3) x_close_range(3, (unsigned)first - 1, 0);
  if (last > first + 1) x_close_range((unsigned)first + 1, (unsigned)last - 1, 0);
  x_close_range((unsigned)last + 1, ~0U, 0);
  while (read_all(pipe, &head, sizeof head) && head.length <= sizeof part && read_all(pipe, part, head.length)) {
    log_write_at(log, (int)head.stream, part, head.length, head.nanoseconds);
    wait_for_room(log);
  }
  log_close(log);
  _exit(0);
}

struct log_ring *log_ring_open(struct log_file *log, uint32_t bytes_max) {
  int ends[2];
  struct log_ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL || pipe2(ends, O_CLOEXEC) != 0) {
    free(ring);
    return NULL;
  }
  ring->bytes_max = bytes_max;
  /* A child that is told of the end before it can hear it must not die of it. */
  void (*before)(int) = signal(SIGUSR1, SIG_IGN);
  ring->writer = fork();
  if (ring->writer == 0) {
    close(ends[1]);
    write_lines(log, ends[0]);
  }
  signal(SIGUSR1, before);
  close(ends[0]);
  ring->pipe = ends[1];
  if (ring->writer > 0) {
    set_nonblocking(ring->pipe);
    return ring;
  }
  close(ring->pipe);
  free(ring);
  return NULL;
}

/* Room for one more frame at the end of what is held. */
static bool make_room(struct log_ring *ring, uint32_t bytes) {
  if (ring->start > 0 && ring->start + ring->length + bytes > ring->size) {
    memmove(ring->held, ring->held + ring->start, ring->length);
    ring->start = 0;
  }
  if (ring->length + bytes <= ring->size) return true;
  char *more = realloc(ring->held, ring->length + bytes + GROWTH_BYTES);
  if (more == NULL) return false;
  ring->held = more;
  ring->size = ring->length + bytes + GROWTH_BYTES;
  return true;
}

void log_ring_flush(struct log_ring *ring) {
  while (ring->length > 0) {
    ssize_t count = write(ring->pipe, ring->held + ring->start, ring->length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    /* The writer was killed: there is nobody to write to. */
    if (count < 0) ring->length = 0;
    else ring->start += (uint32_t)count, ring->length -= (uint32_t)count;
  }
  free(ring->held);
  ring->held = NULL;
  ring->start = ring->size = 0;
}

static bool has_room(const struct log_ring *ring, uint32_t length) {
  return ring->length == 0 || ring->length + sizeof(struct frame_head) + length <= ring->bytes_max;
}

/* Up to and with the first line end; 0 if there is none. */
static uint32_t line_length(const char *bytes, uint32_t length) {
  const char *newline = memchr(bytes, '\n', length);
  return newline == NULL ? 0 : (uint32_t)(newline - bytes) + 1;
}

static void hold(struct log_ring *ring, struct frame_head head, const char *bytes) {
  uint32_t whole = (uint32_t)sizeof head + head.length;
  if (!make_room(ring, whole)) return;
  char *end = ring->held + ring->start + ring->length;
  memcpy(end, &head, sizeof head);
  memcpy(end + sizeof head, bytes, head.length);
  ring->length += whole;
  log_ring_flush(ring);
}

void log_ring_put(struct log_ring *ring, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds) {
  struct stream_place *place = &ring->places[stream - 1];
  if (place->is_skipping) {
    uint32_t skipped = line_length(bytes, length);
    if (skipped == 0) return;
    bytes += skipped;
    length -= skipped;
    place->is_skipping = false;
  }
  if (length == 0) return;
  bool ends_line = bytes[length - 1] == '\n';
  if (!has_room(ring, length)) {
    /* A line that was begun is ended though there is no room; one that goes on even then is cut here. */
    uint32_t rest = place->is_open ? line_length(bytes, length) : 0;
    place->is_skipping = rest < length && !ends_line;
    if (rest == 0 && !place->is_open) return;
    place->is_open = false;
    hold(ring, (struct frame_head){rest == 0 ? 1 : rest, (uint32_t)stream, nanoseconds}, rest == 0 ? "\n" : bytes);
    return;
  }
  place->is_open = !ends_line;
  hold(ring, (struct frame_head){length, (uint32_t)stream, nanoseconds}, bytes);
}

int log_ring_waiting(const struct log_ring *ring) { return ring != NULL && ring->length > 0 ? ring->pipe : -1; }

void log_ring_close(struct log_ring *ring) {
  kill(ring->writer, SIGUSR1);
  fcntl(ring->pipe, F_SETFL, fcntl(ring->pipe, F_GETFL) & ~O_NONBLOCK);
  log_ring_flush(ring);
  close(ring->pipe);
  while (waitpid(ring->writer, NULL, 0) < 0 && errno == EINTR) continue;
  free(ring);
}
