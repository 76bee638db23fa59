/* call: run a Python function in a CLONE_VM child, on the caller's own stack and thread state.
 *
 * The child is another process (own pid, descriptor table, working directory, namespaces, as the flags say) in
 * the same memory, so it returns any object, and raises any exception, by leaving it where the caller finds it.
 * CLONE_VFORK makes the caller's thread stand still meanwhile: to the interpreter it is one thread that went
 * on in another process and came back. What is dangerous about that, and what is done about it:
 *
 *  1. Stack. Parent and child return from one system call on one stack. See here.h. Depth limits stay right.
 *     A shared record of the call is on the heap, out of reach of either's frames.
 *  2. Signals. The caller's are not blocked (but SIGINT, below): its thread can't run a handler while it waits, a
 *     handled signal stays pending and is delivered after, and a deadly one must still end it at once. The child
 *     has copies of the caller's handlers, and CPython's would mark the signal for the caller. It
 *     therefore gives those that end or call upon a process to a handler that does nothing: a blocked mask or an ignored
 *     signal would reach the programs that the function starts, a default would kill the interpreter's own
 *     thread half-way when Ctrl-C or a hang-up meets the whole process group. Ignored ones stay ignored; SIGSEGV and its
 *     kind keep faulthandler's; SIGCHLD, if handled, becomes default. In the instant before, a
 *     group-wide signal runs the copied handler and marks what the caller's own copy marks anyway.
 *     SIGINT in the main thread: the child's goes to CPython's handler, so that Ctrl-C raises KeyboardInterrupt in
 *     the function, and the caller, which has it blocked meanwhile, then drops its own copy of the same key press.
 *     With CLONE_SIGHAND or CLONE_CLEAR_SIGHAND the dispositions are the user's affair and left alone.
 *     Python's own table of handlers is memory: signal.signal() in the child changes it for the caller too.
 *  3. libc. TLS is shared. The cached thread id stays the caller's, on purpose: it is the owner in locks, and what
 *     the caller locked the child may unlock. Where the kernel is asked (gettid, raise, getpid) the answer
 *     is the child's. setuid() and its like signal no other thread, for there is none of that id in the child's process.
 *     The robust list is empty in the child. The restartable-sequences area is not registered for it (the kernel
 *     drops it for CLONE_VM), so it is marked unregistered until the child leaves; else its cpu number would be stale.
 *  4. GIL. The child starts and ends holding it. In between it may release and take it as any thread: the locks
 *     are futexes keyed by the memory, which all share. The caller releases it while it waits for the exit.
 *  5. A child that dies in the middle (SIGKILL, a fault, os._exit) or is replaced (os.exec*) leaves no mark of completion. Then
 *     the caller takes the GIL if the child did not hold it, puts the thread state (frames, exception state,
 *     recursion, context) back to what it was before the call, and raises. Lost for good: what the dead stack held (references leak,
 *     locks it had taken stay taken, an object it was changing may be half changed). If it died inside malloc
 *     while the process had threads, or while taking or releasing the GIL, the caller hangs at its next use of that
 *     lock, and nothing can tell from outside. That is not far-fetched: of children killed while they did nothing but
 *     grow a list, about one in some hundreds took malloc's lock with it.
 *  6. Calls within calls. When a middle one is killed, its parent wakes while the innermost still runs on this
 *     stack. Its parent-death signal ends it, and we wait for the word the kernel clears when it has left the memory.
 *  7. Threads the function started would be killed by the child's exit, perhaps holding the GIL. So the child waits for
 *     them: the call ends when all its threads have.
 *  8. Dumpable. Credential changes in the child clear the flag of the shared memory, and rightly, as long as the child
 *     runs. It is put back when the last of all calls in progress has ended.
 *     Clear, it keeps an ordinary user's other children from writing their id maps for so long: EACCES.
 *  9. Joining a user namespace puts the child within reach of its processes' ptrace, and a pid namespace the programs it
 *     starts, which share our memory too until they exec (the shape of CVE-2016-9962). So the dumpable flag is
 *     cleared before either is joined. The other kinds show our memory to nobody who did not see it before.
 * 10. A dead caller. Parent-death signal first, then a look whether the parent is still there.
 * 11. fork() in the child gives a normal forked process, with what was given to (2) set back by an atfork handler.
 * 12. exit_group, raw: no atexit, no flush. Python's buffers are memory, and the caller's to flush.
 * 13. The pid race. CLONE_PIDFD and exit_signal 0 as everywhere; with CLONE_FILES the function may have closed the
 *     pidfd, then the pid does: it can't be reused before we have reaped it.
 */
