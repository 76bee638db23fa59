/* The child between clone and exec: what it runs, and how it is started on a stack of its own. */
#ifndef RAMET_CHILD_H
#define RAMET_CHILD_H

#include "steps.h"

#define CHILD_STACK_SIZE (64u * 1024u)

/* Who failed, for the caller to name the step. */
enum stage {
    STAGE_NONE = 0,
    STAGE_JOIN = 1,    /* the steps of the intermediate process, before the clone proper */
    STAGE_CLONE = 2,   /* the clone itself */
    STAGE_CHILD = 3,   /* the child's steps; with an init those before it clones the payload's process */
    STAGE_INIT = 4,    /* the child's steps after that, up to init's exec */
    STAGE_PAYLOAD = 5, /* the steps of the payload's process */
    STAGE_PAYLOAD_CLONE = 6, STAGE_VIEW = 7, /* the latter of a copy, or before there is one: bud.c */
};

struct failure {
    volatile enum stage stage;
    volatile uint32_t step;
    volatile int32_t error;
};

/* Shared by caller, intermediate, child and the payload's process: by CLONE_VM, or by a mapping that is MAP_SHARED. */
struct child {
    struct loaded program;          /* the child's steps */
    struct loaded join;             /* the intermediate's steps */
    struct loaded payload, init;    /* of a child that becomes init; without steps where it becomes the payload itself */
    struct kernel_clone_args clone; /* of the child */
    struct kernel_clone_args payload_clone;
    char *payload_pid; /* where init's argv has it; room for PID_TEXT_SIZE bytes */
    int no_clone3;     /* use clone(2) from the start: tests, and kernels that said ENOSYS */
    int32_t pidfd;
    volatile int64_t pid;
    volatile uint32_t whole; /* the child has made all of its steps: one that is killed before leaves no failure */
    struct failure failed, payload_failed; /* by the child or for it; by the payload's process */
    /* Futexes: the kernel clears them when that process leaves our memory. Not so with CLONE_VFORK. */
    volatile uint32_t running, payload_running;
    volatile uint32_t *gate; /* in payload's data: its process waits there until we clear it */
};

#define PID_TEXT_SIZE 16

/* The two calls themselves, without a fallback: for clone_on_stack, and for ramet.lowlevel; without a stack, for here.h. */
long raw_clone3(const struct kernel_clone_args *args, void (*fn)(void *), void *arg);
long raw_clone(const struct kernel_clone_args *args, void (*fn)(void *), void *arg);

/* Clone and run fn(arg) in the child on the stack that *args names; fn must not return. Falls back to
 * clone(2) on ENOSYS only. Returns the pid or -errno. */
long clone_on_stack(struct kernel_clone_args *args, int no_clone3, void (*fn)(void *), void *arg);

/* number in decimal, with a NUL; at most PID_TEXT_SIZE bytes. */
void child_write_number(char *text, long number);

void child_main(void *child);        /* runs child->program, and, if there is to be one, becomes init */
void intermediate_main(void *child); /* runs child->join, clones the child as the caller's, leaves */

#endif
