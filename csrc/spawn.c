/* spawn: clone a child that runs a program of system calls, and wait until it has left our memory.
 *
 * The child shares the caller's memory (CLONE_VM), so starting one costs the same from a caller of 10 MB and
 * of 10 GB. What is dangerous about that, and what is done about it here, in child.c and in ramet/plan:
 *
 * 1. Signals. A handler run in the child runs in the caller's memory; CPython's would trip the caller's
 *    flags. Every signal is blocked before the clone, by a raw call, since libc keeps two for itself;
 *    the child resets every disposition first (CLONE_CLEAR_SIGHAND, and SIG_IGN as well), and the plan
 *    unblocks just before exec. The caller's mask comes back when the child has gone.
 * 2. libc. TLS and errno are the caller's, set*id would signal the caller's threads, and the cached tid is the
 *    wrong one. The child is steps.c and child.c: raw system calls in inline assembly, no libc symbol.
 * 3. Stack. The child's own, over a guard page, in a mapping that is kept for the next child.
 * 4. CLONE_VFORK and sync. CLONE_VFORK stops this thread until the exec, so it is for a child that nobody has to do with
 *    meanwhile. Where the caller must do something (`sync`), or the child clones the payload's process and becomes init, a
 *    futex that the kernel clears when a process leaves our memory (CLONE_CHILD_CLEARTID) takes its place, one for each
 *    process. The compiler decides which.
 * 5. Dumpable. Credential changes in the child clear the dumpable flag of the memory it shares with us. Saved before
 *    the first of several spawns at once, restored after the last. A child that joins namespaces of others has a copy
 *    of our memory instead (setns into a time namespace demands that, too), and clears the copy's flag first: so a
 *    process in there cannot ptrace the child or read our memory through it (the shape of CVE-2016-9962), and
 *    no other child finds its /proc/self closed meanwhile. Only with a sync step, where the caller must go on while
 *    the child waits, is the memory shared there; that is a privileged caller, to whom /proc/self is open. And with
 *    join_shares: for namespaces that the caller has made ahead, in which nobody is.
 * 6. Leaks. The child may share our table of descriptors (CLONE_FILES), and leaves it, with a copy, before it opens or closes
 *    one; never with `sync`, since that copy could hold the end of a pipe that we wait for (ramet/plan/check.py holds plans
 *    to both). The plan's close_range ends what O_CLOEXEC missed; what is exec'd first is a sealed memfd
 *    (the shape of CVE-2019-5736); the plan enters the working directory when no descriptor of the host is left
 *    (the shape of CVE-2024-21626).
 * 7. The kernel's answers. clone3 may be ENOSYS under a container's filter: then, and only then, clone.
 * 8. The pid race. Always CLONE_PIDFD, and exit_signal 0, so that until the exec a caller that waits for any child
 *    sees nothing of it. exec makes it SIGCHLD, whatever it was (de_thread() in the kernel): a caller that ignores
 *    SIGCHLD or waits for any child may take the end away, so how it ended is asked of init, or of the pidfd. The plan
 *    begins with the parent-death signal and then looks whether the caller is still there, so there is no moment at
 *    which a dead caller leaves a waiting child. Init gives the signal up just before its exec (a thread that started it
 *    may end as soon as we return) and looks at the caller's pidfd from then on.
 * 9. The OOM killer ends everybody who has the victim's memory, so a child that dies for its group's memory would take us
 *    along. Until it has left our memory, which is a moment after we are told so (shares.c), its group kills nobody for
 *    that (ramet/cgroups/group.py).
 */
#include "spawn.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

const char core_spawn_doc[] =
    "spawn(program, inputs, flags, *, join=None, join_shares=False, payload=None, init=None, gate=-1, pid_text=-1,\n"
    "      sync=None, cgroup=-1, clone3=True, into=None, meanwhile=False)\n"
    "--\n\n"
    "Clone a child that runs program (see csrc/steps.h) and return (pid, pidfd, 0, 0, 0) once it has\n"
    "exec'd, or (-1, -1, stage, step, errno) if a step failed; then the child is gone and reaped.\n"
    "inputs are (offset, value) pairs stored in the program's data; the other programs come as\n"
    "(program, inputs). join is run by an intermediate process first, which has a copy of our memory, unless\n"
    "join_shares says that nobody else is where it goes. payload is run by a process that the child clones\n"
    "after program, while the child itself runs init. gate is the offset in payload's data of a word\n"
    "that is 1 until we have seen that the child has left our memory; without it the child waits for the payload's exec,\n"
    "and each has a memory of its own. pid_text is the offset in init's data where the payload's pid is written, in digits.\n"
    "sync(pid, pidfd) is called while the child waits for it; with meanwhile, when the child is init, and the payload's process\n"
    "still at its steps. into is given the attributes\n"
    "pid and pidfd before a signal handler can run, which may throw the result away by raising.\n"
    "Raises OSError when there is no memory for the child's stack. Follows clone(2).";

