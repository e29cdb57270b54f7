/*
 * See monitor.h. It is born by the launcher's fork with the daemon's connection open, makes cgroups and the child, answers, and
 * then only moves bytes until the end: exit file first (temporary, then renamed), then the frame to whoever watches.
 */
#define _GNU_SOURCE
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf.h"
#include "cgroup.h"
#include "container.h"
#include "delegate.h"
#include "launcher.h"
#include "spare.h"
#include "streams.h"
#include "sys.h"
#include "userns.h"
#include "util.h"

enum { LOCK_ROUNDS_MAX = 2000, LOCK_ROUND_US = 5000, LOCK_EARLY_ROUNDS = 20, LOCK_EARLY_ROUND_US = 250 };

static char failure[PATH_BYTES_MAX];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

/* Takes back what was made so far and says why. */
static _Noreturn void refuse(struct job *job, int connection, const char *error) {
  cgroup_kill(job);
  cgroup_remove(job);
  send_last_text(connection, F_ERROR, error);
  _exit(1);
}

bool monitor_stdio(const struct job *job, int ours[3], int theirs[3]) {
  for (int i = 0; i < 3; i++) ours[i] = theirs[i] = -1;
  if (job->flags & J_TTY) return true;
  /* Root inside may open them again by name, and give them to the user it becomes: for that it must know both ids. */
  int64_t owner = userns_outside(job->uid_map.items, job->uid_map.count, 0);
  int64_t group = userns_outside(job->gid_map.items, job->gid_map.count, 0);
  int pair[2];
  for (int i = 1; i < 3; i++) {
    if (pipe2(pair, O_CLOEXEC) != 0) return false;
    ours[i] = pair[0];
    theirs[i] = pair[1];
    if (owner > 0) fchown(pair[1], (uid_t)owner, (gid_t)group);
    set_nonblocking(pair[0]);
  }
  if (job->flags & J_OPEN_STDIN) {
    if (pipe2(pair, O_CLOEXEC) != 0) return false;
    theirs[0] = pair[0];
    if (owner > 0) fchown(pair[0], (uid_t)owner, (gid_t)group);
    ours[0] = pair[1];
    set_nonblocking(pair[1]);
  } else {
    theirs[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
  }
  return theirs[0] >= 0;
}

static int open_listener(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char place[sizeof address.sun_path];
  if (path == NULL) return -1;
  if (strlen(path) >= sizeof address.sun_path) {
    /* A long folder name is reached through a descriptor. */
    char folder[PATH_BYTES_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) return -1;
    *slash = 0;
    int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if ((size_t)snprintf(place, sizeof place, "/proc/self/fd/%d/%s", dir, slash + 1) >= sizeof place) return -1;
  } else {
    snprintf(place, sizeof place, "%s", path);
  }
  memcpy(address.sun_path, place, sizeof place);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  unlink(place);
  mode_t old = umask(0177);
  bool is_bound = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 64) == 0;
  umask(old);
  if (!is_bound && fd >= 0) close(fd);
  return is_bound ? fd : -1;
}

static uint64_t namespace_flags(const struct job *job) {
  uint32_t flags = job->flags;
  uint64_t clone = flags & J_HOST_MOUNTS ? 0 : CLONE_NEWNS;
  for (uint32_t i = 0; i < job->join.count; i++)
    if (job->join.items[i].number == CLONE_NEWNS) clone = 0;
  if (flags & J_NEW_NET) clone |= CLONE_NEWNET;
  if (flags & J_NEW_PID) clone |= CLONE_NEWPID;
  if (flags & J_NEW_IPC) clone |= CLONE_NEWIPC;
  if (flags & J_NEW_UTS) clone |= CLONE_NEWUTS;
  if (flags & J_NEW_USER) clone |= CLONE_NEWUSER;
  return clone;
}

/* Those that only children are born into. */
static const char *join_before_clone(const struct job *job, int kind, const char *name) {
  for (uint32_t i = 0; i < job->join.count; i++) {
    if (job->join.items[i].number != (uint32_t)kind) continue;
    int fd = open(job->join.items[i].key, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, kind) != 0) return FAIL("joining %s namespace %s: %s", name, job->join.items[i].key, strerror(errno));
    close(fd);
  }
  return NULL;
}

/* Only children are born into it, and its offsets must be set before the first. */
static const char *make_time_namespace(const struct job *job) {
  enum { CLONE_NEWTIME_ = 0x80 };
  if (!(job->flags & J_NEW_TIME)) return NULL;
  if (unshare(CLONE_NEWTIME_) != 0) return FAIL("time namespace: %s", strerror(errno));
  if (job->time_offsets == NULL || *job->time_offsets == 0) return NULL;
  int error = write_file(AT_FDCWD, "/proc/self/timens_offsets", job->time_offsets);
  return error < 0 ? FAIL("time offsets: %s", strerror(-error)) : NULL;
}

