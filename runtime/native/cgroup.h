/* Control groups of one container: made and limited before a process enters, emptied and removed after. v1, v2 and both. */
#ifndef SHOAL_CGROUP_H
#define SHOAL_CGROUP_H

#include "job.h"

/* Makes the folders and writes the limits. Returns NULL or an error text (static buffer). */
const char *cgroup_create(const struct job *job);
/* Open folder of the v2 group, or -1: for clone3 into it. */
int cgroup_open_v2(const struct job *job);
/* Moves `pid` (0: the caller) into the v1 groups, and into the v2 one if `with_v2`. Returns NULL or an error text. */
const char *cgroup_enter(const struct job *job, int pid, bool with_v2);
/* Kills all that is left inside, also what has left the pid namespace of the container. */
void cgroup_kill(const struct job *job);
void cgroup_remove(const struct job *job);
/* Processes killed for want of memory so far. */
uint32_t cgroup_oom_kills(const struct job *job);
/* Descriptor that becomes readable when the group runs out of memory, or -1; with `is_hint` the count of kills must have grown too. */
int cgroup_oom_events(const struct job *job, bool *is_hint);

#endif
