/* A payload that loses no time: what it tries, it tries from its first instruction on, again and again.
 *
 *   attacker reach PID ROUNDS          memory, environment and descriptors of one process, and a hold on it by ptrace
 *   attacker find ADDRESS WORD ROUNDS  WORD at that address in any process there is, and a hold on it by ptrace
 *   attacker swap A B ROUNDS           exchange two names of the file system, for as long as its stdin is open
 *
 * It says what it got hold of, once each, and how often it tried. All of it is harmless: it reads, and lets go.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int opened(int pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void say_once(unsigned *said, unsigned bit, const char *what)
{
    if (!(*said & bit))
        puts(what);
    *said |= bit;
}

static void reach(int pid, long rounds)
{
    static const char *const names[] = {"mem", "maps", "environ", "exe", "fd", "root", "cwd", "ns/mnt", "auxv", "syscall"};
    unsigned said = 0;
    char byte;
    for (long round = 0; round < rounds; round++) {
        for (unsigned n = 0; n < sizeof names / sizeof *names; n++)
            if (opened(pid, names[n]))
                say_once(&said, 1u << n, names[n]);
        if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
            say_once(&said, 1u << 20, "ptrace");
            ptrace(PTRACE_DETACH, pid, 0, 0);
        }
        struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
        if (process_vm_readv(pid, &here, 1, &there, 1, 0) == 1)
            say_once(&said, 1u << 21, "process_vm_readv");
    }
}

static int holds(int pid, unsigned long address, const char *word)
{
    char path[64], found[64] = "";
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = pread(fd, found, strlen(word), (off_t)address);
    close(fd);
    return size == (ssize_t)strlen(word) && memcmp(found, word, (size_t)size) == 0;
}

static long find(unsigned long address, const char *word, long rounds)
{
    unsigned said = 0;
    long others = 0;
    struct pollfd input = {0, POLLIN, 0};
    for (long round = 0; round < rounds && poll(&input, 1, 0) == 0; round++) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; proc && (entry = readdir(proc));) {
            int pid = atoi(entry->d_name);
            if (pid <= 0 || pid == getpid())
                continue;
            others++;
            if (holds(pid, address, word))
                say_once(&said, 1, "found");
        }
        if (proc)
            closedir(proc);
    }
    return others;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 4 && !strcmp(argv[1], "reach")) {
        reach(atoi(argv[2]), atol(argv[3]));
        puts("tried");
    } else if (argc == 5 && !strcmp(argv[1], "find")) {
        puts("ready");
        printf("tried %ld\n", find(strtoul(argv[2], NULL, 0), argv[3], atol(argv[4])));
    } else if (argc == 5 && !strcmp(argv[1], "swap")) {
        long done = 0;
        struct pollfd input = {0, POLLIN, 0};
        while (done < atol(argv[4]) && (done % 64 || poll(&input, 1, 0) == 0))
            done += syscall(SYS_renameat2, AT_FDCWD, argv[2], AT_FDCWD, argv[3], 2 /* RENAME_EXCHANGE */) == 0;
        printf("tried %ld\n", done);
    } else {
        return 2;
    }
    return 0;
}
