/* See init.c. */
#ifndef SHOAL_INIT_H
#define SHOAL_INIT_H

/* Runs `arguments` (NULL at the end) and returns its exit code. */
int init_main(char *const arguments[]);

#endif
