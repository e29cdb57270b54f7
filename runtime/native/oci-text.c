/* See oci.h. What is printed as it stands: a config to begin with, and what this runtime can do. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oci.h"
#include "util.h"

static const char config_head[] =
    "{\n"
    "  \"ociVersion\": \"1.2.0\",\n"
    "  \"process\": {\n"
    "    \"terminal\": true,\n"
    "    \"user\": {\"uid\": 0, \"gid\": 0},\n"
    "    \"args\": [\"sh\"],\n"
    "    \"env\": [\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\", \"TERM=xterm\"],\n"
    "    \"cwd\": \"/\",\n"
    "    \"capabilities\": {\n"
    "      \"bounding\": [\"CAP_AUDIT_WRITE\", \"CAP_KILL\", \"CAP_NET_BIND_SERVICE\"],\n"
    "      \"effective\": [\"CAP_AUDIT_WRITE\", \"CAP_KILL\", \"CAP_NET_BIND_SERVICE\"],\n"
    "      \"permitted\": [\"CAP_AUDIT_WRITE\", \"CAP_KILL\", \"CAP_NET_BIND_SERVICE\"]\n"
    "    },\n"
    "    \"rlimits\": [{\"type\": \"RLIMIT_NOFILE\", \"hard\": 1024, \"soft\": 1024}],\n"
    "    \"noNewPrivileges\": true\n"
    "  },\n"
    "  \"root\": {\"path\": \"rootfs\", \"readonly\": true},\n"
    "  \"hostname\": \"shoal\",\n"
    "  \"mounts\": [\n"
    "    {\"destination\": \"/proc\", \"type\": \"proc\", \"source\": \"proc\"},\n"
    "    {\"destination\": \"/dev\", \"type\": \"tmpfs\", \"source\": \"tmpfs\",\n"
    "     \"options\": [\"nosuid\", \"strictatime\", \"mode=755\", \"size=65536k\"]},\n"
    "    {\"destination\": \"/dev/pts\", \"type\": \"devpts\", \"source\": \"devpts\",\n"
    "     \"options\": [\"nosuid\", \"noexec\", \"newinstance\", \"ptmxmode=0666\", \"mode=0620\"%s]},\n"
    "    {\"destination\": \"/dev/shm\", \"type\": \"tmpfs\", \"source\": \"shm\",\n"
    "     \"options\": [\"nosuid\", \"noexec\", \"nodev\", \"mode=1777\", \"size=65536k\"]},\n"
    "    {\"destination\": \"/dev/mqueue\", \"type\": \"mqueue\", \"source\": \"mqueue\", \"options\": [\"nosuid\", \"noexec\", \"nodev\"]},\n"
    "%s"
    "    {\"destination\": \"/sys/fs/cgroup\", \"type\": \"cgroup\", \"source\": \"cgroup\",\n"
    "     \"options\": [\"nosuid\", \"noexec\", \"nodev\", \"relatime\", \"ro\"]}\n"
    "  ],\n"
    "  \"linux\": {\n"
    "%s"
    "    \"namespaces\": [{\"type\": \"pid\"}, %s{\"type\": \"ipc\"}, {\"type\": \"uts\"}, {\"type\": \"mount\"}, {\"type\": \"cgroup\"}],\n"
    "    \"maskedPaths\": [\"/proc/acpi\", \"/proc/asound\", \"/proc/kcore\", \"/proc/keys\", \"/proc/latency_stats\", \"/proc/timer_list\",\n"
    "      \"/proc/timer_stats\", \"/proc/sched_debug\", \"/sys/firmware\", \"/proc/scsi\"],\n"
    "    \"readonlyPaths\": [\"/proc/bus\", \"/proc/fs\", \"/proc/irq\", \"/proc/sys\", \"/proc/sysrq-trigger\"]\n"
    "  }\n"
    "}\n";
static const char sysfs[] =
    "    {\"destination\": \"/sys\", \"type\": \"sysfs\", \"source\": \"sysfs\", \"options\": [\"nosuid\", \"noexec\", \"nodev\", \"ro\"]},\n";
/* A network of the host's allows no sysfs of one's own. */
static const char bound_sysfs[] =
    "    {\"destination\": \"/sys\", \"type\": \"none\", \"source\": \"/sys\", \"options\": [\"rbind\", \"nosuid\", \"noexec\", \"nodev\", \"ro\"]},\n";

int oci_spec(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "bundle", .letter = 'b', .takes_value = true}, {.name = "rootless"}, {0}};
  char **rest;
  count = oci_parse_flags("spec", flags, arguments, count, &rest);
  oci_expect("spec", count, 0, 0, "no argument");
  const char *bundle = oci_flag(flags, "bundle") == NULL ? "." : oci_flag(flags, "bundle");
  bool is_rootless = oci_switch(flags, "rootless");
  char *path = oci_format("%s/config.json", bundle), *maps = "";
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0 && errno == EEXIST) oci_fail(1, "file %s exists. Remove it first", path);
  if (fd < 0) oci_fail(1, "%s: %s", path, strerror(errno));
  if (is_rootless)
    maps = oci_format("    \"uidMappings\": [{\"containerID\": 0, \"hostID\": %u, \"size\": 1}],\n"
                      "    \"gidMappings\": [{\"containerID\": 0, \"hostID\": %u, \"size\": 1}],\n", geteuid(), getegid());
  char *text = oci_format(config_head, is_rootless ? "" : ", \"gid=5\"", is_rootless ? bound_sysfs : sysfs, maps,
                          is_rootless ? "{\"type\": \"user\"}, " : "{\"type\": \"network\"}, ");
  if (!write_all(fd, text, strlen(text))) oci_fail(1, "%s: %s", path, strerror(errno));
  close(fd);
  return 0;
}

