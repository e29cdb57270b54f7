/*
 * See oci.h. create, run and start. The container's first process is made as the launcher makes it, and then waits on start.sock in its state
 * folder, so that nobody needs to stay; `start` speaks to it there and hears of a program that can't be executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bpf.h"
#include "cgroup.h"
#include "container.h"
#include "monitor.h"
#include "mounts.h"
#include "oci.h"
#include "streams.h"
#include "sys.h"
#include "userns.h"
#include "util.h"

/* Of the one container that this process makes. */
static struct oci_container container = {.dir = -1};
static struct job job;
static struct streams child = {.pidfd = -1};
static int listener = -1;

struct creation {
  const char *console_socket, *pid_file;
  bool is_detached;
  int terminal; /* master of the container's, kept by a run in the foreground */
};

static void undo(void) {
  if (child.pidfd >= 0) x_pidfd_signal(child.pidfd, SIGKILL);
  if (!(job.flags & J_NEW_PID)) cgroup_kill(&job);
  if (child.pid > 0) waitpid(child.pid, NULL, __WALL);
  cgroup_remove(&job);
  if (container.config != NULL) oci_run_hooks(container.config, "poststop", oci_state_text(&container, "stopped", 0));
  oci_remove(&container);
}

static struct sockaddr_un start_address(const struct oci_container *of) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  /* Through the open folder: its name may be longer than an address. */
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/start.sock", of->dir);
  return address;
}

static const struct json *read_config(const char *bundle) {
  const char *error;
  char *path = oci_format("%s/config.json", bundle);
  const struct json *config = json_read(AT_FDCWD, path, &error);
  if (config == NULL && access(path, F_OK) != 0) oci_fail(1, "JSON specification file config.json not found in %s", bundle);
  if (config == NULL) oci_fail(1, "%s: %s", path, error);
  return config;
}

/* The folder of the container; only one can make it. */
static void make_state(const char *id) {
  char *folder = oci_format("%s/%s", oci_options.root, id);
  int error = make_folders(oci_options.root, 0711);
  if (error < 0) oci_fail(1, "state folder %s: %s", oci_options.root, strerror(-error));
  if (mkdir(folder, 0711) != 0 && errno == EEXIST) oci_fail(1, "container with given ID already exists: %s", id);
  container.dir = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (container.dir < 0) oci_fail(1, "state folder %s: %s", folder, strerror(errno));
  oci_on_failure = undo;
  int fd = openat(container.dir, "config.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  FILE *out = fd < 0 ? NULL : fdopen(fd, "w");
  if (out == NULL) oci_fail(1, "state folder %s: %s", folder, strerror(errno));
  json_put(out, container.config);
  if (fclose(out) != 0) oci_fail(1, "state folder %s: %s", folder, strerror(errno));
  struct sockaddr_un address = start_address(&container);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  umask(0177);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4) != 0)
    oci_fail(1, "start socket of container %s: %s", id, strerror(errno));
  umask(022);
}

static void make_cgroups(void) {
  const struct json *resources = json_get(container.config, "linux.resources");
  const char *path = json_text(container.config, "linux.cgroupsPath", "");
  oci_translate_resources(resources, false, &job);
  oci_translate_devices(resources, &job);
  /* Without rights over cgroups a container that wants nothing of them can still run. */
  bool is_needed = !oci_options.is_rootless || *path != 0;
  const char *error = oci_cgroup_make(&job, is_needed);
  if (error == NULL && job.cgroups.count > 0) error = bpf_attach_devices(&job);
  if (error != NULL && is_needed) oci_fail(1, "%s", error);
  container.groups = job;
}

static void preserve_descriptors(const char *count) {
  const char *listen_fds = getenv("LISTEN_FDS");
  char *end = "";
  unsigned long wanted = count == NULL ? 0 : strtoul(count, &end, 10), listening = listen_fds == NULL ? 0 : strtoul(listen_fds, NULL, 10);
  if (*end != 0 || wanted > 1024 || listening > 1024) oci_fail(1, "--preserve-fds: want a number up to 1024, got %s", count);
  if (listening > 0) {
    *(const char **)JOB_ADD(job.env) = oci_format("LISTEN_FDS=%lu", listening);
    *(const char **)JOB_ADD(job.env) = "LISTEN_PID=1";
  }
  job.preserved_fd_count = (uint32_t)(wanted + listening);
  for (uint32_t i = 0; i < job.preserved_fd_count; i++)
    if (fcntl((int)(3 + i), F_GETFD) < 0) oci_fail(1, "--preserve-fds: descriptor %u is not open", 3 + i);
}

/* In the child, the tree is built and the host's still in sight: the host's side has its hooks first. */
static const char *at_root(struct container_start *start) {
  char word[32] = "";
  if (send(start->sync, "H", 1, MSG_NOSIGNAL) != 1) return "the creating process has ended";
  ssize_t count;
  do count = read(start->sync, word, sizeof word - 1);
  while (count < 0 && errno == EINTR);
  if (count <= 1 || word[0] != 'C') _exit(125);
  container.pid = atoi(word + 1);
  return oci_run_hooks(container.config, "createContainer", oci_state_text(&container, "creating", container.pid));
}

