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
 * 3. Stack. The child's own, mapped for it, over a guard page.
 * 4. CLONE_VFORK and sync. CLONE_VFORK stops this thread until the exec, so a plan in which the child waits for
 *    the caller can't have it: then `sync` is called while the child runs, and a futex the kernel clears when the
 *    child leaves our memory (CLONE_CHILD_CLEARTID) takes the place of the vfork wait. The compiler decides which.
 * 5. Dumpable. Credential changes in the child clear the dumpable flag of the memory it shares with us. Saved before
 *    the first of several spawns at once, restored after the last. A child that joins namespaces of others has a copy
 *    of our memory instead (setns into a time namespace demands that, too), and clears the copy's flag first: so a
 *    process in there cannot ptrace the child or read our memory through it (the shape of CVE-2016-9962), and
 *    no other child finds its /proc/self closed meanwhile. Only with a sync step, where the caller must go on while
 *    the child waits, is the memory shared there; that is a privileged caller, to whom /proc/self is open. And with
 *    join_shares: for namespaces that the caller has made ahead, in which nobody is.
 * 6. Leaks. The plan's close_range ends what O_CLOEXEC missed; what is exec'd first is a sealed memfd
 *    (the shape of CVE-2019-5736); the plan enters the working directory when no descriptor of the host is left
 *    (the shape of CVE-2024-21626).
 * 7. The kernel's answers. clone3 may be ENOSYS under a container's filter: then, and only then, clone.
 * 8. The pid race. Always CLONE_PIDFD, and exit_signal 0, so that until the exec a caller that waits for any child
 *    sees nothing of it. exec makes it SIGCHLD, whatever it was (de_thread() in the kernel): a caller that ignores
 *    SIGCHLD or waits for any child may take the end away, so how it ended is asked of init, or of the pidfd. The plan begins with the parent-death signal and then looks whether the caller
 *    is still there, so there is no moment at which a dead caller leaves a waiting child.
 */
#include "core.h"

#include "child.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

const char core_spawn_doc[] =
    "spawn(program, inputs, flags, *, join=None, join_inputs=(), join_shares=False, sync=None, cgroup=-1, clone3=True,\n"
    "      into=None)\n"
    "--\n\n"
    "Clone a child that runs program (see csrc/steps.h) and return (pid, pidfd, 0, 0, 0) once it has\n"
    "exec'd, or (-1, -1, stage, step, errno) if a step failed; then the child is gone and reaped.\n"
    "inputs are (offset, value) pairs stored in the program's data. join is run by an intermediate\n"
    "process first, which has a copy of our memory, unless join_shares says that nobody else is where it\n"
    "goes. sync(pid, pidfd) is called while the child waits for it. into is given the attributes\n"
    "pid and pidfd before a signal handler can run, which may throw the result away by raising.\n"
    "Raises OSError when there is no memory for the child's stack. Follows clone(2).";

#define PAGE 4096u

/* The caller's thread state that a clone disturbs. */
struct guard {
    uint64_t mask;
};

static void guard_enter(struct guard *guard)
{
    uint64_t all = ~(uint64_t)0;
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &guard->mask, KERNEL_SIGSET_BYTES);
}

static void guard_leave(const struct guard *guard)
{
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &guard->mask, 0, KERNEL_SIGSET_BYTES);
}

/* One mapping: guard page | child's stack | [guard page | intermediate's stack |] struct child | data */
struct arena {
    unsigned char *base;
    size_t size;
    unsigned char *stack, *join_stack;
    struct child *child;
    unsigned char *data, *join_data;
};

static size_t page_up(size_t size) { return (size + PAGE - 1) & ~(size_t)(PAGE - 1); }

