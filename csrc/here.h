/* Clone a CLONE_VM child that goes on on the caller's own stack.
 *
 * The caller's thread must stand still meanwhile (CLONE_VFORK). Its registers are kept by the kernel; its frames
 * must be kept by us, and the only code that can promise that is the instruction after the system call: the
 * child leaves from there, below the red zone, for a function that never returns. So whatever frame, spill
 * or sibling call the compiler makes of the code around it, the child writes only below the caller's stack
 * pointer. That is also where a shadow stack (CET) is right: for CLONE_VFORK the kernel lets the child
 * use the caller's. A libc wrapper could not be used: the child's first call would overwrite its return
 * address, which the caller has yet to return to. */
#ifndef RAMET_HERE_H
#define RAMET_HERE_H

#include "sys.h"

#define HERE_CSIGNAL 0xffULL
#define HERE_ENOSYS 38
#define HERE_EINVAL 22

static inline long here_clone3(const struct kernel_clone_args *args, void (*fn)(void *), void *arg)
{
    long result;
#if defined(__x86_64__)
    register void (*entry)(void *) __asm__("r12") = fn;
    register void *entry_arg __asm__("r13") = arg;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "leaq -128(%%rsp), %%rsp\n\t"
                     "andq $-16, %%rsp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone3), "D"(args), "S"(sizeof *args), "r"(entry), "r"(entry_arg)
                     : "rcx", "r11", "cc", "memory");
#else
    register void (*entry)(void *) __asm__("x19") = fn;
    register void *entry_arg __asm__("x20") = arg;
    register long x8 __asm__("x8") = __NR_clone3;
    register uint64_t x0 __asm__("x0") = (uint64_t)(uintptr_t)args;
    register uint64_t x1 __asm__("x1") = sizeof *args;
    /* no red zone here, but leave as much room: nothing promises what the frame's owner keeps below sp */
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "sub sp, sp, #128\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(entry), "r"(entry_arg)
                     : "cc", "memory");
    result = (long)x0;
#endif
    return result;
}

/* clone(2): the pidfd comes back through parent_tid, the exit signal lives in the low byte of the flags. */
static inline long here_clone(const struct kernel_clone_args *args, void (*fn)(void *), void *arg)
{
    long result;
    uint64_t flags = args->flags | args->exit_signal;
#if defined(__x86_64__)
    register void (*entry)(void *) __asm__("r12") = fn;
    register void *entry_arg __asm__("r13") = arg;
    register uint64_t r10 __asm__("r10") = args->child_tid;
    register uint64_t r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "leaq -128(%%rsp), %%rsp\n\t"
                     "andq $-16, %%rsp\n\t"
                     "movq %%r13, %%rdi\n\t"
                     "callq *%%r12\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone), "D"(flags), "S"(0), "d"(args->pidfd), "r"(r10), "r"(r8), "r"(entry),
                       "r"(entry_arg)
                     : "rcx", "r11", "cc", "memory");
#else
    register void (*entry)(void *) __asm__("x19") = fn;
    register void *entry_arg __asm__("x20") = arg;
    register long x8 __asm__("x8") = __NR_clone;
    register uint64_t x0 __asm__("x0") = flags;
    register uint64_t x1 __asm__("x1") = 0;
    register uint64_t x2 __asm__("x2") = args->pidfd;
    register uint64_t x3 __asm__("x3") = 0;
    register uint64_t x4 __asm__("x4") = args->child_tid;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "sub sp, sp, #128\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(entry), "r"(entry_arg)
                     : "cc", "memory");
    result = (long)x0;
#endif
    return result;
}

/* Run fn(arg), which must not return, in a child on this very stack. args has no stack and has CLONE_VM and
 * CLONE_VFORK. Returns, once the child has left our memory, its pid; or -errno. */
static inline long clone_here(const struct kernel_clone_args *args, int no_clone3, void (*fn)(void *), void *arg)
{
    if (!no_clone3) {
        long result = here_clone3(args, fn, arg);
        /* ENOSYS is what an old kernel and a container's seccomp filter answer. EPERM is a verdict: keep it. */
        if (result != -HERE_ENOSYS)
            return result;
    }
    if (args->flags >> 32 || args->flags & HERE_CSIGNAL)
        return -HERE_EINVAL; /* what only clone3 can say */
    return here_clone(args, fn, arg);
}

#endif
