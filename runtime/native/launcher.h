/* The only process that forks: one per exec root. Each connection is one job, done by a child of its own. */
#ifndef SHOAL_LAUNCHER_H
#define SHOAL_LAUNCHER_H

#include <limits.h>

enum { OOM_SCORE_UNKNOWN = INT_MIN };
/* The OOM score that the launcher was started with and hands down: the daemon's, not a container's. */
int launcher_oom_score(void);
int launcher_main(const char *root);
/* Gives the memory of the job back, in the process that has done it. */
void launcher_release_job(void);

#endif
