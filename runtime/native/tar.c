/*
 * See tar.h. Writes ustar with pax headers where a name, link or size does not fit, and extended attributes; reads ustar, GNU long
 * names and pax. On unpacking no path is trusted: parents are opened with RESOLVE_IN_ROOT below the target, the last part is
 * made by *at calls that follow no link.
 */
#define _GNU_SOURCE
#include "tar.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "sys.h"
#include "util.h"

enum { BLOCK = 512, COPY_BYTES = 65536, PATH_MAX_ = 4096, PAX_BYTES_MAX = 1 << 20, DEPTH_MAX = 512, LINKS_MAX = 65536 };
enum { IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

struct header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2], user[32],
      group[32], major[8], minor[8], prefix[155], unused[12];
};

static char failure[3 * PATH_MAX_];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)
static char copy_buffer[COPY_BYTES];

/* ---- writing */

struct hard_link {
  dev_t device;
  ino_t inode;
  char *path;
};
struct writer {
  int out;
  struct hard_link *links;
  uint32_t link_count;
  char *pax;
  size_t pax_length;
};

static void put_octal(char *field, size_t size, uint64_t value) { snprintf(field, size, "%0*llo", (int)size - 1, (unsigned long long)value); }

static void put_checksum(struct header *header) {
  memset(header->checksum, ' ', 8);
  unsigned sum = 0;
  for (size_t i = 0; i < sizeof *header; i++) sum += ((unsigned char *)header)[i];
  snprintf(header->checksum, 8, "%06o", sum);
}

static void add_pax(struct writer *writer, const char *key, const void *value, size_t length) {
  size_t body = strlen(key) + length + 3, total = body + 1;
  /* The record's length counts its own digits. */
  for (size_t digits = 1; total != body + digits; digits++) {
    total = body + digits;
    if ((size_t)snprintf(NULL, 0, "%zu", total) == digits) break;
  }
  if (writer->pax_length + total + 1 > PAX_BYTES_MAX) return;
  char *more = realloc(writer->pax, writer->pax_length + total + 1);
  if (more == NULL) return;
  writer->pax = more;
  char *at = more + writer->pax_length;
  int head = sprintf(at, "%zu %s=", total, key);
  memcpy(at + head, value, length);
  at[total - 1] = '\n';
  writer->pax_length += total;
}

static bool put_padding(int out, uint64_t length) {
  static const char zeros[BLOCK];
  size_t rest = (size_t)(length % BLOCK);
  return rest == 0 || write_all(out, zeros, BLOCK - rest);
}

static bool put_pax(struct writer *writer) {
  if (writer->pax_length == 0) return true;
  struct header header = {.type = 'x', .name = "PaxHeaders/entry", .magic = "ustar", .version = "00"};
  put_octal(header.mode, 8, 0644);
  put_octal(header.uid, 8, 0);
  put_octal(header.gid, 8, 0);
  put_octal(header.size, 12, writer->pax_length);
  put_octal(header.mtime, 12, 0);
  memcpy(header.version, "00", 2);
  put_checksum(&header);
  bool done = write_all(writer->out, &header, sizeof header) && write_all(writer->out, writer->pax, writer->pax_length) &&
              put_padding(writer->out, writer->pax_length);
  free(writer->pax);
  writer->pax = NULL;
  writer->pax_length = 0;
  return done;
}

static void add_xattrs(struct writer *writer, int fd) {
  char names[4096], value[4096], key[300];
  ssize_t length = fgetxattr(fd, "security.capability", value, sizeof value);
  if (length > 0) add_pax(writer, "SCHILY.xattr.security.capability", value, (size_t)length);
  ssize_t total = flistxattr(fd, names, sizeof names);
  for (char *name = names; total > 0 && name < names + total; name += strlen(name) + 1) {
    if (strncmp(name, "user.", 5) != 0) continue;
    length = fgetxattr(fd, name, value, sizeof value);
    snprintf(key, sizeof key, "SCHILY.xattr.%.255s", name);
    if (length >= 0) add_pax(writer, key, value, (size_t)length);
  }
}

