/* Control groups of one container: made and limited before a process enters, emptied and removed after. v1, v2 and both. */
#ifndef SHOAL_CGROUP_H
#define SHOAL_CGROUP_H

#include "job.h"
#include "sys.h"

/* The folder that a child is cloned into. Returns NULL or an error text (static buffer). */
const char *cgroup_make_v2(const struct job *job);
/* Makes the folders that aren't there and writes the limits. */
const char *cgroup_create(const struct job *job);
/* Open folder of the v2 group, or -1. */
int cgroup_open_v2(const struct job *job);

enum { CGROUP_HIERARCHIES_MAX = 32 };

/* A process's way into its groups, opened where the host's trees are in sight and its rights are still held. */
struct cgroup_entry {
  int v2; /* the folder, or -1: for clone3 into it */
  int tasks[CGROUP_HIERARCHIES_MAX];
  uint32_t count;
};

/* Both begin with an empty entry, {.v2 = -1}, which is to be closed in any case. NULL or an error text. */
const char *cgroup_open_for_clone(const struct job *job, struct cgroup_entry *entry);
const char *cgroup_open_for_v1(const struct job *job, struct cgroup_entry *entry);
void cgroup_close_entry(struct cgroup_entry *entry);
/* clone3 with these arguments, straight into the v2 group where that can be. Its number, 0 in the child, or -1. */
long cgroup_clone(const struct cgroup_entry *entry, struct x_clone_args *arguments, bool *is_in_v2);
/*
 * Moves the caller, which must have one thread, into the v1 groups. A thread that moves itself has no need of the lock that
 * stops all forks and exits of the machine, which moving a process by its number takes: that one waits for an RCU grace period,
 * 4 to 18 ms, whenever it has been quiet for a while.
 */
const char *cgroup_join_v1(const struct job *job, const struct cgroup_entry *entry);
/* Moves `pid` (0: the caller) into the v2 group, and waits so: only for where the clone into it is not possible. */
const char *cgroup_move_v2(const struct cgroup_entry *entry, int pid);
/* Kills all that is left inside, also what has left the pid namespace of the container. */
void cgroup_kill(const struct job *job);
void cgroup_remove(const struct job *job);
/* Processes killed for want of memory so far. */
uint32_t cgroup_oom_kills(const struct job *job);
/* Descriptor that becomes readable when the group runs out of memory, or -1; with `is_hint` the count of kills must have grown too. */
int cgroup_oom_events(const struct job *job, bool *is_hint);

#endif
