/* What tests/core/test_aarch64.py runs on aarch64: the parts of csrc that need no Python, one a word of the command line.
 * Each says what it found on standard output, "name value" a line; what should be is the test's to know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "here.h"
#include "plain.h"

static void say(const char *name, long value)
{
    printf("%s %ld\n", name, value);
    fflush(stdout); /* a forked child shall not say it again */
}

static void *shared(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        abort();
    return at;
}

static int exit_status(long pid)
{
    int status = -1;
    if (waitpid((pid_t)pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* The file's content, on a page's beginning. */
static void *content(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        abort();
    unsigned char *at = shared(1 << 20);
    *size = fread(at, 1, 1 << 20, file);
    fclose(file);
    return at;
}

/* sys6 PATH: values and errors; PATH holds two pages, the second beginning with "second". */
static void values(const char *path)
{
    say("getpid", sys0(__NR_getpid) == getpid());
    say("close", sys1(__NR_close, -1));
    say("nothing", sys0(9999));
    /* all six arguments: the last one chooses the page */
    long fd = sys4(__NR_openat, -100, path, 0, 0);
    long second = sys6(__NR_mmap, 0, 6, PROT_READ, MAP_PRIVATE, SYS_ARG(fd), 4096);
    say("mapped", !sys_failed(second));
    say("content", sys_failed(second) ? -1 : !memcmp((const void *)second, "second", 6));
    say("misaligned", sys6(__NR_mmap, 0, 6, PROT_READ, MAP_PRIVATE, SYS_ARG(fd), 1));
    /* the last error, and what is none though negative as a number */
    say("failed", sys_failed(-1) && sys_failed(-4095));
    say("none", sys_failed(-4096) || sys_failed(0) || sys_failed(1));
}

/* run BLOB DATA: check, load and run; the data as the steps left it goes to the file DATA. */
static void run(const char *path, const char *out)
{
    size_t size;
    const void *blob = content(path, &size);
    say("check", program_check(blob, size));
    if (!program_check(blob, size))
        return;
    uint32_t length = ((const struct program *)blob)->data_size, at = 0;
    unsigned char *data = shared(length);
    memcpy(data, program_data(blob), length);
    struct loaded program = program_load(blob, data);
    say("base", (long)(uintptr_t)data);
    int error = run_steps(&program, &at);
    say("error", error);
    say("at", at);
    FILE *file = fopen(out, "wb");
    if (!file || fwrite(data, 1, length, file) != length || fclose(file))
        abort();
}

struct seen {
    volatile uint64_t stack, frame, pid, arg, tls;
    volatile int32_t parent_word, child_word;
};

static void look(void *arg)
{
    struct seen *seen = arg;
    const uint64_t *frame = __builtin_frame_address(0);
    seen->stack = (uint64_t)(uintptr_t)&frame;
    seen->frame = frame[0]; /* of whoever called: nobody */
    seen->pid = (uint64_t)sys0(__NR_getpid);
    seen->arg = (uint64_t)(uintptr_t)arg;
    uint64_t tls;
    __asm__ volatile("mrs %0, tpidr_el0" : "=r"(tls));
    seen->tls = tls;
    sys_exit_group(77);
}

static void say_child(long pid, const struct seen *seen, const struct kernel_clone_args *args)
{
    say("made", pid > 0);
    say("status", exit_status(pid));
    say("pid", seen->pid == (uint64_t)pid);
    say("arg", seen->arg == (uint64_t)(uintptr_t)seen);
    say("stack", seen->stack >= args->stack && seen->stack < args->stack + args->stack_size);
    say("frame", (long)seen->frame);
}

/* clone HOW: a child on a stack of its own, in memory of its own. */
static void clone_it(const char *how)
{
    struct seen *seen = shared(sizeof *seen);
    struct kernel_clone_args args = {.exit_signal = SIGCHLD, .stack_size = CHILD_STACK_SIZE};
    args.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
    seen->frame = 1;
    if (!strcmp(how, "clone3")) {
        long pid = raw_clone3(&args, look, seen);
        say("result", pid > 0 ? 0 : pid);
        if (pid > 0)
            say_child(pid, seen, &args);
    } else if (!strcmp(how, "clone")) {
        say_child(raw_clone(&args, look, seen), seen, &args);
    } else if (!strcmp(how, "either")) {
        say_child(clone_on_stack(&args, 0, look, seen), seen, &args);
    } else if (!strcmp(how, "old")) {
        args.flags = 1ULL << 32; /* CLONE_CLEAR_SIGHAND: left out, since the child resets them itself */
        say_child(clone_on_stack(&args, 1, look, seen), seen, &args);
    } else if (!strcmp(how, "words")) {
        /* CLONE_PARENT_SETTID, at the place of the pidfd, CLONE_CHILD_SETTID, and for the odd one CLONE_SETTLS */
        for (uint64_t tls = 0; tls < 2; tls++) {
            seen->parent_word = seen->child_word = 0;
            args.flags = 0x100000 | 0x1000000 | (tls ? 0x80000 : 0);
            args.pidfd = (uint64_t)(uintptr_t)&seen->parent_word;
            args.child_tid = (uint64_t)(uintptr_t)&seen->child_word;
            args.tls = 0x1230;
            long pid = raw_clone(&args, look, seen);
            say(tls ? "status_tls" : "status", exit_status(pid));
            say(tls ? "parent_tls" : "parent", seen->parent_word == pid);
            say(tls ? "child_tls" : "child", seen->child_word == pid);
            say(tls ? "tls_tls" : "tls", seen->tls == args.tls);
        }
        args.stack = args.stack_size = 0;
        args.flags = 0x4100 | 0x100000 | 0x1000000;
        seen->parent_word = seen->child_word = 0;
        long pid = raw_clone(&args, look, seen);
        say("status_here", exit_status(pid));
        say("parent_here", seen->parent_word == pid);
        say("child_here", seen->child_word == pid);
    } else if (!strcmp(how, "refused")) {
        args.flags = 1ULL << 33; /* CLONE_INTO_CGROUP, which only clone3 can say */
        say("old", clone_on_stack(&args, 1, look, seen));
        args.flags = 0x800; /* CLONE_SIGHAND without CLONE_VM: no kernel takes it */
        say("raw", raw_clone(&args, look, seen));
        say("ran", seen->pid != 0);
    } else if (!strcmp(how, "here")) {
        uint64_t below = 0;
        args.stack = args.stack_size = 0;
        args.flags = 0x4100; /* CLONE_VM and CLONE_VFORK */
        long pid = clone_here(&args, 0, look, seen);
        say("made", pid > 0);
        say("status", exit_status(pid));
        say("pid", seen->pid == (uint64_t)pid);
        /* this stack, no other, and below this frame's own words */
        say("below", seen->stack < (uint64_t)(uintptr_t)&below && seen->stack > (uint64_t)(uintptr_t)&below - 65536);
        args.flags |= HERE_CSIGNAL;
        say("refused", clone_here(&args, 1, look, seen));
    }
}

static struct loaded load(const char *path)
{
    size_t size;
    unsigned char *blob = content(path, &size);
    if (!program_check(blob, size))
        abort();
    return program_load(blob, (unsigned char *)(uintptr_t)program_data(blob));
}

static void say_failure(const struct failure *failed)
{
    say("stage", (long)failed->stage);
    say("step", (long)failed->step);
    say("errno", failed->error);
}

/* child BLOB: child_main in a forked child, as of a caller that ignores SIGTERM. */
static void child_alone(const char *path)
{
    struct child *child = shared(sizeof *child);
    struct kernel_sigaction ignore = {.handler = 1};
    child->program = load(path);
    child->clone = (struct kernel_clone_args){.exit_signal = SIGCHLD, .stack_size = CHILD_STACK_SIZE};
    child->clone.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
    sys4(__NR_rt_sigaction, SIGTERM, &ignore, 0, KERNEL_SIGSET_BYTES);
    say("status", exit_status(clone_on_stack(&child->clone, 0, child_main, child)));
    say_failure(&child->failed);
}

/* become BLOB INIT PLACE PAYLOAD: the child runs BLOB, clones the payload's process, and runs INIT, in whose data the
 * payload's pid is written at PLACE. Each in a memory of its own: this emulator knows no other. */
static void become(const char *path, const char *init, const char *place, const char *payload)
{
    struct child *child = shared(sizeof *child);
    child->program = load(path);
    child->init = load(init);
    child->payload = load(payload);
    child->payload_pid = (char *)child->init.data + strtoull(place, NULL, 0);
    child->clone = (struct kernel_clone_args){.exit_signal = SIGCHLD, .stack_size = CHILD_STACK_SIZE};
    child->payload_clone = child->clone;
    child->clone.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
    child->payload_clone.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
    say("status", exit_status(clone_on_stack(&child->clone, 0, child_main, child)));
    say("waiting", (long)child->payload_running);
    say_failure(&child->failed);
}

/* join JOIN BLOB FLAGS: the intermediate process, which runs JOIN and clones the child with these flags. */
static void joined(const char *join, const char *path, const char *flags)
{
    struct child *child = shared(sizeof *child);
    struct kernel_clone_args args = {.exit_signal = SIGCHLD, .stack_size = CHILD_STACK_SIZE};
    child->join = load(join);
    child->program = load(path);
    child->clone = args;
    child->clone.flags = strtoull(flags, NULL, 0);
    child->clone.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
    args.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
    say("status", exit_status(clone_on_stack(&args, 0, intermediate_main, child)));
    say("made", child->pid > 0);
    say_failure(&child->failed);
}

/* plain: the list of calls of ramet.lowlevel: a value, an error, an address, the result of an earlier one. */
static void plain(const char *path)
{
    struct plain *plain = shared(1 << 16);
    uint64_t text = sizeof *plain + 4 * sizeof(struct plain_call);
    strcpy((char *)plain + text, path);
    plain->n_calls = 4;
    plain->status = 78;
    plain->child_tid = 5;
    plain->calls[0] = (struct plain_call){.nr = __NR_getppid};
    plain->calls[1] = (struct plain_call){
        .nr = __NR_openat, .kinds = PLAIN_ADDRESS << 2, .args = {SYS_ARG(-100), text, 0}};
    plain->calls[2] = (struct plain_call){.nr = __NR_close, .kinds = PLAIN_RESULT, .args = {1}};
    plain->calls[3] = plain->calls[2];
    struct kernel_clone_args args = {.exit_signal = SIGCHLD, .stack_size = PLAIN_STACK_SIZE};
    args.stack = (uint64_t)(uintptr_t)shared(PLAIN_STACK_SIZE);
    say("status", exit_status(clone_on_stack(&args, 0, plain_main, plain)));
    say("made", plain->made);
    say("tid", plain->seen_child_tid);
    say("parent", plain->calls[0].result == getpid());
    say("opened", plain->calls[1].result > 2);
    say("closed", plain->calls[2].result);
    say("again", plain->calls[3].result);
}

/* emulated: what this emulator takes of what the core asks for on a real kernel: 0, or -errno. */
static void emulated(void)
{
    static const struct {
        const char *name;
        uint64_t flags;
    } asked[] = {{"CLONE_VM", 0x100}, {"CLONE_PARENT", 0x8000}, {"CLONE_NEWUSER", 0x10000000}};
    struct seen *seen = shared(sizeof *seen);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct kernel_clone_args args = {.flags = asked[i].flags, .exit_signal = SIGCHLD, .stack_size = CHILD_STACK_SIZE};
        args.stack = (uint64_t)(uintptr_t)shared(CHILD_STACK_SIZE);
        long pid = raw_clone(&args, look, seen);
        say(asked[i].name, pid > 0 ? 0 : pid);
    }
    say("PR_SET_CHILD_SUBREAPER", sys5(__NR_prctl, 36, 1, 0, 0, 0));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "sys6") && argc == 3)
        values(argv[2]);
    else if (!strcmp(what, "run") && argc == 4)
        run(argv[2], argv[3]);
    else if (!strcmp(what, "clone") && argc == 3)
        clone_it(argv[2]);
    else if (!strcmp(what, "child") && argc == 3)
        child_alone(argv[2]);
    else if (!strcmp(what, "become") && argc == 6)
        become(argv[2], argv[3], argv[4], argv[5]);
    else if (!strcmp(what, "join") && argc == 5)
        joined(argv[2], argv[3], argv[4]);
    else if (!strcmp(what, "plain") && argc == 3)
        plain(argv[2]);
    else if (!strcmp(what, "emulated"))
        emulated();
    else
        return 2;
    return 0;
}
