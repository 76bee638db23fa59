/* trace: follow a command and all that it starts by ptrace(2), and write down the calls that a table names.
 *
 * The command has installed a seccomp filter that stops it at those calls and at no others, so all others run at full
 * speed; the kernel says at a stop what was called, with which arguments (PTRACE_GET_SYSCALL_INFO), in one form for all
 * architectures. Records go into a buffer that Python drains; what they mean, and who is whose child, is Python's.
 * What is easily got wrong about ptrace, and what is done about it:
 *
 *  1. A new task may stop before its maker's event tells of it. It is held until then, for it inherits from its maker how
 *     it is to be followed. A maker that is killed between the two never tells: its child is the one that nobody
 *     who lives can have made.
 *  2. A thread that execs takes the leader's id: the event comes under that id, and neither the former id nor the former
 *     leader is ever reported as ended.
 *  3. Stops of a stopped process (PTRACE_EVENT_STOP with a stop signal) are answered with PTRACE_LISTEN, so that the
 *     process stays stopped and SIGCONT is seen. All other signals are passed on as they came.
 *  4. A filter of the tracee's own may answer before ours is asked (an errno is stronger than a trace). Who installs one
 *     is from then on stopped at every call (`every`), and so are its children. That is also the way without a filter.
 *  5. A maker that is not in our pid namespace gets another number from clone than we: only there the call's end is
 *     awaited; elsewhere one stop is saved.
 *  6. CLONE_UNTRACED would leave the child with a filter that asks for a tracer it does not have. The bit is taken out
 *     for the time of the call, and put back: it means nothing else.
 *  7. Everything may be gone at any moment (SIGKILL): ESRCH is no error, the end is reported by the next wait.
 */
#include "core.h"

#include "trace.h"
#include "tracee.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define BUCKETS 1024
#ifndef BUFFER_SIZE /* the fuzzer has smaller ones */
#define TAIL_MAX 16384
#define BUFFER_SIZE (1 << 18)
#endif
#define PATH_ROOM 4096
#define TSYNC 1 /* SECCOMP_FILTER_FLAG_TSYNC: the filter is for all threads of the process */

struct task {
    struct task *next;
    pid_t tid, process;
    uint8_t every;     /* is stopped at every call */
    uint8_t foreign;   /* its children may be in another pid namespace than ours */
    uint8_t announced; /* its maker is known */
    uint8_t held;      /* has stopped for the first time, and waits for that */
    uint8_t begun;     /* has gone on from there */
    uint8_t unread;    /* what it executes could not be read beforehand */
    uint8_t making;    /* is in a call that makes a task, and has not told of it */
    uint16_t call;     /* the kind of the call it is in; 0: none */
    uint32_t arch;     /* of that call, and its flags */
    uint64_t flags;
    uint64_t untraced; /* address of struct clone_args without its CLONE_UNTRACED, IN_REGISTER, or 0 */
};

struct tracer {
    struct task *buckets[BUCKETS];
    size_t alive, held;
    struct task *lost; /* who ended while making */
    const struct trace_call *calls;
    size_t n_calls;
    unsigned char *buffer;
    size_t used;
    int error, ending;
};

/* Tasks */

static struct task **place_of(struct tracer *t, pid_t tid)
{
    struct task **place = &t->buckets[(unsigned)tid % BUCKETS];
    while (*place && (*place)->tid != tid)
        place = &(*place)->next;
    return place;
}

/* NULL only if memory has run out, which t->error then says. */
static struct task *task_of(struct tracer *t, pid_t tid)
{
    struct task **place = place_of(t, tid);
    if (!*place) {
        struct task *task = calloc(1, sizeof *task);
        if (!task) {
            t->error = ENOMEM;
            return NULL;
        }
        task->tid = task->process = tid;
        *place = task;
        t->alive++;
    }
    return *place;
}

