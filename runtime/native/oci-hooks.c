/*
 * See oci.h. Runs the hooks of one kind in order, the state on their stdin, their environment exactly the one listed. What they print is
 * kept for the error text. Called on the host's side and, for two kinds, inside the container.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "oci.h"
#include "sys.h"
#include "util.h"

enum { OUTPUT_BYTES_MAX = 4096 };

static char **texts_of(const struct json *list, const char *first) {
  char **texts = calloc((list == NULL ? 0 : list->count) + 2, sizeof *texts);
  uint32_t count = 0;
  if (texts == NULL) abort();
  JSON_EACH(item, list)
    if (item->kind == JSON_TEXT) texts[count++] = (char *)item->text;
  if (count == 0 && first != NULL) texts[0] = (char *)first;
  return texts;
}

static _Noreturn void become_hook(const struct json *hook, int input, int output) {
  const char *path = json_text(hook, "path", "");
  char **arguments = texts_of(json_get(hook, "args"), path), **environment = texts_of(json_get(hook, "env"), NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  dup2(input, 0);
  dup2(output, 1);
  dup2(output, 2);
  execve(path, arguments, environment);
  dprintf(2, "%s: %s", path, strerror(errno));
  _exit(127);
}

static int64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Feeds the state and collects what is printed until the process has ended. False if the time ran out first. */
static bool attend(int pidfd, int input, int output, const char *state, int64_t timeout_ms, char *printed) {
  size_t used = 0, sent = 0, length = strlen(state);
  int64_t end = milliseconds() + timeout_ms;
  set_nonblocking(input);
  set_nonblocking(output);
  for (;;) {
    struct pollfd polled[3] = {{pidfd, POLLIN, 0}, {output, POLLIN, 0}, {input, POLLOUT, 0}};
    int64_t left = timeout_ms < 0 ? -1 : end - milliseconds();
    if (timeout_ms >= 0 && left <= 0) return false;
    if (poll(polled, 3, (int)left) < 0 && errno != EINTR) return true;
    if (polled[2].revents != 0 && input >= 0) {
      ssize_t count = write(input, state + sent, length - sent);
      if (count > 0) sent += (size_t)count;
      if ((count < 0 && errno != EAGAIN) || sent == length) {
        close(input);
        input = -1;
      }
    }
    if (polled[1].revents != 0) {
      char spare[512];
      bool is_full = used >= OUTPUT_BYTES_MAX - 1;
      ssize_t count = is_full ? read(output, spare, sizeof spare) : read(output, printed + used, OUTPUT_BYTES_MAX - 1 - used);
      if (count > 0 && !is_full) used += (size_t)count;
      if (count == 0) output = -1;
      if (count > 0) continue;
    }
    if (polled[0].revents != 0) break;
  }
  if (input >= 0) close(input);
  while (used > 0 && printed[used - 1] == '\n') used--;
  printed[used] = 0;
  return true;
}

static const char *run_hook(const struct json *hook, const char *name, uint32_t index, const char *state) {
  char printed[OUTPUT_BYTES_MAX] = "";
  int64_t timeout_s = 0;
  int input[2], output[2], status;
  if (*json_text(hook, "path", "") != '/') return oci_format("hooks.%s[%u].path: want an absolute path", name, index);
  bool has_timeout = json_integer(hook, "timeout", &timeout_s);
  if (has_timeout && timeout_s <= 0) return oci_format("hooks.%s[%u].timeout: want more than 0 seconds", name, index);
  if (pipe2(input, O_CLOEXEC) != 0 || pipe2(output, O_CLOEXEC) != 0) return strerror(errno);
  signal(SIGPIPE, SIG_IGN);
  pid_t pid = fork();
  if (pid == 0) become_hook(hook, input[0], output[1]);
  close(input[0]);
  close(output[1]);
  int pidfd = pid < 0 ? -1 : x_pidfd_open(pid);
  if (pidfd < 0) return oci_format("hooks.%s[%u]: %s", name, index, strerror(errno));
  bool is_in_time = attend(pidfd, input[1], output[0], state, has_timeout ? timeout_s * 1000 : -1, printed);
  if (!is_in_time) kill(pid, SIGKILL);
  close(output[0]);
  close(pidfd);
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  if (!is_in_time) return oci_format("error running %s hook #%u: hook ran past specified timeout of %llds", name, index, (long long)timeout_s);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return NULL;
  return oci_format("error running %s hook #%u: %s %d, output: %s", name, index, WIFEXITED(status) ? "exit status" : "signal",
                    WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), printed);
}

const char *oci_run_hooks(const struct json *config, const char *name, const char *state) {
  const struct json *hooks = json_get(json_get(config, "hooks"), name);
  const char *error = NULL;
  uint32_t index = 0;
  /* Hooks that undo go on past one that fails. */
  bool is_stubborn = strcmp(name, "poststop") == 0;
  JSON_EACH(hook, hooks) {
    const char *problem = run_hook(hook, name, index++, state);
    if (problem == NULL) continue;
    if (!is_stubborn) return problem;
    error = problem;
    oci_warn("%s", problem);
  }
  return error;
}