/* In the child, inside: whoever connects is `start`, since nobody else can reach the folder. */
static bool await_start(struct container_start *start) {
  char word = 0;
  close(start->sync);
  do {
    start->sync = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  } while (start->sync < 0 ? errno == EINTR : read(start->sync, &word, 1) != 1 && (close(start->sync), true));
  close(listener);
  if (word != 'S') return false;
  const char *error = oci_run_hooks(container.config, "startContainer", oci_state_text(&container, "created", container.pid));
  if (error != NULL) child_fail(start->sync, error);
  return true;
}

/* Until the child says that it is ready; the hooks of the host's side are run when it asks for them. */
static const char *attend_creation(int sync, struct creation *creation) {
  static char text[PATH_BYTES_MAX + 1024];
  const char *error, *state = oci_state_text(&container, "creating", child.pid);
  for (;;) {
    int fd = -1;
    ssize_t count = receive_descriptor(sync, text, sizeof text - 1, &fd);
    if (count <= 0) return "container process ended during its set-up";
    text[count] = 0;
    if (text[0] == 'R') return NULL;
    if (text[0] == 'E') return text + 1;
    if (text[0] == 'T') creation->terminal = fd;
    if (text[0] != 'H') continue;
    if ((error = oci_run_hooks(container.config, "prestart", state)) != NULL) return error;
    if ((error = oci_run_hooks(container.config, "createRuntime", state)) != NULL) return error;
    char *word = oci_format("C%d", child.pid);
    if (send(sync, word, strlen(word), MSG_NOSIGNAL) < 0) return "container process ended during its set-up";
  }
}

void oci_write_pid_file(const char *path, int pid) {
  if (path == NULL) return;
  char *next = oci_format("%s.new", path);
  int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  char *text = oci_format("%d", pid);
  bool done = fd >= 0 && write_all(fd, text, strlen(text));
  if (fd >= 0) close(fd);
  if (!done || rename(next, path) != 0) oci_fail(1, "pid file %s: %s", path, strerror(errno));
}

static void make_process(struct creation *creation) {
  int sync[2];
  const char *error = NULL;
  /* The place that the root is mounted on, in a namespace of its own, is one for all. */
  char *place = oci_format("%s/.place", oci_options.root);
  if (make_folders(oci_format("%s/%s", place, ROOT_PLACE), 0711) != 0 || chdir(place) != 0) oci_fail(1, "%s: %s", place, strerror(errno));
  job.state_dir = place;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) != 0) oci_fail(1, "%s", strerror(errno));
  struct container_start start = {.job = &job, .sync = sync[1], .stdio = {0, 1, 2}, .at_root = at_root, .await_start = await_start,
                                  .hidden = {sync[0], container.dir}, .hidden_count = 2};
  /* An ordinary user can't make mounts outside: there the child opens its own. */
  start.takes_trees = userns_wanted(&job) && !(job.flags & J_HOST_MOUNTS) && geteuid() == 0;
  error = monitor_make_child(&job, &child, &start);
  close(sync[1]);
  if (error == NULL && send(sync[0], "G", 1, MSG_NOSIGNAL) != 1) error = "container process ended before its set-up";
  if (error == NULL && start.takes_trees) error = userns_send_trees(&job, child.pid, sync[0]);
  if (error == NULL) error = container_admit(&job, sync[0]);
  if (error == NULL) error = attend_creation(sync[0], creation);
  if (error != NULL) oci_fail(1, "%s", error);
  close(sync[0]);
}

static void check_terminal(const struct creation *creation) {
  bool is_tty = (job.flags & J_TTY) != 0;
  if (is_tty && creation->is_detached && creation->console_socket == NULL)
    oci_fail(1, "cannot allocate tty if runc will detach without setting console socket");
  if (!is_tty && creation->console_socket != NULL) oci_fail(1, "cannot use console socket if runc will not detach or allocate tty");
}

