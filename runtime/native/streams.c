/*
 * See streams.h. Everything is bounded: a client that does not read holds the process back once 64 KiB wait for it (its kernel
 * buffer comes on top), as a slow disk does, and its end not at all; bytes are never dropped. Buffers exist only while they hold something,
 * so that an idle container's monitor is a few pages.
 */
#define _GNU_SOURCE
#include "streams.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bpf.h"
#include "cgroup.h"
#include "sys.h"
#include "util.h"

enum {
  CLIENT_COUNT_MAX = 256,
  READ_BYTES = 32768,
  WAITING_BYTES_MAX = 65536,
  LAST_BYTES_MAX = 2 << 20, /* of two pipes, whose size their writer may raise to a MiB each */
  FRAME_BYTES_MAX = 65536 + 5,
  DRAIN_QUIET_MS = 2000,
  LINGER_QUIET_MS = 2000,
};

struct client {
  int fd;
  uint32_t flags;
  bool is_watching, is_dead;
  bool is_hung_up; /* has been told all; what it still says is dropped */
  char *out, *in;
  uint32_t out_length, out_size, in_length;
  struct client *next;
};

static char read_buffer[READ_BYTES];

struct client *streams_add_client(struct streams *streams, int fd, uint32_t flags, bool is_watching) {
  struct client *client = calloc(1, sizeof *client);
  if (client == NULL) {
    close(fd);
    return NULL;
  }
  client->fd = fd;
  client->flags = flags;
  client->is_watching = is_watching;
  set_nonblocking(fd);
  client->next = streams->clients;
  streams->clients = client;
  return client;
}

static void flush_client(struct client *client) {
  while (client->out_length > 0) {
    ssize_t count = send(client->fd, client->out, client->out_length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      client->is_dead = true;
      return;
    }
    memmove(client->out, client->out + count, client->out_length - (uint32_t)count);
    client->out_length -= (uint32_t)count;
  }
  free(client->out);
  client->out = NULL;
  client->out_size = 0;
}

static void queue(struct client *client, const void *bytes, uint32_t length) {
  if (client->out_length + length > client->out_size) {
    uint32_t size = client->out_length + length + 256;
    char *more = realloc(client->out, size);
    if (more == NULL) {
      client->is_dead = true;
      return;
    }
    client->out = more;
    client->out_size = size;
  }
  memcpy(client->out + client->out_length, bytes, length);
  client->out_length += length;
}

static void queue_frame(struct client *client, uint8_t type, const void *bytes, uint32_t length) {
  uint8_t head[5];
  uint32_t total = length + 1;
  if (client->is_dead) return;
  memcpy(head, &total, 4);
  head[4] = type;
  queue(client, head, 5);
  if (length > 0) queue(client, bytes, length);
  flush_client(client);
}

static void answer(struct client *client, const char *error) {
  if (error == NULL) queue_frame(client, F_DONE, NULL, 0);
  else queue_frame(client, F_ERROR, error, (uint32_t)strlen(error));
}

/* Lets the child execute and waits for what comes of it: its end of the socket closes by execve, or an error text comes. */
static void start_process(struct streams *streams, struct client *client) {
  char text[8192];
  if (streams->sync < 0) return answer(client, "container is started already");
  if (!streams->is_start_sent && send(streams->sync, "S", 1, MSG_NOSIGNAL) != 1)
    return answer(client, "container process has ended before its start");
  streams->started_at = wall_nanoseconds_once();
  ssize_t count;
  do count = read(streams->sync, text, sizeof text - 1);
  while (count < 0 && errno == EINTR);
  close(streams->sync);
  streams->sync = -1;
  if (streams->starter > 0) waitpid(streams->starter, NULL, 0);
  if (count > 0) {
    text[count] = 0;
    return answer(client, text + 1);
  }
  streams->is_started = true;
  answer(client, NULL);
}

static void close_input(struct streams *streams) {
  if (streams->input < 0) return;
  /* A terminal has no half-close: its end-of-file is a character that the client sends. */
  if (!streams->is_tty) close(streams->input);
  streams->input = -1;
}

static void flush_input(struct streams *streams) {
  uint32_t done = 0;
  while (streams->input >= 0 && done < streams->input_length) {
    ssize_t count = write(streams->input, streams->input_held + done, streams->input_length - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count <= 0) {
      close_input(streams);
      break;
    }
    done += (uint32_t)count;
  }
  if (streams->input < 0 || done == streams->input_length) {
    free(streams->input_held);
    streams->input_held = NULL;
    streams->input_length = 0;
    if (streams->is_input_ending) close_input(streams);
    return;
  }
  memmove(streams->input_held, streams->input_held + done, streams->input_length - done);
  streams->input_length -= done;
}

