/* trace.c and tracee.c: whatever stops a command makes, whatever is in its memory and in its /proc, the records stay within
 * their buffer, fit each other, and no task is used after it has been forgotten. */
#include "kernel.h"

#include "core.h"

#include <linux/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int fuzz_open(void) { return fuzz_u8() % 4 ? 3 : -1; }
static ssize_t fuzz_read(char *to, size_t room)
{
    size_t got = fuzz_u8() % 8 ? (fuzz_u16() % 256 < room ? fuzz_u16() % 256 : room) : room;
    fuzz_take(to, got < room ? got : room);
    return fuzz_u8() % 8 ? (ssize_t)(got < room ? got : room) : -1;
}
#include <fcntl.h>
#define open(...) fuzz_open()
#define read(fd, to, room) fuzz_read(to, room)
#define readlink(path, to, room) fuzz_read(to, room)
#define close(fd) ((void)0)

#define TAIL_MAX 8192
#define BUFFER_SIZE (2 * (TAIL_MAX + 512)) /* half of it is what one event may take */
#include "trace.c"
#define PAGE 4096
#include "tracee.c"

#define ARCH 0xc000003eu
static const struct trace_call calls[] = {
    {ARCH, 0, CALL_PLAIN, 8},   {ARCH, 1, CALL_CLONE, 8},     {ARCH, 2, CALL_CLONE3, 8},  {ARCH, 3, CALL_UNSHARE, 8},
    {ARCH, 4, CALL_SETNS, 8},   {ARCH, 5, CALL_EXECVE, 8},    {ARCH, 6, CALL_EXECVEAT, 8}, {ARCH, 7, CALL_SECCOMP, 8},
    {ARCH, 8, CALL_PRCTL, 8},   {0x40000003, 5, CALL_EXECVE, 4},
};

static long at_stop(uint64_t length, struct ptrace_syscall_info *info)
{
    memset(info, 0, length);
    uint8_t what = fuzz_u8();
    info->op = what % 4;
    info->arch = what & 64 ? 0x40000003 : ARCH;
    if (info->op == PTRACE_SYSCALL_INFO_EXIT) {
        info->exit.rval = (int8_t)fuzz_u8();
        info->exit.is_error = info->exit.rval < 0;
    } else {
        info->entry.nr = fuzz_u8() % 10;
        for (int i = 0; i < 6; i++)
            info->entry.args[i] = what & 128 ? fuzz_u64() : fuzz_u16();
    }
    return what & 32 ? -ESRCH : (long)sizeof *info;
}

long sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    (void)e, (void)f;
    if (nr == __NR_wait4) {
        if (!fuzz_left)
            return -ECHILD;
        uint8_t what = fuzz_u8();
        uint16_t tid = fuzz_u16();
        /* as the kernel gives them: a stop with an event, a stop by a signal or at a call, an end */
        *(int *)(uintptr_t)b = what < 128 ? (int)(((uint32_t)(what % 8) | (what & 64 ? 128 : 0)) << 16 | 5u << 8 | 0x7f)
                               : what < 192 ? (what % 2 ? 0x857f : (what & 0x3f) << 8 | 0x7f)
                                            : what % 2 << 8;
        return 1 + tid % 256;
    }
    if (nr == __NR_process_vm_readv) {
        struct iovec *ours = (void *)(uintptr_t)b;
        uint8_t what = fuzz_u8();
        if (what < 16)
            return what < 8 ? -EPERM : -EFAULT;
        size_t got = what % 4 ? ours->iov_len : fuzz_u8() % (ours->iov_len + 1);
        fuzz_take(ours->iov_base, got);
        return (long)got;
    }
    if (nr == __NR_ptrace && a == PTRACE_GET_SYSCALL_INFO)
        return at_stop(c, (void *)(uintptr_t)d);
    if (nr == __NR_ptrace && a == PTRACE_GETEVENTMSG) {
        *(unsigned long *)(uintptr_t)d = fuzz_u16() % 257;
        return 0;
    }
    if (nr == __NR_ptrace && a == PTRACE_PEEKDATA) {
        fuzz_take((void *)(uintptr_t)d, sizeof(long));
        return fuzz_u8() % 8 ? 0 : -EIO;
    }
    if (nr == __NR_ptrace && a == PTRACE_GETREGSET) {
        struct iovec *all = (void *)(uintptr_t)d;
        if (fuzz_u8() % 4 == 0)
            all->iov_len = 17 * 4;
        fuzz_take(all->iov_base, all->iov_len);
        return 0;
    }
    return fuzz_u8() % 8 ? 0 : -ESRCH;
}

long sys_clone(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void (*fn)(void *), void *arg)
{
    (void)nr, (void)a, (void)b, (void)c, (void)d, (void)e, (void)fn, (void)arg;
    abort();
}

/* As records.py reads them: one behind the other, each as long as it says. */
static void walk(const struct tracer *t)
{
    size_t at = 0;
    while (at < t->used) {
        const struct trace_record *one = (const void *)(t->buffer + at);
        if (one->size < sizeof *one + one->tail || one->size % 8 || one->kind < TRACE_ENTER || one->kind > TRACE_END)
            abort();
        at += one->size;
    }
    if (at != t->used)
        abort();
}


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_at = data, fuzz_left = size;
    struct tracer *t = calloc(1, sizeof *t);
    t->buffer = malloc(BUFFER_SIZE);
    t->calls = calls;
    t->n_calls = sizeof calls / sizeof *calls;
    seize(t, 1, fuzz_u8() % 2);
    /* Who asks for a lot of room first shows what happens near its end. */
    uint32_t already = fuzz_u8() % 4 ? 0 : BUFFER_SIZE / 2 - 8 * (fuzz_u8() % 32);
    t->used = already;
    for (int more = 1; more;) {
        more = follow(t);
        if (!already)
            walk(t);
        t->used = already = 0;
    }
    release(t);
    return 0;
}