static int arena_make(struct arena *arena, size_t data_size, size_t join_size, int joins, int join_shares)
{
    size_t stacks = (CHILD_STACK_SIZE + PAGE) * (joins ? 2 : 1);
    size_t child_at = stacks, data_at = child_at + page_up(sizeof(struct child));
    size_t join_at = data_at + page_up(data_size);
    arena->size = join_at + page_up(join_size);
    /* Shared where the child has a copy of our memory: what it reports must reach us. */
    int sharing = joins && !join_shares ? MAP_SHARED : MAP_PRIVATE;
    void *base = mmap(NULL, arena->size, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return errno;
    arena->base = base;
    arena->stack = arena->base + PAGE;
    arena->join_stack = joins ? arena->stack + CHILD_STACK_SIZE + PAGE : NULL;
    arena->child = (struct child *)(void *)(arena->base + child_at);
    arena->data = arena->base + data_at;
    arena->join_data = arena->base + join_at;
    if (mprotect(arena->stack - PAGE, PAGE, PROT_NONE) ||
        (joins && mprotect(arena->join_stack - PAGE, PAGE, PROT_NONE))) {
        int error = errno;
        munmap(arena->base, arena->size);
        return error;
    }
    return 0;
}

static int store_inputs(PyObject *inputs, unsigned char *data, uint32_t data_size)
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

static int load(struct loaded *loaded, const Py_buffer *blob, unsigned char *data, PyObject *inputs)
{
    const struct program *header = blob->buf;
    memcpy(data, program_data(blob->buf), header->data_size);
    *loaded = program_load(blob->buf, data);
    return inputs ? store_inputs(inputs, data, header->data_size) : 0;
}

static int blob_check(const Py_buffer *blob)
{
    if (program_check(blob->buf, (size_t)blob->len))
        return 0;
    PyErr_SetString(PyExc_ValueError, "malformed program");
    return -1;
}

/* Wait until the kernel has cleared the word: the child has exec'd or ended. */
static void wait_left_memory(struct child *child)
{
    while (child->running)
        sys4(__NR_futex, &child->running, FUTEX_WAIT, 1, 0);
}

static void reap(int pidfd)
{
    siginfo_t info;
    /* ECHILD: a CLONE_AUTOREAP child (Linux 7.1) leaves nothing to reap */
    while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | __WALL) && errno == EINTR)
        ;
    close(pidfd);
}

static void fail_clone(struct child *child, long error)
{
    child->failed_stage = STAGE_CLONE;
    child->failed_errno = (int32_t)-error;
}

/* Start the child directly. With CLONE_VFORK this returns when it has left our memory. */
static void start(struct child *child)
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
 * they go nobody else is, it may be. */
static void start_joined(struct child *child, unsigned char *stack)
{
    struct kernel_clone_args args = {
        .flags = (outlives(child) ? CLONE_VM : 0) | CLONE_VFORK | CLONE_FILES,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = CHILD_STACK_SIZE,
    };
    child->clone.flags |= CLONE_PARENT;
    long pid = clone_on_stack(&args, child->no_clone3, intermediate_main, child);
    if (sys_failed(pid)) {
        fail_clone(child, pid);
        return;
    }
    int status;
    while (waitpid((pid_t)pid, &status, __WALL) < 0 && errno == EINTR)
        ;
}

/* The caller's side of the sync steps. On an exception the child is killed. */
static int run_sync(PyObject *sync, struct child *child)
{
    PyObject *result = PyObject_CallFunction(sync, "Li", (long long)child->pid, (int)child->pidfd);
    if (!result) {
        sys4(__NR_pidfd_send_signal, child->pidfd, SIGKILL, 0, 0);
        return -1;
    }
    Py_DECREF(result);
    return 0;
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
        reap(child->pidfd);
        return NULL;
    }
    return Py_BuildValue("Liiii", (long long)child->pid, (int)child->pidfd, 0, 0, 0);
}

