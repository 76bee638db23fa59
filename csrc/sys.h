/* Raw system calls for x86-64 and aarch64.
 *
 * Nothing here touches libc: a CLONE_VM child shares the caller's thread-local storage, so libc's
 * wrappers would write the caller's errno, take the caller's locks and, for set*id, signal the
 * caller's threads. Every call returns what the kernel returned: a value, or -errno.
 */
#ifndef RAMET_SYS_H
#define RAMET_SYS_H

#include <stddef.h>
#include <stdint.h>
#include <asm/unistd.h>

#define RAMET_MAX_ERRNO 4095UL

/* Is a raw system call's result an error? (the kernel's own IS_ERR_VALUE) */
static inline int sys_failed(long result) { return (unsigned long)result >= -RAMET_MAX_ERRNO; }

#if defined(RAMET_FAKE_KERNEL) /* the fuzzer's (tests/fuzz): no call may reach a real one */

long sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f);
long sys_clone(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void (*fn)(void *), void *arg);

#elif defined(__x86_64__)

static inline __attribute__((always_inline)) long
sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    long result;
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* clone3 or clone, whose child runs fn(arg), which must not return: on the stack it was given, or on the caller's own,
 * below its red zone (no frame of the caller's is its to return through). */
static inline long
sys_clone(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void (*fn)(void *), void *arg)
{
    long result;
    register void (*entry)(void *) __asm__("r12") = fn;
    register void *entry_arg __asm__("r13") = arg;
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    __asm__ volatile("syscall\n\ttestq %%rax, %%rax\n\tjnz 1f\n\t"
                     "leaq -128(%%rsp), %%rsp\n\tandq $-16, %%rsp\n\txorl %%ebp, %%ebp\n\t"
                     "movq %%r13, %%rdi\n\tcallq *%%r12\n\thlt\n1:"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(entry), "r"(entry_arg)
                     : "rcx", "r11", "cc", "memory");
    return result;
}

#elif defined(__aarch64__)

static inline __attribute__((always_inline)) long
sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    register long x8 __asm__("x8") = nr;
    register uint64_t x0 __asm__("x0") = a;
    register uint64_t x1 __asm__("x1") = b;
    register uint64_t x2 __asm__("x2") = c;
    register uint64_t x3 __asm__("x3") = d;
    register uint64_t x4 __asm__("x4") = e;
    register uint64_t x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return (long)x0;
}

static inline long
sys_clone(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void (*fn)(void *), void *arg)
{
    register void (*entry)(void *) __asm__("x19") = fn;
    register void *entry_arg __asm__("x20") = arg;
    register long x8 __asm__("x8") = nr;
    register uint64_t x0 __asm__("x0") = a;
    register uint64_t x1 __asm__("x1") = b;
    register uint64_t x2 __asm__("x2") = c;
    register uint64_t x3 __asm__("x3") = d;
    register uint64_t x4 __asm__("x4") = e;
    __asm__ volatile("svc #0\n\tcbnz x0, 1f\n\t"
                     "sub sp, sp, #128\n\tmov x29, xzr\n\tmov x0, x20\n\tblr x19\n\tbrk #1\n1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(entry), "r"(entry_arg)
                     : "cc", "memory");
    return (long)x0;
}

#else
#error "ramet knows x86-64 and aarch64"
#endif

#define SYS_ARG(x) ((uint64_t)(x))
#define sys0(nr) sys6((nr), 0, 0, 0, 0, 0, 0)
#define sys1(nr, a) sys6((nr), SYS_ARG(a), 0, 0, 0, 0, 0)
#define sys2(nr, a, b) sys6((nr), SYS_ARG(a), SYS_ARG(b), 0, 0, 0, 0)
#define sys3(nr, a, b, c) sys6((nr), SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), 0, 0, 0)
#define sys4(nr, a, b, c, d) sys6((nr), SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), 0, 0)
#define sys5(nr, a, b, c, d, e) sys6((nr), SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), SYS_ARG(e), 0)

/* Kernel types, by their kernel names, so that no libc header is needed where there is no libc. */

#define KERNEL_NSIG 64
#define KERNEL_SIGSET_BYTES 8

struct kernel_sigaction {
    uint64_t handler; /* 0: SIG_DFL, 1: SIG_IGN */
    uint64_t flags;
    uint64_t restorer; /* on aarch64 too, where only 32-bit programs use it */
    uint64_t mask;
};

/* struct clone_args, CLONE_ARGS_SIZE_VER2 (Linux 5.7): clone(2) */
struct kernel_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

static inline _Noreturn void sys_exit_group(int status)
{
    for (;;)
        sys1(__NR_exit_group, status);
}

#endif
