/* What a system call costs: calls ROUNDS; prints the best nanoseconds of getpid, of a read of one byte, and of open and close. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 2000 };

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

int main(int count, char **words)
{
    int rounds = count > 1 ? atoi(words[1]) : 30, zero = open("/dev/zero", O_RDONLY);
    double best[3] = {1e9, 1e9, 1e9};
    char byte;
    for (int round = 0; round < rounds; round++)
        for (int which = 0; which < 3; which++) {
            double start = now();
            for (int n = 0; n < CALLS; n++)
                if (which == 0)
                    syscall(SYS_getpid);
                else if (which == 1) {
                    if (read(zero, &byte, 1) != 1)
                        return 1;
                } else
                    close(open("/usr/bin/true", O_RDONLY));
            double each = (now() - start) / CALLS;
            if (each < best[which])
                best[which] = each;
        }
    printf("%.1f %.1f %.1f\n", best[0], best[1], best[2]);
    return 0;
}