#define PAGE 4096u

void set_mask(uint64_t mask, uint64_t *before)
{
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, before, KERNEL_SIGSET_BYTES);
}

static int has(const struct programs *programs, int which) { return programs->blob[which].buf != NULL; }

static uint32_t data_size(const struct programs *programs, int which)
{
    return has(programs, which) ? program_header(programs->blob[which].buf)->data_size : 0;
}

static size_t page_up(size_t size) { return (size + PAGE - 1) & ~(size_t)(PAGE - 1); }

#define STACKS_MOST 3
#define STACK_ROOM ((size_t)PAGE + CHILD_STACK_SIZE)
#define DATA_ROOM ((size_t)64 * 1024)

/* What a spawn has left for the next of so many stacks. To map an arena, fault its pages in and take it away again costs the
 * caller 0.1 ms of 2, the more since other CPUs run in that memory. Written under the GIL; a fork has copies. */
static struct {
    unsigned char *base;
    size_t size;
} kept[STACKS_MOST + 1];

static int arena_take(struct arena *arena, size_t size)
{
    if (!kept[arena->stacks].base || kept[arena->stacks].size < size)
        return 0;
    arena->base = kept[arena->stacks].base;
    arena->size = kept[arena->stacks].size;
    kept[arena->stacks].base = NULL;
    return 1;
}

/* Keep it, if none or only a smaller one is kept, in whose place. */
static void arena_let_go(const struct arena *arena)
{
    unsigned char *base = arena->base;
    size_t size = arena->size;
    if (!arena->shared && (!kept[arena->stacks].base || kept[arena->stacks].size < size)) {
        base = kept[arena->stacks].base;
        size = kept[arena->stacks].size;
        kept[arena->stacks].base = arena->base;
        kept[arena->stacks].size = arena->size;
    }
    if (base)
        munmap(base, size);
}

/* Stacks first, each above its guard page. */
static int arena_map(struct arena *arena, size_t size)
{
    size = (size + DATA_ROOM - 1) & ~(DATA_ROOM - 1); /* also for a plan that is somewhat longer */
    int sharing = arena->shared ? MAP_SHARED : MAP_PRIVATE;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return errno;
    arena->base = base;
    arena->size = size;
    for (size_t n = 0; n < arena->stacks; n++) {
        if (mprotect(arena->base + n * STACK_ROOM, PAGE, PROT_NONE)) {
            int error = errno;
            munmap(base, size);
            return error;
        }
    }
    return 0;
}

static int arena_make(struct arena *arena, const struct programs *programs)
{
    arena->stacks = 1 + (size_t)has(programs, JOIN) + (size_t)has(programs, PAYLOAD);
    /* Where somebody has a copy of our memory: what is reported must reach us. */
    arena->shared = !programs->shares || (has(programs, PAYLOAD) && programs->gate < 0);
    size_t at = arena->stacks * STACK_ROOM, size = at + page_up(sizeof(struct child));
    for (int which = 0; which < PROGRAMS; which++)
        size += page_up(data_size(programs, which));
    int error = !arena->shared && arena_take(arena, size) ? 0 : arena_map(arena, size);
    if (error)
        return error;
    unsigned char *stack = arena->base + PAGE;
    arena->stack = stack;
    arena->join_stack = has(programs, JOIN) ? (stack += STACK_ROOM) : NULL;
    arena->payload_stack = has(programs, PAYLOAD) ? stack + STACK_ROOM : NULL;
    arena->child = (struct child *)(void *)(arena->base + at);
    memset(arena->child, 0, sizeof *arena->child);
    at += page_up(sizeof(struct child));
    for (int which = 0; which < PROGRAMS; which++) {
        arena->data[which] = arena->base + at;
        at += page_up(data_size(programs, which));
    }
    return 0;
}

int core_store_inputs(PyObject *inputs, unsigned char *data, uint32_t data_size)
{
    PyObject *fast = PySequence_Fast(inputs, "inputs must be a sequence of (offset, value)");
    if (!fast)
        return -1;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast); i++) {
        long long offset; /* wide: an offset past 2^32 must not wrap into the data */
        int value;
        PyObject *pair = PySequence_Fast_GET_ITEM(fast, i);
        if (!PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "Li", &offset, &value)) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "an input is a tuple (offset, value)");
            goto error;
        }
        if (offset < 0 || offset % (int)sizeof value || offset > (long long)data_size - (int)sizeof value) {
            PyErr_SetString(PyExc_ValueError, "input outside the program's data");
            goto error;
        }
        memcpy(data + offset, &value, sizeof value);
    }
    Py_DECREF(fast);
    return 0;
