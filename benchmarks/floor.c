/* The floor for ramet.run(["/bin/true"]): clone with the plan's flags, execve, wait; and nothing else.
 *
 *     floor FLAGS PROGRAM
 *
 * For each line on stdin it makes one such child and prints the nanoseconds that took, so that a driver can take
 * turns between this and what it bounds. FLAGS is a number; CLONE_VM and CLONE_VFORK are added: the fastest way
 * there is from here to exec. No ids are mapped, no mounts made, nothing is captured. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char stack[65536] __attribute__((aligned(16)));

static int child(void *argument)
{
    char **argv = argument;
    execve(argv[0], argv, (char *[]){NULL});
    _exit(127);
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int flags = (int)strtoul(argv[1], NULL, 0) | CLONE_VM | CLONE_VFORK | SIGCHLD;
    for (int byte; (byte = getchar()) != EOF;) {
        int status;
        if (byte != '\n')
            continue;
        long long start = now();
        int pid = clone(child, stack + sizeof stack, flags, argv + 2);
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            perror("clone, execve, wait");
            return 1;
        }
        printf("%lld\n", now() - start);
        fflush(stdout);
    }
    return 0;
}
