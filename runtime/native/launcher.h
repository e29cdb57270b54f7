/* The only process that forks: one per exec root. Each connection is one job, done by a child of its own. */
#ifndef SHOAL_LAUNCHER_H
#define SHOAL_LAUNCHER_H

int launcher_main(const char *root);
/* Gives the memory of the job back, in the process that has done it. */
void launcher_release_job(void);

#endif
