/* Tar streams: writing a tree as it is now, and unpacking one below an open folder. */
#ifndef SHOAL_TAR_H
#define SHOAL_TAR_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Writes `name` in the folder `parent` and all below it to `out`; entries begin with `prefix` instead of `name`. Folders only
 * of the same file system tree as they are found; sockets are left out. NULL or an error text.
 */
const char *tar_pack_tree(int out, int parent, const char *name, const char *prefix);

struct tar_owner {
  uint32_t uid, gid;
};

/*
 * Reads a tar stream to its end and makes what it says below `folder`. `keep_kind`: a folder never replaces a non-folder or back.
 * All of it is given to `owner`; NULL: to whom the archive names.
 */
const char *tar_unpack(int in, int folder, bool keep_kind, const struct tar_owner *owner);

#endif