static long clone_child(struct container_start *start, uint64_t extra, int *pidfd, bool *is_in_v2) {
  struct x_clone_args arguments = {.flags = namespace_flags(start->job) | extra,
                                   .pidfd = (uint64_t)(uintptr_t)pidfd,
                                   .exit_signal = extra & CLONE_PARENT ? 0 : SIGCHLD};
  return cgroup_clone(start->entry, &arguments, is_in_v2);
}

/* The other namespaces must be born in the user namespace to be its own: a helper enters it and clones the child as its sibling. */
static const char *clone_in_user_namespace(struct job *job, struct streams *streams, struct container_start *start) {
  int answer[2];
  char text[PATH_BYTES_MAX] = "";
  if (pipe2(answer, O_CLOEXEC) != 0) return strerror(errno);
  pid_t helper = fork();
  if (helper == 0) {
    int pidfd;
    bool is_in_v2;
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    const char *error = join_before_clone(job, CLONE_NEWUSER, "user");
    if (error == NULL && (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)) error = "becoming root of the user namespace";
    if (error == NULL) error = join_before_clone(job, CLONE_NEWPID, "pid");
    long pid = error == NULL ? clone_child(start, CLONE_PARENT | X_CLONE_PIDFD, &pidfd, &is_in_v2) : -1;
    if (pid == 0) container_child(start);
    if (error == NULL && pid < 0) error = FAIL("clone: %s", strerror(errno));
    int length = error == NULL ? snprintf(text, sizeof text, "%ld %d", pid, is_in_v2) : snprintf(text, sizeof text, "E%s", error);
    write_all(answer[1], text, (size_t)length);
    _exit(0);
  }
  close(answer[1]);
  ssize_t count = helper < 0 ? -1 : read(answer[0], text, sizeof text - 1);
  close(answer[0]);
  if (helper > 0) waitpid(helper, NULL, 0);
  int is_in_v2 = 0;
  if (count <= 0 || text[0] == 'E') return count <= 0 ? "container process could not be cloned" : FAIL("%s", text + 1);
  sscanf(text, "%d %d", &streams->pid, &is_in_v2);
  streams->pidfd = x_pidfd_open(streams->pid);
  if (streams->pidfd < 0) return FAIL("container process: %s", strerror(errno));
  return is_in_v2 ? NULL : cgroup_move_v2(start->entry, streams->pid);
}

static const char *clone_here(struct job *job, struct streams *streams, struct container_start *start) {
  bool is_in_v2;
  const char *error = join_before_clone(job, CLONE_NEWPID, "pid");
  if (error == NULL) error = make_time_namespace(job);
  if (error != NULL) return error;
  long pid = clone_child(start, X_CLONE_PIDFD, &streams->pidfd, &is_in_v2);
  if (pid == 0) container_child(start);
  if (pid < 0) return FAIL("clone: %s", strerror(errno));
  streams->pid = (int)pid;
  if (job->flags & J_NEW_USER && (error = userns_write_maps(job, streams->pid)) != NULL) return error;
  return is_in_v2 ? NULL : cgroup_move_v2(start->entry, streams->pid);
}

const char *monitor_make_child(struct job *job, struct streams *streams, struct container_start *start) {
  struct cgroup_entry entry = {.v2 = -1};
  const char *error = cgroup_open_for_clone(job, &entry);
  start->entry = &entry;
  if (error == NULL)
    error = userns_wanted(job) && !(job->flags & J_NEW_USER) ? clone_in_user_namespace(job, streams, start)
                                                             : clone_here(job, streams, start);
  cgroup_close_entry(&entry);
  start->entry = NULL;
  return error == NULL ? monitor_set_oom_score(job, streams->pid) : error;
}

const char *monitor_set_oom_score(const struct job *job, int pid) {
  if (!job->has_oom_adj || job->oom_adj == launcher_oom_score()) return NULL;
  char path[64], text[16];
  snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
  snprintf(text, sizeof text, "%d", job->oom_adj);
  int result = write_file(AT_FDCWD, path, text);
  /* The usual score was asked for by nobody: without the right to it (a daemon that is not root) the daemon's own stays. */
  bool is_usual = job->oom_adj == 0 && launcher_oom_score() != OOM_SCORE_UNKNOWN;
  return result < 0 && !is_usual ? FAIL("oom_score_adj %d: %s", job->oom_adj, strerror(-result)) : NULL;
}

