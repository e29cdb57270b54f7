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
#include <unistd.h>

#include "log.h"
#include "sys.h"
#include "util.h"

enum { PART_BYTES_MAX = 32768, GROWTH_BYTES = 65536 };

struct frame_head {
  uint32_t length, stream;
  uint64_t nanoseconds;
};

struct log_ring {
  int pipe;
  pid_t writer;
  char *held;
  uint32_t bytes_max, start, length, size;
};

static _Noreturn void write_lines(struct log_file *log, int pipe) {
  static char part[PART_BYTES_MAX];
  struct frame_head head;
  prctl(PR_SET_NAME, "shoal-log", 0, 0, 0);
  /* Clients must see the monitor's end, not this one's. */
  int kept = log_descriptor(log), first = kept < pipe ? kept : pipe, last = kept < pipe ? pipe : kept;
  if (first > 3) x_close_range(3, (unsigned)first - 1, 0);
  if (last > first + 1) x_close_range((unsigned)first + 1, (unsigned)last - 1, 0);
  x_close_range((unsigned)last + 1, ~0U, 0);
  while (read_all(pipe, &head, sizeof head) && head.length <= sizeof part && read_all(pipe, part, head.length))
    log_write_at(log, (int)head.stream, part, head.length, head.nanoseconds);
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
  ring->writer = fork();
  if (ring->writer == 0) {
    close(ends[1]);
    write_lines(log, ends[0]);
  }
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

void log_ring_put(struct log_ring *ring, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds) {
  struct frame_head head = {length, (uint32_t)stream, nanoseconds};
  uint32_t whole = (uint32_t)sizeof head + length;
  if (ring->length > 0 && ring->length + whole > ring->bytes_max) return;
  if (!make_room(ring, whole)) return;
  char *end = ring->held + ring->start + ring->length;
  memcpy(end, &head, sizeof head);
  memcpy(end + sizeof head, bytes, length);
  ring->length += whole;
  log_ring_flush(ring);
}

int log_ring_waiting(const struct log_ring *ring) { return ring != NULL && ring->length > 0 ? ring->pipe : -1; }

void log_ring_close(struct log_ring *ring) {
  fcntl(ring->pipe, F_SETFL, fcntl(ring->pipe, F_GETFL) & ~O_NONBLOCK);
  log_ring_flush(ring);
  close(ring->pipe);
  while (waitpid(ring->writer, NULL, 0) < 0 && errno == EINTR) continue;
  free(ring);
}
