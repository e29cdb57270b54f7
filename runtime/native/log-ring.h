/*
 * `mode=non-blocking`: lines wait in memory for a process of their own that writes them, so that a slow disk never holds the
 * container back. What does not fit is dropped, newest first and by whole lines, as Docker does.
 */
#ifndef SHOAL_LOG_RING_H
#define SHOAL_LOG_RING_H

#include <stdint.h>

struct log_file;
struct log_ring;

/* Forks the writer, which takes over `log`. NULL if there is no memory or process left: the caller writes itself then. */
struct log_ring *log_ring_open(struct log_file *log, uint32_t bytes_max);
/* Never blocks. */
void log_ring_put(struct log_ring *ring, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds);
/* Descriptor that must become writable before log_ring_flush() has something to do, or -1. */
int log_ring_waiting(const struct log_ring *ring);
void log_ring_flush(struct log_ring *ring);
/* Hands over all that waits, however slow the disk, and waits for the writer's end; a full disk is waited for LOG_LAST_MS. */
void log_ring_close(struct log_ring *ring);

#endif
