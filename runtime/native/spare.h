/*
 * What a process that waits for its job makes ahead: a network namespace, which is most of the time that a container's namespaces take.
 * The daemon keeps one such process, so that a single start finds it ready; many starts at once fork as ever.
 */
#ifndef SHOAL_SPARE_H
#define SHOAL_SPARE_H

#include "job.h"

/* Enters a new network namespace with its loopback up. Where that can't be, nothing changes. */
void spare_prepare(void);
/*
 * Before the clone. The child inherits the namespace if the job wants one that belongs to the launcher's user namespace, and `job` no longer asks
 * for it; else the process goes back to the launcher's. NULL or an error text.
 */
const char *spare_use(struct job *job);
/* The descriptor that leads back, which no child may keep, or -1. */
int spare_descriptor(void);
/* After the clone: back to the launcher's namespace, so that the container's ends with it. */
void spare_leave(void);
/* Brings up the loopback of the caller's network namespace. */
void raise_loopback(void);

#endif
