/* One process per container: parent of its first process, owner of its log, terminal and exit status. Outlives the daemon. */
#ifndef SHOAL_MONITOR_H
#define SHOAL_MONITOR_H

#include "job.h"

/* Does the job that came over `connection`, which becomes its first client. Never return. */
_Noreturn void monitor_create(struct job *job, int connection);
_Noreturn void monitor_exec(struct job *job, int connection);

struct streams;
struct container_start;
/* Clones the first process into its namespaces and groups; it waits for 'G' on the sync socket. Sets `pid` and `pidfd`. NULL or an error text. */
const char *monitor_make_child(struct job *job, struct streams *streams, struct container_start *start);

/* What the job asks for, where it is another than the launcher's. NULL or an error text. */
const char *monitor_set_oom_score(const struct job *job, int pid);

/* Makes pipes for stdio (none for a terminal). `ours` are the monitor's ends, `theirs` the process's. */
bool monitor_stdio(const struct job *job, int ours[3], int theirs[3]);

#endif
