/*
 * See launcher.h. Started by the daemon, detached from it: it answers on ROOT/launcher.sock, forks for every connection and
 * reaps. It holds no state, so a daemon may be replaced at any time. It goes away by itself when there is nothing left for it:
 * no child (monitors and the connection that a daemon holds are its children) for a few seconds.
 */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "archive.h"
#include "job.h"
#include "monitor.h"
#include "mounts.h"
#include "remove.h"
#include "spare.h"
#include "sys.h"
#include "util.h"

enum { IDLE_ROUND_MS = 500, IDLE_ROUNDS_MAX = 10, BACKLOG = 512, RETIRE_ROUNDS_MAX = 100, RETIRE_ROUND_US = 20000 };

enum { USUAL_JOB_BYTES = 64 << 10 };

static uint8_t *job_bytes;
/* For most jobs. A mapping would take page tables with it that stay. */
static alignas(4096) uint8_t job_room[USUAL_JOB_BYTES];
static int child_count;

void launcher_release_job(void) {
  if (job_bytes == job_room) madvise(job_room, sizeof job_room, MADV_DONTNEED);
  else free(job_bytes);
  job_bytes = NULL;
}

static void reap_children(void) {
  while (waitpid(-1, NULL, WNOHANG) > 0)
    if (child_count > 0) child_count--;
}

static void on_child(int number) { (void)number; }

static volatile sig_atomic_t is_retired;
static int lock_fd = -1;

static void on_retire(int number) {
  (void)number;
  is_retired = 1;
}

/* What a launcher is: its build, and the namespaces in which its containers would be born. */
static void describe(char text[128]) {
  struct stat mounts = {0}, network = {0};
  stat("/proc/self/ns/mnt", &mounts);
  stat("/proc/self/ns/net", &network);
  snprintf(text, 128, "%s %lu %lu", BUILD_ID, (unsigned long)mounts.st_ino, (unsigned long)network.st_ino);
}

/* Runs in the fork: reads the one frame, becomes what it asks for. */
static _Noreturn void serve(int connection) {
  uint8_t head[5];
  uint32_t total;
  if (!read_all(connection, head, sizeof head)) _exit(0);
  if (head[4] == F_SPARE) {
    spare_prepare();
    if (!read_all(connection, head, sizeof head)) _exit(0);
  }
  memcpy(&total, head, 4);
  if (head[4] == F_HOLD) {
    char text[128], byte;
    describe(text);
    send_text_frame(connection, F_DONE, text);
    while (read(connection, &byte, 1) > 0) continue;
    _exit(0);
  }
  if (head[4] == F_RETIRE) {
    kill(getppid(), SIGUSR1);
    char byte;
    /* The asker waits for the lock, not for an answer. */
    read(connection, &byte, 1);
    _exit(0);
  }
  if (total < 1 || total > JOB_BYTES_MAX) {
    send_text_frame(connection, F_ERROR, "job: too long");
    _exit(1);
  }
  job_bytes = total <= sizeof job_room ? job_room : malloc(total);
  if (job_bytes == NULL || !read_all(connection, job_bytes, total - 1)) _exit(1);
  if (head[4] == F_REMOVE) remove_serve((const char *)job_bytes, total - 1, connection);
  struct job job;
  const char *error = job_parse(&job, job_bytes, total - 1);
  if (error == NULL && head[4] == F_CREATE) monitor_create(&job, connection);
  spare_leave();
  if (error == NULL && head[4] == F_EXEC) monitor_exec(&job, connection);
  if (error == NULL && head[4] == F_ARCHIVE) archive_serve(&job, connection);
  send_text_frame(connection, F_ERROR, error == NULL ? "job: unknown kind" : error);
  _exit(1);
}

/* Asks the launcher that lives here what it is; one that differs from this is sent away. False if it may stay. */
static bool replaces_other(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "launcher.sock"};
  char own[128], other[128] = "";
  uint8_t head[5];
  uint32_t total = 0;
  describe(own);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool is_there = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && send_frame(fd, F_HOLD, NULL, 0) &&
                  read_all(fd, head, sizeof head);
  if (is_there) memcpy(&total, head, 4);
  if (is_there && total - 1 < sizeof other) read_all(fd, other, total - 1);
  close(fd);
  if (!is_there) return true;
  if (strcmp(own, other) == 0) return false;
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) send_frame(fd, F_RETIRE, NULL, 0);
  close(fd);
  return true;
}

