/* Programs on a container's group in the v2 tree: device rules (made by the daemon), and the address under which names are served. */
#ifndef SHOAL_BPF_H
#define SHOAL_BPF_H

#include "job.h"

/* Returns NULL or an error text. Nothing to do without a program in the job. */
const char *bpf_attach_devices(const struct job *job);

/* 127.0.0.11, where programs on Docker's own networks look for the name server (and configurations spell it out). */
enum { NAME_SERVER_ADDRESS = 0x7f00000b };

/*
 * Port 53 of that address becomes the one of `server` (network order) in whatever the group's processes connect and send to,
 * and answers come from where they were expected: no socket and no packet filter in the container. NULL or an error text:
 * kernels before 5.8 and hosts without a cgroup v2 tree can't.
 */
const char *bpf_attach_names(const struct job *job, uint32_t server);

#endif
