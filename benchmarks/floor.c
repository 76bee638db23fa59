/* The floor for ramet.run(["/bin/true"]): clone with the plan's flags, execve, wait; and nothing else.
 *
 *     floor FLAGS PROGRAM [GROUP [FILE=VALUE]...]...
 *
 * For each line on stdin it makes one such child and prints the nanoseconds that took, so that a driver can take
 * turns between this and what it bounds. FLAGS is a number; CLONE_VM and CLONE_VFORK are added: the fastest way
 * there is from here to exec. No ids are mapped, no mounts made, nothing is captured.
 *
 * With limits: each GROUP, the path of a control group that is not there yet, is made, its files are written, the child
 * enters it, and it is removed when the child has ended. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char stack[65536] __attribute__((aligned(16)));
static char **program, **groups;

static int put(const char *directory, const char *name, size_t length, const char *value)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%.*s", directory, (int)length, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int failed = fd < 0 || write(fd, value, strlen(value)) < 0;
    if (fd >= 0)
        close(fd);
    return failed;
}

static int make_groups(void)
{
    const char *group = NULL;
    for (char **word = groups; *word; word++) {
        const char *equals = strchr(*word, '=');
        if (**word == '/' ? mkdir(group = *word, 0755) : put(group, *word, (size_t)(equals - *word), equals + 1))
            return perror(*word), 1;
    }
    return 0;
}

static int remove_groups(void)
{
    for (char **word = groups; *word; word++)
        while (**word == '/' && rmdir(*word))
            if (errno != EBUSY)
                return perror(*word), 1;
    return 0;
}

static int child(void *nothing)
{
    (void)nothing;
    for (char **word = groups; *word; word++) /* a single thread costs version 1 less than a whole process */
        if (**word == '/' && put(*word, "tasks", 5, "0") && put(*word, "cgroup.procs", 12, "0"))
            _exit(126);
    execve(program[0], (char *[]){program[0], NULL}, (char *[]){NULL});
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
    if (argc < 3)
        return 2;
    int flags = (int)strtoul(argv[1], NULL, 0) | CLONE_VM | CLONE_VFORK | SIGCHLD;
    program = argv + 2;
    groups = argv + 3;
    for (int byte; (byte = getchar()) != EOF;) {
        int status;
        if (byte != '\n')
            continue;
        long long start = now();
        if (make_groups())
            return 1;
        int pid = clone(child, stack + sizeof stack, flags, NULL);
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            perror("clone, execve, wait");
            remove_groups();
            return 1;
        }
        if (remove_groups())
            return 1;
        printf("%lld\n", now() - start);
        fflush(stdout);
    }
    return 0;
}
