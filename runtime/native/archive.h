/* File trees in and out of a container as tar streams: docker cp and export, running or not. */
#ifndef SHOAL_ARCHIVE_H
#define SHOAL_ARCHIVE_H

#include "job.h"

enum archive_mode { ARCHIVE_STAT = 1, ARCHIVE_GET = 2, ARCHIVE_PUT = 3, ARCHIVE_EXPORT = 4 };

/* Serves one archive job over `connection`. Never returns. */
_Noreturn void archive_serve(struct job *job, int connection);

#endif
