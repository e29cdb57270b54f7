/* See copy-up.h. Everything is reached by descriptor and no link is followed: the tree is an image's. Devices and sockets are left out. */
#define _GNU_SOURCE
#include "copy-up.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 128 };

static int copy_folder(int from, int to, int depth);

static int copy_file(int from, int to, const char *name, const struct stat *stat) {
  int source = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  int target = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  ssize_t count = source < 0 || target < 0 ? -1 : 1;
  for (off_t left = stat->st_size; count > 0 && left > 0; left -= count) count = sendfile(target, source, NULL, (size_t)left);
  if (count >= 0 && (fchown(target, stat->st_uid, stat->st_gid) != 0 || fchmod(target, stat->st_mode & 07777) != 0)) count = -1;
  int error = errno;
  close(source);
  close(target);
  errno = error;
  return count < 0 ? -1 : 0;
}

static int copy_link(int from, int to, const char *name, const struct stat *stat) {
  char text[4096];
  ssize_t length = readlinkat(from, name, text, sizeof text - 1);
  if (length < 0) return -1;
  text[length] = 0;
  return symlinkat(text, to, name) != 0 ? -1 : fchownat(to, name, stat->st_uid, stat->st_gid, AT_SYMLINK_NOFOLLOW);
}

static int copy_below(int from, int to, const char *name, const struct stat *stat, int depth) {
  if (mkdirat(to, name, 0700) != 0 && errno != EEXIST) return -1;
  int source = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int target = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int result = source < 0 || target < 0 ? -1 : copy_folder(source, target, depth + 1);
  if (result == 0 && (fchown(target, stat->st_uid, stat->st_gid) != 0 || fchmod(target, stat->st_mode & 07777) != 0)) result = -1;
  int error = errno;
  close(source);
  close(target);
  errno = error;
  return result;
}

static int copy_entry(int from, int to, const char *name, int depth) {
  struct stat stat;
  int result = 0;
  if (fstatat(from, name, &stat, AT_SYMLINK_NOFOLLOW) != 0) return -1;
  if (S_ISDIR(stat.st_mode)) result = copy_below(from, to, name, &stat, depth);
  else if (S_ISREG(stat.st_mode)) result = copy_file(from, to, name, &stat);
  else if (S_ISLNK(stat.st_mode)) return copy_link(from, to, name, &stat);
  else return 0;
  struct timespec times[2] = {stat.st_atim, stat.st_mtim};
  if (result == 0) utimensat(to, name, times, AT_SYMLINK_NOFOLLOW);
  return result;
}

static int copy_folder(int from, int to, int depth) {
  int own = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
  DIR *dir = own < 0 || depth > DEPTH_MAX ? NULL : fdopendir(own);
  if (dir == NULL) {
    close(own);
    errno = depth > DEPTH_MAX ? ELOOP : errno;
    return -1;
  }
  for (struct dirent *entry; result == 0 && (entry = readdir(dir)) != NULL;)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) result = copy_entry(from, to, entry->d_name, depth);
  int error = errno;
  closedir(dir);
  errno = error;
  return result;
}

int copy_tree(int from, int to) { return copy_folder(from, to, 0); }
