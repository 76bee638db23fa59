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

/* The child starts on another stack, so it can't return through the caller's frames: it enters fn from here. */
long raw_clone3(const struct kernel_clone_args *args, void (*fn)(void *), void *arg)
{
    long result;
#if defined(__x86_64__)
    register void (*entry)(void *) __asm__("r12") = fn;
    register void *entry_arg __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone3), "D"(args), "S"(sizeof *args), "r"(entry), "r"(entry_arg)
                     : "rcx", "r11", "memory");
#else
    register void (*entry)(void *) __asm__("x19") = fn;
    register void *entry_arg __asm__("x20") = arg;
    register long x8 __asm__("x8") = __NR_clone3;
    register uint64_t x0 __asm__("x0") = (uint64_t)(uintptr_t)args;
    register uint64_t x1 __asm__("x1") = sizeof *args;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(entry), "r"(entry_arg)
                     : "memory");
    result = (long)x0;
#endif
    return result;
}

/* clone(2): the pidfd comes back through parent_tid, the exit signal lives in the low byte of the flags. */
long raw_clone(const struct kernel_clone_args *args, void (*fn)(void *), void *arg)
{
    long result;
    uint64_t flags = args->flags | args->exit_signal;
    uint64_t top = args->stack + args->stack_size;
#if defined(__x86_64__)
    register void (*entry)(void *) __asm__("r12") = fn;
    register void *entry_arg __asm__("r13") = arg;
    register uint64_t r10 __asm__("r10") = args->child_tid;
    register uint64_t r8 __asm__("r8") = args->tls;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone), "D"(flags), "S"(top), "d"(args->pidfd), "r"(r10), "r"(r8),
                       "r"(entry), "r"(entry_arg)
                     : "rcx", "r11", "memory");
#else
    register void (*entry)(void *) __asm__("x19") = fn;
    register void *entry_arg __asm__("x20") = arg;
    register long x8 __asm__("x8") = __NR_clone;
    register uint64_t x0 __asm__("x0") = flags;
    register uint64_t x1 __asm__("x1") = top;
    register uint64_t x2 __asm__("x2") = args->pidfd;
    register uint64_t x3 __asm__("x3") = args->tls;
    register uint64_t x4 __asm__("x4") = args->child_tid;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, xzr\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(entry), "r"(entry_arg)
                     : "memory");
    result = (long)x0;
#endif
    return result;
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
     * not: our end would kill it, but a moment later. The signal is pending before the kernel clears the word, so it
     * never gets from the futex to the exec. */
    if (run_stage(&child->init, STAGE_INIT, &child->failed))
        sys2(__NR_kill, pid, SIGNAL_KILL);
}

void child_main(void *arg)
{
    struct child *child = arg;
    reset_dispositions();
    if (!run_stage(&child->program, STAGE_CHILD, &child->failed) && child->payload.n_steps)
        become_init(child);
    sys_exit_group(EXIT_STEP_FAILED);
}

void intermediate_main(void *arg)
{
    struct child *child = arg;
    reset_dispositions();
    if (run_stage(&child->join, STAGE_JOIN, &child->failed))
        sys_exit_group(EXIT_STEP_FAILED);
    long pid = clone_on_stack(&child->clone, child->no_clone3, child_main, child);
    if (sys_failed(pid))
        fail(&child->failed, STAGE_CLONE, 0, (int)-pid);
    else
        child->pid = pid;
    sys_exit_group(0);
}
