/* The child side of a container: from clone3 to execve. */
#ifndef SHOAL_CONTAINER_H
#define SHOAL_CONTAINER_H

#include "job.h"

/*
 * Words on the sync socket (SEQPACKET). Monitor to child: 'G' go on (cgroups and id maps are set), 'S' start.
 * Child to monitor: 'T' with the terminal's master, 'R' ready, 'E' and an error text. The socket closing by execve means
 * success.
 */
struct container_start {
  struct job *job;
  int sync;
  int stdio[3]; /* ends for the container; -1: the terminal */
  /* Descriptors of the host's that the child closes first of all: one with the right to trace could take them from it. -1: none. */
  int hidden[6];
  int hidden_count;
};

/* Never returns. */
_Noreturn void container_child(struct container_start *start);
/* To be called before the process is in any namespace of the container. */
void child_hide(const struct container_start *start);
/* Tells the error to the other side and ends the process. */
_Noreturn void child_fail(int sync, const char *error);
/* Signals as they were at birth, all descriptors close on exec, `stdio` in place. Both kinds of child begin with it. */
void child_reset(int sync, const int stdio[3], bool has_terminal);

#endif