int oci_seccomp(char **arguments, int count) {
  struct oci_flag flags[] = {{.name = "bundle", .letter = 'b', .takes_value = true}, {0}};
  char **rest;
  const char *error;
  struct job job = {0};
  count = oci_parse_flags("seccomp", flags, arguments, count, &rest);
  oci_expect("seccomp", count, 0, 0, "no argument");
  char *path = oci_format("%s/config.json", oci_flag(flags, "bundle") == NULL ? "." : oci_flag(flags, "bundle"));
  const struct json *config = json_read(AT_FDCWD, path, &error);
  if (config == NULL) oci_fail(1, "%s: %s", path, error);
  oci_translate_seccomp(json_get(config, "linux.seccomp"), &job);
  for (uint32_t i = 0; i < job.seccomp_bytes; i++) printf("%02x", job.seccomp[i]);
  puts("");
  return 0;
}

int oci_features(char **arguments, int count) {
  struct oci_flag none[] = {{0}};
  char **rest;
  count = oci_parse_flags("features", none, arguments, count, &rest);
  oci_expect("features", count, 0, 0, "no argument");
  puts("{\n"
       "  \"ociVersionMin\": \"1.0.0\",\n"
       "  \"ociVersionMax\": \"1.2.0\",\n"
       "  \"hooks\": [\"prestart\", \"createRuntime\", \"createContainer\", \"startContainer\", \"poststart\", \"poststop\"],\n"
       "  \"mountOptions\": [\"async\", \"atime\", \"bind\", \"defaults\", \"dev\", \"diratime\", \"dirsync\", \"exec\", \"lazytime\", \"mand\",\n"
       "    \"noatime\", \"nodev\", \"nodiratime\", \"noexec\", \"nomand\", \"norelatime\", \"nostrictatime\", \"nosuid\", \"nosymfollow\", \"private\",\n"
       "    \"ratime\", \"rbind\", \"rdev\", \"rdiratime\", \"relatime\", \"rexec\", \"rnoatime\", \"rnodev\", \"rnodiratime\", \"rnoexec\",\n"
       "    \"rnorelatime\", \"rnostrictatime\", \"rnosuid\", \"rnosymfollow\", \"ro\", \"rprivate\", \"rrelatime\", \"rro\", \"rrw\", \"rshared\",\n"
       "    \"rslave\", \"rstrictatime\", \"rsuid\", \"rsymfollow\", \"runbindable\", \"rw\", \"shared\", \"slave\", \"strictatime\", \"suid\",\n"
       "    \"symfollow\", \"sync\", \"tmpcopyup\", \"unbindable\"],\n"
       "  \"linux\": {\n"
       "    \"namespaces\": [\"cgroup\", \"ipc\", \"mount\", \"network\", \"pid\", \"time\", \"user\", \"uts\"],\n"
       "    \"capabilities\": [");
  oci_put_capabilities(stdout);
  puts("],\n"
       "    \"cgroup\": {\"v1\": true, \"v2\": true, \"systemd\": false, \"systemdUser\": false, \"rdma\": true},\n"
       "    \"seccomp\": {\"enabled\": true,\n"
       "      \"actions\": [\"SCMP_ACT_ALLOW\", \"SCMP_ACT_ERRNO\", \"SCMP_ACT_KILL\", \"SCMP_ACT_KILL_PROCESS\", \"SCMP_ACT_KILL_THREAD\",\n"
       "        \"SCMP_ACT_LOG\", \"SCMP_ACT_TRACE\", \"SCMP_ACT_TRAP\"],\n"
       "      \"operators\": [\"SCMP_CMP_EQ\", \"SCMP_CMP_GE\", \"SCMP_CMP_GT\", \"SCMP_CMP_LE\", \"SCMP_CMP_LT\", \"SCMP_CMP_MASKED_EQ\", \"SCMP_CMP_NE\"],\n"
#if defined(__x86_64__)
       "      \"archs\": [\"SCMP_ARCH_X86\", \"SCMP_ARCH_X86_64\"],\n"
#else
       "      \"archs\": [\"SCMP_ARCH_AARCH64\"],\n"
#endif
       "      \"knownFlags\": [\"SECCOMP_FILTER_FLAG_LOG\", \"SECCOMP_FILTER_FLAG_SPEC_ALLOW\", \"SECCOMP_FILTER_FLAG_TSYNC\"]},\n"
       "    \"apparmor\": {\"enabled\": true},\n"
       "    \"selinux\": {\"enabled\": true},\n"
       "    \"intelRdt\": {\"enabled\": false},\n"
       "    \"mountExtensions\": {\"idmap\": {\"enabled\": false}}\n"
       "  }\n"
       "}");
  return 0;
}
