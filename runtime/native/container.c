/*
 * See container.h. The order is fixed: wait for id maps, join namespaces, build the file system and enter cgroups, leave the old
 * root, terminal, identity and program checked, ready, wait for start, give up rights, execute.
 */
#define _GNU_SOURCE
#include "container.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mounts.h"
#include "process.h"
#include "spare.h"
#include "sys.h"
#include "userns.h"
#include "util.h"

#define NS_GET_NSTYPE 0xb703

static char failure[PATH_BYTES_MAX];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

enum { CLOSE_RANGE_ON_EXEC = 4 };

void child_hide(const struct container_start *start) {
  for (int i = 0; i < start->hidden_count; i++)
    if (start->hidden[i] >= 0) close(start->hidden[i]);
}

void child_fail(int sync, const char *error) {
  static char message[PATH_BYTES_MAX + 1024];
  int length = snprintf(message, sizeof message, "E%s", error);
  if (length > 0) send(sync, message, (size_t)(length < (int)sizeof message ? length : (int)sizeof message - 1), MSG_NOSIGNAL);
  _exit(125);
}

const char *container_admit(const struct job *job, int sync) {
  struct cgroup_entry entry = {.v2 = -1};
  const char *error = cgroup_open_for_v1(job, &entry);
  if (error == NULL) send_descriptors(sync, 'C', entry.tasks, entry.count);
  cgroup_close_entry(&entry);
  return error;
}

void child_reset(const struct job *job, int sync, const int stdio[3]) {
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  for (int number = 1; number < 65; number++)
    if (number != SIGKILL && number != SIGSTOP) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid();
  if (!(job->flags & J_TTY))
    for (int fd = 0; fd < 3; fd++)
      if (dup2(stdio[fd], fd) < 0) child_fail(sync, "stdio");
  x_close_range(3 + job->preserved_fd_count, ~0U, CLOSE_RANGE_ON_EXEC);
  /* A keyring of its own, so that keys of the host's session are out of reach. Kernels without keys do without. */
  if (!(job->flags & J_SAME_KEYRING)) syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL);
}

static const char *open_namespace(const struct pair_record *one, int *fd) {
  *fd = open(one->key, O_RDONLY | O_CLOEXEC);
  if (*fd < 0) return FAIL("namespace %s: %s", one->key, strerror(errno));
  /* A path may lead to a namespace of another kind, or to something else. */
  if (ioctl(*fd, NS_GET_NSTYPE) != (int)one->number) return FAIL("namespace %s is not of the wanted type", one->key);
  return NULL;
}

/*
 * All are opened before one is entered, since their paths are the host's. The mounts come last, for the same reason. A pid namespace was joined
 * before the clone: it takes effect for children only. So was a user namespace: it owns the others.
 */
static const char *join_namespaces(const struct job *job) {
  int fds[16];
  const char *error = NULL;
  uint32_t count = job->join.count;
  if (count > sizeof fds / sizeof *fds) return FAIL("%u namespaces to join", count);
  for (uint32_t i = 0; i < count; i++)
    if ((error = open_namespace(&job->join.items[i], &fds[i])) != NULL) return error;
  for (int round = 0; round < 2; round++)
    for (uint32_t i = 0; i < count; i++) {
      const struct pair_record *one = &job->join.items[i];
      if (one->number == CLONE_NEWPID || one->number == CLONE_NEWUSER || (one->number == CLONE_NEWNS) != (round == 1)) continue;
      if (setns(fds[i], (int)one->number) != 0) return FAIL("joining namespace %s: %s", one->key, strerror(errno));
      if (round == 1 && chdir(job->state_dir) != 0) return FAIL("%s: %s", job->state_dir, strerror(errno));
    }
  for (uint32_t i = 0; i < count; i++) close(fds[i]);
  return NULL;
}

static const char *set_names(const struct job *job) {
  if (job->hostname != NULL && *job->hostname != 0 && sethostname(job->hostname, strlen(job->hostname)) != 0)
    return FAIL("sethostname: %s", strerror(errno));
  if (job->domainname != NULL && *job->domainname != 0 && setdomainname(job->domainname, strlen(job->domainname)) != 0)
    return FAIL("setdomainname: %s", strerror(errno));
  return NULL;
}