/* Until the child says that it waits for the start. The terminal's master may come first. */
static const char *wait_ready(int sync, struct streams *streams) {
  /* On the stack, whose pages are given back later. */
  char text[PATH_BYTES_MAX];
  for (;;) {
    int fd = -1;
    ssize_t count = receive_descriptor(sync, text, sizeof text - 1, &fd);
    if (count <= 0) return "container process ended during its set-up";
    text[count] = 0;
    if (text[0] == 'R') return NULL;
    if (text[0] == 'E') return FAIL("%s", text + 1);
    if (text[0] == 'T' && fd >= 0) {
      set_nonblocking(fd);
      streams->sources[0] = fd;
      streams->input = fd;
    }
  }
}

/* What is needed until the end; the job itself (files, environment) is given back to the system. */
static void keep(struct job *job) {
  void *const done[] = {job->args.items,    job->env.items,   job->groups.items,  job->masked.items,        job->readonly.items,
                        job->lower.items,   job->mounts.items, job->devices.items, job->files.items,         job->limits.items,
                        job->sysctls.items, job->links.items,  job->join.items,    job->cgroup_writes.items, job->uid_map.items,
                        job->gid_map.items};
  struct pair_record *groups = job->cgroups.items;
  for (size_t i = 0; i < sizeof done / sizeof *done; i++) free(done[i]);
  /* Last, so that it lies where those were, and the pages beyond can go. */
  job->cgroups.items = calloc(job->cgroups.count + 1, sizeof *groups);
  for (uint32_t i = 0; i < job->cgroups.count; i++) {
    job->cgroups.items[i] = groups[i];
    job->cgroups.items[i].key = strdup(groups[i].key);
  }
  free(groups);
  job->state_dir = strdup(job->state_dir);
  job->socket = job->socket == NULL ? NULL : strdup(job->socket);
}

static void end_processes(void *context) {
  struct job *job = context;
  cgroup_kill(job);
}

static uint32_t exit_code(const struct streams *streams) {
  return streams->was_signal ? 128u + (uint32_t)streams->exit_status : (uint32_t)streams->exit_status;
}

struct exit_record {
  uint32_t code, signal, oom_kills, is_started;
  uint64_t started_at, finished_at;
};

static void write_exit(const struct job *job, const struct exit_record *record) {
  char path[PATH_BYTES_MAX], next[PATH_BYTES_MAX], text[512], started[31], finished[31];
  format_time(record->started_at, started);
  format_time(record->finished_at, finished);
  int length = snprintf(text, sizeof text,
                        "{\"exitCode\":%u,\"signal\":%u,\"oomKills\":%u,\"isStarted\":%s,\"startedAt\":\"%s\",\"finishedAt\":\"%s\"}\n",
                        record->code, record->signal, record->oom_kills, record->is_started ? "true" : "false", started, finished);
  snprintf(path, sizeof path, "%s/exit", job->state_dir);
  snprintf(next, sizeof next, "%s/exit.new", job->state_dir);
  int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return;
  bool done = write_all(fd, text, (size_t)length);
  close(fd);
  if (done) rename(next, path);
}

static struct exit_record exit_record_of(const struct streams *streams, uint32_t oom_kills) {
  struct exit_record record = {exit_code(streams), streams->was_signal ? (uint32_t)streams->exit_status : 0, oom_kills,
                               streams->is_started, streams->started_at, streams->finished_at};
  return record;
}

/*
 * A monitor holds its container's folder: that of a daemon that was killed in the middle of a start is still clearing up when the next
 * daemon starts the container again, under the same names of cgroups and socket.
 */
