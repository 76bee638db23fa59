/* What tests/trace has traced: each word of the command line is one thing that is easily got wrong about ptrace. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_UNTRACED
#define CLONE_UNTRACED 0x00800000
#endif

extern char **environ;

static char *const TRUE[] = {"true", "-x", NULL};

static void check(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(99);
    }
}

static void *execs(void *nothing)
{
    execve("/bin/true", TRUE, environ);
    return nothing;
}

/* The program is replaced by a thread that is not the first. */
static void thread_exec(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, execs, NULL);
    for (;;)
        pause();
}

/* Both kinds of clone with CLONE_UNTRACED; says whether registers and memory are as they were. */
static void untraced(void)
{
    long flags = CLONE_UNTRACED | SIGCHLD, after = flags, pid;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall"
                     : "=a"(pid), "+D"(after)
                     : "0"((long)SYS_clone), "S"(0L), "d"(0L), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
#else
    pid = syscall(SYS_clone, flags, 0, 0, 0, 0);
#endif
    if (pid == 0) {
        if (after != flags)
            _exit(3);
        execs(NULL);
    }
    int status;
    check(waitpid((pid_t)pid, &status, 0) == pid, "waitpid");
    printf("clone %d %d\n", after == flags, WEXITSTATUS(status));
    struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
    pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        if (args.flags != CLONE_UNTRACED)
            _exit(3);
        execs(NULL);
    }
    check(waitpid((pid_t)pid, &status, 0) == pid, "waitpid");
    printf("clone3 %d %d\n", args.flags == CLONE_UNTRACED, WEXITSTATUS(status));
}

/* A filter that answers unshare with an errno of its own. */
static void refuse_unshare(unsigned flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTSUP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    check(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    if (flags)
        check(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program), "seccomp");
    else
        check(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
}

static int begin[2];

static void *unshares(void *nothing)
{
    char byte;
    check(read(begin[0], &byte, 1) == 1, "read");
    unshare(CLONE_FILES);
    return nothing;
}

static void own_filter(void)
{
    refuse_unshare(0);
    unshare(CLONE_NEWUTS);
    if (fork() == 0) {
        unshare(CLONE_NEWIPC);
        execs(NULL);
    }
    wait(NULL);
}

static void own_filter_of_threads(void)
{
    pthread_t thread;
    check(!pipe(begin), "pipe");
    pthread_create(&thread, NULL, unshares, NULL);
    refuse_unshare(SECCOMP_FILTER_FLAG_TSYNC);
    check(write(begin[1], "x", 1) == 1, "write");
    pthread_join(thread, NULL);
}

#if defined(__x86_64__)
static long int80(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

/* Calls by the numbers of 32-bit programs, which mean other calls here: 120 is clone there, and getgid here. */
static void thirty_two(void)
{
    int child = (int)int80(120, CLONE_FILES | SIGCHLD, 0, 0);
    if (child == 0) {
        char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        check(low != MAP_FAILED, "mmap");
        uint32_t *argv = (uint32_t *)(void *)(low + 64);
        strcpy(low, "/bin/true");
        strcpy(low + 32, "-y");
        argv[0] = (uint32_t)(uintptr_t)low;
        argv[1] = (uint32_t)(uintptr_t)(low + 32);
        argv[2] = 0;
        int80(11, (long)low, (long)argv, 0);
        _exit(4);
    }
    check(child > 0, "int80 clone");
    check(waitpid(child, NULL, 0) == child, "waitpid");
    int80(310, CLONE_FS, 0, 0);
    getgid();
    syscall(120); /* getresgid's number here */
}
#else
static void thirty_two(void) { }
#endif

static int forked;

static void *forks(void *nothing)
{
    for (;;) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid > 0) {
            __atomic_add_fetch(&forked, 1, __ATOMIC_SEQ_CST);
            waitpid(pid, NULL, 0);
        }
    }
    return nothing;
}

/* Killed, or replaced by another program, in the middle of clones of many threads. */
static void storm(int exec)
{
    pthread_t thread;
    for (int i = 0; i < 8; i++)
        pthread_create(&thread, NULL, forks, NULL);
    while (__atomic_load_n(&forked, __ATOMIC_SEQ_CST) < 8)
        usleep(1000);
    usleep(30000);
    if (exec)
        thread_exec();
    kill(getpid(), SIGKILL);
}

/* What the kernel refuses, with an errno for each. */
static void refused(void)
{
    struct clone_args args = {.flags = CLONE_NEWUSER | CLONE_FS};
    syscall(SYS_clone, CLONE_NEWNS | CLONE_FS | SIGCHLD, 0, 0, 0, 0);
    syscall(SYS_clone, CLONE_THREAD, 0, 0, 0, 0);
    syscall(SYS_clone3, &args, sizeof args);
    args.flags = CLONE_THREAD | CLONE_SIGHAND;
    syscall(SYS_clone3, &args, sizeof args);
    args.flags = 0;
    args.exit_signal = 200;
    syscall(SYS_clone3, &args, sizeof args);
    setns(-1, CLONE_NEWNET);
    setns(0, CLONE_NEWUTS);
    execve("/etc/passwd", TRUE, environ);
    execve("/", TRUE, environ);
    execve("/etc/passwd/x", TRUE, environ);
}

/* A chain of children, each the child of the one before. */
static void deep(int depth)
{
    while (depth-- > 0) {
        pid_t pid = fork();
        if (pid) {
            waitpid(pid, NULL, 0);
            _exit(0);
        }
    }
}

int main(int count, char **words)
{
    const char *word = count > 1 ? words[1] : "";
    if (!strcmp(word, "thread-exec"))
        thread_exec();
    else if (!strcmp(word, "untraced"))
        untraced();
    else if (!strcmp(word, "own-filter"))
        own_filter();
    else if (!strcmp(word, "own-filter-of-threads"))
        own_filter_of_threads();
    else if (!strcmp(word, "thirty-two"))
        thirty_two();
    else if (!strcmp(word, "storm"))
        storm(0);
    else if (!strcmp(word, "storm-exec"))
        storm(1);
    else if (!strcmp(word, "refused"))
        refused();
    else if (!strcmp(word, "deep"))
        deep(atoi(words[2]));
    else
        return 98;
    return 0;
}
