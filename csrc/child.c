/* The child's side of a spawn. Everything here runs in a process that shares the caller's memory: own stack,
 * the caller's TLS. So: no libc, no allocation, no Python; a test lists the symbols this object refers to. */
#include "child.h"

#include <linux/sched.h>

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL /* since Linux 5.5 */
#endif

#define SIGNAL_KILL 9
#define SIGNAL_STOP 19
#define EXIT_STEP_FAILED 125

#define ERRNO_INVAL 22
#define ERRNO_NOSYS 38

long raw_clone3(const struct kernel_clone_args *args, void (*fn)(void *), void *arg)
{
    return sys_clone(__NR_clone3, SYS_ARG(args), sizeof *args, 0, 0, 0, fn, arg);
}

/* clone(2): the pidfd comes back through parent_tid, the exit signal lives in the low byte of the flags. */
long raw_clone(const struct kernel_clone_args *args, void (*fn)(void *), void *arg)
{
    uint64_t flags = args->flags | args->exit_signal, top = args->stack + args->stack_size;
#if defined(__x86_64__)
    return sys_clone(__NR_clone, flags, top, args->pidfd, args->child_tid, args->tls, fn, arg);
#else
    return sys_clone(__NR_clone, flags, top, args->pidfd, args->tls, args->child_tid, fn, arg);
#endif
}

long clone_on_stack(struct kernel_clone_args *args, int no_clone3, void (*fn)(void *), void *arg)
{
    if (!no_clone3) {
        long result = raw_clone3(args, fn, arg);
        /* ENOSYS is what an old kernel and a container's seccomp filter answer. EPERM is a verdict: keep it. */
        if (result != -ERRNO_NOSYS)
            return result;
    }
    struct kernel_clone_args old = *args;
    old.flags &= ~(uint64_t)CLONE_CLEAR_SIGHAND; /* child_main resets the dispositions itself */
    if (old.flags >> 32)
        return -ERRNO_INVAL; /* what only clone3 can say */
    return raw_clone(&old, fn, arg);
}

/* A handler would run in the caller's memory; SIG_IGN would reach the payload. The signals are blocked, so
 * between the clone and here none can have been delivered. */
static void reset_dispositions(void)
{
    struct kernel_sigaction action = {0};
    for (int signal = 1; signal <= KERNEL_NSIG; signal++)
        if (signal != SIGNAL_KILL && signal != SIGNAL_STOP)
            sys4(__NR_rt_sigaction, signal, &action, 0, KERNEL_SIGSET_BYTES);
}

static void fail(struct failure *failed, enum stage stage, uint32_t step, int error)
{
    failed->step = step;
    failed->error = error;
    failed->stage = stage;
}

/* Run the steps of one stage; 0, or 1 and the failure is noted. */
static int run_stage(const struct loaded *program, enum stage stage, struct failure *failed)
{
    uint32_t at = 0;
    int error = run_steps(program, &at);
    if (error)
        fail(failed, stage, at, error);
    return error != 0;
}

static void payload_main(void *arg)
{
    struct child *child = arg;
    run_stage(&child->payload, STAGE_PAYLOAD, &child->payload_failed);
    sys_exit_group(EXIT_STEP_FAILED);
}

void child_write_number(char *text, long number)
{
    char digits[PID_TEXT_SIZE];
    int count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    while (count > 0)
        *text++ = digits[--count];
    *text = 0;
}

/* The child becomes init, and the process it clones the payload. That one builds the sandbox while we exec init. */
static void become_init(struct child *child)
{
    /* With a memory of its own it does not leave ours, and nothing would clear the word. */
    child->payload_running = (child->payload_clone.flags & CLONE_CHILD_CLEARTID) != 0;
    long pid = clone_on_stack(&child->payload_clone, child->no_clone3, payload_main, child);
    if (sys_failed(pid)) {
        child->payload_running = 0;
        fail(&child->failed, STAGE_PAYLOAD_CLONE, 0, (int)-pid);
        return;
    }
    child_write_number(child->payload_pid, pid);
    /* The payload's process waits until we have left this memory before it execs. If we leave it by failing, it must
     * not: our end would kill it, but a moment later. The signal is pending before the kernel tells the caller that we have
     * left, so it never gets from the gate to the exec. */
    if (run_stage(&child->init, STAGE_INIT, &child->failed))
        sys2(__NR_kill, pid, SIGNAL_KILL);
}

void child_main(void *arg)
{
    struct child *child = arg;
    reset_dispositions();
    if (!run_stage(&child->program, STAGE_CHILD, &child->failed)) {
        child->whole = 1;
        if (child->payload.n_steps)
            become_init(child);
    }
    sys_exit_group(EXIT_STEP_FAILED);
}

void intermediate_main(void *arg)
{
    struct child *child = arg; /* all signals are blocked, and it becomes no program: its dispositions may stay */
    if (run_stage(&child->join, STAGE_JOIN, &child->failed))
        sys_exit_group(EXIT_STEP_FAILED);
    long pid = clone_on_stack(&child->clone, child->no_clone3, child_main, child);
    if (sys_failed(pid))
        fail(&child->failed, STAGE_CLONE, 0, (int)-pid);
    else
        child->pid = pid;
    sys_exit_group(0);
}
