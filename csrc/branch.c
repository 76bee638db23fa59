/* branch: a Python process puts forth a copy of itself into a sandbox of its own, whose init is another program: a pool's zygote,
 * or the fork of a caller that calls a function. Here both are called the zygote.
 *
 *     zygote --CLONE_VM|CLONE_VFORK--> child: its steps, then execs init
 *                                        \--clone--> the payload's process: a copy of the zygote, goes on in Python
 *
 * The page tables are copied once, for the payload's process, and init has nothing of the zygote's. The child
 * goes on on the zygote's own stack (here.h), so that the copy that it clones finds the zygote's frames above it: it jumps
 * back to where the zygote called, and returns from there into Python. What is dangerous about that, and what is done about it:
 *
 * 1. Threads. The zygote has one: locks that another held would stay locked in the copy. The caller sees to that.
 * 2. Signals. All are blocked in the zygote meanwhile, since the child shares its memory, and stay so in the copy until
 *    its last step. The child resets every disposition; the copy has those, and Python sets its own anew.
 * 3. libc. The child makes raw calls only. The copy's thread id and robust list are renewed (libc_state.h); its
 *    restartable-sequences area is marked unregistered, since the child's is (the kernel drops it for CLONE_VM), or its cpu
 *    number would stay as it was.
 * 4. Python. Its fork hooks run around all of it, as for os.fork: in the zygote and in the copy, never in the child. Not
 *    so where the zygote is a fork itself, whose hooks have just been run.
 * 5. Stack. The child writes below the zygote's frames only; the failures that it notes are on the heap.
 * 6. Dumpable. As in call.c, 8: put back when the child has left.
 * 7. A dead zygote. It is a sandbox's payload, and its init ends all that it has made. With CLONE_PARENT the child is the
 *    caller's own, and ends with that.
 */
#include "branch.h"

#include "here.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>

#define LIBC_FIRST 32 /* SIGCANCEL, SIGSETXID */
#define LIBC_LAST 33

const char core_branch_doc[] =
    "branch(child, child_inputs, init, init_inputs, pid_text, flags, tid, cgroup=-1, hooks=True)\n"
    "--\n\n"
    "Clone a child with flags, which makes the steps of child (csrc/steps.h), clones a copy of this process, with the pid tid\n"
    "in the new pid namespace unless that is 0, makes the steps of init, and becomes another program by the last.\n"
    "Returns None in the copy. In this process (pid, pidfd, 0, 0, 0) of the child, or (pid, -1, stage, step, errno) where\n"
    "one of its steps has failed, with -1 for a child that could not be cloned. hooks: run Python's for a fork.\n"
    "Only for a process with one thread. Raises OSError. Follows clone(2).";

static void note(struct branch *branch, enum stage stage, uint32_t step, int error)
{
    branch->failed.step = step;
    branch->failed.error = error;
    branch->failed.stage = stage;
}

/* All but those of the two signals that libc keeps for its threads: the copy's libc believes that they are as it has set them. */
static void reset_dispositions(void)
{
    struct kernel_sigaction action = {0};
    for (int signal = 1; signal <= KERNEL_NSIG; signal++)
        if (signal != SIGKILL && signal != SIGSTOP && (signal < LIBC_FIRST || signal > LIBC_LAST))
            sys4(__NR_rt_sigaction, signal, &action, 0, KERNEL_SIGSET_BYTES);
}

static void branch_child(void *arg)
{
    struct branch *branch = arg;
    uint32_t at = 0;
    reset_dispositions();
    int error = run_steps(&branch->child, &at);
    if (error) {
        note(branch, STAGE_CHILD, at, error);
        sys_exit_group(EXIT_STEP_FAILED);
    }
    long pid = branch->put_forth(branch);
    if (pid == 0)
        longjmp(branch->home, 1);
    if (sys_failed(pid)) {
        note(branch, STAGE_PAYLOAD_CLONE, 0, (int)-pid);
        sys_exit_group(EXIT_STEP_FAILED);
    }
    child_write_number(branch->pid_text, branch->tid ? branch->tid : pid);
    error = run_steps(&branch->init, &at);
    note(branch, STAGE_INIT, at, error);
    /* Our end is the copy's too, but a moment after it has closed what the copy may be waiting for (ramet/run/fork.py). */
    sys2(__NR_kill, pid, SIGKILL);
    sys_exit_group(EXIT_STEP_FAILED);
}

static long put_forth_now(struct branch *branch)
{
    return sys2(__NR_clone3, &branch->payload_clone, sizeof branch->payload_clone);
}

extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

static void forget_rseq(void)
{
    if (&__rseq_size && &__rseq_offset && __rseq_size)
        ((volatile uint32_t *)(void *)((char *)__builtin_thread_pointer() + __rseq_offset))[1] = (uint32_t)-1;
}

void branch_settle(const struct branch *branch)
{
    renew_libc(&branch->libc);
    forget_rseq();
    if (branch->hooks)
        PyOS_AfterFork_Child();
}

