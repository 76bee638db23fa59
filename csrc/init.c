/* ramet's init: pid 1 of a sandbox.
 *
 * Static, without libc, exec'd from a sealed memfd that nobody may read, so that nothing of the caller is in its memory,
 * the payload has nothing of the host's to overwrite, and nobody inside without CAP_SYS_PTRACE can trace it, from its first
 * instruction on (would_dump() in fs/exec.c; of a root caller's, whose id is not mapped inside, nobody at all). The
 * parent-death signal is given up already, and the payload is its child already: csrc/child.c. Init
 *   1. gives up every capability but that to signal any process inside,
 *   2. reaps every orphan, forwards the signals the caller sends,
 *   3. dies, and its pid namespace with it, when the caller is dead or has let go of the control socket,
 *   4. when the payload ends, kills what it left behind, reports status and usage, and exits.
 *
 * Signals that processes inside send to pid 1 are not forwarded: they come with a pid, while one from outside
 * the pid namespace shows pid 0 (pid_namespaces(7)).
 */
#include "init.h"

#include "sys.h"

#define POLL_IN 1
#define WAIT_NO_HANG 1
#define WAIT_CLONE 0x80000000 /* only children whose end is told by another signal than SIGCHLD */
#define SEND_NO_SIGNAL 0x4000
#define DONT_WAIT 0x40
#define SIGNAL_KILL 9
#define SIGNAL_CHILD 17
#define CODE_KERNEL 0x80
#define SET_DUMPABLE 4
#define SET_NAME 15
#define TMPFS_MAGIC 0x01021994
#define CAPABILITY_VERSION_3 0x20080522
#define CAPABILITY_KILL (1u << 5)
#define EXIT_CANNOT_START 125

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

struct capability_header {
    uint32_t version;
    int32_t pid;
};

struct capability_data {
    uint32_t effective, permitted, inheritable;
};

struct file_system { /* struct statfs of 64-bit kernels */
    int64_t type, block_size;
    uint64_t blocks, blocks_free, blocks_available, files, files_free;
    int64_t rest[8];
};

static _Noreturn void leave(void) { sys_exit_group(EXIT_CANNOT_START); }

static struct init_message report; /* its sums grow with each that is reaped */
static int payload_ended;

/* Reap one that has ended, and count what it has used; its pid, or not more than 0. */
static long reap_one(long payload, int options)
{
    struct usage usage;
    int status;
    long pid = sys4(__NR_wait4, -1, &status, options, &usage);
    if (pid <= 0)
        return pid;
    if (pid == payload) {
        report.status = status;
        payload_ended = 1;
    }
    if ((status & 0xff) == 0x7f || (pid != payload && options & (int)WAIT_CLONE))
        return pid; /* stopped, so there is more to come; or what has made the payload in a bud (bud.c), which is not counted */
    report.user_usec += usage.user_sec * 1000000 + usage.user_usec;
    report.system_usec += usage.system_sec * 1000000 + usage.system_usec;
    report.max_rss_kib = usage.max_rss > report.max_rss_kib ? usage.max_rss : report.max_rss_kib;
    report.minor_faults += usage.minor_faults;
    report.major_faults += usage.major_faults;
    report.blocks_in += usage.blocks_in;
    report.blocks_out += usage.blocks_out;
    report.voluntary_switches += usage.voluntary_switches;
    report.involuntary_switches += usage.involuntary_switches;
    return pid;
}

/* What the payload left behind dies and is reaped before the report, so that usage is complete and no pipe
 * stays open. Only as pid 1: elsewhere -1 would mean everyone. */
static void end_the_rest(void)
{
    if (sys0(__NR_getpid) != 1)
        return;
    sys2(__NR_kill, -1, SIGNAL_KILL);
    while (reap_one(0, 0) > 0)
        ;
}

static const char *disk; /* where what the sandbox writes to is mounted */