/* The terminal that is stdin now also shows as /dev/console. */
static const char *bind_console(void) {
  int made = open("/dev/console", O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0600);
  if (made >= 0) close(made);
  int target = open("/dev/console", O_PATH | O_NOFOLLOW | O_CLOEXEC);
  int tree = x_open_tree(0, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  if (target < 0 || tree < 0 || x_move_mount(tree, target) != 0) return FAIL("/dev/console: %s", strerror(errno));
  close(target);
  close(tree);
  return NULL;
}

static bool wait_for(int sync, char word) {
  char got = 0;
  ssize_t count;
  do count = read(sync, &got, 1);
  while (count < 0 && errno == EINTR);
  return count == 1 && got == word;
}

/*
 * Into the v1 groups, which the monitor has made meanwhile; the v2 one the child was cloned into. What shows of the groups inside, by a namespace and its
 * mounts, is made after that.
 */
static const char *enter_groups(void *context) {
  struct container_start *start = context;
  struct cgroup_entry entry = {.v2 = -1};
  uint32_t count = CGROUP_HIERARCHIES_MAX;
  char word;
  if (start->is_in_groups) return NULL;
  start->is_in_groups = true;
  if (receive_descriptors(start->sync, &word, 1, entry.tasks, &count) != 1 || word != 'C') _exit(125);
  entry.count = count;
  const char *error = cgroup_join_v1(start->job, &entry);
  cgroup_close_entry(&entry);
  if (error == NULL && start->job->flags & J_NEW_CGROUP && unshare(CLONE_NEWCGROUP) != 0)
    error = FAIL("cgroup namespace: %s", strerror(errno));
  return error;
}

/* The root and everything on it, out of the host's sight. */
static const char *build_root(struct container_start *start) {
  struct job *job = start->job;
  const char *error;
  int root = -1;
  if (job->flags & J_HOST_MOUNTS) {
    if ((error = enter_groups(start)) != NULL) return error;
    if (start->at_root != NULL && (error = start->at_root(start)) != NULL) return error;
    if (chdir(job->root_dir) != 0 || chroot(".") != 0) return FAIL("root folder %s: %s", job->root_dir, strerror(errno));
    return NULL;
  }
  error = start->takes_trees ? userns_receive_trees(job, start->sync, &root) : mounts_open_sources(job);
  if (error == NULL) error = mounts_open_null();
  if (error != NULL) return error;
  if ((error = mounts_build(job, &root, &(struct mounts_entry){enter_groups, start})) != NULL) return error;
  if ((error = enter_groups(start)) != NULL) return error;
  if (start->at_root != NULL && (error = start->at_root(start)) != NULL) return error;
  if ((error = mounts_seal(job, root)) != NULL) return error;
  return mounts_pivot(job, root);
}

static const char *set_up(struct container_start *start, struct identity *identity) {
  struct job *job = start->job;
  const char *error;
  if ((error = join_namespaces(job)) != NULL) return error;
  /* A network of its own begins with a loopback that is down. */
  if (job->flags & J_NEW_NET) raise_loopback();
  if ((error = set_names(job)) != NULL) return error;
  if ((error = build_root(start)) != NULL) return error;
  if ((error = process_identity(job, identity)) != NULL) return error;
  if (job->flags & J_TTY) {
    if ((error = process_terminal(job, identity, start->sync)) != NULL) return error;
    if ((error = bind_console()) != NULL) return error;
  } else {
    /* So that /dev/stdout can be opened again by the user the program runs as. */
    for (int fd = 0; fd < 3; fd++) fchown(fd, identity->uid, (gid_t)-1);
  }
  if ((error = process_prepare(job, identity)) != NULL) return error;
  return process_find(job);
}

void container_child(struct container_start *start) {
  struct identity identity;
  child_hide(start);
  cgroup_close_entry(start->entry);
  if (!wait_for(start->sync, 'G')) _exit(125);
  if (userns_wanted(start->job) && (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0))
    child_fail(start->sync, "becoming root of the user namespace");
  child_reset(start->job, start->sync, start->stdio);
  const char *error = set_up(start, &identity);
  if (error != NULL) child_fail(start->sync, error);
  if (send(start->sync, "R", 1, MSG_NOSIGNAL) != 1) _exit(125);
  if (start->await_start != NULL ? !start->await_start(start) : !wait_for(start->sync, 'S')) _exit(125);
  child_fail(start->sync, process_exec(start->job, &identity));
}
