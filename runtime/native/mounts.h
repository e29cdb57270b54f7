/* The container's file system, built inside its own mount namespace: nothing of it shows in the host's mount table. */
#ifndef SHOAL_MOUNTS_H
#define SHOAL_MOUNTS_H

#include "job.h"

/* Below the exec root, made by the launcher. */
#define ROOT_PLACE "rootfs"

/*
 * All return NULL or an error text (static buffer). In this order: open the sources while the host's mounts still have their
 * peers, build the tree, seal what must not be seen, pivot into it.
 */
const char *mounts_open_sources(struct job *job);
/* Finds the host's null device, for masks. */
const char *mounts_open_null(void);
/* Mounts the root at ROOT_PLACE, in the caller's own mount namespace, and opens it. */
const char *mounts_place_root(const struct job *job, int *root);
/* Called before the first mount of a cgroup hierarchy, if there is one. */
struct mounts_entry {
  const char *(*enter)(void *context);
  void *context;
};

/* Returns with `root` open on the new root folder. It may come as a detached tree, else it must be -1. `entry` may be NULL. */
const char *mounts_build(struct job *job, int *root, const struct mounts_entry *entry);
/* Masked and read-only paths, sysctls, read-only root. Before the pivot: the host's null device must still be mounted. */
const char *mounts_seal(const struct job *job, int root);
const char *mounts_pivot(const struct job *job, int root);

#endif