error:
    Py_DECREF(fast);
    return -1;
}

static int load(struct loaded *loaded, const char *blob, unsigned char *data, PyObject *inputs)
{
    if (!blob)
        return 0;
    memcpy(data, program_data(blob), program_header(blob)->data_size);
    *loaded = program_load(blob, data);
    return core_store_inputs(inputs, data, loaded->data_size);
}

static int load_all(struct arena *arena, const struct programs *programs)
{
    struct child *child = arena->child;
    struct loaded *loaded[PROGRAMS] = {&child->program, &child->join, &child->payload, &child->init};
    for (int which = 0; which < PROGRAMS; which++)
        if (load(loaded[which], programs->blob[which].buf, arena->data[which], programs->inputs[which]))
            return -1;
    return 0;
}

/* Wait until the kernel has cleared the word: that process has exec'd or ended. */
static void wait_cleared(volatile uint32_t *word)
{
    while (*word)
        sys4(__NR_futex, word, FUTEX_WAIT, 1, 0);
}

/* Until the child is init, or ended; then the payload's process may go on. It has a word of its own to wait for, which is
 * ours to clear: the kernel wakes one waiter when it clears a word, and where both waited for the same that one could be the
 * payload's process, which a child that fails has killed, and nobody would wake us. */
static void wait_child_left(struct child *child)
{
    wait_cleared(&child->running);
    if (!child->gate)
        return;
    *child->gate = 0;
    sys3(__NR_futex, child->gate, FUTEX_WAKE, 1);
}

/* Until both have left our memory. The second word is set before the first is cleared; where the payload's process is a
 * fork, with a memory of its own, it stays 0. */
void wait_left_memory(struct child *child)
{
    wait_child_left(child);
    wait_cleared(&child->payload_running);
}

#ifndef CLONE_AUTOREAP
#define CLONE_AUTOREAP 0x400000000ULL /* since Linux 7.1 */
#endif

/* A child with CLONE_AUTOREAP leaves nothing to reap, and waitid says so, ECHILD, as soon as it is dead. That it is
 * gone from the list of our children, poll says (POLLHUP, since Linux 6.9). */
void child_reap(const struct child *child)
{
    siginfo_t info;
    struct pollfd gone = {.fd = child->pidfd};
    while (waitid(P_PIDFD, (id_t)child->pidfd, &info, WEXITED | __WALL) && errno == EINTR)
        ;
    while (child->clone.flags & CLONE_AUTOREAP && poll(&gone, 1, -1) < 0 && errno == EINTR)
        ;
    close(child->pidfd);
}

static void fail_clone(struct child *child, long error)
{
    child->failed.stage = STAGE_CLONE;
    child->failed.error = (int32_t)-error;
}

/* Start the child directly. With CLONE_VFORK this returns when it has left our memory. */
void child_start(struct child *child)
{
    long pid = clone_on_stack(&child->clone, child->no_clone3, child_main, child);
    if (sys_failed(pid))
        fail_clone(child, pid);
    else
        child->pid = pid;
}

/* Does the child go on after whoever cloned it has returned or ended? Then a futex says when it has left our memory. */
static int outlives(const struct child *child) { return (child->clone.flags & CLONE_CHILD_CLEARTID) != 0; }

/* Start it through an intermediate process that first runs the join steps. The intermediate shares our
 * descriptor table, so that the pidfd it is given for the child is ours. Its memory is a copy, which it shares with
 * the child; but where the child waits for us, the intermediate is gone by then, and the memory must be ours; and where
 * nobody else is where they go, it may be. */
static long join_start(struct child *child, unsigned char *stack)
{
    struct kernel_clone_args args = {
        .flags = CLONE_VFORK | CLONE_FILES | (outlives(child) ? CLONE_VM : 0),
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = CHILD_STACK_SIZE,
    };
    child->clone.flags |= CLONE_PARENT;
    long pid = clone_on_stack(&args, child->no_clone3, intermediate_main, child);
    if (sys_failed(pid))
        fail_clone(child, pid);
    return sys_failed(pid) ? 0 : pid;
}

