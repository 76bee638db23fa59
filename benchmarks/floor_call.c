/* The floor for ramet.call(int): clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD) + exit + wait + close, N times.
 *
 *     cc -O2 -o floor_call benchmarks/floor_call.c && ./floor_call 200
 *
 * prints the nanoseconds of each round, one a line. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static char stack[65536] __attribute__((aligned(16)));

static int child(void *arg)
{
    (void)arg;
    syscall(SYS_exit_group, 0);
    return 0;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 2000;
    for (int i = 0; i < rounds; i++) {
        struct timespec start, end;
        siginfo_t info;
        int pidfd = -1;
        clock_gettime(CLOCK_MONOTONIC, &start);
        if (clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_PIDFD, NULL, &pidfd) < 0 ||
            waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | __WALL))
            return 1;
        close(pidfd);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%ld\n", (end.tv_sec - start.tv_sec) * 1000000000L + (end.tv_nsec - start.tv_nsec));
    }
    return 0;
}
