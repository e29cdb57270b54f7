/*
 * Containers that another OCI runtime makes (`docker run --runtime`): the monitor keeps log, terminal, attach and exit as ever, and the program
 * that the job names does create, start, exec and delete with the bundle that the daemon wrote into the state folder.
 */
#ifndef SHOAL_DELEGATE_H
#define SHOAL_DELEGATE_H

#include "job.h"
#include "streams.h"

bool delegate_wanted(const struct job *job);
/*
 * Mounts the root and the job's files in a mount namespace of this process and creates the container. Sets the process, the terminal and `sync`,
 * on which the start is asked for as with a child of our own. NULL or an error text.
 */
const char *delegate_create(struct job *job, struct streams *streams, const int stdio[3]);
const char *delegate_exec(struct job *job, struct streams *streams, const int stdio[3]);
/* After the end. What can't be deleted is said in the runtime's log. */
void delegate_delete(const struct job *job);

#endif
