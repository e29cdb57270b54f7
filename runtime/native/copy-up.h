/* Fills a new file system with what it covers: tmpfs mounts that begin with the image's files. */
#ifndef SHOAL_COPY_UP_H
#define SHOAL_COPY_UP_H

/* Copies all below the folder `from` into the folder `to`: files, folders, links, with mode, owner and times. 0 or -1 and errno. */
int copy_tree(int from, int to);

#endif