static void join_end(struct child *child, long pid)
{
    int status;
    while (waitpid((pid_t)pid, &status, __WALL) < 0 && errno == EINTR)
        ;
    if (child->pid > 0 || child->failed.stage != STAGE_NONE)
        return;
    /* Somebody has killed it. The child may be there all the same, and in our memory. */
    if (child->pidfd >= 0) {
        sys4(__NR_pidfd_send_signal, child->pidfd, SIGKILL, 0, 0);
        child_reap(child);
    }
    fail_clone(child, -EINTR);
}

/* The caller's side of the sync steps, with its own signal mask: Ctrl-C must work while newuidmap hangs. On an
 * exception the child is killed. */
int child_sync(PyObject *sync, uint64_t mask, struct child *child)
{
    set_mask(mask, NULL);
    PyObject *result = PyObject_CallFunction(sync, "Li", (long long)child->pid, (int)child->pidfd);
    set_mask(ALL_SIGNALS, NULL);
    if (!result)
        sys4(__NR_pidfd_send_signal, child->pidfd, SIGKILL, 0, 0);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int set_int(PyObject *into, const char *name, long long value)
{
    PyObject *number = PyLong_FromLongLong(value);
    int failed = !number || PyObject_SetAttrString(into, name, number) < 0;
    Py_XDECREF(number);
    return failed ? -1 : 0;
}

/* The result of a success. A SIGINT that came during the spawn is handled as soon as we return to Python, before
 * the result is stored anywhere: whoever must clean up then has it from `into`. */
static PyObject *started_as(struct child *child, PyObject *into)
{
    if (into && (set_int(into, "pid", child->pid) < 0 || set_int(into, "pidfd", child->pidfd) < 0)) {
        sys4(__NR_pidfd_send_signal, child->pidfd, SIGKILL, 0, 0);
        child_reap(child);
        return NULL;
    }
    return Py_BuildValue("Liiii", (long long)child->pid, (int)child->pidfd, 0, 0, 0);
}

static PyObject *spawn_in(struct arena *arena, PyObject *sync, int meanwhile, PyObject *into)
{
    struct child *child = arena->child;
    uint64_t mask;
    long pid;

    Py_BEGIN_ALLOW_THREADS
    set_mask(ALL_SIGNALS, &mask);
    if (!arena->join_stack)
        child_start(child);
    else if ((pid = join_start(child, arena->join_stack)) > 0)
        join_end(child, pid);
    if (meanwhile && child->pid > 0 && outlives(child))
        wait_child_left(child);
    Py_END_ALLOW_THREADS

    int started = child->pid > 0;
    int failed_sync = started && sync ? child_sync(sync, mask, child) : 0;

    Py_BEGIN_ALLOW_THREADS
    if (started && outlives(child))
        wait_left_memory(child);
    set_mask(mask, NULL);
    Py_END_ALLOW_THREADS

    struct failure *failed = child->failed.stage != STAGE_NONE ? &child->failed : &child->payload_failed;
    if (failed->stage == STAGE_NONE && failed_sync == 0)
        return started_as(child, into);
    if (started) {
        /* a payload's process that failed leaves an init behind */
        sys4(__NR_pidfd_send_signal, child->pidfd, SIGKILL, 0, 0);
        Py_BEGIN_ALLOW_THREADS
        child_reap(child);
        Py_END_ALLOW_THREADS
    }
    /* A sync that failed because the child had: the step is the cause. But Ctrl-C stays Ctrl-C. */
    if (failed_sync && (failed->stage == STAGE_NONE || !PyErr_ExceptionMatches(PyExc_Exception)))
        return NULL;
    PyErr_Clear();
    return Py_BuildValue("iiiIi", -1, -1, (int)failed->stage, (unsigned)failed->step,
                         (int)failed->error);
}

static void describe(struct arena *arena, const struct programs *programs, unsigned long long flags, int cgroup,
                     int syncs)
{
    struct child *child = arena->child;
    /* Nobody but the caller's thread may be stopped by CLONE_VFORK, and that only while it has nothing to do. */
    int outlives = programs->shares && (syncs || has(programs, JOIN) || programs->gate >= 0);
    child->pidfd = -1;
    child->payload_running = 0;
    child->running = (uint32_t)outlives;
    child->gate = NULL;
    if (programs->gate >= 0) {
        child->gate = (volatile uint32_t *)(void *)(arena->data[PAYLOAD] + programs->gate);
        *child->gate = 1;
    }
    child->clone = (struct kernel_clone_args){
        .flags = flags | CLONE_VM | CLONE_PIDFD | (outlives ? CLONE_CHILD_CLEARTID : CLONE_VFORK),
        .pidfd = (uint64_t)(uintptr_t)&child->pidfd,
        .child_tid = (uint64_t)(uintptr_t)&child->running,
        .stack = (uint64_t)(uintptr_t)arena->stack,
        .stack_size = CHILD_STACK_SIZE,
        .cgroup = cgroup < 0 ? 0 : (uint64_t)cgroup,
    };
    child->payload_pid = programs->pid_text < 0 ? NULL : (char *)arena->data[INIT] + programs->pid_text;
    child->payload_clone = (struct kernel_clone_args){
        .flags = programs->gate >= 0 ? CLONE_VM | CLONE_CHILD_CLEARTID : CLONE_VFORK,
        .exit_signal = SIGCHLD,
        .child_tid = (uint64_t)(uintptr_t)&child->payload_running,
        .stack = (uint64_t)(uintptr_t)arena->payload_stack,
        .stack_size = CHILD_STACK_SIZE,
    };
}

int programs_parse(PyObject *given, struct programs *programs, int which)
{
    if (given == Py_None)
        return 0;
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a program is a tuple (bytes, inputs)");
        return -1;
    }
    return PyArg_ParseTuple(given, "y#O", &programs->blob[which].buf, &programs->blob[which].len,
                            &programs->inputs[which]) ? 0 : -1;
}

