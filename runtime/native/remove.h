/* Takes folders away that nobody uses any more: a job of its own, so that no unlink that waits for the disk holds the daemon up. */
#ifndef SHOAL_REMOVE_H
#define SHOAL_REMOVE_H

#include <stdint.h>

/* `paths`: absolute, each ended by NUL. Answers when all are gone, or with the first that isn't; the others are gone then. */
_Noreturn void remove_serve(const char *paths, uint32_t length, int connection);

#endif
