/*
 * See rootless.h. The holder is in the namespaces and sleeps; it has a lock on ROOT/rootless.lock, by which the next daemon finds it, and
 * keeps the user-mode network (slirp4netns) alive by an open pipe. It goes once no launcher has lived for a while: containers outlive the
 * daemon, and their network with them.
 */
#define _GNU_SOURCE
#include "rootless.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys.h"
#include "util.h"

enum { MAP_WORDS_MAX = 512, ROUND_SECONDS = 2, QUIET_ROUNDS_MAX = 3, FIRST_ROUNDS_MAX = 60, FAILED = 1 };

static int complain(const char *what) {
  fprintf(stderr, "shoal: rootless: %s: %s\n", what, strerror(errno));
  return FAILED;
}

/* Process that has the lock, 0 if nobody, -1 on error. */
static pid_t lock_owner(const char *root, const char *name) {
  char path[4096];
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if ((size_t)snprintf(path, sizeof path, "%s/%s", root, name) >= sizeof path) return -1;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? 0 : -1;
  int result = fcntl(fd, F_GETLK, &whole);
  close(fd);
  if (result != 0) return -1;
  return whole.l_type == F_UNLCK ? 0 : whole.l_pid;
}

static bool take_lock(const char *root) {
  char path[4096];
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if ((size_t)snprintf(path, sizeof path, "%s/rootless.lock", root) >= sizeof path) return false;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  return fd >= 0 && fcntl(fd, F_SETLK, &whole) == 0;
}

/* newuidmap PID MAP…: sets what the user's subordinate ids allow. It says itself what it misses. */
static bool run_mapper(const char *program, pid_t pid, const char *map) {
  char *words[MAP_WORDS_MAX + 3] = {(char *)(uintptr_t)program};
  char number[16], copy[8192];
  int count = 2, status = 0;
  snprintf(number, sizeof number, "%d", pid);
  snprintf(copy, sizeof copy, "%s", map);
  words[1] = number;
  char *rest = copy;
  for (char *word; (word = strsep(&rest, " ")) != NULL && count < MAP_WORDS_MAX;)
    if (*word != 0) words[count++] = word;
  pid_t child = fork();
  if (child == 0) {
    execvp(program, words);
    fprintf(stderr, "shoal: rootless: %s is needed (Debian package uidmap): %s\n", program, strerror(errno));
    _exit(127);
  }
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* The network program lives until `exit_fd`'s other end closes. Returns once the network is up. */
static bool start_network(const char *root, pid_t holder, int exit_fd) {
  int ready[2];
  char number[16], ready_text[16], exit_text[16], api[4096], answer = 0;
  if (pipe(ready) != 0) return false;
  snprintf(number, sizeof number, "%d", holder);
  snprintf(ready_text, sizeof ready_text, "%d", ready[1]);
  snprintf(exit_text, sizeof exit_text, "%d", exit_fd);
  snprintf(api, sizeof api, "%s/slirp.sock", root);
  unlink(api);
  pid_t child = fork();
  if (child == 0) {
    /* Not a child of the daemon that this process becomes. */
    if (fork() != 0) _exit(0);
    setsid();
    fcntl(exit_fd, F_SETFD, 0);
    close(ready[0]);
    char log[4096];
    snprintf(log, sizeof log, "%s/slirp4netns.log", root);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), words = fcntl(2, F_DUPFD_CLOEXEC, 3);
    int said = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    dup2(null, 0);
    dup2(said, 1);
    dup2(said, 2);
    execlp("slirp4netns", "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--api-socket", api, "--ready-fd",
           ready_text, "--exit-fd", exit_text, number, "tap0", (char *)NULL);
    dprintf(words, "shoal: rootless: slirp4netns is needed for the network (Debian package slirp4netns): %s\n", strerror(errno));
    _exit(127);
  }
  close(ready[1]);
  if (child > 0) waitpid(child, NULL, 0);
  bool is_up = child > 0 && read(ready[0], &answer, 1) == 1;
  close(ready[0]);
  char said[512] = "";
  if (!is_up && snprintf(api, sizeof api, "%s/slirp4netns.log", root) > 0 && read_file(AT_FDCWD, api, said, sizeof said) > 0)
    fprintf(stderr, "shoal: rootless: slirp4netns brings up no network: %s\n", said);
  return is_up;
}