#include "core.h"

#include "here.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char core_call_doc[] =
    "call(fn, args, kwargs, died, flags, *, exit_signal=0, join=(), uid_map=None, gid_map=None, clone3=True)\n"
    "--\n\n"
    "Return fn(*args, **kwargs), run in a child cloned with flags and CLONE_VM | CLONE_VFORK | CLONE_PIDFD.\n"
    "join holds (descriptor, nstype) pairs, given to setns in the child first. If the child ends without\n"
    "returning, return died(status), with status as os.waitpid gives it, or -1 where another has reaped it.\n"
    "Raises what fn raises, and OSError for the clone and the child's own system calls. Follows clone(2).";

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL /* since Linux 5.5 */
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* The thread state's parts that a function changes on its way in and puts back on its way out. */
struct snapshot {
#if PY_VERSION_HEX >= 0x030D0000
    struct _PyInterpreterFrame *current_frame;
#else
    _PyCFrame *cframe;
    _PyCFrame cframe_value;
#endif
#if PY_VERSION_HEX >= 0x030C0000
    int py_recursion_remaining, what_event;
#if PY_VERSION_HEX < 0x030E0000
    int c_recursion_remaining;
#endif
#else
    int recursion_remaining, tracing_what, trash_delete_nesting;
#endif
    int recursion_headroom, tracing, gilstate_counter;
    _PyErr_StackItem *exc_info;
    PyObject *exc_value, *context;
    _PyStackChunk *datastack_chunk;
    PyObject **datastack_top, **datastack_limit;
};

static void snapshot_take(struct snapshot *s, const PyThreadState *t)
{
#if PY_VERSION_HEX >= 0x030D0000
    s->current_frame = t->current_frame;
#else
    s->cframe = t->cframe;
    s->cframe_value = *t->cframe;
#endif
#if PY_VERSION_HEX >= 0x030C0000
    s->py_recursion_remaining = t->py_recursion_remaining;
    s->what_event = t->what_event;
#if PY_VERSION_HEX < 0x030E0000
    s->c_recursion_remaining = t->c_recursion_remaining;
#endif
#else
    s->recursion_remaining = t->recursion_remaining;
    s->tracing_what = t->tracing_what;
    s->trash_delete_nesting = t->trash_delete_nesting;
#endif
    s->recursion_headroom = t->recursion_headroom;
    s->tracing = t->tracing;
    s->gilstate_counter = t->gilstate_counter;
    s->exc_info = t->exc_info;
    s->exc_value = t->exc_info->exc_value;
    s->context = t->context;
    s->datastack_chunk = t->datastack_chunk;
    s->datastack_top = t->datastack_top;
    s->datastack_limit = t->datastack_limit;
}

/* No reference is dropped here: whether the dead child had taken it, nobody knows, so it leaks. */
static void snapshot_restore(const struct snapshot *s, PyThreadState *t)
{
#if PY_VERSION_HEX >= 0x030D0000
    t->current_frame = s->current_frame;
#else
    t->cframe = s->cframe;
    *t->cframe = s->cframe_value;
#endif
#if PY_VERSION_HEX >= 0x030C0000
    t->py_recursion_remaining = s->py_recursion_remaining;
    t->what_event = s->what_event;
#if PY_VERSION_HEX < 0x030E0000
    t->c_recursion_remaining = s->c_recursion_remaining;
#endif
    t->current_exception = NULL;
#else
    t->recursion_remaining = s->recursion_remaining;
    t->tracing_what = s->tracing_what;
    t->trash_delete_nesting = s->trash_delete_nesting;
    t->curexc_type = t->curexc_value = t->curexc_traceback = NULL;
#endif
    t->recursion_headroom = s->recursion_headroom;
    t->tracing = s->tracing;
    t->gilstate_counter = s->gilstate_counter;
    t->exc_info = s->exc_info;
    t->exc_info->exc_value = s->exc_value;
    t->context = s->context;
    t->context_ver++;
    t->datastack_chunk = s->datastack_chunk;
    t->datastack_top = s->datastack_top;
    t->datastack_limit = s->datastack_limit;
}

