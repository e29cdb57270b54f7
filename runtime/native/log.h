/* A container's log file: one JSON object a line, as Docker's json-file has it; rotated by size. Written by the monitor alone. */
#ifndef SHOAL_LOG_H
#define SHOAL_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "job.h"

/* How often a full disk is tried again, and for how long when there is nothing more to come. */
enum { LOG_RETRY_MS = 50, LOG_LAST_MS = 2000 };

struct log_file;
/* NULL when the job asks for no log. */
struct log_file *log_open(const struct job *job);
/*
 * Adds output of one stream; lines are cut at 16 KiB as Docker does. Never waits for room on the disk: what has none is kept, and
 * log_is_stuck() then. Returns false for what was not taken, for want of memory or since it is stuck.
 */
bool log_write(struct log_file *log, int stream, const char *bytes, uint32_t length);
/* The same at a given time, in this process. */
bool log_write_at(struct log_file *log, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds);
/* Descriptor to wait for until it can be written, then log_continue(); -1: nothing waits. */
int log_waiting(const struct log_file *log);
void log_continue(struct log_file *log);
/* True while the disk has no room: nothing more may be written before log_continue(), called now and then, has found some. */
bool log_is_stuck(const struct log_file *log);
/* Ends it without what the disk does not take; what is written from then on is dropped. */
void log_give_up(struct log_file *log);
int log_descriptor(const struct log_file *log);
/* Writes what is left of unfinished lines; on a full disk it gives up after LOG_LAST_MS. */
void log_close(struct log_file *log);

#endif