static void create(const char *id, const char *bundle_given, const struct oci_flag *flags, struct creation *creation) {
  char created[31];
  char *bundle = realpath(bundle_given == NULL ? "." : bundle_given, NULL);
  oci_check_id(id);
  if (bundle == NULL) oci_fail(1, "--bundle %s: %s", bundle_given, strerror(errno));
  container.id = id;
  container.bundle = bundle;
  container.config = read_config(bundle);
  container.version = json_text(container.config, "ociVersion", "");
  format_time(wall_nanoseconds(), created);
  container.created = strdup(created);
  oci_cgroup_paths(id, json_text(container.config, "linux.cgroupsPath", NULL), &job);
  oci_translate(container.config, bundle, &job);
  oci_translate_mounts(container.config, bundle, &job);
  oci_translate_seccomp(json_get(container.config, "linux.seccomp"), &job);
  container.rootfs = job.root_dir;
  check_terminal(creation);
  preserve_descriptors(oci_flag(flags, "preserve-fds"));
  if (oci_switch(flags, "no-pivot")) job.flags |= J_NO_PIVOT;
  if (oci_switch(flags, "no-new-keyring")) job.flags |= J_SAME_KEYRING;
  creation->pid_file = oci_flag(flags, "pid-file");
  if (creation->pid_file != NULL && *creation->pid_file != '/')
    creation->pid_file = oci_format("%s/%s", get_current_dir_name(), creation->pid_file);
  if (creation->console_socket != NULL && *creation->console_socket != '/')
    creation->console_socket = oci_format("%s/%s", get_current_dir_name(), creation->console_socket);
  make_state(id);
  make_cgroups();
  make_process(creation);
  container.pid = child.pid;
  container.start_ticks = process_start_ticks(child.pid);
  if (creation->console_socket != NULL) oci_send_console(creation->console_socket, creation->terminal);
  oci_save(&container);
  oci_write_pid_file(creation->pid_file, child.pid);
  oci_on_failure = NULL;
}

/* Tells it to go and waits until it has executed, or why it did not. */
static const char *start(const struct oci_container *of) {
  static char text[PATH_BYTES_MAX + 1024];
  struct sockaddr_un address = start_address(of);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return "cannot start a container that has stopped";
  if (send(fd, "S", 1, MSG_NOSIGNAL) != 1) return "cannot start a container that has stopped";
  size_t used = 0;
  ssize_t count;
  while (used < sizeof text - 1 && ((count = read(fd, text + used, sizeof text - 1 - used)) > 0 || (count < 0 && errno == EINTR)))
    if (count > 0) used += (size_t)count;
  text[used] = 0;
  close(fd);
  unlinkat(of->dir, "start.sock", 0);
  return used > 1 ? text + 1 : NULL;
}

static void start_or_fail(struct oci_container *of) {
  const char *error = start(of);
  if (error != NULL) oci_fail(1, "%s", error);
  error = oci_run_hooks(of->config, "poststart", oci_state_text(of, "running", of->pid));
  if (error == NULL) return;
  /* What was to watch over it is not there, so it does not run. */
  int pidfd = x_pidfd_open(of->pid);
  if (pidfd >= 0 && process_start_ticks(of->pid) == of->start_ticks) x_pidfd_signal(pidfd, SIGKILL);
  oci_fail(1, "%s", error);
}

#define CREATE_FLAGS \
  {.name = "bundle", .letter = 'b', .takes_value = true}, {.name = "console-socket", .takes_value = true}, \
      {.name = "pid-file", .takes_value = true}, {.name = "preserve-fds", .takes_value = true}, {.name = "no-pivot"}, \
      {.name = "no-new-keyring"}, {.name = "pidfd-socket", .takes_value = true}

int oci_create(char **arguments, int count) {
  struct oci_flag flags[] = {CREATE_FLAGS, {0}};
  char **rest;
  count = oci_parse_flags("create", flags, arguments, count, &rest);
  oci_expect("create", count, 1, 1, "a container id");
  struct creation creation = {.console_socket = oci_flag(flags, "console-socket"), .is_detached = true, .terminal = -1};
  create(rest[0], oci_flag(flags, "bundle"), flags, &creation);
  return 0;
}

int oci_start(char **arguments, int count) {
  struct oci_flag flags[] = {{0}};
  char **rest;
  count = oci_parse_flags("start", flags, arguments, count, &rest);
  oci_expect("start", count, 1, 1, "a container id");
  container = oci_load(rest[0]);
  if (strcmp(container.status, "stopped") == 0) oci_fail(1, "cannot start a container that has stopped");
  if (strcmp(container.status, "created") != 0) oci_fail(1, "cannot start an already running container");
  start_or_fail(&container);
  return 0;
}

static void destroy_failed(void) { oci_destroy(&container); }

int oci_run(char **arguments, int count) {
  struct oci_flag flags[] = {CREATE_FLAGS, {.name = "detach", .letter = 'd'}, {.name = "keep"}, {.name = "no-subreaper"}, {0}};
  char **rest;
  count = oci_parse_flags("run", flags, arguments, count, &rest);
  oci_expect("run", count, 1, 1, "a container id");
  struct creation creation = {.console_socket = oci_flag(flags, "console-socket"), .is_detached = oci_switch(flags, "detach"), .terminal = -1};
  if (!creation.is_detached) oci_hold_signals();
  create(rest[0], oci_flag(flags, "bundle"), flags, &creation);
  oci_on_failure = destroy_failed;
  start_or_fail(&container);
  oci_on_failure = NULL;
  if (creation.is_detached) return 0;
  int code = oci_attend(child.pid, creation.console_socket == NULL ? creation.terminal : -1);
  if (!oci_switch(flags, "keep")) oci_destroy(&container);
  return code;
}