static PyObject *spawn_in(struct arena *arena, PyObject *sync, PyObject *into)
{
    struct child *child = arena->child;
    struct guard guard;
    int synced = 0;

    Py_BEGIN_ALLOW_THREADS
    guard_enter(&guard);
    if (arena->join_stack)
        start_joined(child, arena->join_stack);
    else
        start(child);
    if (!sync && child->pid > 0 && outlives(child))
        wait_left_memory(child);
    if (!sync || child->pid <= 0)
        guard_leave(&guard);
    Py_END_ALLOW_THREADS

    int started = child->pid > 0;
    if (sync && started) {
        /* The Python callback runs with the caller's own mask: Ctrl-C must work while newuidmap hangs. */
        sys4(__NR_rt_sigprocmask, SIG_SETMASK, &guard.mask, 0, KERNEL_SIGSET_BYTES);
        synced = run_sync(sync, child);
        Py_BEGIN_ALLOW_THREADS
        wait_left_memory(child);
        guard_leave(&guard);
        Py_END_ALLOW_THREADS
    }
    if (child->failed_stage == STAGE_NONE && synced == 0)
        return started_as(child, into);
    if (started) {
        Py_BEGIN_ALLOW_THREADS
        reap(child->pidfd);
        Py_END_ALLOW_THREADS
    }
    /* A sync that failed because the child had: the step is the cause. But Ctrl-C stays Ctrl-C. */
    if (synced < 0 && (child->failed_stage == STAGE_NONE || !PyErr_ExceptionMatches(PyExc_Exception)))
        return NULL;
    PyErr_Clear();
    return Py_BuildValue("iiiIi", -1, -1, (int)child->failed_stage, (unsigned)child->failed_step,
                         (int)child->failed_errno);
}

static void describe(struct child *child, unsigned char *stack, unsigned long long flags, int cgroup, int outlives)
{
    child->pidfd = -1;
    child->running = 1;
    child->clone = (struct kernel_clone_args){
        .flags = flags | CLONE_VM | CLONE_PIDFD | (outlives ? CLONE_CHILD_CLEARTID : CLONE_VFORK),
        .pidfd = (uint64_t)(uintptr_t)&child->pidfd,
        .child_tid = (uint64_t)(uintptr_t)&child->running,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = CHILD_STACK_SIZE,
        .cgroup = cgroup < 0 ? 0 : (uint64_t)cgroup,
    };
}

PyObject *core_spawn(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"program", "inputs", "flags",  "join", "join_inputs", "join_shares",
                            "sync",    "cgroup", "clone3", "into", NULL};
    Py_buffer program = {0}, join = {0};
    PyObject *inputs, *join_inputs = NULL, *sync = Py_None, *into = Py_None, *result = NULL;
    unsigned long long flags;
    int cgroup = -1, clone3 = 1, join_shares = 0;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*OK|$z*OpOipO:spawn", names, &program, &inputs, &flags, &join,
                                     &join_inputs, &join_shares, &sync, &cgroup, &clone3, &into))
        return NULL;
    if (sync == Py_None)
        sync = NULL;
    if (blob_check(&program) || (join.buf && blob_check(&join)))
        goto done;

    struct arena arena = {0};
    size_t join_size = join.buf ? ((const struct program *)join.buf)->data_size : 0;
    int error = arena_make(&arena, ((const struct program *)program.buf)->data_size, join_size, join.buf != NULL,
                           join_shares);
    if (error) {
        core_oserror(error, "mmap");
        goto done;
    }
    describe(arena.child, arena.stack, flags, cgroup, sync != NULL || join_shares);
    arena.child->no_clone3 = !clone3;
    if (load(&arena.child->program, &program, arena.data, inputs) == 0 &&
        (!join.buf || load(&arena.child->join, &join, arena.join_data, join_inputs) == 0)) {
        core_dumpable_save();
        result = spawn_in(&arena, sync, into == Py_None ? NULL : into);
        core_dumpable_restore();
    }
    munmap(arena.base, arena.size);
done:
    PyBuffer_Release(&program);
    if (join.buf)
        PyBuffer_Release(&join);
    return result;
}