static void take_input(struct streams *streams, const char *bytes, uint32_t length) {
  if (streams->input < 0 || length == 0) return;
  char *more = realloc(streams->input_held, streams->input_length + length);
  if (more == NULL) return;
  streams->input_held = more;
  memcpy(more + streams->input_length, bytes, length);
  streams->input_length += length;
  flush_input(streams);
}

static void send_status(struct streams *streams, struct client *client) {
  uint8_t status[13];
  uint32_t pid = (uint32_t)streams->pid;
  memcpy(status, &pid, 4);
  status[4] = streams->is_started;
  memcpy(status + 5, &streams->started_at, 8);
  queue_frame(client, F_DONE, status, sizeof status);
}

static void obey(struct streams *streams, struct client *client, uint8_t type, const char *bytes, uint32_t length) {
  uint32_t number = 0;
  if (length >= 4) memcpy(&number, bytes, 4);
  switch (type) {
    case F_START: return start_process(streams, client);
    case F_SIGNAL:
      if (streams->is_exited || x_pidfd_signal(streams->pidfd, (int)number) != 0) answer(client, strerror(streams->is_exited ? ESRCH : errno));
      else answer(client, NULL);
      return;
    case F_RESIZE: {
      struct winsize size = {(unsigned short)(number & 0xffff), (unsigned short)(number >> 16), 0, 0};
      if (!streams->is_tty || streams->sources[0] < 0) answer(client, "process has no terminal");
      else if (ioctl(streams->sources[0], TIOCSWINSZ, &size) != 0) answer(client, strerror(errno));
      else answer(client, NULL);
      return;
    }
    case F_STDIN: return take_input(streams, bytes, length);
    case F_CLOSE_STDIN:
      streams->is_input_ending = true;
      return flush_input(streams);
    case F_ATTACH:
      client->flags = number;
      return answer(client, NULL);
    case F_NAMES:
      return answer(client, streams->job == NULL ? "no group of its own" : bpf_attach_names(streams->job, number));
    case F_WATCH:
      client->is_watching = true;
      return send_status(streams, client);
    default: client->is_dead = true;
  }
}

/*
 * The client reads to the end and closes. Closing before it does would break what it is about to write (the end of stdin, often), and a
 * client whose write fails loses what it has not read yet: the last output and the exit.
 */
static void hang_up(struct client *client) {
  if (client->is_hung_up) return;
  client->is_hung_up = true;
  shutdown(client->fd, SHUT_WR);
}

static void read_client(struct streams *streams, struct client *client) {
  if (client->is_hung_up) {
    ssize_t dropped = recv(client->fd, read_buffer, sizeof read_buffer, MSG_DONTWAIT);
    client->is_dead = dropped == 0 || (dropped < 0 && errno != EAGAIN && errno != EINTR);
    return;
  }
  if (client->in == NULL) client->in = malloc(FRAME_BYTES_MAX);
  if (client->in == NULL) {
    client->is_dead = true;
    return;
  }
  ssize_t count = recv(client->fd, client->in + client->in_length, FRAME_BYTES_MAX - client->in_length, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    client->is_dead = true;
    return;
  }
  client->in_length += (uint32_t)count;
  uint32_t at = 0, total;
  while (client->in_length - at >= 5 && !client->is_dead) {
    memcpy(&total, client->in + at, 4);
    if (total < 1 || total > FRAME_BYTES_MAX - 4) {
      client->is_dead = true;
      return;
    }
    if (client->in_length - at < total + 4) break;
    obey(streams, client, (uint8_t)client->in[at + 4], client->in + at + 5, total - 1);
    at += total + 4;
  }
  memmove(client->in, client->in + at, client->in_length - at);
  client->in_length -= at;
  if (client->in_length == 0) {
    free(client->in);
    client->in = NULL;
  }
}

/* The only client that may write has gone, and whoever reads would wait for ever. A terminal stays open for the next. */
static void end_input_of(struct streams *streams, const struct client *client) {
  if (!streams->is_stdin_once || streams->is_tty || (client->flags & A_STDIN) == 0) return;
  streams->is_input_ending = true;
  flush_input(streams);
}

static void forget_dead(struct streams *streams) {
  for (struct client **link = &streams->clients; *link != NULL;) {
    struct client *client = *link;
    if (!client->is_dead) {
      link = &client->next;
      continue;
    }
    *link = client->next;
    end_input_of(streams, client);
    if (client == streams->creator) {
      streams->creator = NULL;
      if (!streams->is_started && !streams->is_exited) x_pidfd_signal(streams->pidfd, SIGKILL);
    }
    close(client->fd);
    free(client->out);
    free(client->in);
    free(client);
  }
}

