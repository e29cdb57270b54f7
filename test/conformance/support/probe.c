/*
 * Makes every system call from 0 to the number given, each in a process of its own with arguments that are no use to it, and prints what came
 * of it: "NUMBER ERRNO", 0 for success, -1 for a process that ended or hung in the call. Run in a container by seccomp.test.ts.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RESULT_SIGNALLED = 255, WAIT_ROUNDS = 300, WAIT_ROUND_NS = 1000000 };

/* No call but the one in question between fork and exit. */
static void call(long number) {
  long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
  _exit(result == -1 ? (errno == EPERM ? 1 : errno == ENOSYS ? 2 : 3) : 0);
}

static int outcome(long number) {
  int status;
  struct timespec round = {0, WAIT_ROUND_NS};
  pid_t pid = fork();
  if (pid == 0) call(number);
  for (int i = 0; i < WAIT_ROUNDS; i++) {
    if (waitpid(pid, &status, WNOHANG) == pid) return WIFEXITED(status) ? WEXITSTATUS(status) : RESULT_SIGNALLED;
    nanosleep(&round, NULL);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return RESULT_SIGNALLED;
}

int main(int count, char *arguments[]) {
  static const char *const names[] = {"reached", "EPERM", "ENOSYS", "reached"};
  long last = count > 1 ? atol(arguments[1]) : 480;
  setvbuf(stdout, NULL, _IONBF, 0);
  for (long number = 0; number <= last; number++) {
    /* The process must still be able to say what came of it. */
    if (number == SYS_exit || number == SYS_exit_group) continue;
    int result = outcome(number);
    printf("%ld %s\n", number, result == RESULT_SIGNALLED ? "reached" : names[result]);
  }
  return 0;
}