static char type_of(mode_t mode) {
  if (S_ISREG(mode)) return '0';
  if (S_ISLNK(mode)) return '2';
  if (S_ISCHR(mode)) return '3';
  if (S_ISBLK(mode)) return '4';
  if (S_ISDIR(mode)) return '5';
  if (S_ISFIFO(mode)) return '6';
  return 0;
}

static const char *known_link(struct writer *writer, const struct stat *stat, const char *path) {
  if (!S_ISREG(stat->st_mode) || stat->st_nlink < 2) return NULL;
  for (uint32_t i = 0; i < writer->link_count; i++)
    if (writer->links[i].device == stat->st_dev && writer->links[i].inode == stat->st_ino) return writer->links[i].path;
  if (writer->link_count >= LINKS_MAX) return NULL;
  if (writer->link_count % 64 == 0) {
    void *more = realloc(writer->links, (writer->link_count + 64) * sizeof *writer->links);
    if (more == NULL) return NULL;
    writer->links = more;
  }
  writer->links[writer->link_count++] = (struct hard_link){stat->st_dev, stat->st_ino, strdup(path)};
  return NULL;
}

static bool put_header(struct writer *writer, const char *path, const struct stat *stat, const char *link, char type) {
  struct header header = {.type = type, .magic = "ustar"};
  memcpy(header.version, "00", 2);
  uint64_t size = type == '0' ? (uint64_t)stat->st_size : 0;
  char number[32];
  if (strlen(path) > sizeof header.name) add_pax(writer, "path", path, strlen(path));
  if (link != NULL && strlen(link) > sizeof header.link) add_pax(writer, "linkpath", link, strlen(link));
  if (size > 077777777777ULL) add_pax(writer, "size", number, (size_t)snprintf(number, sizeof number, "%llu", (unsigned long long)size));
  if (stat->st_uid > 07777777) add_pax(writer, "uid", number, (size_t)snprintf(number, sizeof number, "%u", stat->st_uid));
  if (stat->st_gid > 07777777) add_pax(writer, "gid", number, (size_t)snprintf(number, sizeof number, "%u", stat->st_gid));
  if (!put_pax(writer)) return false;
  memcpy(header.name, path, strnlen(path, sizeof header.name));
  if (link != NULL) memcpy(header.link, link, strnlen(link, sizeof header.link));
  put_octal(header.mode, 8, stat->st_mode & 07777);
  put_octal(header.uid, 8, stat->st_uid & 07777777);
  put_octal(header.gid, 8, stat->st_gid & 07777777);
  put_octal(header.size, 12, size > 077777777777ULL ? 0 : size);
  put_octal(header.mtime, 12, stat->st_mtim.tv_sec < 0 ? 0 : (uint64_t)stat->st_mtim.tv_sec);
  if (type == '3' || type == '4') {
    put_octal(header.major, 8, major(stat->st_rdev));
    put_octal(header.minor, 8, minor(stat->st_rdev));
  }
  put_checksum(&header);
  return write_all(writer->out, &header, sizeof header);
}

/* Exactly the size that the header said: a file that shrinks meanwhile is filled up with zeros. */
static bool put_content(struct writer *writer, int fd, uint64_t size) {
  uint64_t left = size;
  while (left > 0) {
    size_t want = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
    ssize_t count = read(fd, copy_buffer, want);
    if (count <= 0) {
      memset(copy_buffer, 0, want);
      count = (ssize_t)want;
    }
    if (!write_all(writer->out, copy_buffer, (size_t)count)) return false;
    left -= (uint64_t)count;
  }
  return put_padding(writer->out, size);
}

static const char *pack(struct writer *writer, int parent, const char *name, const char *path, int depth);