/*
 * True while a client that gets `stream` has too much waiting. What the process left behind when it ended is taken in all the
 * same: nobody could be told of the end for as long as one client does not read.
 */
static bool is_held_back(const struct streams *streams, int stream) {
  uint32_t wanted = stream == 0 ? A_STDOUT : A_STDERR;
  uint32_t most = WAITING_BYTES_MAX + (streams->is_exited ? LAST_BYTES_MAX : 0);
  for (const struct client *client = streams->clients; client != NULL; client = client->next)
    if (client->flags & wanted && client->out_length >= most) return true;
  return false;
}

static void read_source(struct streams *streams, int index) {
  /* Since the other source was read. */
  if (log_is_stuck(streams->log)) return;
  ssize_t count = read(streams->sources[index], read_buffer, sizeof read_buffer);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    /* EIO: the last holder of the terminal has closed it. */
    if (streams->is_tty && !streams->is_exited) {
      /* It may be opened again; ask less often than poll would. */
      usleep(10000);
      return;
    }
    close(streams->sources[index]);
    streams->sources[index] = -1;
    if (streams->is_tty) streams->input = -1;
    return;
  }
  if (streams->is_discarding) return;
  log_write(streams->log, index + 1, read_buffer, (uint32_t)count);
  for (struct client *client = streams->clients; client != NULL; client = client->next)
    if (client->flags & (index == 0 ? A_STDOUT : A_STDERR))
      queue_frame(client, index == 0 ? F_STDOUT : F_STDERR, read_buffer, (uint32_t)count);
}

static void reap(struct streams *streams) {
  siginfo_t info = {0};
  if (waitid(P_PID, (id_t)streams->pid, &info, WEXITED) != 0) return;
  streams->is_exited = true;
  streams->finished_at = wall_nanoseconds_once();
  streams->was_signal = info.si_code != CLD_EXITED;
  streams->exit_status = info.si_status;
}

static void accept_client(struct streams *streams) {
  int fd = accept4(streams->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) streams_add_client(streams, fd, 0, false);
}

static void tell_oom(struct streams *streams) {
  char events[1024];
  if (read(streams->oom, events, sizeof events) <= 0) return;
  uint32_t kills = streams->is_oom_hint ? cgroup_oom_kills(streams->job) : 0;
  if (streams->is_oom_hint && kills == streams->oom_kills) return;
  streams->oom_kills = kills;
  for (struct client *client = streams->clients; client != NULL; client = client->next)
    if (client->is_watching) queue_frame(client, F_OOM, NULL, 0);
}

enum slot { S_PID, S_LISTENER, S_OUT, S_ERR, S_INPUT, S_OOM, S_LOG, S_FIRST_CLIENT };

/* As many as there are clients, which are few: a full set would take a page of every monitor. */
struct polled {
  struct pollfd *polls;
  struct client **owners;
  int room;
};

static bool make_room(struct polled *set, const struct streams *streams) {
  int wanted = S_FIRST_CLIENT;
  for (const struct client *client = streams->clients; client != NULL && wanted < CLIENT_COUNT_MAX; client = client->next) wanted++;
  if (wanted <= set->room) return true;
  struct pollfd *polls = realloc(set->polls, (size_t)wanted * sizeof *polls);
  if (polls != NULL) set->polls = polls;
  struct client **owners = realloc(set->owners, (size_t)wanted * sizeof *owners);
  if (owners != NULL) set->owners = owners;
  if (polls == NULL || owners == NULL) return false;
  set->room = wanted;
  return true;
}

/* Number of the set's that are to be looked at; 0 or less as poll has it. */
static int poll_all(struct streams *streams, struct polled *set, int timeout) {
  int count = S_FIRST_CLIENT;
  /* Without memory those that have a place go on. */
  if (!make_room(set, streams) && set->room < S_FIRST_CLIENT) return -1;
  struct pollfd *polls = set->polls;
  /* One that runs before its start is asked for may have spoken and ended by then: whoever asks is answered first. Asked, that end is closed. */
  bool is_too_early = streams->is_running_early && streams->sync >= 0 && streams->creator != NULL;
  polls[S_PID] = (struct pollfd){streams->is_exited || is_too_early ? -1 : streams->pidfd, POLLIN, 0};
  polls[S_LISTENER] = (struct pollfd){streams->listener, POLLIN, 0};
  for (int i = 0; i < 2; i++)
    polls[S_OUT + i] = (struct pollfd){is_too_early || log_is_stuck(streams->log) || is_held_back(streams, i) ? -1 : streams->sources[i], POLLIN, 0};
  polls[S_INPUT] = (struct pollfd){streams->input_length > 0 ? streams->input : -1, POLLOUT, 0};
  polls[S_OOM] = (struct pollfd){streams->oom, POLLIN, 0};
  polls[S_LOG] = (struct pollfd){log_waiting(streams->log), POLLOUT, 0};
  for (struct client *client = streams->clients; client != NULL && count < set->room; client = client->next) {
    short events = streams->input_length < WAITING_BYTES_MAX ? POLLIN : 0;
    if (client->out_length > 0) events |= POLLOUT;
    set->owners[count] = client;
    polls[count++] = (struct pollfd){client->fd, events, 0};
  }
  int ready = poll(polls, (nfds_t)count, timeout);
  return ready <= 0 ? ready : count;
}

