/* What it costs to have 100 MB once more: by memcpy in one process, and from another process by the ways that the kernel has.
 *
 *     cc -O2 -o pages benchmarks/pages.c && echo pipe | ./pages
 *
 * reads what to do, a line each, and prints the nanoseconds of each:
 *     warm   memcpy into memory that was used before
 *     fresh  memcpy into memory as mmap(2) gives it, with large pages where there are any (what numpy's copy does)
 *     small  the same with pages of 4 KiB
 *     pipe   another process puts its pages into a pipe (vmsplice), this one reads them into fresh memory with large pages
 *     readv  process_vm_readv(2) into the same
 *     memfd  another process's way to have it in a memfd: write(2), and nothing of reading it */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE 100000000UL
#define PIPE_SIZE (1 << 20)

static char *source, *warm;

static long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static char *fresh(int advice)
{
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    madvise(memory, SIZE, advice); /* EINVAL: a kernel without large pages */
    return memory;
}

static long copied(int advice)
{
    long start = now();
    char *memory = fresh(advice);
    memcpy(memory, source, SIZE);
    long taken = now() - start;
    munmap(memory, SIZE);
    return taken;
}

static long copied_warm(void)
{
    long start = now();
    memcpy(warm, source, SIZE);
    return now() - start;
}

static void put_all(int fd)
{
    for (size_t at = 0; at < SIZE;) {
        struct iovec rest = {source + at, SIZE - at};
        ssize_t count = vmsplice(fd, &rest, 1, 0);
        if (count <= 0)
            fail("vmsplice");
        at += (size_t)count;
    }
}

/* Another process, which has the source too, and does nothing until it is told to. */
static pid_t helper(int word[2], int pages[2])
{
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid)
        return pid;
    char told;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(word[0], &told, 1) == 1)
        put_all(pages[1]);
    _exit(0);
}

static long piped(void)
{
    int word[2], pages[2];
    if (pipe(word) || pipe(pages))
        fail("pipe");
    fcntl(pages[1], F_SETPIPE_SZ, PIPE_SIZE);
    pid_t pid = helper(word, pages);
    close(pages[1]);
    long start = now();
    if (write(word[1], "", 1) != 1)
        fail("write");
    char *memory = fresh(MADV_HUGEPAGE);
    for (size_t at = 0; at < SIZE;) {
        ssize_t count = read(pages[0], memory + at, SIZE - at);
        if (count <= 0)
            fail("read");
        at += (size_t)count;
    }
    long taken = now() - start;
    munmap(memory, SIZE);
    waitpid(pid, NULL, 0);
    close(pages[0]), close(word[0]), close(word[1]);
    return taken;
}

static long read_from_it(void)
{
    int word[2], pages[2];
    if (pipe(word) || pipe(pages))
        fail("pipe");
    pid_t pid = helper(word, pages);
    long start = now();
    char *memory = fresh(MADV_HUGEPAGE);
    for (size_t at = 0; at < SIZE;) {
        struct iovec to = {memory + at, SIZE - at}, from = {source + at, SIZE - at};
        ssize_t count = process_vm_readv(pid, &to, 1, &from, 1, 0);
        if (count <= 0)
            fail("process_vm_readv");
        at += (size_t)count;
    }
    long taken = now() - start;
    munmap(memory, SIZE);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (int i = 0; i < 2; i++)
        close(pages[i]), close(word[i]);
    return taken;
}

static long written(void)
{
    long start = now();
    int fd = memfd_create("pages", MFD_CLOEXEC);
    for (size_t at = 0; at < SIZE;) {
        ssize_t count = write(fd, source + at, SIZE - at);
        if (count <= 0)
            fail("write");
        at += (size_t)count;
    }
    long taken = now() - start;
    close(fd);
    return taken;
}

int main(void)
{
    char what[32];
    source = fresh(MADV_HUGEPAGE), warm = fresh(MADV_HUGEPAGE);
    memset(source, 1, SIZE);
    memset(warm, 2, SIZE);
    while (scanf("%31s", what) == 1) {
        copied(MADV_HUGEPAGE); /* a virtual machine's free memory may be its host's, which takes time to come back: not here */
        long taken = !strcmp(what, "warm")    ? copied_warm()
                     : !strcmp(what, "fresh") ? copied(MADV_HUGEPAGE)
                     : !strcmp(what, "small") ? copied(MADV_NOHUGEPAGE)
                     : !strcmp(what, "pipe")  ? piped()
                     : !strcmp(what, "readv") ? read_from_it()
                                              : written();
        printf("%ld\n", taken);
        fflush(stdout);
    }
    return 0;
}
