/* A container's log file: one JSON object a line, as Docker's json-file has it; rotated by size. Written by the monitor alone. */
#ifndef SHOAL_LOG_H
#define SHOAL_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "job.h"

struct log_file;
/* NULL when the job asks for no log. */
struct log_file *log_open(const struct job *job);
/* Adds output of one stream; lines are cut at 16 KiB as Docker does. Returns false if the disk refused. */
bool log_write(struct log_file *log, int stream, const char *bytes, uint32_t length);
/* The same at a given time, in this process. */
bool log_write_at(struct log_file *log, int stream, const char *bytes, uint32_t length, uint64_t nanoseconds);
/* Descriptor to wait for until it can be written, then log_continue(); -1: nothing waits. */
int log_waiting(const struct log_file *log);
void log_continue(struct log_file *log);
int log_descriptor(const struct log_file *log);
/* What is left of unfinished lines. */
void log_close(struct log_file *log);

#endif