static const char *lock_state(const struct job *job, int *lock) {
  int fd = open(job->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  *lock = fd;
  if (fd < 0) return FAIL("state folder %s: %s", job->state_dir, strerror(errno));
  for (int round = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; round++) {
    if (errno != EWOULDBLOCK || round == LOCK_ROUNDS_MAX) return FAIL("state folder %s is held by another monitor", job->state_dir);
    /* The former monitor is mostly about to end. */
    usleep(round < LOCK_EARLY_ROUNDS ? LOCK_EARLY_ROUND_US : LOCK_ROUND_US);
  }
  return NULL;
}

/* Keeps what is mounted there from going with the last process. -1 if it may. */
static int hold_mounts(const struct job *job, int pid) {
  char path[64];
  if ((job->flags & J_UNMOUNT_LATE) == 0 || delegate_wanted(job)) return -1;
  snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
  return open(path, O_RDONLY | O_CLOEXEC);
}

static void name_process(const struct job *job) {
  char name[16];
  snprintf(name, sizeof name, "shoal-%.8s", job->id == NULL ? "" : job->id);
  prctl(PR_SET_NAME, name, 0, 0, 0);
}

/* What the first process runs under and what is kept of it, made while the child builds its file system. */
static const char *prepare_run(struct job *job, struct streams *streams) {
  const char *error = NULL;
  if (!delegate_wanted(job) && (error = cgroup_create(job)) == NULL) error = bpf_attach_devices(job);
  if (error != NULL) return error;
  if ((streams->listener = open_listener(job->socket)) < 0 && job->socket != NULL)
    return FAIL("monitor socket %s: %s", job->socket, strerror(errno));
  streams->log = log_open(job);
  streams->oom = cgroup_oom_events(job, &streams->is_oom_hint);
  return NULL;
}

/* Where the start was asked for together with the container, the child finds the word when it is ready, and nobody has to wake up for it. */
static void start_if_asked(struct streams *streams, int connection, int sync) {
  uint8_t head[5];
  if (recv(connection, head, sizeof head, MSG_PEEK | MSG_DONTWAIT) != sizeof head || head[4] != F_START) return;
  streams->is_start_sent = streams->is_running_early = send(sync, "S", 1, MSG_NOSIGNAL) == 1;
}

/* From the clone to the wait for the start. */
static const char *set_up_child(struct job *job, struct streams *streams, int connection) {
  const char *error = NULL;
  int sync = streams->sync;
  if (send(sync, "G", 1, MSG_NOSIGNAL) != 1) return "container process ended before its set-up";
  /* Whoever has a network to attach does it meanwhile. */
  uint32_t pid = (uint32_t)streams->pid;
  if (job->flags & J_TELL_BORN) send_frame(connection, F_BORN, &pid, sizeof pid);
  if (userns_wanted(job)) error = userns_send_trees(job, streams->pid, sync);
  if (error == NULL) error = prepare_run(job, streams);
  if (error == NULL) error = container_admit(job, sync);
  if (error != NULL) return error;
  start_if_asked(streams, connection, sync);
  return wait_ready(sync, streams);
}

void monitor_create(struct job *job, int connection) {
  struct streams streams = {.pidfd = -1, .listener = -1, .sources = {-1, -1}, .input = -1, .oom = -1};
  int ours[3], theirs[3], sync[2], lock;
  setsid();
  name_process(job);
  const char *error = lock_state(job, &lock);
  if (error == NULL) error = spare_use(job);
  if (error != NULL) {
    /* Nothing was made: what is there is the other one's. */
    send_last_text(connection, F_ERROR, error);
    _exit(1);
  }
  if (!delegate_wanted(job)) {
    error = cgroup_make_v2(job);
    if (error != NULL) refuse(job, connection, error);
  }
  if (!monitor_stdio(job, ours, theirs) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0)
    refuse(job, connection, strerror(errno));
  struct container_start start = {.job = job,
                                  .sync = sync[1],
                                  .stdio = {theirs[0], theirs[1], theirs[2]},
                                  .hidden = {connection, ours[0], ours[1], ours[2], sync[0], lock, spare_descriptor()},
                                  .hidden_count = 7,
                                  .takes_trees = userns_wanted(job)};
  streams.input = ours[0];
  streams.sources[0] = ours[1];
  streams.sources[1] = ours[2];
  streams.sync = sync[0];
  if (delegate_wanted(job)) close(sync[0]);
  error = delegate_wanted(job) ? delegate_create(job, &streams, theirs) : monitor_make_child(job, &streams, &start);
  spare_leave();
  int mounts = error == NULL ? hold_mounts(job, streams.pid) : -1;
  close(sync[1]);
  for (int i = 0; i < 3; i++)
    if (theirs[i] >= 0) close(theirs[i]);
  streams.is_tty = (job->flags & J_TTY) != 0;
  streams.is_stdin_once = (job->flags & J_STDIN_ONCE) != 0;
  if (error == NULL) error = delegate_wanted(job) ? prepare_run(job, &streams) : set_up_child(job, &streams, connection);
  if (error != NULL) {
    if (streams.listener >= 0) unlink(job->socket);
    if (streams.pidfd >= 0) x_pidfd_signal(streams.pidfd, SIGKILL);
    refuse(job, connection, error);
  }
  streams.job = job;
  uint32_t pid = (uint32_t)streams.pid;
  send_frame(connection, F_DONE, &pid, sizeof pid);
  streams.creator = streams_add_client(&streams, connection, 0, true);
  keep(job);
  launcher_release_job();

  streams_run(&streams, end_processes, job);
  log_close(streams.log);
  struct exit_record record = exit_record_of(&streams, cgroup_oom_kills(job));
  if (delegate_wanted(job)) delegate_delete(job);
  write_exit(job, &record);
  if (streams.listener >= 0) {
    close(streams.listener);
    streams.listener = -1;
    unlink(job->socket);
  }
  /* The end is told before the groups are gone: whoever needs them gone (a removal, the next start) waits for the next word, this process, or its lock. */
  streams_tell_exit(&streams, &record, sizeof record);
  cgroup_remove(job);
  streams_tell_gone(&streams);
  if (mounts >= 0) close(mounts);
  close(lock);
  streams_finish(&streams);
  _exit(0);
}
