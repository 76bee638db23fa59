/* What it takes to put forth a copy of this process: at once (branch.c), or later, in a sandbox that stands ready (bud.c). */
#ifndef RAMET_BRANCH_H
#define RAMET_BRANCH_H

#include "core.h"

#include "child.h"
#include "libc_state.h"

#include <setjmp.h>

#define EXIT_STEP_FAILED 125

struct branch;

/* Clones the process that is to be init's child. Its pid, or -errno; 0 in one that is the copy and shall go on. */
typedef long (*put_forth_fn)(struct branch *branch);

/* On the heap, since child and zygote share a stack. */
struct branch {
    struct loaded child, init;
    struct kernel_clone_args clone, payload_clone;
    char *pid_text;
    struct libc_state libc;
    struct failure failed;
    unsigned char *child_data, *init_data;
    put_forth_fn put_forth;
    int32_t pidfd, tid;
    int hooks;
    jmp_buf home;
};

/* A copy of the program's data, relocated and with its inputs; NULL with an exception. */
unsigned char *branch_load(struct loaded *loaded, const Py_buffer *blob, PyObject *inputs);

/* Fill it from both programs; at: where in init's data the payload's pid is written. -1 with an exception. What is in it is to be freed
 * in either case. */
int branch_fill(struct branch *branch, const Py_buffer *child, PyObject *child_inputs, const Py_buffer *init,
                PyObject *init_inputs, long long at);
void branch_free(struct branch *branch);

/* What the payload's process is cloned with, as things are now. */
void branch_aim(struct branch *branch);

/* Clone the child, which makes its steps, has init's child put forth, and becomes init. 1 in the copy, where all signals stay blocked; else
 * 0, and *pid and what is in branch tell the rest. */
int branch_run(struct branch *branch, long *pid);

/* What came of it, for Python: (pid, pidfd, stage, step, errno). */
PyObject *branch_result(const struct branch *branch, long pid);

/* In the copy, when it is back where the zygote called. */
void branch_settle(const struct branch *branch);

#endif
