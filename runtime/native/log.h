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
/* What is left of unfinished lines. */
void log_close(struct log_file *log);

#endif
