/* Names of system calls, for seccomp profiles: of this machine's architecture first, then of those whose programs it runs as well. */
#ifndef SHOAL_SYSCALLS_H
#define SHOAL_SYSCALLS_H

#include <stdint.h>

struct syscall_table;

/* NULL behind the last. */
struct syscall_table *syscall_table_at(unsigned index);
/* As profiles name it: SCMP_ARCH_X86_64. */
const char *syscall_table_arch(const struct syscall_table *table);
/* What the kernel puts into seccomp_data.arch. */
uint32_t syscall_table_audit_arch(const struct syscall_table *table);
/* -1 for a name that the table does not have. */
int syscall_number(const struct syscall_table *table, const char *name);

#endif
