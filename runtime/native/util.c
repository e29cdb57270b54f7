/* See util.h. Used by launcher, monitor and the child side; keeps no state. */
#define _GNU_SOURCE
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

bool write_all(int fd, const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t count = write(fd, at, length);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += count;
    length -= (size_t)count;
  }
  return true;
}

bool read_all(int fd, void *bytes, size_t length) {
  char *at = bytes;
  while (length > 0) {
    ssize_t count = read(fd, at, length);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += count;
    length -= (size_t)count;
  }
  return true;
}

bool send_frame(int fd, uint8_t type, const void *bytes, uint32_t length) {
  uint8_t head[5];
  uint32_t total = length + 1;
  memcpy(head, &total, 4);
  head[4] = type;
  return write_all(fd, head, 5) && (length == 0 || write_all(fd, bytes, length));
}

bool send_text_frame(int fd, uint8_t type, const char *text) {
  return send_frame(fd, type, text, (uint32_t)strlen(text));
}

/* For a connection that is left though nobody asked for that: who is silent that long is not read to the end. */
enum { LAST_QUIET_MS = 2000 };

void send_last_text(int fd, uint8_t type, const char *text) {
  char dropped[4096];
  struct pollfd end = {fd, POLLIN, 0};
  send_text_frame(fd, type, text);
  shutdown(fd, SHUT_WR);
  while (poll(&end, 1, LAST_QUIET_MS) > 0 && recv(fd, dropped, sizeof dropped, MSG_DONTWAIT) > 0) continue;
}

int write_file(int dir, const char *path, const char *text) {
  int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  ssize_t count = write(fd, text, strlen(text));
  int result = count < 0 ? -errno : 0;
  close(fd);
  return result;
}

ssize_t read_file(int dir, const char *path, char *buffer, size_t size) {
  int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  size_t total = 0;
  while (total < size - 1) {
    ssize_t count = read(fd, buffer + total, size - 1 - total);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    total += (size_t)count;
  }
  close(fd);
  buffer[total] = 0;
  return (ssize_t)total;
}

int make_folders(const char *path, mode_t mode) {
  if (mkdir(path, mode) == 0 || errno == EEXIST) return 0;
  if (errno != ENOENT) return -errno;
  char part[4096];
  size_t length = strlen(path);
  if (length >= sizeof part) return -ENAMETOOLONG;
  memcpy(part, path, length + 1);
  for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    if (mkdir(part, mode) != 0 && errno != EEXIST) return -errno;
    *slash = '/';
  }
  return mkdir(path, mode) == 0 || errno == EEXIST ? 0 : -errno;
}

union descriptor_control {
  struct cmsghdr head;
  char room[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
};

bool send_descriptors(int socket, char tag, const int *fds, uint32_t count) {
  struct iovec part = {&tag, 1};
  union descriptor_control control = {0};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count == 0 || count > DESCRIPTORS_MAX) return count == 0 && send(socket, &tag, 1, MSG_NOSIGNAL) == 1;
  message.msg_control = control.room;
  message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int));
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(head), fds, count * sizeof(int));
  return sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}

bool send_descriptor(int socket, char tag, int fd) { return send_descriptors(socket, tag, &fd, 1); }

ssize_t receive_descriptors(int socket, char *bytes, size_t size, int *fds, uint32_t *count) {
  struct iovec part = {bytes, size};
  union descriptor_control control = {0};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  message.msg_control = control.room;
  message.msg_controllen = (socklen_t)CMSG_SPACE(*count * sizeof(int));
  uint32_t wanted = *count;
  *count = 0;
  ssize_t length;
  /* A peer that ended without reading all that it was sent resets the connection, once: its last words are still in the queue. */
  do length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (length < 0 && (errno == EINTR || errno == ECONNRESET));
  if (length <= 0) return length;
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  if (head == NULL || head->cmsg_type != SCM_RIGHTS) return length;
  int taken[DESCRIPTORS_MAX];
  uint32_t came = (uint32_t)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(taken, CMSG_DATA(head), came * sizeof(int));
  /* Room is counted in eight bytes: an odd number leaves some for one more. */
  while (came > wanted) close(taken[--came]);
  memcpy(fds, taken, came * sizeof(int));
  *count = came;
  return length;
}

ssize_t receive_descriptor(int socket, char *bytes, size_t size, int *fd) {
  uint32_t count = 1;
  *fd = -1;
  return receive_descriptors(socket, bytes, size, fd, &count);
}

void release_stack(void) {
  /* Less than the kernel maps below the stack of a new program; some is left for the call that this one makes. */
  const uintptr_t page = 4096, bytes = 96 << 10, own = 512;
  char here;
  madvise((void *)((((uintptr_t)&here - own) & ~(page - 1)) - bytes), bytes, MADV_DONTNEED);
}

void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

uint64_t wall_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t wall_nanoseconds_once(void) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void format_time(uint64_t nanoseconds, char out[31]) {
  /* The calendar part is the same for a whole second of lines. */
  static uint64_t cached_second = UINT64_MAX;
  static char cached[20];
  uint64_t second = nanoseconds / 1000000000u;
  uint32_t fraction = (uint32_t)(nanoseconds % 1000000000u);
  if (second != cached_second) {
    time_t when = (time_t)second;
    struct tm parts;
    gmtime_r(&when, &parts);
    strftime(cached, sizeof cached, "%Y-%m-%dT%H:%M:%S", &parts);
    cached_second = second;
  }
  memcpy(out, cached, 19);
  out[19] = '.';
  for (int i = 28; i > 19; i--) {
    out[i] = (char)('0' + fraction % 10);
    fraction /= 10;
  }
  out[29] = 'Z';
  out[30] = 0;
}

bool in_user_namespace(void) {
  unsigned inside, outside, count;
  char text[256];
  if (read_file(-100, "/proc/self/uid_map", text, sizeof text) <= 0) return false;
  return sscanf(text, "%u %u %u", &inside, &outside, &count) != 3 || inside != 0 || outside != 0 || count != UINT32_MAX;
}

uint64_t process_start_ticks(int pid) {
  char path[32], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  if (read_file(-100, path, text, sizeof text) <= 0) return 0;
  char *at = strrchr(text, ')');
  if (at == NULL) return 0;
  at += 2;
  for (int field = 3; field < 22 && at != NULL; field++) {
    at = strchr(at, ' ');
    if (at != NULL) at++;
  }
  return at == NULL ? 0 : strtoull(at, NULL, 10);
}
