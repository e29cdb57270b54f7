/*
 * A process that joins a running container: the monitor of the exec forks a child that enters the cgroups and namespaces and
 * clones the real process as its sibling, so that the monitor (outside) is its parent and sees its exit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup.h"
#include "container.h"
#include "delegate.h"
#include "exec.h"
#include "launcher.h"
#include "monitor.h"
#include "process.h"
#include "streams.h"
#include "sys.h"
#include "util.h"

static char failure[PATH_BYTES_MAX];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

static _Noreturn void inside(struct container_start *start) {
  struct job *job = start->job;
  struct identity identity;
  int sync = start->sync;
  child_reset(job, sync, start->stdio);
  const char *error = process_identity(job, &identity);
  if (error == NULL && job->flags & J_TTY) error = process_terminal(job, &identity, sync);
  if (error == NULL && !(job->flags & J_TTY))
    for (int fd = 0; fd < 3; fd++) fchown(fd, identity.uid, (gid_t)-1);
  if (error == NULL) error = process_prepare(job, &identity);
  if (error == NULL) error = process_find(job);
  if (error != NULL) child_fail(sync, error);
  if (send(sync, "R", 1, MSG_NOSIGNAL) != 1) _exit(125);
  char word;
  if (read(sync, &word, 1) != 1) _exit(125);
  child_fail(sync, process_exec(job, &identity));
}

/*
 * In the helper, which the container can't see: enters the groups and namespaces and clones the sibling, which has none of the host's
 * descriptors from its first moment on. Reports its number as seen from outside.
 */
static _Noreturn void enter(struct container_start *start, int target, bool is_in_v2) {
  struct job *job = start->job;
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  const char *error = is_in_v2 ? NULL : cgroup_move_v2(start->entry, 0);
  if (error == NULL) error = cgroup_join_v1(job, start->entry);
  if (error != NULL) child_fail(start->sync, error);
  cgroup_close_entry(start->entry);
  child_hide(start);
  if (setns(target, (int)job->exec_namespaces) != 0) child_fail(start->sync, FAIL("joining the container: %s", strerror(errno)));
  /* A root of the user namespace, not an outsider without rights in it. */
  if (job->exec_namespaces & CLONE_NEWUSER && (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0))
    child_fail(start->sync, "becoming root of the user namespace");
  close(target);
  struct x_clone_args arguments = {.flags = CLONE_PARENT};
  long pid = x_clone3(&arguments);
  if (pid == 0) inside(start);
  if (pid < 0) child_fail(start->sync, FAIL("clone: %s", strerror(errno)));
  char message[32];
  int length = snprintf(message, sizeof message, "P%ld", pid);
  send(start->sync, message, (size_t)length, MSG_NOSIGNAL);
  _exit(0);
}

pid_t exec_enter(struct container_start *start, int target, const char **error) {
  struct cgroup_entry entry = {.v2 = -1};
  struct x_clone_args arguments = {.exit_signal = SIGCHLD};
  bool is_in_v2;
  long helper = -1;
  start->entry = &entry;
  *error = cgroup_open_for_clone(start->job, &entry);
  if (*error == NULL) *error = cgroup_open_for_v1(start->job, &entry);
  if (*error == NULL) {
    helper = cgroup_clone(&entry, &arguments, &is_in_v2);
    if (helper == 0) enter(start, target, is_in_v2);
    if (helper < 0) *error = strerror(errno);
  }
  cgroup_close_entry(&entry);
  start->entry = NULL;
  return (pid_t)helper;
}

const char *exec_wait(int sync, int *pid, int *terminal) {
  static char text[8192];
  bool is_ready = false;
  while (!is_ready || *pid == 0) {
    int fd = -1;
    ssize_t count = receive_descriptor(sync, text, sizeof text - 1, &fd);
    if (count <= 0) return "exec process ended during its set-up";
    text[count] = 0;
    if (text[0] == 'E') return text + 1;
    if (text[0] == 'R') is_ready = true;
    if (text[0] == 'P') *pid = atoi(text + 1);
    if (text[0] == 'T') *terminal = fd;
  }
  return NULL;
}

static const char *take_child(struct streams *streams, int sync) {
  int terminal = -1;
  const char *error = exec_wait(sync, &streams->pid, &terminal);
  if (terminal >= 0) {
    set_nonblocking(terminal);
    streams->sources[0] = streams->input = terminal;
  }
  return error;
}

static void nothing(void *context) { (void)context; }

void monitor_exec(struct job *job, int connection) {
  struct streams streams = {.pidfd = -1, .listener = -1, .sources = {-1, -1}, .input = -1, .oom = -1, .sync = -1};
  int ours[3], theirs[3], sync[2];
  setsid();
  prctl(PR_SET_NAME, "shoal-exec", 0, 0, 0);
  int target = x_pidfd_open((int)job->exec_pid);
  const char *error = NULL;
  if (target < 0 || process_start_ticks((int)job->exec_pid) != job->exec_start_ticks) error = "container is not running";
  if (error == NULL && (!monitor_stdio(job, ours, theirs) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0))
    error = strerror(errno);
  if (error != NULL) {
    send_last_text(connection, F_ERROR, error);
    _exit(1);
  }
  struct container_start start = {.job = job,
                                  .sync = sync[1],
                                  .stdio = {theirs[0], theirs[1], theirs[2]},
                                  .hidden = {connection, ours[0], ours[1], ours[2], sync[0]},
                                  .hidden_count = 5};
  pid_t helper = delegate_wanted(job) ? -1 : exec_enter(&start, target, &error);
  streams.input = ours[0];
  streams.sources[0] = ours[1];
  streams.sources[1] = ours[2];
  streams.sync = sync[0];
  streams.is_tty = (job->flags & J_TTY) != 0;
  if (delegate_wanted(job)) error = delegate_exec(job, &streams, theirs);
  close(sync[1]);
  close(target);
  for (int i = 0; i < 3; i++)
    if (theirs[i] >= 0) close(theirs[i]);
  if (error == NULL && !delegate_wanted(job)) error = take_child(&streams, sync[0]);
  if (helper > 0) waitpid(helper, NULL, 0);
  if (error == NULL && streams.pidfd < 0 && (streams.pidfd = x_pidfd_open(streams.pid)) < 0) error = strerror(errno);
  /* Whoever traces the child in there could have said the number: it must be of a child of ours. */
  siginfo_t info;
  if (error == NULL && waitid(P_PID, (id_t)streams.pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0) error = "exec process is not ours";
  if (error == NULL) error = monitor_set_oom_score(job, streams.pid);
  if (error != NULL) {
    send_last_text(connection, F_ERROR, error);
    _exit(1);
  }
  streams.is_stdin_once = true;
  streams.is_discarding = (job->flags & J_DISCARD_OUTPUT) != 0;
  uint32_t pid = (uint32_t)streams.pid;
  send_frame(connection, F_DONE, &pid, sizeof pid);
  streams.creator = streams_add_client(&streams, connection, streams.is_discarding ? 0 : A_STDIN | A_STDOUT | A_STDERR, true);
  launcher_release_job();
  streams_run(&streams, nothing, NULL);
  uint32_t record[8] = {0};
  record[0] = streams.was_signal ? 128u + (uint32_t)streams.exit_status : (uint32_t)streams.exit_status;
  record[1] = streams.was_signal ? (uint32_t)streams.exit_status : 0;
  record[3] = streams.is_started;
  memcpy(record + 4, &streams.started_at, 8);
  memcpy(record + 6, &streams.finished_at, 8);
  streams_tell_exit(&streams, record, sizeof record);
  streams_finish(&streams);
  _exit(0);
}
