/* ramet's init: pid 1 of a sandbox.
 *
 * Static, without libc, exec'd from a sealed memfd, so that nothing of the caller is in its memory and the
 * payload has nothing of the host's to overwrite. It
 *   1. makes itself unreadable to the payload (not dumpable),
 *   2. runs its own steps, then clones the payload's process, which runs the tail of the plan and execs,
 *   3. reaps every orphan, forwards the signals the caller sends,
 *   4. dies, and its pid namespace with it, when the caller is dead or has let go of the control socket,
 *   5. when the payload ends, kills what it left behind, reports status and usage, and exits.
 *
 * Signals that processes inside send to pid 1 are not forwarded: they come with a pid, while one from outside
 * the pid namespace shows pid 0 (pid_namespaces(7)).
 */
#include "init.h"

#include "child.h"

#include <linux/sched.h>

#define SEEK_TO_END 2
#define PROT_READ_WRITE 3
#define MAP_IS_PRIVATE 2
#define F_SET_DESCRIPTOR_FLAGS 2
#define CLOSE_ON_EXEC 1
#define SIGNALFD_CLOEXEC 02000000
#define POLL_IN 1
#define WAIT_NO_HANG 1
#define WAIT_ALL 0x40000000
#define SEND_NO_SIGNAL 0x4000
#define RECEIVE_DONT_WAIT 0x40
#define SIGNAL_KILL 9
#define SIGNAL_CHILD 17
#define USAGE_OF_CHILDREN -1
#define SET_DUMPABLE 4
#define SET_PARENT_DEATH_SIGNAL 1
#define SET_NAME 15
#define SET_CHILD_SUBREAPER 36
#define EXIT_CANNOT_START 125
#define ERRNO_INVAL 22

struct poll_fd {
    int32_t fd;
    int16_t events, revents;
};

struct usage { /* struct rusage of 64-bit kernels */
    int64_t user_sec, user_usec, system_sec, system_usec;
    int64_t max_rss, shared, data, stack, minor_faults, major_faults, swaps, blocks_in, blocks_out,
        messages_out, messages_in, signals, voluntary_switches, involuntary_switches;
};

struct signal_info { /* struct signalfd_siginfo, its first fields */
    uint32_t signal;
    int32_t error, code;
    uint32_t pid;
    unsigned char rest[112];
};

/* The payload's process before its exec; it shares our memory until then. */
struct payload {
    struct loaded program;
    uint32_t step;
    int error;
};

static _Noreturn void leave(void) { sys_exit_group(EXIT_CANNOT_START); }

static void send_message(int control, const struct init_message *message)
{
    sys6(__NR_sendto, SYS_ARG(control), SYS_ARG(message), sizeof *message, SEND_NO_SIGNAL, 0, 0);
}

static _Noreturn void report_failure(int control, int stage, uint32_t step, int error)
{
    struct init_message message = {.kind = INIT_FAILED, .value = error, .stage = stage, .step = step};
    send_message(control, &message);
    leave();
}

static void payload_main(void *arg)
{
    struct payload *payload = arg;
    payload->error = run_steps(&payload->program, &payload->step);
    leave();
}

static long start_payload(struct payload *payload)
{
    unsigned char stack[8 * 1024] __attribute__((aligned(16)));
    struct kernel_clone_args args = {
        .flags = CLONE_VM | CLONE_VFORK,
        .exit_signal = SIGNAL_CHILD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof stack,
    };
    return clone_on_stack(&args, 0, payload_main, payload);
}

/* Reap what has ended. 1 when the payload was among it, with its wait status. */
static int reap(long payload, int *status)
{
    int seen = 0, ended_status;
    for (;;) {
        long pid = sys4(__NR_wait4, -1, &ended_status, WAIT_NO_HANG | WAIT_ALL, 0);
        if (pid <= 0)
            return seen;
        if (pid == payload) {
            *status = ended_status;
            seen = 1;
        }
    }
}

/* What the payload left behind dies and is reaped before the report, so that usage is complete and no pipe
 * stays open. Only as pid 1: elsewhere -1 would mean everyone. */
static void end_the_rest(void)
{
    int status;
    if (sys0(__NR_getpid) != 1)
        return;
    sys2(__NR_kill, -1, SIGNAL_KILL);
    while (sys4(__NR_wait4, -1, &status, WAIT_ALL, 0) > 0)
        ;
}

static _Noreturn void report_exit(int control, int status)
{
    struct usage usage;
    end_the_rest();
    sys2(__NR_getrusage, USAGE_OF_CHILDREN, &usage);
    struct init_message message = {
        .kind = INIT_EXITED,
        .value = status,
        .user_usec = usage.user_sec * 1000000 + usage.user_usec,
        .system_usec = usage.system_sec * 1000000 + usage.system_usec,
        .max_rss_kib = usage.max_rss,
        .minor_faults = usage.minor_faults,
        .major_faults = usage.major_faults,
        .voluntary_switches = usage.voluntary_switches,
        .involuntary_switches = usage.involuntary_switches,
    };
    send_message(control, &message);
    sys_exit_group(0);
}

