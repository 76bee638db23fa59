/* Looking into a tracee that stands still: its memory, what /proc says of it, and the one bit that is changed in it. */
#include "tracee.h"

#include "trace.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096

static size_t peek(pid_t tid, uint64_t from, unsigned char *to, size_t length)
{
    size_t done = 0;
    while (done < length) {
        uint64_t at = from + done, skip = at % sizeof(long);
        long word;
        if (sys_failed(ptrace_of(PTRACE_PEEKDATA, tid, (const void *)(uintptr_t)(at - skip), &word)))
            break;
        size_t piece = sizeof word - skip < length - done ? sizeof word - skip : length - done;
        memcpy(to + done, (unsigned char *)&word + skip, piece);
        done += piece;
    }
    return done;
}

/* As much as can be read, page by page; a container may refuse process_vm_readv. */
size_t tracee_memory(pid_t tid, uint64_t from, void *to, size_t length)
{
    size_t done = 0;
    while (done < length) {
        size_t piece = PAGE - (from + done) % PAGE;
        if (piece > length - done)
            piece = length - done;
        struct iovec ours = {(char *)to + done, piece}, theirs = {(void *)(uintptr_t)(from + done), piece};
        long got = sys6(__NR_process_vm_readv, (uint64_t)tid, SYS_ARG(&ours), 1, SYS_ARG(&theirs), 1, 0);
        if (got == -EPERM || got == -ENOSYS)
            return done + peek(tid, from + done, (unsigned char *)to + done, length - done);
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return done;
}

/* A string with its NUL; its length with that, or 0 if it can't be read. Where there is no room for all, a NUL ends what
 * there is. Long reads are paid for only by long strings. */
size_t tracee_string(pid_t tid, uint64_t from, char *to, size_t room, uint16_t *state)
{
    size_t done = 0;
    while (done < room) {
        size_t piece = 256 - (from + done) % 256;
        if (piece > room - done)
            piece = room - done;
        size_t got = tracee_memory(tid, from + done, to + done, piece);
        char *end = memchr(to + done, 0, got);
        if (end)
            return (size_t)(end - to) + 1;
        done += got;
        if (got < piece) {
            *state |= TRACE_UNREADABLE;
            return 0;
        }
    }
    *state |= TRACE_CUT;
    if (done)
        to[done - 1] = 0;
    return done;
}

size_t tracee_argv(pid_t tid, uint64_t argv, size_t pointer_size, char *to, size_t room, uint16_t *state)
{
    size_t done = 0;
    while (argv) {
        uint64_t pointer = 0; /* both architectures are little-endian */
        if (tracee_memory(tid, argv, &pointer, pointer_size) != pointer_size) {
            *state |= TRACE_UNREADABLE;
            break;
        }
        if (!pointer)
            break;
        if (done == room) {
            *state |= TRACE_CUT;
            break;
        }
        size_t length = tracee_string(tid, pointer, to + done, room - done, state);
        if (!length)
            break;
        done += length;
        argv += pointer_size;
    }
    return done;
}

size_t tracee_proc(pid_t tid, const char *name, char *to, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)tid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, to, room);
    close(fd);
    return got > 0 ? (size_t)got : 0;
}

/* The task's number in its own pid namespace; 0 if /proc does not say. */
pid_t tracee_tid_inside(pid_t tid)
{
    char text[4096];
    size_t length = tracee_proc(tid, "status", text, sizeof text - 1);
    text[length] = 0;
    const char *line = strstr(text, "\nNSpid:");
    if (!line)
        return 0;
    pid_t inside = 0;
    char *at = (char *)(uintptr_t)line + strlen("\nNSpid:");
    while (*at == '\t') /* from our own namespace inward */
        inside = (pid_t)strtol(at, &at, 10);
    return inside;
}

/* What a task executes whose memory could not be read before: of the new program it can. */
size_t tracee_program(pid_t tid, char *to, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)tid);
    ssize_t length = readlink(path, to, PAGE - 1);
    if (length <= 0)
        return 0;
    to[length] = 0;
    return (size_t)length + 1 + tracee_proc(tid, "cmdline", to + length + 1, room - (size_t)length - 1);
}

/* CLONE_UNTRACED */

#if defined(__x86_64__)
#define FIRST_ARGUMENT(arch) ((arch) >> 31 ? 14 : 5) /* rdi, and rbx of 32-bit calls, in struct user_regs_struct */
#define REGISTERS 27
#else
#define FIRST_ARGUMENT(arch) 0
#define REGISTERS 34
#endif

static void flip_register(pid_t tid, uint32_t arch)
{
    uint64_t registers[REGISTERS];
    struct iovec all = {registers, sizeof registers};
    (void)arch;
    if (sys_failed(ptrace_of(PTRACE_GETREGSET, tid, (const void *)NT_PRSTATUS, &all)) || all.iov_len != sizeof registers)
        return; /* a 32-bit process: its registers have another form */
    registers[FIRST_ARGUMENT(arch)] ^= CLONE_UNTRACED;
    ptrace_of(PTRACE_SETREGSET, tid, (const void *)NT_PRSTATUS, &all);
}

static void flip_memory(pid_t tid, uint64_t address)
{
    uint32_t low; /* flags is the structure's first field */
    struct iovec ours = {&low, sizeof low}, theirs = {(void *)(uintptr_t)address, sizeof low};
    if (tracee_memory(tid, address, &low, sizeof low) != sizeof low)
        return;
    low ^= CLONE_UNTRACED;
    sys6(__NR_process_vm_writev, (uint64_t)tid, SYS_ARG(&ours), 1, SYS_ARG(&theirs), 1, 0);
}

void tracee_flip_untraced(pid_t tid, uint32_t arch, uint64_t where)
{
    if (where == IN_REGISTER)
        flip_register(tid, arch);
    else
        flip_memory(tid, where);
}
