/* Small things that every part uses: frames on a stream, files, descriptors over a socket. None of them allocates for good. */
#ifndef SHOAL_UTIL_H
#define SHOAL_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Writes or reads all of it, across interrupts. False on error or early end. */
bool write_all(int fd, const void *bytes, size_t length);
bool read_all(int fd, void *bytes, size_t length);

/* One frame, blocking. Length on the wire counts the type byte. */
bool send_frame(int fd, uint8_t type, const void *bytes, uint32_t length);
bool send_text_frame(int fd, uint8_t type, const char *text);
/*
 * Before this process ends: waits until the other side has closed. It may be about to write, and a client whose write fails loses what it
 * has not read yet.
 */
void send_last_text(int fd, uint8_t type, const char *text);

/* Opens, writes `text` in one write, closes. Returns 0 or -errno. */
int write_file(int dir, const char *path, const char *text);
/* Reads at most size - 1 bytes and ends them with NUL. Returns the count or -errno. */
ssize_t read_file(int dir, const char *path, char *buffer, size_t size);
/* Makes the folder and its parents, 0755. Returns 0 or -errno. */
int make_folders(const char *path, mode_t mode);

enum { DESCRIPTORS_MAX = 32 };

/* One message with `count` descriptors, at most DESCRIPTORS_MAX. */
bool send_descriptors(int socket, char tag, const int *fds, uint32_t count);
bool send_descriptor(int socket, char tag, int fd);
/* Takes one message with at most `*count` descriptors; says how many came. Returns the count of bytes, 0 at the end. */
ssize_t receive_descriptors(int socket, char *bytes, size_t size, int *fds, uint32_t *count);
/* The same with at most one, which is -1 when none came along. */
ssize_t receive_descriptor(int socket, char *bytes, size_t size, int *fd);

/* Gives the stack below the caller back: to a process whose deepest calls are done, and which waits now. */
void release_stack(void);
/* The same for what malloc has had to give and got back. */
void release_heap(void);
void set_nonblocking(int fd);
uint64_t wall_nanoseconds(void);
/* For once in a while: costs a call into the kernel, and spares a process that asks for nothing else the pages of the quick way. */
uint64_t wall_nanoseconds_once(void);
/* Writes RFC 3339 with nine digits and Z, 30 characters and a NUL. */
void format_time(uint64_t nanoseconds, char out[31]);
/* True where ids are mapped: rights over file systems are those of a user namespace then. */
bool in_user_namespace(void);
/* Field 22 of /proc/PID/stat: tells a process from a later one with the same number. 0 if there is none. */
uint64_t process_start_ticks(int pid);

#endif
