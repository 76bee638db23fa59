/* What trace.c writes down and src/ramet/trace/records.py reads: one record an event, in the order of the events. */
#ifndef RAMET_TRACE_H
#define RAMET_TRACE_H

#include <stdint.h>

enum trace_kind {
    TRACE_ENTER = 1, /* a call begins; value: its number; the tail is what its arguments point to */
    TRACE_LEAVE,     /* it has returned; value: what the caller gets, or -errno */
    TRACE_CHILD,     /* it has made a task; value: its tid. No TRACE_LEAVE need follow: then that is the result */
    TRACE_EXEC,      /* it has replaced the program; value: the tid that the caller had until then */
    TRACE_INSIDE,    /* a new task in another pid namespace; value: its tid in there */
    TRACE_END,       /* the task has ended; value: the status, as waitpid gives it */
};

/* What is wrong with the tail. */
enum { TRACE_UNREADABLE = 1, TRACE_CUT = 2 };

struct trace_record {
    uint32_t size; /* with the tail, a multiple of 8 */
    uint16_t kind, tail_state;
    int32_t tid;
    uint32_t arch; /* AUDIT_ARCH_*, of TRACE_ENTER */
    int64_t value;
    uint64_t args[6];
    uint32_t tail; /* bytes */
    uint32_t reserved;
};

/* What to do about a call: a row of the table that the caller gives. */
enum trace_call_kind {
    CALL_PLAIN = 1, /* fork, vfork: no flags */
    CALL_CLONE,     /* flags in the first argument */
    CALL_CLONE3,    /* flags in the structure to which it points, which is the tail */
    CALL_UNSHARE,
    CALL_SETNS,
    CALL_EXECVE,   /* the tail is the path, then argv, each with its NUL */
    CALL_EXECVEAT, /* the same, one argument later */
    CALL_SECCOMP,  /* may install a filter that hides calls from ours; not recorded */
    CALL_PRCTL,    /* the same */
};

struct trace_call {
    uint32_t arch, number;
    uint16_t kind, pointer_size;
};

#endif
