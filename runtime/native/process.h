/* The last steps before user code, the same for a container's first process and for one that joins it. */
#ifndef SHOAL_PROCESS_H
#define SHOAL_PROCESS_H

#include "job.h"

/* What was found in the container's /etc/passwd and /etc/group. */
struct identity {
  uint32_t uid, gid;
  uint32_t groups[256];
  uint32_t group_count;
  char home[1024];
};

/* All return NULL or an error text in runc's words (static buffer). They run inside the container's root. */
const char *process_identity(const struct job *job, struct identity *identity);
/* Limits, umask, working folder. HOME is added to the environment where it is missing. */
const char *process_prepare(struct job *job, const struct identity *identity);
/* Finds the program; keeps its path for process_exec. */
const char *process_find(const struct job *job);
/* Gives up the rights and executes. Returns only on failure. */
const char *process_exec(const struct job *job, const struct identity *identity);
/* Opens a terminal on the devpts at `pts` ("/dev/pts"), hands its master over `sync`, makes it the controlling one and stdio. */
const char *process_terminal(const struct job *job, const struct identity *identity, int sync);

#endif
