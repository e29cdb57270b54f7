/* See delegate.h. The other runtime is only ever run with its standard command line; its words come from its log. */
#define _GNU_SOURCE
#include "delegate.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container.h"
#include "json.h"
#include "mounts.h"
#include "sys.h"
#include "util.h"

enum { ARGUMENT_COUNT_MAX = 64, FAILED = 255 };

static char failure[PATH_BYTES_MAX + 1024];
#define FAIL(...) (snprintf(failure, sizeof failure, __VA_ARGS__), failure)

bool delegate_wanted(const struct job *job) { return job->runtime != NULL; }

static const char *in_bundle(const struct job *job, const char *name) {
  static char paths[4][PATH_BYTES_MAX];
  static unsigned next;
  char *path = paths[next++ % 4];
  snprintf(path, PATH_BYTES_MAX, "%s/%s", job->state_dir, name);
  return path;
}

/* The last error in the log: what runc's callers show. */
static const char *error_of(const struct job *job, const char *verb) {
  static char text[65536];
  const char *problem;
  ssize_t length = read_file(AT_FDCWD, in_bundle(job, "runtime.log"), text, sizeof text);
  const char *words = NULL;
  char *rest = length > 0 ? text : NULL;
  for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
    size_t size = strlen(line);
    char *copy = size == 0 ? NULL : malloc(size + 1);
    if (copy == NULL) continue;
    memcpy(copy, line, size + 1);
    const struct json *entry = json_parse(copy, size, &problem);
    if (entry != NULL && strcmp(json_text(entry, "level", ""), "error") == 0) words = json_text(entry, "msg", words);
  }
  /* About the program itself all runtimes say the same, and clients know it by its beginning. */
  const char *about_program = words == NULL ? NULL : strstr(words, "exec: \"");
  if (about_program != NULL) return FAIL("%s", about_program);
  return words != NULL ? FAIL("%s %s failed: %s", job->runtime, verb, words) : FAIL("%s %s failed", job->runtime, verb);
}

static _Noreturn void become(const struct job *job, const char *const arguments[], const int stdio[3]) {
  const char *all[ARGUMENT_COUNT_MAX];
  size_t count = 0;
  all[count++] = job->runtime;
  for (uint32_t i = 0; i < job->runtime_args.count && count < 32; i++) all[count++] = job->runtime_args.items[i];
  const char *const common[] = {"--root", job->runtime_root, "--log", in_bundle(job, "runtime.log"), "--log-format", "json"};
  for (size_t i = 0; i < sizeof common / sizeof *common; i++) all[count++] = common[i];
  for (; *arguments != NULL && count < ARGUMENT_COUNT_MAX - 1; arguments++) all[count++] = *arguments;
  all[count] = NULL;
  for (int fd = 0; fd < 3; fd++) dup2(stdio[fd], fd);
  x_close_range(3, ~0U, 0);
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0);
  if (chdir(job->state_dir) != 0) _exit(FAILED);
  execv(job->runtime, (char *const *)all);
  _exit(FAILED);
}

/* Waits for one verb. False if it failed. */
static bool run(const struct job *job, const char *const arguments[], const int stdio[3]) {
  int status;
  unlink(in_bundle(job, "runtime.log"));
  pid_t pid = fork();
  if (pid == 0) become(job, arguments, stdio);
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool run_quietly(const struct job *job, const char *const arguments[]) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int stdio[3] = {null, null, null};
  bool done = run(job, arguments, stdio);
  close(null);
  return done;
}

/* Secrets and configs: in memory, in this process's mount namespace only, where the bundle's bind mounts take them from. */
static const char *place_files(const struct job *job) {
  if (job->files.count == 0) return NULL;
  const char *folder = in_bundle(job, "files");
  if (mkdir(folder, 0711) != 0 && errno != EEXIST) return FAIL("files: %s", strerror(errno));
  if (mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0711") != 0) return FAIL("files: %s", strerror(errno));
  for (uint32_t i = 0; i < job->files.count; i++) {
    const struct file_record *file = &job->files.items[i];
    char path[PATH_BYTES_MAX];
    snprintf(path, sizeof path, "%s/files/%u", job->state_dir, i);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    bool done = fd >= 0 && write_all(fd, file->content, file->length) && fchown(fd, file->uid, file->gid) == 0 && fchmod(fd, file->mode & 07777) == 0;
    close(fd);
    if (!done) return FAIL("file %s: %s", file->path, strerror(errno));
  }
  return NULL;
}

static const char *place_root(struct job *job) {
  int root = -1;
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0) return FAIL("mount namespace: %s", strerror(errno));
  const char *error = mounts_place_root(job, &root);
  if (root >= 0) close(root);
  return error == NULL ? place_files(job) : error;
}

