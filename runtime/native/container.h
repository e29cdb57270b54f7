/* The child side of a container: from clone3 to execve. */
#ifndef SHOAL_CONTAINER_H
#define SHOAL_CONTAINER_H

#include "cgroup.h"
#include "job.h"

/*
 * Words on the sync socket (SEQPACKET). Monitor to child: 'G' go on (id maps are set), 'C' with the way into the v1 groups, which are made and
 * limited now, 'S' start.
 * Child to monitor: 'T' with the terminal's master, 'R' ready, 'E' and an error text. The socket closing by execve means
 * success.
 */
struct container_start {
  struct job *job;
  int sync;
  int stdio[3]; /* ends for the container; -1: the terminal */
  /* Descriptors of the host's that the child closes first of all: one with the right to trace could take them from it. -1: none. */
  int hidden[7];
  int hidden_count;
  struct cgroup_entry *entry; /* set by who clones the child; the child closes it first of all, too */
  bool is_in_groups;
  bool takes_trees; /* root and binds come over `sync` from outside the user namespace, see userns.h */
  /* NULL, or called between the built tree and the leaving of the old root. NULL or an error text. */
  const char *(*at_root)(struct container_start *start);
  /* NULL for the word on `sync`, or waits for the start in another way; false: it will not come. */
  bool (*await_start)(struct container_start *start);
};

/* Never returns. */
_Noreturn void container_child(struct container_start *start);
/* To be called before the process is in any namespace of the container. */
void child_hide(const struct container_start *start);
/* The monitor's side of 'C'. NULL or an error text; that the child has gone is not one: it says itself why. */
const char *container_admit(const struct job *job, int sync);
/* Tells the error to the other side and ends the process. */
_Noreturn void child_fail(int sync, const char *error);
/* Signals as they were at birth, all descriptors close on exec, `stdio` in place. Both kinds of child begin with it. */
void child_reset(const struct job *job, int sync, const int stdio[3]);

#endif
