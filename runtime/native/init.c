/*
 * PID 1 for containers that ask for one (`--init`): passes signals on, reaps everything, ends as its child ended. The program
 * is bound read-only into the container under /sbin/docker-init.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int init_main(char *const arguments[]) {
  sigset_t all, old;
  sigfillset(&all);
  /* Faults of this program itself must stay fatal. */
  const int own[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU};
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&all, own[i]);
  sigprocmask(SIG_SETMASK, &all, &old);
  pid_t child = fork();
  if (child < 0) return 125;
  if (child == 0) {
    setpgid(0, 0);
    signal(SIGTTOU, SIG_IGN);
    tcsetpgrp(0, getpid());
    signal(SIGTTOU, SIG_DFL);
    sigprocmask(SIG_SETMASK, &old, NULL);
    execvp(arguments[0], arguments);
    fprintf(stderr, "exec %s: %s\n", arguments[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
  }
  for (;;) {
    siginfo_t info;
    int number = sigwaitinfo(&all, &info);
    if (number < 0) continue;
    if (number != SIGCHLD) {
      kill(child, number);
      continue;
    }
    int status, result = -1;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
      if (pid == child) result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (result >= 0) return result;
  }
}
