/*
 * See remove.h. What is removed was a container's to fill: names are only ever looked up below an open folder, no link is followed,
 * and a tree may be as deep as it likes, since what lies too deep is moved up to the tree's top first.
 */
#define _GNU_SOURCE
#include "remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "job.h"
#include "util.h"

enum { DEPTH_MAX = 32, NICENESS = 5 };

static uint64_t moved_count;

static bool is_dots(const char *name) { return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0)); }

/* Under a name that nothing has there: what is above goes on until it finds nothing any more. */
static bool move_up(int folder, const char *name, int top) {
  char moved[32];
  struct stat stat;
  do snprintf(moved, sizeof moved, ".deep-%llu", (unsigned long long)moved_count++);
  while (fstatat(top, moved, &stat, AT_SYMLINK_NOFOLLOW) == 0);
  return renameat(folder, name, top, moved) == 0;
}

static bool empty_folder(int folder, int top, int depth);

static bool remove_entry(int folder, const struct dirent *entry, int top, int depth) {
  const char *name = entry->d_name;
  if (entry->d_type != DT_DIR) {
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT) return true;
    if (errno != EISDIR) return false;
  }
  if (unlinkat(folder, name, AT_REMOVEDIR) == 0 || errno == ENOENT) return true;
  if (errno != ENOTEMPTY && errno != EEXIST) return false;
  if (depth >= DEPTH_MAX) return move_up(folder, name, top);
  int below = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (below < 0) return false;
  return empty_folder(below, top, depth + 1) && unlinkat(folder, name, AT_REMOVEDIR) == 0;
}

/* Takes the descriptor. Rounds until one finds nothing: entries may have been moved up meanwhile. */
static bool empty_folder(int folder, int top, int depth) {
  DIR *dir = fdopendir(folder);
  bool done = dir != NULL, is_empty = false;
  while (done && !is_empty) {
    is_empty = true;
    rewinddir(dir);
    for (struct dirent *entry; done && (entry = readdir(dir)) != NULL;) {
      if (is_dots(entry->d_name)) continue;
      is_empty = false;
      done = remove_entry(folder, entry, top < 0 ? folder : top, depth);
    }
  }
  int problem = errno;
  if (dir != NULL) closedir(dir);
  else close(folder);
  errno = problem;
  return done;
}

static bool remove_folder(const char *path) {
  int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return errno == ENOENT;
  return empty_folder(folder, -1, 0) && (rmdir(path) == 0 || errno == ENOENT);
}

void remove_serve(const char *paths, uint32_t length, int connection) {
  char failure[PATH_BYTES_MAX + 128] = "";
  prctl(PR_SET_NAME, "shoal-remove", 0, 0, 0);
  setpriority(PRIO_PROCESS, 0, NICENESS);
  if (length == 0 || paths[length - 1] != 0) {
    send_text_frame(connection, F_ERROR, "remove: paths end with NUL");
    _exit(1);
  }
  for (const char *path = paths; path < paths + length; path += strlen(path) + 1)
    if (!remove_folder(path) && failure[0] == 0) snprintf(failure, sizeof failure, "remove %s: %s", path, strerror(errno));
  if (failure[0] == 0) send_frame(connection, F_DONE, NULL, 0);
  else send_text_frame(connection, F_ERROR, failure);
  _exit(failure[0] != 0);
}