static const char *pack_folder(struct writer *writer, int fd, const char *path, int depth) {
  DIR *dir = fdopendir(fd);
  if (dir == NULL) return FAIL("%s: %s", path, strerror(errno));
  const char *error = NULL;
  for (struct dirent *entry; error == NULL && (entry = readdir(dir)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    char below[PATH_MAX_];
    if ((size_t)snprintf(below, sizeof below, "%s%s", path, entry->d_name) >= sizeof below - 1) continue;
    error = pack(writer, dirfd(dir), entry->d_name, below, depth + 1);
  }
  closedir(dir);
  return error;
}

static const char *pack(struct writer *writer, int parent, const char *name, const char *path, int depth) {
  struct stat stat;
  char folder[PATH_MAX_], link[PATH_MAX_];
  if (depth > DEPTH_MAX) return NULL;
  if (fstatat(parent, name, &stat, AT_SYMLINK_NOFOLLOW) != 0) return NULL;
  char type = type_of(stat.st_mode);
  if (type == 0) return NULL;
  if (type == '2') {
    ssize_t length = readlinkat(parent, name, link, sizeof link - 1);
    if (length < 0) return NULL;
    link[length] = 0;
    return put_header(writer, path, &stat, link, type) ? NULL : "connection lost";
  }
  const char *first = known_link(writer, &stat, path);
  if (first != NULL) return put_header(writer, path, &stat, first, '1') ? NULL : "connection lost";
  if (type != '0' && type != '5') return put_header(writer, path, &stat, NULL, type) ? NULL : "connection lost";
  int fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  /* What it was a moment ago may have been swapped for something else. */
  if (fd < 0 || fstat(fd, &stat) != 0 || type_of(stat.st_mode) != type) {
    close(fd);
    return NULL;
  }
  add_xattrs(writer, fd);
  if (type == '5') {
    snprintf(folder, sizeof folder, "%s%s", path, *path != 0 && path[strlen(path) - 1] != '/' ? "/" : "");
    if (*path != 0 && !put_header(writer, folder, &stat, NULL, type)) return "connection lost";
    if (*path == 0) {
      free(writer->pax);
      writer->pax = NULL;
      writer->pax_length = 0;
    }
    return pack_folder(writer, fd, folder, depth);
  }
  bool done = put_header(writer, path, &stat, NULL, type) && put_content(writer, fd, (uint64_t)stat.st_size);
  close(fd);
  return done ? NULL : "connection lost";
}

const char *tar_pack_tree(int out, int parent, const char *name, const char *prefix) {
  static const char end[2 * BLOCK];
  struct writer writer = {.out = out};
  const char *error = pack(&writer, parent, name, prefix, 0);
  if (error == NULL && !write_all(out, end, sizeof end)) error = "connection lost";
  return error;
}

/* ---- reading */

struct entry {
  char path[PATH_MAX_], link[PATH_MAX_];
  uint64_t size, uid, gid, mtime;
  uint32_t mode, major, minor;
  char type;
  bool has_path, has_link, has_size, has_uid, has_gid;
  char *pax;
  size_t pax_length;
};

/* Octal, or GNU's base 256 when the first bit is set. */
static uint64_t number(const char *field, size_t size) {
  uint64_t value = 0;
  if ((unsigned char)field[0] & 0x80) {
    for (size_t i = 1; i < size; i++) value = value << 8 | (unsigned char)field[i];
    return value;
  }
  for (size_t i = 0; i < size && field[i] != 0; i++) {
    if (field[i] == ' ') continue;
    if (field[i] < '0' || field[i] > '7') break;
    value = value * 8 + (uint64_t)(field[i] - '0');
  }
  return value;
}

static bool skip(int in, uint64_t length) {
  uint64_t left = (length + BLOCK - 1) / BLOCK * BLOCK;
  while (left > 0) {
    size_t part = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
    if (!read_all(in, copy_buffer, part)) return false;
    left -= part;
  }
  return true;
}

static char *read_block_text(int in, uint64_t size) {
  if (size > PAX_BYTES_MAX) return NULL;
  size_t padded = (size_t)((size + BLOCK - 1) / BLOCK * BLOCK);
  char *text = calloc(1, padded + 1);
  if (text != NULL && !read_all(in, text, padded)) {
    free(text);
    return NULL;
  }
  if (text != NULL) text[size] = 0;
  return text;
}

typedef void (*pax_visit)(void *context, const char *key, const char *value, size_t length);

static void each_pax(const char *text, size_t size, pax_visit visit, void *context) {
  const char *at = text, *end = text + size;
  while (at < end) {
    char *space;
    unsigned long length = strtoul(at, &space, 10);
    const char *stop = at + length;
    if (length == 0 || stop > end || *space != ' ') return;
    char key[320];
    const char *equals = memchr(space + 1, '=', (size_t)(stop - space - 1));
    if (equals == NULL) return;
    size_t key_length = (size_t)(equals - space - 1);
    if (key_length < sizeof key) {
      memcpy(key, space + 1, key_length);
      key[key_length] = 0;
      visit(context, key, equals + 1, (size_t)(stop - equals - 2));
    }
    at = stop;
  }
}

static void take_pax(void *context, const char *key, const char *value, size_t length) {
  struct entry *entry = context;
  char text[32];
  snprintf(text, sizeof text, "%.*s", (int)(length < 31 ? length : 31), value);
  if (strcmp(key, "path") == 0 && length < PATH_MAX_) {
    snprintf(entry->path, PATH_MAX_, "%.*s", (int)length, value);
    entry->has_path = true;
  } else if (strcmp(key, "linkpath") == 0 && length < PATH_MAX_) {
    snprintf(entry->link, PATH_MAX_, "%.*s", (int)length, value);
    entry->has_link = true;
  } else if (strcmp(key, "size") == 0) {
    entry->size = strtoull(text, NULL, 10);
    entry->has_size = true;
  } else if (strcmp(key, "uid") == 0) {
    entry->uid = strtoull(text, NULL, 10);
    entry->has_uid = true;
  } else if (strcmp(key, "gid") == 0) {
    entry->gid = strtoull(text, NULL, 10);
    entry->has_gid = true;
  }
}

static void apply_xattr(void *context, const char *key, const char *value, size_t length) {
  static const char prefix[] = "SCHILY.xattr.";
  int fd = *(int *)context;
  if (strncmp(key, prefix, sizeof prefix - 1) != 0) return;
  const char *name = key + sizeof prefix - 1;
  if (strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0) fsetxattr(fd, name, value, length, 0);
}

/* How much of `length` there was before the end. */
static size_t read_up_to(int fd, void *bytes, size_t length) {
  size_t done = 0;
  while (done < length) {
    ssize_t count = read(fd, (char *)bytes + done, length - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    done += (size_t)count;
  }
  return done;
}

/* 1: an entry, 0: the end, -1: broken, -2: cut off. */
static int next_entry(int in, struct entry *entry) {
  struct header header;
  memset(entry, 0, offsetof(struct entry, pax));
  for (;;) {
    size_t length = read_up_to(in, &header, sizeof header);
    /* Some writers leave the end's empty blocks out; nobody ends within a block, or behind what announces an entry. */
    if (length == 0 && !entry->has_path && !entry->has_link && entry->pax == NULL) return 0;
    if (length < sizeof header) return -2;
    if (header.name[0] == 0 && header.size[0] == 0) return 0;
    unsigned sum = 0, told = (unsigned)number(header.checksum, 8);
    for (size_t i = 0; i < sizeof header; i++)
      sum += i >= offsetof(struct header, checksum) && i < offsetof(struct header, checksum) + 8 ? ' ' : ((unsigned char *)&header)[i];
    if (sum != told) return -1;
    uint64_t size = number(header.size, 12);
    if (header.type == 'L' || header.type == 'K' || header.type == 'x' || header.type == 'g') {
      char *text = read_block_text(in, size);
      if (text == NULL) return -1;
      if (header.type == 'L') snprintf(entry->path, PATH_MAX_, "%s", text), entry->has_path = true;
      if (header.type == 'K') snprintf(entry->link, PATH_MAX_, "%s", text), entry->has_link = true;
      if (header.type == 'x') {
        each_pax(text, (size_t)size, take_pax, entry);
        free(entry->pax);
        entry->pax = text;
        entry->pax_length = (size_t)size;
      } else {
        free(text);
      }
      continue;
    }
    bool is_ustar = memcmp(header.magic, "ustar", 5) == 0 && header.magic[5] == 0;
    if (!entry->has_path) {
      if (is_ustar && header.prefix[0] != 0) snprintf(entry->path, PATH_MAX_, "%.155s/%.100s", header.prefix, header.name);
      else snprintf(entry->path, PATH_MAX_, "%.100s", header.name);
    }
    if (!entry->has_link) snprintf(entry->link, PATH_MAX_, "%.100s", header.link);
    if (!entry->has_size) entry->size = size;
    if (!entry->has_uid) entry->uid = number(header.uid, 8);
    if (!entry->has_gid) entry->gid = number(header.gid, 8);
    entry->mode = (uint32_t)number(header.mode, 8) & 07777;
    entry->mtime = number(header.mtime, 12);
    entry->major = (uint32_t)number(header.major, 8);
    entry->minor = (uint32_t)number(header.minor, 8);
    entry->type = header.type == 0 || header.type == '7' ? '0' : header.type;
    return 1;
  }
}

/* Opens the folder of `path` below `root`, making what is missing; `name` is the last part, "" for the root itself. */
static int open_place(int root, const char *path, char name[256]) {
  char walked[PATH_MAX_] = "/", copy[PATH_MAX_];
  snprintf(copy, sizeof copy, "%s", path);
  int folder = x_openat2(root, "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_ROOT);
  char *rest = copy, *pending = NULL;
  name[0] = 0;
  for (char *part; folder >= 0 && (part = strsep(&rest, "/")) != NULL;) {
    if (*part == 0 || strcmp(part, ".") == 0) continue;
    if (strcmp(part, "..") == 0) {
      close(folder);
      errno = EINVAL;
      return -1;
    }
    if (pending != NULL) {
      size_t at = strlen(walked);
      snprintf(walked + at, sizeof walked - at, "%s%s", at > 1 ? "/" : "", pending);
      int next = x_openat2(root, walked, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_ROOT);
      if (next < 0 && errno == ENOENT && mkdirat(folder, pending, 0755) == 0)
        next = x_openat2(root, walked, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, IN_ROOT);
      close(folder);
      folder = next;
    }
    pending = part;
  }
  if (pending != NULL) snprintf(name, 256, "%s", pending);
  return folder;
}

static int remove_tree_at(int folder, const char *name) {
  if (unlinkat(folder, name, 0) == 0 || errno == ENOENT) return 0;
  if (errno != EISDIR && errno != EPERM) return -1;
  int below = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (below < 0) return -1;
  DIR *dir = fdopendir(below);
  for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) remove_tree_at(dirfd(dir), entry->d_name);
  if (dir != NULL) closedir(dir);
  return unlinkat(folder, name, AT_REMOVEDIR);
}

static const char *make_file(int in, int folder, const char *name, const struct entry *entry) {
  int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return FAIL("%s: %s", entry->path, strerror(errno));
  uint64_t left = entry->size;
  while (left > 0) {
    size_t part = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
    if (!read_all(in, copy_buffer, part)) {
      close(fd);
      return "unexpected end of the archive";
    }
    if (!write_all(fd, copy_buffer, part)) {
      close(fd);
      return FAIL("%s: %s", entry->path, strerror(errno));
    }
    left -= part;
  }
  close(fd);
  size_t padding = (size_t)(BLOCK - entry->size % BLOCK) % BLOCK;
  return read_all(in, copy_buffer, padding) ? NULL : "unexpected end of the archive";
}

static const char *make_link(int root, int folder, const char *name, const struct entry *entry) {
  char target_name[256];
  int target = open_place(root, entry->link, target_name);
  int result = target < 0 ? -1 : linkat(target, target_name, folder, name, 0);
  int error = errno;
  close(target);
  return result == 0 ? NULL : FAIL("%s: link to %s: %s", entry->path, entry->link, strerror(error));
}

static void set_attributes(int folder, const char *name, const struct entry *entry) {
  fchownat(folder, name, (uid_t)entry->uid, (gid_t)entry->gid, AT_SYMLINK_NOFOLLOW);
  if (entry->type != '2') {
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    /* Changing the owner clears setuid: the mode comes after it. */
    if (fd >= 0) fchmod(fd, entry->mode);
    else fchmodat(folder, name, entry->mode, 0);
    if (fd >= 0 && entry->pax != NULL) each_pax(entry->pax, entry->pax_length, apply_xattr, &fd);
    close(fd);
  }
  struct timespec times[2] = {{(time_t)entry->mtime, 0}, {(time_t)entry->mtime, 0}};
  utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW);
}

static const char *make_entry(int in, int root, struct entry *entry, bool keep_kind) {
  char name[256];
  int folder = open_place(root, entry->path, name);
  if (folder < 0) return FAIL("%s: %s", entry->path, strerror(errno));
  const char *error = NULL;
  if (*name == 0) {
    close(folder);
    return skip(in, entry->type == '0' ? entry->size : 0) ? NULL : "unexpected end of the archive";
  }
  struct stat stat;
  bool exists = fstatat(folder, name, &stat, AT_SYMLINK_NOFOLLOW) == 0;
  bool is_folder = entry->type == '5';
  if (exists && keep_kind && is_folder != S_ISDIR(stat.st_mode)) {
    close(folder);
    return is_folder ? FAIL("cannot overwrite non-directory \"%s\" with directory", entry->path)
                     : FAIL("cannot overwrite directory \"%s\" with non-directory", entry->path);
  }
  bool keeps = exists && is_folder && S_ISDIR(stat.st_mode);
  if (exists && !keeps && remove_tree_at(folder, name) != 0) error = FAIL("%s: %s", entry->path, strerror(errno));
  if (error == NULL) switch (entry->type) {
      case '0': error = make_file(in, folder, name, entry); break;
      case '1': error = make_link(root, folder, name, entry); break;
      case '2':
        if (symlinkat(entry->link, folder, name) != 0) error = FAIL("%s: %s", entry->path, strerror(errno));
        break;
      case '3':
      case '4':
      case '6': {
        mode_t kind = entry->type == '3' ? S_IFCHR : entry->type == '4' ? S_IFBLK : S_IFIFO;
        if (mknodat(folder, name, kind | 0600, makedev(entry->major, entry->minor)) != 0)
          error = FAIL("%s: %s", entry->path, strerror(errno));
        break;
      }
      case '5':
        if (!keeps && mkdirat(folder, name, 0755) != 0) error = FAIL("%s: %s", entry->path, strerror(errno));
        break;
      default: error = skip(in, entry->size) ? NULL : "unexpected end of the archive";
    }
  if (error == NULL && entry->type >= '0' && entry->type <= '6' && entry->type != '1') set_attributes(folder, name, entry);
  close(folder);
  return error;
}

const char *tar_unpack(int in, int folder, bool keep_kind, const struct tar_owner *owner) {
  static struct entry entry;
  /* "/" below is the folder: nothing above it can be named. */
  for (int found; (found = next_entry(in, &entry)) != 0;) {
    if (found < 0) return found == -1 ? "invalid tar header" : "unexpected end of the archive";
    if (owner != NULL) entry.uid = owner->uid, entry.gid = owner->gid;
    const char *error = make_entry(in, folder, &entry, keep_kind);
    free(entry.pax);
    entry.pax = NULL;
    if (error != NULL) return error;
  }
  /* Padding behind the end is read away, so that the sender sees no broken pipe. */
  while (read(in, copy_buffer, COPY_BYTES) > 0) continue;
  return NULL;
}
