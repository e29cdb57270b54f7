/* See oci.h. A container in the foreground: signals go to it, and bytes between our terminal and its one. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "oci.h"
#include "sys.h"
#include "util.h"

enum { COPY_BYTES = 32768 };

static struct termios saved;
static bool is_saved;

void oci_send_console(const char *socket_path, int terminal) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(socket_path) >= sizeof address.sun_path) oci_fail(1, "--console-socket: want a path below %zu bytes", sizeof address.sun_path);
  strcpy(address.sun_path, socket_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0 || !send_descriptor(fd, 0, terminal))
    oci_fail(1, "--console-socket %s: %s", socket_path, strerror(errno));
  close(fd);
  close(terminal);
}

static void make_raw(void) {
  struct termios raw;
  if (tcgetattr(0, &saved) != 0) return;
  is_saved = true;
  raw = saved;
  cfmakeraw(&raw);
  tcsetattr(0, TCSANOW, &raw);
}

static void copy_size(int terminal) {
  struct winsize size;
  if (ioctl(0, TIOCGWINSZ, &size) == 0) ioctl(terminal, TIOCSWINSZ, &size);
}

static bool copy(int from, int to) {
  static char bytes[COPY_BYTES];
  ssize_t count = read(from, bytes, sizeof bytes);
  if (count < 0 && errno == EINTR) return true;
  return count > 0 && write_all(to, bytes, (size_t)count);
}

static void pass_signal(int signals, int pid, int terminal) {
  struct signalfd_siginfo info;
  if (read(signals, &info, sizeof info) != sizeof info) return;
  int number = (int)info.ssi_signo;
  if (number == SIGCHLD || number == SIGPIPE || number == SIGURG) return;
  if (number == SIGWINCH && terminal >= 0) copy_size(terminal);
  else kill(pid, number);
}

static int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

/* All but the faults of our own, which stay fatal, and those of job control. */
static sigset_t passed_signals(void) {
  sigset_t all;
  sigfillset(&all);
  for (int number = 1; number < 32; number++)
    if (strchr((const char[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU, SIGTSTP, 0}, number) != NULL)
      sigdelset(&all, number);
  return all;
}

void oci_hold_signals(void) {
  sigset_t all = passed_signals();
  sigprocmask(SIG_BLOCK, &all, NULL);
}

int oci_attend(int pid, int terminal) {
  sigset_t all = passed_signals();
  oci_hold_signals();
  signal(SIGTTOU, SIG_IGN);
  /* A process that joined a user namespace is born without a signal for its end, so the end is seen by descriptor. */
  int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK), end = x_pidfd_open(pid), status;
  bool is_input_open = terminal >= 0;
  if (terminal >= 0 && isatty(0)) {
    make_raw();
    copy_size(terminal);
  }
  while (waitpid(pid, &status, WNOHANG | __WALL) == 0) {
    struct pollfd polled[4] = {{signals, POLLIN, 0}, {terminal, POLLIN, 0}, {is_input_open ? 0 : -1, POLLIN, 0}, {end, POLLIN, 0}};
    if (poll(polled, 4, -1) < 0 && errno != EINTR) break;
    if (polled[0].revents != 0) pass_signal(signals, pid, terminal);
    if (polled[1].revents != 0 && !copy(terminal, 1)) terminal = -1;
    if (polled[2].revents != 0 && is_input_open && !copy(0, terminal)) is_input_open = false;
  }
  /* What it wrote last. */
  if (terminal >= 0) {
    set_nonblocking(terminal);
    while (copy(terminal, 1)) continue;
  }
  if (is_saved) tcsetattr(0, TCSANOW, &saved);
  close(signals);
  close(end);
  return exit_code(status);
}
