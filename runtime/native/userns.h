/*
 * Containers in a user namespace: id maps, and the mounts that only the outside may make. The layers of the root (and binds that ask for
 * it) are shown through the namespace's id map, so that on disk they keep the ids they always have: nothing is ever chowned.
 */
#ifndef SHOAL_USERNS_H
#define SHOAL_USERNS_H

#include <stdbool.h>

#include "job.h"

/* A new one, or one to join by path. */
bool userns_wanted(const struct job *job);
/* The host's id of the container's `inside`, or -1 where the job says nothing of it. */
int64_t userns_outside(const struct map_record *maps, uint32_t count, uint32_t inside);
/* Writes the maps of a process that has just been cloned. NULL or an error text (static buffer). */
const char *userns_write_maps(const struct job *job, int pid);
/*
 * Monitor's side: a process of its own opens bind sources, mounts the root, and hands both as detached trees to the child over
 * `sync`. The child's failure to take them is not an error here: the child says it itself.
 */
const char *userns_send_trees(struct job *job, int pid, int sync);
/* Child's side: takes the trees; `root` is the root's. */
const char *userns_receive_trees(struct job *job, int sync, int *root);

#endif
