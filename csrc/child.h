/* The child between clone and exec: what it runs, and how it is started on a stack of its own. */
#ifndef RAMET_CHILD_H
#define RAMET_CHILD_H

#include "steps.h"

#define CHILD_STACK_SIZE (64u * 1024u)

/* Who failed, for the caller to name the step. */
enum stage {
    STAGE_NONE = 0,
    STAGE_JOIN = 1,  /* the steps of the intermediate process, before the clone proper */
    STAGE_CLONE = 2, /* the clone itself */
    STAGE_CHILD = 3, /* the child's steps */
};

/* Shared by caller, intermediate and child: by CLONE_VM, or, with join steps, by a mapping that is MAP_SHARED. */
struct child {
    struct loaded program;          /* the child's steps */
    struct loaded join;             /* the intermediate's steps; n_steps 0 and no stack when there is none */
    struct kernel_clone_args clone; /* of the child */
    int no_clone3;                  /* use clone(2) from the start: tests, and kernels that said ENOSYS */
    int32_t pidfd;
    volatile int64_t pid;
    volatile enum stage failed_stage;
    volatile uint32_t failed_step;
    volatile int32_t failed_errno;
    volatile uint32_t running; /* futex: the kernel clears it when the child leaves our memory */
};

/* The two calls themselves, without a fallback: for clone_on_stack, and for ramet.lowlevel. */
long raw_clone3(const struct kernel_clone_args *args, void (*fn)(void *), void *arg);
long raw_clone(const struct kernel_clone_args *args, void (*fn)(void *), void *arg);

/* Clone and run fn(arg) in the child on the stack that *args names; fn must not return. Falls back to
 * clone(2) on ENOSYS only. Returns the pid or -errno. */
long clone_on_stack(struct kernel_clone_args *args, int no_clone3, void (*fn)(void *), void *arg);

void child_main(void *child);        /* runs child->program */
void intermediate_main(void *child); /* runs child->join, clones the child as the caller's, leaves */

#endif