static void serve_clients(struct streams *streams, const struct polled *set, int count) {
  for (int i = S_FIRST_CLIENT; i < count; i++) {
    if (set->polls[i].revents & POLLOUT) flush_client(set->owners[i]);
    if (set->polls[i].revents & (POLLIN | POLLHUP | POLLERR)) read_client(streams, set->owners[i]);
  }
  forget_dead(streams);
}

static uint64_t monotonic_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A process that has ended waits for room on a full disk for a while only: whoever removes it makes room. */
static void retry_log(struct streams *streams, uint64_t *last_wait_at) {
  log_continue(streams->log);
  if (!streams->is_exited || !log_is_stuck(streams->log)) return;
  if (*last_wait_at == 0) *last_wait_at = monotonic_ms();
  if (monotonic_ms() - *last_wait_at >= LOG_LAST_MS) log_give_up(streams->log);
}

void streams_run(struct streams *streams, void (*on_exit_reached)(void *), void *context) {
  struct polled set = {0};
  bool is_small = false;
  uint64_t last_wait_at = 0;
  while (!streams->is_exited || streams->sources[0] >= 0 || streams->sources[1] >= 0) {
    if (streams->is_started && !is_small) {
      release_heap();
      release_stack();
    }
    is_small = streams->is_started;
    bool is_stuck = log_is_stuck(streams->log);
    int count = poll_all(streams, &set, is_stuck ? LOG_RETRY_MS : streams->is_exited ? DRAIN_QUIET_MS : -1);
    if (count < 0 && errno != EINTR) break;
    if (is_stuck) retry_log(streams, &last_wait_at);
    /* Somebody outside holds the pipe open (a shared pid namespace) and says nothing: that is not this container's output. */
    if (count == 0 && !is_stuck && streams->is_exited && !is_held_back(streams, 0) && !is_held_back(streams, 1)) break;
    if (count <= 0) continue;
    if (set.polls[S_OOM].revents & POLLIN) tell_oom(streams);
    if (set.polls[S_LOG].revents != 0) log_continue(streams->log);
    for (int i = 0; i < 2; i++)
      if (set.polls[S_OUT + i].revents != 0) read_source(streams, i);
    if (set.polls[S_INPUT].revents != 0) flush_input(streams);
    if (set.polls[S_PID].revents != 0) {
      reap(streams);
      on_exit_reached(context);
    }
    serve_clients(streams, &set, count);
    if (set.polls[S_LISTENER].revents != 0) accept_client(streams);
  }
}

void streams_tell_exit(struct streams *streams, const void *exit_frame, uint32_t length) {
  for (struct client *client = streams->clients; client != NULL; client = client->next)
    if (client->is_watching) queue_frame(client, F_EXIT, exit_frame, length);
  forget_dead(streams);
}

void streams_tell_gone(struct streams *streams) {
  for (struct client *client = streams->clients; client != NULL; client = client->next) {
    if (client->is_watching) queue_frame(client, F_GONE, NULL, 0);
    else if (client->out_length == 0) hang_up(client);
  }
  forget_dead(streams);
}

void streams_finish(struct streams *streams) {
  struct polled set = {0};
  /* Only the clients count from here on: whatever else is ready would be ready again at once. */
  streams->listener = streams->sources[0] = streams->sources[1] = streams->oom = -1;
  streams->input_length = 0;
  for (;;) {
    bool is_waiting = false;
    for (struct client *client = streams->clients; client != NULL; client = client->next) {
      if (client->out_length > 0) is_waiting = true;
      else hang_up(client);
    }
    forget_dead(streams);
    if (streams->clients == NULL) return;
    int count = poll_all(streams, &set, is_waiting ? -1 : LINGER_QUIET_MS);
    if (count == 0 || (count < 0 && errno != EINTR)) return;
    if (count > 0) serve_clients(streams, &set, count);
  }
}
