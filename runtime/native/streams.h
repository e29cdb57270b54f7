/*
 * The loop that a monitor is: moves bytes between one process's stdio and any number of clients on stream sockets, writes
 * the log, and learns of the process's end. Used for a container's first process and, without log and listener, for an exec.
 */
#ifndef SHOAL_STREAMS_H
#define SHOAL_STREAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "log.h"

struct client;

struct streams {
  int pidfd, pid;
  int listener; /* -1: none */
  int sources[2]; /* stdout (or the terminal) and stderr; -1: ended */
  int input; /* the process's stdin (or the terminal again); -1: none or closed */
  int sync; /* to the child until it has executed; -1 afterwards */
  int starter; /* process that starts the child in another runtime, to be reaped then; 0: none */
  int oom; /* as cgroup_oom_events() gives it */
  bool is_oom_hint;
  uint32_t oom_kills; /* told of so far */
  bool is_running_early; /* the process may run already: another runtime has started it, or the start was asked for before it was made */
  bool is_start_sent; /* the word for it is on `sync` */
  bool is_tty, is_started, is_exited, is_discarding;
  bool is_stdin_once; /* stdin ends with the client that was attached to it, however that one ends */
  int exit_status; /* as waitid gives it */
  bool was_signal;
  uint64_t started_at, finished_at;
  const struct job *job; /* whose groups these are; NULL for an exec */
  struct log_file *log;
  struct client *clients;
  struct client *creator; /* asked for the process; one that was not started ends with it */
  char *input_held;
  uint32_t input_length;
  bool is_input_ending;
};

enum attach_flag { A_STDIN = 1, A_STDOUT = 2, A_STDERR = 4 };

/* Takes over `fd`; `flags` as in attach_flag; `is_watching` gets the exit frame. */
struct client *streams_add_client(struct streams *streams, int fd, uint32_t flags, bool is_watching);
/* Runs until the process has ended and its output was read; `on_exit_reached` is called once at its end, before draining. */
void streams_run(struct streams *streams, void (*on_exit_reached)(void *), void *context);
/* Sends the exit to those who watch, as far as they take it at once. */
void streams_tell_exit(struct streams *streams, const void *exit_frame, uint32_t length);
/* Tells those who watch that nothing of the run is in anybody's way any more, and hangs up on the others that have got all. */
void streams_tell_gone(struct streams *streams);
/* Goes on until every client has got all and closed its end, or has gone; one that has got all isn't waited for long. */
void streams_finish(struct streams *streams);

#endif
