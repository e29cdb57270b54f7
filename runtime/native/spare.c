/* See spare.h. The state is that of one process, which does one job. */
#define _GNU_SOURCE
#include "spare.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "delegate.h"
#include "userns.h"

/* The launcher's network namespace while this process is in another one; else -1. */
static int home = -1;

void raise_loopback(void) {
  struct ifreq request = {.ifr_name = "lo"};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  ioctl(fd, SIOCSIFFLAGS, &request);
  close(fd);
}

void spare_prepare(void) {
  if (home >= 0) return;
  home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (home < 0) return;
  if (unshare(CLONE_NEWNET) == 0) return raise_loopback();
  close(home);
  home = -1;
}

const char *spare_use(struct job *job) {
  static char failure[128];
  if (home < 0) return NULL;
  if (job->flags & J_NEW_NET && !userns_wanted(job) && !delegate_wanted(job)) {
    job->flags &= ~(uint32_t)J_NEW_NET;
    return NULL;
  }
  bool is_home = setns(home, CLONE_NEWNET) == 0;
  snprintf(failure, sizeof failure, "leaving the network namespace made ahead: %s", strerror(errno));
  close(home);
  home = -1;
  return is_home ? NULL : failure;
}

int spare_descriptor(void) { return home; }

void spare_leave(void) {
  if (home < 0) return;
  setns(home, CLONE_NEWNET);
  close(home);
  home = -1;
}