static int listen_at(const char *root) {
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "launcher.sock"};
  if (chdir(root) != 0 || (mkdir(ROOT_PLACE, 0700) != 0 && errno != EEXIST)) return -1;
  lock_fd = open("launcher.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  /* A lock that forks don't inherit: it says whether a launcher lives. */
  if (lock_fd < 0) return -1;
  for (int round = 0; fcntl(lock_fd, F_SETLK, &whole) != 0; round++) {
    if ((errno != EAGAIN && errno != EACCES) || round >= RETIRE_ROUNDS_MAX || !replaces_other()) return -1;
    usleep(RETIRE_ROUND_US);
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  unlink(address.sun_path);
  umask(0177);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, BACKLOG) != 0) return -1;
  umask(022);
  return fd;
}

static void accept_all(int listener) {
  for (;;) {
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0) return;
    pid_t pid = fork();
    if (pid == 0) {
      close(listener);
      close(lock_fd);
      signal(SIGCHLD, SIG_DFL);
      signal(SIGUSR1, SIG_DFL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, NULL);
      serve(connection);
    }
    if (pid > 0) child_count++;
    else send_text_frame(connection, F_ERROR, strerror(errno));
    close(connection);
  }
}

/* Gives its place to another and stays only as the parent of its children. */
static _Noreturn void retire(int listener) {
  unlink("launcher.sock");
  accept_all(listener);
  close(listener);
  close(lock_fd);
  signal(SIGCHLD, SIG_DFL);
  while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) continue;
  _exit(0);
}

static _Noreturn void run(int listener) {
  struct pollfd polled = {listener, POLLIN, 0};
  int idle_rounds = 0;
  sigset_t waiting;
  sigemptyset(&waiting);
  for (;;) {
    struct timespec round = {IDLE_ROUND_MS / 1000, IDLE_ROUND_MS % 1000 * 1000000};
    int ready = ppoll(&polled, 1, child_count == 0 ? &round : NULL, &waiting);
    reap_children();
    if (is_retired) retire(listener);
    if (ready > 0) accept_all(listener);
    idle_rounds = child_count > 0 || ready != 0 ? 0 : idle_rounds + 1;
    /* Whoever connected before the name went is still served. */
    if (idle_rounds >= IDLE_ROUNDS_MAX) retire(listener);
  }
}

static int oom_score = OOM_SCORE_UNKNOWN;

int launcher_oom_score(void) { return oom_score; }

static _Noreturn void live(const char *root, int ready) {
  char score[16];
  setsid();
  if (read_file(AT_FDCWD, "/proc/self/oom_score_adj", score, sizeof score) > 0) oom_score = atoi(score);
  /* Whatever the daemon's parents left open must not reach a container. */
  if (ready > 3) x_close_range(3, (unsigned)ready - 1, 0);
  x_close_range((unsigned)ready + 1, ~0U, 0);
  int listener = listen_at(root);
  char result = listener >= 0 ? 0 : (char)errno;
  write_all(ready, &result, 1);
  if (listener < 0) _exit(1);
  close(ready);
  prctl(PR_SET_NAME, "shoal-launcher", 0, 0, 0);
  struct sigaction action = {.sa_handler = on_child};
  sigaction(SIGCHLD, &action, NULL);
  action.sa_handler = on_retire;
  sigaction(SIGUSR1, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; fd++) dup2(null, fd);
  run(listener);
}

int launcher_main(const char *root) {
  int ready[2];
  char result = 0;
  if (pipe2(ready, O_CLOEXEC) != 0) return 1;
  /* The lock belongs to a process, so the one that stays takes it. */
  if (fork() == 0) live(root, ready[1]);
  close(ready[1]);
  if (!read_all(ready[0], &result, 1)) result = EIO;
  if (result == 0) return 0;
  fprintf(stderr, "shoal-runtime: launcher at %s: %s\n", root, strerror(result));
  /* 2: another one lives there. */
  return result == EAGAIN || result == EACCES ? 2 : 1;
}