static void forward_signals(int signals, long payload)
{
    struct signal_info info;
    if (sys3(__NR_read, signals, &info, sizeof info) == sizeof info && info.signal != SIGNAL_CHILD && info.pid == 0)
        sys2(__NR_kill, payload, info.signal);
}

static void obey(int control, long payload)
{
    struct init_command command;
    long got = sys6(__NR_recvfrom, SYS_ARG(control), SYS_ARG(&command), sizeof command, RECEIVE_DONT_WAIT, 0, 0);
    if (got == 0)
        leave(); /* the caller has let go */
    if (got == sizeof command)
        sys2(__NR_kill, payload, command.signal);
}

static _Noreturn void supervise(const struct init_head *head, int signals, long payload)
{
    enum { SIGNALS, CONTROL, CALLER, COUNT };
    struct poll_fd polled[COUNT] = {{signals, POLL_IN, 0}, {head->control, POLL_IN, 0}, {head->caller, POLL_IN, 0}};
    for (;;) {
        int status;
        if (reap(payload, &status))
            report_exit(head->control, status);
        sys5(__NR_ppoll, polled, COUNT, 0, 0, 0);
        if (polled[CALLER].revents)
            leave();
        if (polled[SIGNALS].revents)
            forward_signals(signals, payload);
        if (polled[CONTROL].revents)
            obey(head->control, payload);
    }
}

/* Map the plan: private, so that relocating it in place changes only our copy. */
static struct init_head *map_plan(int fd)
{
    long size = sys3(__NR_lseek, fd, 0, SEEK_TO_END);
    if (size < (long)sizeof(struct init_head))
        leave();
    long at = sys6(__NR_mmap, 0, SYS_ARG(size), PROT_READ_WRITE, MAP_IS_PRIVATE, SYS_ARG(fd), 0);
    if (sys_failed(at))
        leave();
    struct init_head *head = (struct init_head *)at;
    if (head->magic != INIT_MAGIC || (uint64_t)size != sizeof *head + (uint64_t)head->own_size + head->payload_size)
        leave();
    sys1(__NR_close, fd);
    return head;
}

static struct loaded load_program(const struct init_head *head, unsigned char *blob, uint32_t size, int stage)
{
    if (!program_check(blob, size))
        report_failure(head->control, stage, 0, ERRNO_INVAL);
    return program_load(blob, (unsigned char *)(uintptr_t)program_data(blob));
}

static int parse_number(const char *text)
{
    int number = 0;
    while (*text >= '0' && *text <= '9')
        number = number * 10 + (*text++ - '0');
    return number;
}

static _Noreturn __attribute__((used)) void init_main(const uint64_t *stack)
{
    uint64_t argc = stack[0], all_signals = ~(uint64_t)0;
    if (argc != 2)
        leave();
    struct init_head *head = map_plan(parse_number((const char *)stack[2]));
    unsigned char *own = (unsigned char *)(head + 1), *tail = own + head->own_size;

    sys2(__NR_prctl, SET_NAME, "ramet-init");
    sys2(__NR_prctl, SET_DUMPABLE, 0);
    sys2(__NR_prctl, SET_CHILD_SUBREAPER, 1); /* where we are not pid 1, orphans still come to us */
    sys3(__NR_fcntl, head->control, F_SET_DESCRIPTOR_FLAGS, CLOSE_ON_EXEC);
    sys3(__NR_fcntl, head->caller, F_SET_DESCRIPTOR_FLAGS, CLOSE_ON_EXEC);

    uint32_t step = 0;
    struct loaded mine = load_program(head, own, head->own_size, INIT_STAGE_OWN);
    int error = run_steps(&mine, &step);
    if (error)
        report_failure(head->control, INIT_STAGE_OWN, step, error);

    struct payload payload = {.program = load_program(head, tail, head->payload_size, INIT_STAGE_PAYLOAD)};
    long pid = start_payload(&payload);
    if (sys_failed(pid))
        report_failure(head->control, INIT_STAGE_PAYLOAD, 0, (int)-pid);
    if (payload.error)
        report_failure(head->control, INIT_STAGE_PAYLOAD, payload.step, payload.error);

    /* Out of the payload's process group, which with new_session=False is the caller's: Ctrl-C reaches the payload by
     * itself there, and forwarded it would come twice. EPERM where we lead a session, and so a group, of our own. */
    sys2(__NR_setpgid, 0, 0);
    long signals = sys4(__NR_signalfd4, -1, &all_signals, KERNEL_SIGSET_BYTES, SIGNALFD_CLOEXEC);
    if (sys_failed(signals))
        report_failure(head->control, INIT_STAGE_OWN, 0, (int)-signals);
    /* Tied to the thread that cloned us, which may end before we should. From here the pidfd watches. */
    sys2(__NR_prctl, SET_PARENT_DEATH_SIGNAL, 0);
    struct init_message started = {.kind = INIT_STARTED, .value = (int32_t)pid};
    if (!head->quiet)
        send_message(head->control, &started);
    supervise(head, (int)signals, pid);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txorl %ebp, %ebp\n\tmovq %rsp, %rdi\n\tandq $-16, %rsp\n\tcall init_main\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl init_main\n\tbrk #1\n");
#endif
