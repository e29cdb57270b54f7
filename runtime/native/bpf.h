/* Device rules on a host whose devices controller is v2: a program made by the daemon, attached to the container's group. */
#ifndef SHOAL_BPF_H
#define SHOAL_BPF_H

#include "job.h"

/* Returns NULL or an error text. Nothing to do without a program in the job. */
const char *bpf_attach_devices(const struct job *job);

#endif
