/* Makes many tasks one after the other, and does nothing else: many fork|spawn|thread N. What a tracer is measured on. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char *const TRUE[] = {"true", NULL};
static char *const NOTHING[] = {NULL};

static void *nothing(void *given) { return given; }

static void one_thread(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL))
        exit(1);
    pthread_join(thread, NULL);
}

static void one_process(int exec)
{
    pid_t pid = exec ? vfork() : fork();
    if (pid == 0) {
        if (exec)
            execve("/bin/true", TRUE, NOTHING);
        _exit(exec);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        exit(1);
}

int main(int count, char **words)
{
    if (count != 3)
        return 2;
    int thread = !strcmp(words[1], "thread"), exec = !strcmp(words[1], "spawn");
    for (volatile int n = atoi(words[2]); n > 0; n--) {
        if (thread)
            one_thread();
        else
            one_process(exec);
    }
    return 0;
}
