/*
 * shoal-runtime: the native half of the runtime. Faces by the first argument: `launcher ROOT` (one per machine and exec root),
 * `init -- CMD…` (PID 1 inside containers), `rootless …` (an ordinary user's daemon), `oci VERB…` (runc's command line). Called as
 * docker-init or shoal-oci it is that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"
#include "launcher.h"
#include "oci.h"
#include "rootless.h"

extern char **environ;

/*
 * A process that enters a container is still this program until it executes: the container must not find the host's file
 * through /proc/PID/exe. So the launcher runs from a sealed copy in memory.
 */
static void run_from_memory(char *arguments[]) {
  int self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (self < 0 || fcntl(self, F_GET_SEALS) >= 0) {
    close(self);
    return;
  }
  int copy = memfd_create("shoal-runtime", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  struct stat stat;
  if (copy < 0 || fstat(self, &stat) != 0) return;
  for (off_t at = 0; at < stat.st_size;)
    if (sendfile(copy, self, &at, (size_t)(stat.st_size - at)) <= 0) return;
  fchmod(copy, 0500);
  fcntl(copy, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  close(self);
  fexecve(copy, arguments, environ);
}

static int usage(void) {
  fputs("usage: shoal-runtime launcher ROOT | rootless ROOT UID_MAP GID_MAP RESOLV_CONF COMMAND... | init -- COMMAND [ARGUMENT...] | "
        "oci VERB [...]\n",
        stderr);
  return 64;
}

int main(int count, char *arguments[]) {
  const char *name = strrchr(arguments[0], '/');
  name = name == NULL ? arguments[0] : name + 1;
  if (strcmp(name, "docker-init") == 0) {
    int first = count > 1 && strcmp(arguments[1], "--") == 0 ? 2 : 1;
    return count > first ? init_main(arguments + first) : usage();
  }
  bool is_oci = strcmp(name, "shoal-oci") == 0;
  if (is_oci || (count > 1 && strcmp(arguments[1], "oci") == 0)) {
    run_from_memory(arguments);
    return is_oci ? oci_main(count, arguments) : oci_main(count - 1, arguments + 1);
  }
  if (count < 3) return usage();
  if (strcmp(arguments[1], "launcher") == 0) {
    run_from_memory(arguments);
    return launcher_main(arguments[2]);
  }
  if (strcmp(arguments[1], "rootless") == 0) {
    int result = rootless_main(arguments + 2, count - 2);
    return result == 64 ? usage() : result;
  }
  if (strcmp(arguments[1], "init") == 0) {
    int first = strcmp(arguments[2], "--") == 0 ? 3 : 2;
    return count > first ? init_main(arguments + first) : usage();
  }
  return usage();
}
