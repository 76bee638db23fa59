/* Looking into a tracee that stands still. */
#ifndef RAMET_TRACEE_H
#define RAMET_TRACEE_H

#include "sys.h"

#include <linux/ptrace.h>
#include <sys/types.h>

static inline long ptrace_of(long request, pid_t tid, const void *address, const void *data)
{
    return sys4(__NR_ptrace, request, tid, address, data);
}

/* Read as much of its memory as can be read; the number of bytes. */
size_t tracee_memory(pid_t tid, uint64_t from, void *to, size_t length);

/* Read a string, or an array of them one after the other, each with its NUL; the number of bytes. What is wrong is
 * added to *state (TRACE_UNREADABLE, TRACE_CUT); a string that can't be read at all has none. */
size_t tracee_string(pid_t tid, uint64_t from, char *to, size_t room, uint16_t *state);
size_t tracee_argv(pid_t tid, uint64_t argv, size_t pointer_size, char *to, size_t room, uint16_t *state);

/* Read a file of /proc/TID; the number of bytes, 0 if it can't be read. */
size_t tracee_proc(pid_t tid, const char *name, char *to, size_t room);

/* Its number in its own pid namespace; 0 if /proc does not say. */
pid_t tracee_tid_inside(pid_t tid);

/* The path and the arguments of the program that it runs, in the form of tracee_string and tracee_argv. */
size_t tracee_program(pid_t tid, char *to, size_t room);

/* Take CLONE_UNTRACED out of the flags of the clone that it is about to make, or put it back: in the register of the
 * first argument, or in the struct clone_args at this address. */
#define IN_REGISTER 1
void tracee_flip_untraced(pid_t tid, uint32_t arch, uint64_t where);

#if defined(__x86_64__)
#define ARGUMENT_SURVIVES 1 /* a system call leaves the register as it is */
#else
#define ARGUMENT_SURVIVES 0
#endif

#endif