static bool expect(int fd, char word) {
  char got = 0;
  return read(fd, &got, 1) == 1 && got == word;
}

static bool raise_loopback(void) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  bool done = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
  close(fd);
  return done;
}

/* The first daemon may take its time to start a launcher. */
static void sleep_while_needed(const char *root) {
  bool was_needed = false;
  for (int quiet = 0; quiet < (was_needed ? QUIET_ROUNDS_MAX : FIRST_ROUNDS_MAX);) {
    sleep(ROUND_SECONDS);
    bool is_needed = lock_owner(root, "launcher.lock") != 0;
    was_needed = was_needed || is_needed;
    quiet = is_needed ? 0 : quiet + 1;
  }
}

/* Words on `talk`: it says 'u' (user namespace), hears 'm' (mapped), says 'r' (the rest is there), hears 'n' (network is up). */
static _Noreturn void hold(const char *root, const char *resolv_conf, int talk) {
  setsid();
  if (unshare(CLONE_NEWUSER) != 0) {
    complain("user namespace");
    _exit(FAILED);
  }
  if (write(talk, "u", 1) != 1 || !expect(talk, 'm')) _exit(FAILED);
  if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0 || unshare(CLONE_NEWNS | CLONE_NEWNET) != 0 ||
      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || !raise_loopback() ||
      mount(resolv_conf, "/etc/resolv.conf", NULL, MS_BIND, NULL) != 0) {
    complain("namespaces");
    _exit(FAILED);
  }
  if (!take_lock(root)) _exit(FAILED);
  prctl(PR_SET_NAME, "shoal-rootless", 0, 0, 0);
  if (write(talk, "r", 1) != 1 || !expect(talk, 'n')) _exit(FAILED);
  close(talk);
  signal(SIGHUP, SIG_IGN);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < 3; fd++) dup2(null, fd);
  chdir("/");
  sleep_while_needed(root);
  _exit(0);
}

/* 0, or an exit status with the reason on standard error. */
static int make_holder(const char *root, const char *uid_map, const char *gid_map, const char *resolv_conf) {
  int talk[2], life[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, talk) != 0 || pipe2(life, O_CLOEXEC) != 0) return complain("socket");
  pid_t holder = fork();
  if (holder == 0) {
    close(talk[0]);
    close(life[0]);
    hold(root, resolv_conf, talk[1]);
  }
  close(talk[1]);
  /* The holder alone keeps the writing end. */
  close(life[1]);
  if (holder < 0) return complain("fork");
  bool done = expect(talk[0], 'u') && run_mapper("newuidmap", holder, uid_map) && run_mapper("newgidmap", holder, gid_map) &&
              write(talk[0], "m", 1) == 1 && expect(talk[0], 'r') && start_network(root, holder, life[0]) && write(talk[0], "n", 1) == 1;
  close(talk[0]);
  close(life[0]);
  if (done) return 0;
  kill(holder, SIGKILL);
  waitpid(holder, NULL, 0);
  return FAILED;
}

static int enter(pid_t holder) {
  static const struct {
    const char *name;
    int kind;
  } spaces[] = {{"user", CLONE_NEWUSER}, {"mnt", CLONE_NEWNS}, {"net", CLONE_NEWNET}};
  int fds[3];
  for (int i = 0; i < 3; i++) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/%s", holder, spaces[i].name);
    if ((fds[i] = open(path, O_RDONLY | O_CLOEXEC)) < 0) return complain(path);
  }
  for (int i = 0; i < 3; i++)
    if (setns(fds[i], spaces[i].kind) != 0) return complain(spaces[i].name);
  if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) return complain("becoming root of the user namespace");
  return 0;
}

int rootless_main(char *arguments[], int count) {
  if (count < 5) return 64;
  const char *root = arguments[0];
  pid_t holder = lock_owner(root, "rootless.lock");
  int status = 0;
  if (holder == 0 && (status = make_holder(root, arguments[1], arguments[2], arguments[3])) == 0)
    holder = lock_owner(root, "rootless.lock");
  if (status != 0) return status;
  if (holder <= 0) return complain("nobody holds the namespaces");
  if ((status = enter(holder)) != 0) return status;
  setenv("SHOAL_ROOTLESS", "1", 1);
  execvp(arguments[4], arguments + 4);
  return complain(arguments[4]);
}
