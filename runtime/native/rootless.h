/* `rootless`: namespaces in which an ordinary user's daemon is root, held by a process that outlives it. */
#ifndef SHOAL_ROOTLESS_H
#define SHOAL_ROOTLESS_H

/*
 * arguments: ROOT UID_MAP GID_MAP RESOLV_CONF COMMAND [ARGUMENT…]. Enters the namespaces that ROOT's holder keeps, making them first where
 * nobody does, and executes COMMAND. Maps are what newuidmap takes, words parted by spaces. RESOLV_CONF covers /etc/resolv.conf.
 * Returns an exit status, on failure only.
 */
int rootless_main(char *arguments[], int count);

#endif