/* One call, in the memory that caller and child share; on the heap, see (1) and (6). */
struct call {
    struct call *outer; /* the call in whose child this one is made */
    PyThreadState *tstate;
    PyObject *fn, *args, *kwargs, *join;
    const char *uid_map, *gid_map;
    uint64_t flags;
    long caller_pid;
    PyObject *result;
    volatile int done;          /* the child's last word: result, or the error indicator, is set */
    volatile int interrupted;   /* its SIGINT has been marked for Python */
    volatile uint32_t running;  /* futex: the kernel clears it when the child has left our memory */
    int32_t pidfd;
    int main;                   /* made by the main thread */
    int sigint;                 /* SIGINT is handled, and blocked in the caller: mask is what it was */
    sigset_t mask;
    struct snapshot before;
};

static _Thread_local struct call *innermost;
static struct call *volatile main_call; /* innermost of the main thread, for interrupt() */
static void (*volatile python_sigint)(int);

/* (3) */

#define RSEQ_UNREGISTERED ((uint32_t)-1)
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

/* cpu_id_start, then cpu_id; alike while the area is registered. NULL: libc has registered none. */
static volatile uint32_t *rseq_area(void)
{
    if (!&__rseq_size || !&__rseq_offset || !__rseq_size)
        return NULL;
    return (volatile uint32_t *)(void *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void rseq_hide(void)
{
    volatile uint32_t *area = rseq_area();
    if (area)
        area[1] = RSEQ_UNREGISTERED;
}

static void rseq_show(void)
{
    volatile uint32_t *area = rseq_area();
    if (area && area[1] == RSEQ_UNREGISTERED)
        area[1] = area[0];
}

/* (2) */

static const int quieted[] = {SIGHUP,  SIGINT,  SIGQUIT,   SIGUSR1, SIGUSR2, SIGPIPE,
                              SIGALRM, SIGTERM, SIGVTALRM, SIGPROF, SIGIO};
#define N_QUIETED (sizeof quieted / sizeof quieted[0])

static void quiet(int signal) { (void)signal; }

static void interrupt(int signal)
{
    struct call *call = main_call;
    void (*handler)(int) = python_sigint;
    if (call)
        call->interrupted = 1;
    if (handler)
        handler(signal);
}

static void child_signals(struct call *call)
{
    const struct sigaction quiet_action = {.sa_handler = quiet, .sa_flags = SA_RESTART | SA_ONSTACK};
    const struct sigaction interrupt_action = {.sa_handler = interrupt, .sa_flags = SA_ONSTACK};
    const struct sigaction default_action = {.sa_handler = SIG_DFL};
    struct sigaction old;
    if (!(call->flags & (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND))) {
        for (size_t i = 0; i < N_QUIETED; i++) {
            int chain = quieted[i] == SIGINT && call->sigint;
            sigaction(quieted[i], chain ? &interrupt_action : &quiet_action, &old);
            if (old.sa_handler == SIG_IGN)
                sigaction(quieted[i], &old, NULL);
        }
        sigaction(SIGCHLD, NULL, &old);
        if (old.sa_handler != SIG_IGN && old.sa_handler != SIG_DFL)
            sigaction(SIGCHLD, &default_action, NULL);
    }
    if (call->sigint)
        pthread_sigmask(SIG_SETMASK, &call->mask, NULL);
}

/* SIGINT handled, and this the main thread: block it, so that caller and child can agree on one of two. */
static void caller_signals_enter(struct call *call)
{
    struct sigaction old;
    sigset_t set;
    call->sigint = 0;
    if (!call->main || call->flags & (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND))
        return;
    if (sigaction(SIGINT, NULL, &old) || old.sa_handler == SIG_IGN || old.sa_handler == SIG_DFL)
        return;
    if (old.sa_handler != interrupt)
        python_sigint = old.sa_handler;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    call->sigint = pthread_sigmask(SIG_BLOCK, &set, &call->mask) == 0;
}

static void caller_signals_leave(struct call *call)
{
    if (!call->sigint)
        return;
    if (call->interrupted) {
        const struct timespec now = {0};
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigtimedwait(&set, NULL, &now);
        if (call->outer)
            call->outer->interrupted = 1;
    }
    pthread_sigmask(SIG_SETMASK, &call->mask, NULL);
}

/* (11) */
static void after_fork_in_child(void)
{
    const struct sigaction default_action = {.sa_handler = SIG_DFL};
    struct sigaction old;
    if (innermost)
        for (size_t i = 0; i < N_QUIETED; i++)
            if (!sigaction(quieted[i], NULL, &old) && old.sa_handler == quiet)
                sigaction(quieted[i], &default_action, NULL);
    innermost = NULL;
    main_call = NULL;
}

/* The child: what it does before and after the function. Failures are exceptions of the call. */

static int write_file(const char *path, const char *text)
{
    long fd = sys4(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (sys_failed(fd))
        return core_oserror((int)-fd, path), -1;
    long written = sys3(__NR_write, fd, text, strlen(text));
    sys1(__NR_close, fd);
    if (sys_failed(written))
        return core_oserror((int)-written, path), -1;
    return 0;
}

static int join_item(PyObject *join, Py_ssize_t i, int *fd, int *nstype)
{
    return PyArg_ParseTuple(PyTuple_GET_ITEM(join, i), "ii:join", fd, nstype);
}

static int child_join(PyObject *join)
{
    Py_ssize_t count = PyTuple_GET_SIZE(join);
    int fd, nstype;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!join_item(join, i, &fd, &nstype))
            return -1;
        /* a pidfd comes with its types; a namespace tells its own */
        long types = nstype ? nstype : sys2(__NR_ioctl, fd, NS_GET_NSTYPE);
        if (sys_failed(types) || types & (CLONE_NEWUSER | CLONE_NEWPID)) {
            sys2(__NR_prctl, PR_SET_DUMPABLE, 0); /* (9) */
            break;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!join_item(join, i, &fd, &nstype))
            return -1;
        long result = sys2(__NR_setns, fd, nstype);
        if (sys_failed(result))
            return core_oserror((int)-result, "setns"), -1;
    }
    return 0;
}

static int child_enter(struct call *call)
{
    sys2(__NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
    long parent = sys0(__NR_getppid);
    if (parent && parent != call->caller_pid) /* 0: seen from a new pid namespace */
        sys_exit_group(1);
    if (call->uid_map && write_file("/proc/self/uid_map", call->uid_map))
        return -1;
    if (call->gid_map &&
        (write_file("/proc/self/setgroups", "deny") || write_file("/proc/self/gid_map", call->gid_map)))
        return -1;
    return PyTuple_GET_SIZE(call->join) ? child_join(call->join) : 0;
}

/* Has this process more than one thread? unshare answers EINVAL then, and else does nothing; a container's
 * filter may forbid it, so /proc is asked in its place, whose links are two and one a thread. */
static int has_threads(void)
{
    long result = sys1(__NR_unshare, CLONE_THREAD);
    struct stat task;
    if (result == 0 || result == -EINVAL)
        return result != 0;
    return stat("/proc/self/task", &task) == 0 && task.st_nlink > 3;
}

static void wait_for_threads(void)
{
    struct timespec nap = {.tv_nsec = 200000};
    while (has_threads()) {
        Py_BEGIN_ALLOW_THREADS
        sys2(__NR_nanosleep, &nap, 0);
        Py_END_ALLOW_THREADS
        if (nap.tv_nsec < 10000000)
            nap.tv_nsec *= 2;
    }
}

static void called_main(void *arg)
{
    struct call *call = arg;
    rseq_hide();
    child_signals(call);
    if (child_enter(call) == 0)
        call->result = PyObject_Call(call->fn, call->args, call->kwargs);
    wait_for_threads();
    rseq_show();
    call->done = 1;
    sys_exit_group(0);
}

/* The caller */

static struct call *call_enter(uint64_t flags)
{
    static int registered;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, after_fork_in_child) == 0;
    struct call *call = PyMem_Calloc(1, sizeof *call);
    if (!call) {
        PyErr_NoMemory();
        return NULL;
    }
    call->flags = flags;
    call->running = 1;
    call->pidfd = -1;
    call->tstate = PyThreadState_Get();
    call->outer = innermost;
    call->caller_pid = sys0(__NR_getpid);
    call->main = call->outer ? call->outer->main : sys0(__NR_gettid) == call->caller_pid;
    core_dumpable_save(); /* (8) */
    snapshot_take(&call->before, call->tstate);
    caller_signals_enter(call);
    innermost = call;
    if (call->main)
        main_call = call;
    return call;
}

static void call_leave(struct call *call)
{
    innermost = call->outer;
    if (call->main)
        main_call = call->outer;
    core_dumpable_restore();
    caller_signals_leave(call);
    PyMem_Free(call);
}

static PyThreadState *current_thread_state(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#else
    return _PyThreadState_UncheckedGet();
#endif
}

/* The child has left our memory without its last word: make this thread whole again. (5), (6) */
static void recover(struct call *call)
{
    for (struct call *inner = innermost; inner != call; inner = inner->outer)
        while (inner->running)
            sys4(__NR_futex, &inner->running, FUTEX_WAIT, 1, 0);
    if (current_thread_state() != call->tstate)
        PyEval_RestoreThread(call->tstate);
    snapshot_restore(&call->before, call->tstate);
    rseq_show();
    while (innermost != call) {
        struct call *inner = innermost;
        innermost = inner->outer;
        core_dumpable_abandon();
        PyMem_Free(inner);
    }
}

/* Wait for the exit, and return the status as wait4 gives it; -1 when another has reaped it. */
static int reap(long pid, int pidfd)
{
    siginfo_t info = {0};
    long result;
    Py_BEGIN_ALLOW_THREADS
    do
        result = sys5(__NR_waitid, P_PIDFD, pidfd, &info, WEXITED | __WALL, 0);
    while (result == -EINTR);
    if (result == -EBADF || result == -EINVAL) /* closed, or another file by now: CLONE_FILES */
        do
            result = sys5(__NR_waitid, P_PID, pid, &info, WEXITED | __WALL, 0);
        while (result == -EINTR);
    else
        sys1(__NR_close, pidfd);
    Py_END_ALLOW_THREADS
    if (result)
        return -1;
    switch (info.si_code) {
    case CLD_EXITED:
        return (info.si_status & 0xff) << 8;
    case CLD_DUMPED:
        return info.si_status | 0x80;
    default:
        return info.si_status;
    }
}

PyObject *core_call(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fn",   "args",    "kwargs",  "died",   "flags", "exit_signal",
                            "join", "uid_map", "gid_map", "clone3", NULL};
    PyObject *fn, *fn_args, *fn_kwargs, *died, *join = NULL;
    const char *uid_map = NULL, *gid_map = NULL;
    unsigned long long flags;
    int exit_signal = 0, clone3 = 1;
    (void)module;
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_NotImplementedError, "call needs a build with the GIL");
    return NULL;