int programs_check(const struct programs *programs)
{
    for (int which = 0; which < PROGRAMS; which++) {
        if (has(programs, which) && !program_check(programs->blob[which].buf, (size_t)programs->blob[which].len)) {
            PyErr_SetString(PyExc_ValueError, "malformed program");
            return -1;
        }
    }
    /* subtracted, since the sum may overflow */
    long long last_gate = (long long)data_size(programs, PAYLOAD) - (long long)sizeof(uint32_t);
    long long last_text = (long long)data_size(programs, INIT) - PID_TEXT_SIZE;
    int fits = (programs->gate < 0 || (programs->gate % (long long)sizeof(uint32_t) == 0 && programs->shares &&
                                       programs->gate <= last_gate)) &&
               (programs->pid_text < 0 || programs->pid_text <= last_text);
    if (has(programs, PAYLOAD) != has(programs, INIT) || has(programs, PAYLOAD) != (programs->pid_text >= 0) || !fits) {
        PyErr_SetString(PyExc_ValueError, "payload, init, gate and pid_text do not fit each other");
        return -1;
    }
    return 0;
}

int arena_fill(struct arena *arena, const struct programs *programs, unsigned long long flags, int cgroup, int clone3,
               int syncs)
{
    int error = arena_make(arena, programs);
    if (error) {
        core_oserror(error, "mmap");
        return -1;
    }
    if (load_all(arena, programs)) {
        arena_let_go(arena);
        return -1;
    }
    describe(arena, programs, flags, cgroup, syncs);
    arena->child->no_clone3 = !clone3;
    core_dumpable_save();
    return 0;
}

void arena_end(struct arena *arena)
{
    core_dumpable_restore();
    arena_let_go(arena);
}

static PyObject *spawn(const struct programs *programs, unsigned long long flags, int cgroup, int clone3, PyObject *sync,
                       int meanwhile, PyObject *into)
{
    struct arena arena = {0};
    if (arena_fill(&arena, programs, flags, cgroup, clone3, sync != NULL))
        return NULL;
    PyObject *result = spawn_in(&arena, sync, meanwhile, into);
    arena_end(&arena);
    return result;
}

PyObject *core_spawn(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"program",  "inputs", "flags",  "join",   "join_shares", "payload", "init", "gate",
                            "pid_text", "sync",   "cgroup", "clone3", "into",        "meanwhile", NULL};
    struct programs programs = {.gate = -1, .pid_text = -1};
    PyObject *join = Py_None, *payload = Py_None, *init = Py_None, *sync = Py_None, *into = Py_None, *result = NULL;
    unsigned long long flags;
    int cgroup = -1, clone3 = 1, join_shares = 0, meanwhile = 0;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y#OK|$OpOOLLOipOp:spawn", names, &programs.blob[PROGRAM].buf,
                                     &programs.blob[PROGRAM].len, &programs.inputs[PROGRAM], &flags, &join,
                                     &join_shares, &payload, &init, &programs.gate, &programs.pid_text, &sync, &cgroup,
                                     &clone3, &into, &meanwhile))
        return NULL;
    sync = sync == Py_None ? NULL : sync;
    programs.shares = join == Py_None || join_shares || sync;
    if (programs_parse(join, &programs, JOIN) == 0 && programs_parse(payload, &programs, PAYLOAD) == 0 &&
        programs_parse(init, &programs, INIT) == 0 && programs_check(&programs) == 0)
        result = spawn(&programs, flags, cgroup, clone3, sync, meanwhile,
                       into == Py_None ? NULL : into);
    return result;
}