/* Is it full, where it is a tmpfs with a limit? What has been deleted and is still open counts, so look before those end. */
static int disk_full(void)
{
    struct file_system own;
    if (sys2(__NR_statfs, disk, &own) || own.type != TMPFS_MAGIC || !own.blocks)
        return 0;
    return !own.blocks_free || (own.files && !own.files_free);
}

static _Noreturn void report_exit(void)
{
    report.disk_full = disk_full();
    end_the_rest();
    sys6(__NR_sendto, INIT_CONTROL, SYS_ARG(&report), sizeof report, SEND_NO_SIGNAL, 0, 0);
    sys_exit_group(0);
}

static void forward_signals(long payload)
{
    struct signal_info info;
    if (sys3(__NR_read, INIT_SIGNALS, &info, sizeof info) != sizeof info || info.pid)
        return;
    if (info.signal != SIGNAL_CHILD && (info.code <= 0 || info.code >= CODE_KERNEL)) /* else a child has ended */
        sys2(__NR_kill, payload, info.signal);
}

static void obey(long payload)
{
    struct init_command command;
    long got = sys6(__NR_recvfrom, INIT_CONTROL, SYS_ARG(&command), sizeof command, DONT_WAIT, 0, 0);
    if (got == 0)
        leave(); /* the caller has let go */
    if (got != sizeof command)
        return;
    if (command.signal == INIT_TELL_DISK) {
        int32_t full = disk_full();
        sys6(__NR_sendto, INIT_CONTROL, SYS_ARG(&full), sizeof full, SEND_NO_SIGNAL | DONT_WAIT, 0, 0);
    } else {
        sys2(__NR_kill, payload, command.signal);
    }
}

static _Noreturn void supervise(long payload)
{
    enum { SIGNALS, CONTROL, CALLER, COUNT };
    struct poll_fd polled[COUNT] = {{INIT_SIGNALS, POLL_IN, 0}, {INIT_CONTROL, POLL_IN, 0}, {INIT_CALLER, POLL_IN, 0}};
    for (;;) {
        while (reap_one(payload, WAIT_NO_HANG) > 0 || reap_one(payload, WAIT_NO_HANG | (int)WAIT_CLONE) > 0)
            ;
        if (payload_ended)
            report_exit();
        sys5(__NR_ppoll, polled, COUNT, 0, 0, 0);
        if (polled[CALLER].revents)
            leave();
        if (polled[SIGNALS].revents)
            forward_signals(payload);
        if (polled[CONTROL].revents)
            obey(payload);
    }
}

/* As uid 0 we have got all of them by exec; under another uid the one that was made ambient. It is for payloads whose
 * processes change their uid: those must be killed too. */
static void keep_one_capability(void)
{
    struct capability_header header = {CAPABILITY_VERSION_3, 0};
    struct capability_data held[2] = {{0}}, kept[2] = {{0}};
    sys2(__NR_capget, &header, held);
    kept[0].effective = kept[0].permitted = held[0].permitted & CAPABILITY_KILL;
    sys2(__NR_capset, &header, kept);
}

static long parse_number(const char *text)
{
    uint32_t number = 0; /* may wrap: whoever else executes this file gives what they like */
    while (*text >= '0' && *text <= '9')
        number = number * 10 + (uint32_t)(*text++ - '0');
    return number;
}

static _Noreturn __attribute__((used)) void init_main(const uint64_t *stack)
{
    if (stack[0] != 3)
        leave();
    long payload = parse_number((const char *)stack[2]);
    disk = (const char *)stack[3];
    sys2(__NR_prctl, SET_DUMPABLE, 0);
    sys2(__NR_prctl, SET_NAME, "ramet-init");
    keep_one_capability();
    supervise(payload);
}

#if defined(RAMET_FAKE_KERNEL) /* starts it itself */
#elif defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txorl %ebp, %ebp\n\tmovq %rsp, %rdi\n\tandq $-16, %rsp\n\tcall init_main\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl init_main\n\tbrk #1\n");
#endif