/* Where the runtime sends the terminal. -1 without one. */
static int listen_for_terminal(const struct job *job, const char *name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (!(job->flags & J_TTY)) return -1;
  int dir = open(job->state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", dir, name);
  unlinkat(dir, name, 0);
  bool done = bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 1) == 0;
  close(dir);
  if (done) return fd;
  close(fd);
  return -1;
}

static const char *take_terminal(int listener, struct streams *streams) {
  char name[4096];
  int master = -1, connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (connection >= 0) receive_descriptor(connection, name, sizeof name, &master);
  close(connection);
  if (master < 0) return "the runtime sent no terminal";
  set_nonblocking(master);
  streams->sources[0] = streams->input = master;
  return NULL;
}

static const char *take_process(const struct job *job, const char *pid_file, struct streams *streams) {
  char text[32];
  if (read_file(AT_FDCWD, in_bundle(job, pid_file), text, sizeof text) <= 0) return "the runtime wrote no pid file";
  streams->pid = atoi(text);
  streams->pidfd = x_pidfd_open(streams->pid);
  siginfo_t info;
  if (streams->pidfd < 0 || waitid(P_PIDFD, (id_t)streams->pidfd, &info, WEXITED | WNOHANG | WNOWAIT) != 0)
    return "the runtime's process is not ours to watch";
  return NULL;
}

/* Stays until the start is asked for on the socket, and answers as a child of our own would: closed is done, 'E' is an error. */
static pid_t make_starter(const struct job *job, int sync) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  char word;
  x_close_range(3, (unsigned)sync - 1, 0);
  x_close_range((unsigned)sync + 1, ~0U, 0);
  if (read(sync, &word, 1) != 1 || word != 'S') _exit(0);
  const char *const arguments[] = {"start", job->id, NULL};
  if (!run_quietly(job, arguments)) child_fail(sync, error_of(job, "start"));
  _exit(0);
}

const char *delegate_create(struct job *job, struct streams *streams, const int stdio[3]) {
  int sync[2];
  const char *error = place_root(job);
  if (error != NULL) return error;
  job->id = strdup(job->id);
  job->runtime = strdup(job->runtime);
  job->runtime_root = strdup(job->runtime_root);
  for (uint32_t i = 0; i < job->runtime_args.count; i++) job->runtime_args.items[i] = strdup(job->runtime_args.items[i]);
  /* What the runtime leaves when it has gone is our child: its end is ours to see. */
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  int listener = listen_for_terminal(job, "console.sock");
  const char *arguments[] = {"create", "--bundle", job->state_dir, "--pid-file", "pid", job->id, NULL, NULL, NULL};
  if (listener >= 0) {
    arguments[5] = "--console-socket";
    arguments[6] = "console.sock";
    arguments[7] = job->id;
  }
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int quiet[3] = {null, null, null};
  bool done = run(job, arguments, listener >= 0 ? quiet : stdio);
  close(null);
  if (!done) return error_of(job, "create");
  if ((error = take_process(job, "pid", streams)) == NULL && listener >= 0) error = take_terminal(listener, streams);
  close(listener);
  if (error == NULL && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0) error = strerror(errno);
  if (error != NULL) {
    delegate_delete(job);
    return error;
  }
  streams->starter = make_starter(job, sync[1]);
  close(sync[1]);
  streams->sync = sync[0];
  return NULL;
}

const char *delegate_exec(struct job *job, struct streams *streams, const int stdio[3]) {
  char console[64], pid_file[64];
  int sync[2];
  snprintf(console, sizeof console, "exec-%d.sock", getpid());
  snprintf(pid_file, sizeof pid_file, "exec-%d.pid", getpid());
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  int listener = listen_for_terminal(job, console);
  const char *arguments[] = {"exec", "--process", job->runtime_process, "--pid-file", pid_file, "--detach", job->id, NULL, NULL, NULL};
  if (listener >= 0) {
    arguments[6] = "--console-socket";
    arguments[7] = console;
    arguments[8] = job->id;
  }
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  const int quiet[3] = {null, null, null};
  bool done = run(job, arguments, listener >= 0 ? quiet : stdio);
  close(null);
  const char *error = done ? take_process(job, pid_file, streams) : error_of(job, "exec");
  if (error == NULL && listener >= 0) error = take_terminal(listener, streams);
  close(listener);
  unlink(in_bundle(job, console));
  unlink(in_bundle(job, pid_file));
  unlink(in_bundle(job, job->runtime_process));
  /* It runs already: a start is answered by a socket that is at its end. */
  if (error == NULL && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0) error = strerror(errno);
  if (error != NULL) return error;
  shutdown(sync[1], SHUT_WR);
  streams->is_running_early = true;
  streams->sync = sync[0];
  return NULL;
}

void delegate_delete(const struct job *job) {
  const char *const arguments[] = {"delete", "--force", job->id, NULL};
  run_quietly(job, arguments);
  /* In this process's own mount namespace: the next run must not find the writable layer in use. */
  umount2(ROOT_PLACE, MNT_DETACH);
}
