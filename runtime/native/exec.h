/* How a process joins a running container; for the monitor of an exec and for the OCI command line. */
#ifndef SHOAL_EXEC_H
#define SHOAL_EXEC_H

#include "container.h"

/*
 * Forks a helper, which enters the groups and namespaces of the process that the descriptor `target` names, and clones the real one as the
 * helper's sibling. On the sync socket come 'P' with its number, 'T' with the terminal's master, 'R' when it waits for 'S', 'E' with an error.
 * The helper's number, to be waited for; or -1 with `error` set.
 */
pid_t exec_enter(struct container_start *start, int target, const char **error);
/* The other side, until 'P' and 'R' have come. NULL or an error text (static buffer). */
const char *exec_wait(int sync, int *pid, int *terminal);

#endif