#endif
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!OOK|$iO!zzp:call", names, &fn, &PyTuple_Type, &fn_args,
                                     &fn_kwargs, &died, &flags, &exit_signal, &PyTuple_Type, &join, &uid_map,
                                     &gid_map, &clone3))
        return NULL;
    PyObject *no_join = join ? NULL : PyTuple_New(0);
    if (!join && !no_join)
        return NULL;

    struct call *call = call_enter(flags);
    if (!call) {
        Py_XDECREF(no_join);
        return NULL;
    }
    call->fn = fn;
    call->args = fn_args;
    call->kwargs = fn_kwargs == Py_None ? NULL : fn_kwargs;
    call->join = join ? join : no_join;
    call->uid_map = uid_map;
    call->gid_map = gid_map;

    const struct kernel_clone_args clone_args = {
        .flags = flags | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CHILD_CLEARTID,
        .pidfd = (uint64_t)(uintptr_t)&call->pidfd,
        .child_tid = (uint64_t)(uintptr_t)&call->running,
        .exit_signal = (uint64_t)exit_signal,
    };
    long pid = clone_here(&clone_args, !clone3, called_main, call);

    int status = 0, done = 1;
    PyObject *result = NULL;
    if (sys_failed(pid)) {
        core_oserror((int)-pid, "clone3");
    } else {
        done = call->done;
        if (!done)
            recover(call);
        status = reap(pid, call->pidfd);
        result = call->result;
    }
    call_leave(call);
    Py_XDECREF(no_join);
    return done ? result : PyObject_CallFunction(died, "i", status);
}