static struct task *taken_out(struct tracer *t, pid_t tid)
{
    struct task **place = place_of(t, tid), *task = *place;
    if (task) {
        *place = task->next;
        t->alive--;
        t->held -= task->held;
    }
    return task;
}

static void forget(struct tracer *t, pid_t tid) { free(taken_out(t, tid)); }

static struct task *first_from(struct tracer *t, size_t *bucket, struct task *task)
{
    while (!task && *bucket < BUCKETS)
        task = t->buckets[(*bucket)++];
    return task;
}

#define each_task(t, each)                                                                                             \
    size_t bucket_of_##each = 0;                                                                                       \
    for (struct task *each = first_from(t, &bucket_of_##each, NULL); each;                                             \
         each = first_from(t, &bucket_of_##each, each->next))

/* Records */

static struct trace_record *record(struct tracer *t, enum trace_kind kind, pid_t tid, int64_t value)
{
    struct trace_record *new = (struct trace_record *)(void *)(t->buffer + t->used);
    memset(new, 0, sizeof *new);
    new->size = sizeof *new;
    new->kind = (uint16_t)kind;
    new->tid = tid;
    new->value = value;
    t->used += sizeof *new;
    return new;
}

/* There is room for TAIL_MAX behind the newest record: see drain. */
static unsigned char *tail_of(struct trace_record *record) { return (unsigned char *)(record + 1); }

static void tail_is(struct tracer *t, struct trace_record *record, size_t length)
{
    size_t padded = (length + 7) & ~(size_t)7;
    memset(tail_of(record) + length, 0, padded - length);
    record->tail = (uint32_t)length;
    record->size = (uint32_t)(sizeof *record + padded);
    t->used += padded;
}


static void take_out_untraced(struct task *task)
{
    task->untraced = task->call == CALL_CLONE ? IN_REGISTER : task->untraced;
    tracee_flip_untraced(task->tid, task->arch, task->untraced);
}

/* Of the maker at the call's end, and of its child, whose copies of registers and memory lack it too. */
static void put_back_untraced(struct task *task)
{
    int result_took_its_place = !ARGUMENT_SURVIVES && task->untraced == IN_REGISTER;
    int same_memory = !task->begun && task->untraced != IN_REGISTER && task->flags & CLONE_VM;
    if (task->untraced && !result_took_its_place && !same_memory)
        tracee_flip_untraced(task->tid, task->arch, task->untraced);
    task->untraced = 0;
}

/* Calls */

static const struct trace_call *call_of(const struct tracer *t, const struct ptrace_syscall_info *info)
{
    for (size_t i = 0; i < t->n_calls; i++)
        if (t->calls[i].number == info->entry.nr && t->calls[i].arch == info->arch)
            return &t->calls[i];
    return NULL;
}

static void read_tail(struct tracer *t, struct task *task, const struct trace_call *call, struct trace_record *new)
{
    char *tail = (char *)tail_of(new);
    size_t length = 0;
    uint64_t *args = new->args;
    if (call->kind == CALL_CLONE3) {
        size_t size = args[1] < PATH_ROOM ? args[1] : PATH_ROOM;
        length = tracee_memory(task->tid, args[0], tail, size);
        if (length >= sizeof task->flags)
            memcpy(&task->flags, tail, sizeof task->flags);
        else if (length < size)
            new->tail_state |= TRACE_UNREADABLE;
    } else if (call->kind == CALL_EXECVE || call->kind == CALL_EXECVEAT) {
        int first = call->kind == CALL_EXECVEAT;
        length = tracee_string(task->tid, args[first], tail, PATH_ROOM, &new->tail_state);
        if (length)
            length += tracee_argv(task->tid, args[first + 1], call->pointer_size, tail + length, TAIL_MAX - length,
                                &new->tail_state);
        task->unread = !length;
    }
    tail_is(t, new, length);
}

/* The task is at the beginning of a call. */
static void enter(struct tracer *t, struct task *task)
{
    struct ptrace_syscall_info info;
    memset(&info, 0, sizeof info);
    if (task->call || sys_failed(ptrace_of(PTRACE_GET_SYSCALL_INFO, task->tid, (const void *)sizeof info, &info)))
        return; /* at a call of one that is followed by every call, our filter stops it once more */
    const struct trace_call *call = call_of(t, &info);
    if (!call)
        return;
    task->call = call->kind;
    task->arch = info.arch;
    task->flags = info.entry.args[0];
    if (call->kind == CALL_SECCOMP || call->kind == CALL_PRCTL) {
        task->flags = call->kind == CALL_SECCOMP ? info.entry.args[1] : 0;
        return;
    }
    if (call->kind == CALL_PLAIN || call->kind == CALL_CLONE3)
        task->flags = 0;
    task->making = call->kind >= CALL_PLAIN && call->kind <= CALL_CLONE3;
    struct trace_record *new = record(t, TRACE_ENTER, task->tid, (int64_t)info.entry.nr);
    new->arch = info.arch;
    memcpy(new->args, info.entry.args, sizeof new->args);
    read_tail(t, task, call, new);
    task->untraced = call->kind == CALL_CLONE3 ? info.entry.args[0] : 0;
    if (task->untraced + (call->kind == CALL_CLONE) && task->flags & CLONE_UNTRACED)
        take_out_untraced(task);
    else
        task->untraced = 0;
}

static void own_filter(struct tracer *t, struct task *task)
{
    task->every = 1;
    if (!(task->flags & TSYNC))
        return;
    each_task(t, other) if (other != task && other->process == task->process && !other->every)
    {
        other->every = 1;
        ptrace_of(PTRACE_INTERRUPT, other->tid, 0, 0); /* how it goes on is said at a stop */
    }
}

static void leave(struct tracer *t, struct task *task, const struct ptrace_syscall_info *info)
{
    int64_t result = info->exit.rval;
    int done = !info->exit.is_error;
    put_back_untraced(task);
    if (task->call == CALL_SECCOMP || task->call == CALL_PRCTL) {
        if (done)
            own_filter(t, task);
    } else if (task->call) {
        record(t, TRACE_LEAVE, task->tid, result);
        if (done && (task->call == CALL_SETNS || (task->call == CALL_UNSHARE && task->flags & CLONE_NEWPID)))
            task->foreign = 1;
    }
    task->call = task->making = 0;
}

static void at_call(struct tracer *t, struct task *task)
{
    struct ptrace_syscall_info info;
    memset(&info, 0, sizeof info);
    if (sys_failed(ptrace_of(PTRACE_GET_SYSCALL_INFO, task->tid, (const void *)sizeof info, &info)))
        return;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        task->call = task->making = 0;
        enter(t, task);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
        leave(t, task, &info);
    }
}

/* New tasks */

static void go_on(struct task *task, int signal)
{
    long request = task->every || task->call ? PTRACE_SYSCALL : PTRACE_CONT;
    ptrace_of(request, task->tid, 0, (const void *)(uintptr_t)signal);
}

/* Its maker is known, and it stands at its first stop. */
static void begin(struct tracer *t, struct task *child)
{
    t->held -= child->held;
    child->held = 0;
    put_back_untraced(child);
    child->begun = 1;
    go_on(child, 0);
}

static void announce(struct tracer *t, struct task *maker, struct task *child)
{
    record(t, TRACE_CHILD, maker->tid, child->tid);
    child->announced = 1;
    child->every = maker->every;
    child->foreign = maker->foreign || (maker->flags & CLONE_NEWPID && maker->call != CALL_PLAIN);
    if (maker->flags & CLONE_THREAD)
        child->process = maker->process;
    if (child->foreign)
        record(t, TRACE_INSIDE, child->tid, tracee_tid_inside(child->tid));
    child->untraced = maker->untraced;
    child->flags = maker->flags;
    child->arch = maker->arch;
    maker->making = 0;
    if (child->held)
        begin(t, child);
}

static void made_child(struct tracer *t, struct task *maker)
{
    unsigned long tid = 0;
    ptrace_of(PTRACE_GETEVENTMSG, maker->tid, 0, &tid);
    struct task *child = tid ? task_of(t, (pid_t)tid) : NULL;
    if (child)
        announce(t, maker, child);
    if (!maker->foreign && !maker->untraced)
        maker->call = 0;
}

static int number_after(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? atoi(at + strlen(name)) : 0;
}

/* Can anybody who lives have made it? By its parent, or its process, which /proc tells. */
static int maker_lives(struct tracer *t, const struct task *child)
{
    char text[4096];
    text[tracee_proc(child->tid, "status", text, sizeof text - 1)] = 0;
    int process = number_after(text, "\nTgid:"), parent = number_after(text, "\nPPid:");
    each_task(t, maker) if (maker->making && (!process || maker->flags & CLONE_PARENT || maker->process == process ||
                                              maker->process == parent)) return 1;
    return 0;
}

static int full(const struct tracer *t) { return t->used > BUFFER_SIZE / 2; }

/* Makers were killed before they could tell: what has stopped, and is of nobody else, is theirs. How many they are is
 * the command's to choose, so as many as there is room to record: the others come when the buffer has been drained. */
static void adopt(struct tracer *t)
{
    each_task(t, child)
    {
        struct task *maker = t->lost;
        if (!maker || full(t))
            return;
        if (child->held && !maker_lives(t, child)) {
            t->lost = maker->next;
            announce(t, maker, child);
            free(maker);
        }
    }
}

static void executed(struct tracer *t, struct task *task)
{
    unsigned long former = 0;
    ptrace_of(PTRACE_GETEVENTMSG, task->tid, 0, &former);
    int unread = task->unread;
    if (former && (pid_t)former != task->tid) {
        struct task *caller = *place_of(t, (pid_t)former);
        if (caller) {
            unread = caller->unread;
            task->every = caller->every;
            task->foreign = caller->foreign;
            forget(t, (pid_t)former);
        }
    }
    task->call = task->making = task->unread = 0;
    struct trace_record *new = record(t, TRACE_EXEC, task->tid, former ? (int64_t)former : task->tid);
    if (unread)
        tail_is(t, new, tracee_program(task->tid, (char *)tail_of(new), TAIL_MAX));
}

/* Stops */

static int stops(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

static void stopped(struct tracer *t, struct task *task, int status)
{
    int signal = (status >> 8) & 0xff, pass_on = 0;
    switch (status >> 16) {
    case PTRACE_EVENT_SECCOMP:
        if (!task->every)
            task->call = task->making = 0;
        enter(t, task);
        break;
    case PTRACE_EVENT_FORK:
    case PTRACE_EVENT_VFORK:
    case PTRACE_EVENT_CLONE:
        made_child(t, task);
        break;
    case PTRACE_EVENT_EXEC:
        executed(t, task);
        break;
    case PTRACE_EVENT_STOP:
        if (!task->begun) {
            task->held = 1;
            t->held++;
            if (task->announced)
                begin(t, task);
            return;
        }
        if (stops(signal)) {
            ptrace_of(PTRACE_LISTEN, task->tid, 0, 0);
            return;
        }
        break;
    case 0:
        if (signal == (SIGTRAP | 0x80))
            at_call(t, task);
        else
            pass_on = signal;
        break;
    default:
        break;
    }
    go_on(task, pass_on);
}

static void ended(struct tracer *t, struct task *task, int status)
{
    record(t, TRACE_END, task->tid, status);
    taken_out(t, task->tid);
    if (task->making) {
        task->next = t->lost;
        t->lost = task;
    } else {
        free(task);
    }
}

/* Until the buffer is full (1) or nobody is left (0). Without the GIL. */
static int follow(struct tracer *t)
{
    while (t->alive && !t->error) {
        if (t->held && t->lost)
            adopt(t);
        if (full(t))
            return 1;
        int status = 0;
        long tid = sys4(__NR_wait4, -1, &status, __WALL | __WNOTHREAD, 0);
        if (tid == -EINTR)
            continue;
        if (sys_failed(tid)) {
            t->error = tid == -ECHILD ? 0 : (int)-tid;
            return 0;
        }
        struct task *task = task_of(t, (pid_t)tid);
        if (!task)
            break;
        if ((status & 0xff) == 0x7f && t->ending)
            sys2(__NR_kill, tid, SIGKILL);
        else if ((status & 0xff) == 0x7f)
            stopped(t, task, status);
        else
            ended(t, task, status);
    }
    return 0;
}

static void end_all(struct tracer *t)
{
    t->ending = 1;
    each_task(t, task) sys2(__NR_kill, task->tid, SIGKILL);
}

static int drain(struct tracer *t, PyObject *sink)
{
    PyObject *result = PyObject_CallFunction(sink, "y#", (const char *)t->buffer, (Py_ssize_t)t->used);
    t->used = 0;
    Py_XDECREF(result);
    return result != NULL;
}

static int seize(struct tracer *t, pid_t pid, int every)
{
    uintptr_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                        PTRACE_O_TRACEEXEC | PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL;
    long result = ptrace_of(PTRACE_SEIZE, pid, 0, (const void *)options);
    if (sys_failed(result))
        return (int)-result;
    struct task *task = task_of(t, pid);
    if (!task)
        return t->error;
    task->announced = task->begun = 1;
    task->every = (uint8_t)every;
    if (every)
        ptrace_of(PTRACE_INTERRUPT, pid, 0, 0);
    return 0;
}

static void release(struct tracer *t)
{
    while (t->alive) {
        size_t bucket = 0;
        forget(t, first_from(t, &bucket, NULL)->tid);
    }
    while (t->lost) {
        struct task *next = t->lost->next;
        free(t->lost);
        t->lost = next;
    }
    free(t->buffer);
    free(t);
}

const char core_trace_doc[] =
    "trace(pid, every, calls, ready, sink)\n"
    "--\n\n"
    "Follow a child and all that it starts until the last of them has ended; the calling thread is their tracer.\n"
    "calls is an array of struct trace_call (csrc/trace.h). every: the child has no filter that stops it at these\n"
    "calls, so stop it at each. ready() is called once it is followed; sink(bytes) with records as they come.\n"
    "An exception of either ends them all. Raises OSError. Follows ptrace(2).";

PyObject *core_trace(PyObject *module, PyObject *args)
{
    int pid, every;
    Py_buffer calls;
    PyObject *ready, *sink;
    (void)module;
    if (!PyArg_ParseTuple(args, "ipy*OO:trace", &pid, &every, &calls, &ready, &sink))
        return NULL;
    struct tracer *t = calloc(1, sizeof *t);
    if (t)
        t->buffer = malloc(BUFFER_SIZE);
    if (!t || !t->buffer) {
        free(t);
        PyBuffer_Release(&calls);
        return PyErr_NoMemory();
    }
    t->calls = calls.buf;
    t->n_calls = (size_t)calls.len / sizeof *t->calls;
    int more = 0, failed = 0;
    t->error = seize(t, pid, every);
    if (t->error) {
        core_oserror(t->error, "ptrace");
        failed = 1;
    } else {
        PyObject *result = PyObject_CallNoArgs(ready);
        failed = !result;
        Py_XDECREF(result);
    }
    do {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        Py_BEGIN_ALLOW_THREADS
        if (failed)
            end_all(t);
        more = follow(t);
        Py_END_ALLOW_THREADS
        PyErr_Restore(type, value, traceback);
        if (failed)
            t->used = 0;
        else if (!drain(t, sink))
            failed = more = 1;
    } while (more);
    if (t->error && !failed) {
        core_oserror(t->error, "wait4");
        failed = 1;
    }
    release(t);
    PyBuffer_Release(&calls);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}