/* 1 in the copy. */
static __attribute__((noinline)) int clone_child(struct branch *branch, long *pid)
{
    branch->clone.flags |= CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
    branch->clone.pidfd = (uint64_t)(uintptr_t)&branch->pidfd;
    branch->clone.exit_signal = branch->clone.flags & CLONE_PARENT ? 0 : SIGCHLD; /* the kernel gives it our own */
    if (setjmp(branch->home))
        return 1;
    *pid = clone_here(&branch->clone, 0, branch_child, branch);
    return 0;
}

int branch_run(struct branch *branch, long *pid)
{
    uint64_t all = ~(uint64_t)0, mask;
    core_dumpable_save();
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_BYTES);
    if (clone_child(branch, pid))
        return 1;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, KERNEL_SIGSET_BYTES);
    core_dumpable_restore();
    return 0;
}

void branch_aim(struct branch *branch)
{
    branch->libc = libc_state();
    branch->payload_clone.exit_signal = SIGCHLD;
    if (branch->libc.tid) {
        branch->payload_clone.flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        branch->payload_clone.child_tid = (uint64_t)(uintptr_t)branch->libc.tid;
    }
    if (branch->tid) {
        branch->payload_clone.set_tid = (uint64_t)(uintptr_t)&branch->tid;
        branch->payload_clone.set_tid_size = 1;
    }
}

PyObject *branch_result(const struct branch *branch, long pid)
{
    if (sys_failed(pid))
        return Py_BuildValue("iiiii", -1, -1, STAGE_CLONE, 0, (int)-pid);
    if (branch->failed.stage) {
        sys1(__NR_close, branch->pidfd);
        return Py_BuildValue("liiii", pid, -1, (int)branch->failed.stage, (int)branch->failed.step,
                             (int)branch->failed.error);
    }
    return Py_BuildValue("liiii", pid, (int)branch->pidfd, 0, 0, 0);
}

static PyObject *run_branch(struct branch *branch)
{
    long pid = 0;
    branch_aim(branch);
    if (branch->hooks)
        PyOS_BeforeFork();
    if (branch_run(branch, &pid)) {
        branch_settle(branch);
        Py_RETURN_NONE;
    }
    if (branch->hooks)
        PyOS_AfterFork_Parent();
    return branch_result(branch, pid);
}

unsigned char *branch_load(struct loaded *loaded, const Py_buffer *blob, PyObject *inputs)
{
    if (!program_check(blob->buf, (size_t)blob->len)) {
        PyErr_SetString(PyExc_ValueError, "malformed program");
        return NULL;
    }
    uint32_t size = ((const struct program *)blob->buf)->data_size;
    unsigned char *data = PyMem_Malloc(size ? size : 1);
    if (!data) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(data, program_data(blob->buf), size);
    *loaded = program_load(blob->buf, data);
    if (core_store_inputs(inputs, data, size)) {
        PyMem_Free(data);
        return NULL;
    }
    return data;
}

int branch_fill(struct branch *branch, const Py_buffer *child, PyObject *child_inputs, const Py_buffer *init,
                PyObject *init_inputs, long long at)
{
    branch->pidfd = -1;
    if (!(branch->child_data = branch_load(&branch->child, child, child_inputs)) ||
        !(branch->init_data = branch_load(&branch->init, init, init_inputs)))
        return -1;
    if (at < 0 || at + PID_TEXT_SIZE > (long long)branch->init.data_size) {
        PyErr_SetString(PyExc_ValueError, "text outside the program's data");
        return -1;
    }
    branch->pid_text = (char *)branch->init_data + at;
    return 0;
}

void branch_free(struct branch *branch)
{
    PyMem_Free(branch->child_data);
    PyMem_Free(branch->init_data);
}

PyObject *core_branch(PyObject *module, PyObject *args)
{
    Py_buffer child, init;
    PyObject *child_inputs, *init_inputs, *result = NULL;
    unsigned long long flags;
    long long at;
    int tid, cgroup = -1, hooks = 1;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*Oy*OLKi|ip:branch", &child, &child_inputs, &init, &init_inputs, &at, &flags, &tid,
                          &cgroup, &hooks))
        return NULL;
    struct branch *branch = PyMem_Calloc(1, sizeof *branch);
    if (!branch) {
        PyErr_NoMemory();
        goto done;
    }
    branch->clone.flags = flags;
    branch->clone.cgroup = cgroup < 0 ? 0 : (uint64_t)cgroup;
    branch->tid = tid;
    branch->hooks = hooks;
    branch->put_forth = put_forth_now;
    if (branch_fill(branch, &child, child_inputs, &init, init_inputs, at) == 0)
        result = run_branch(branch);
    branch_free(branch);
    PyMem_Free(branch);
done:
    PyBuffer_Release(&child);
    PyBuffer_Release(&init);
    return result;
}
