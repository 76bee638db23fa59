/* begin: a spawn whose caller goes on at once, and comes back for the child later.
 *
 * The namespaces of the next sandbox are made so (ramet/run/ahead.py): the kernel takes half a millisecond to make them, on
 * another CPU while the caller looks after its payload. All of it runs in the processes that are cloned here, which
 * have the caller's memory, as in spawn.c, and touch none of it but their own mapping. What is different, since nobody
 * waits for the intermediate process:
 *
 * - It leaves the caller's table of descriptors by its first step, with a copy of the lower part (ramet/plan/life.py); what it is
 *   given stays open until `meet`. So the kernel would put a pidfd where the caller can't see it; one is opened when the child
 *   is wanted. The pid can be nobody else's until we have reaped it.
 * - The kernel writes the child's pid into the mapping (CLONE_PARENT_SETTID), so that it is known even of an intermediate
 *   that was killed.
 * - Whoever drops the object ends the child, and waits until it has left the memory, before that is unmapped.
 */
#include "spawn.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

const char core_begin_doc[] =
    "begin(program, inputs, flags, join)\n"
    "--\n\n"
    "Start what spawn would start, with a program that waits for the caller, and return at once. The object that is\n"
    "returned has meet(sync), which calls sync(pid, pidfd) while the child waits and returns whether there is one,\n"
    "and end(), which waits until it has ended and returns whether all of its steps were made. join is (program, inputs); it\n"
    "begins with the caller's table of descriptors. What they are given stays open until sync is called.";

struct begun {
    PyObject_HEAD
    PyObject *bytes, *join; /* what the programs are parts of */
    struct arena arena;
    long intermediate;
    pid_t owner;
    int open;  /* is there an arena? */
    int whole; /* were all steps made? */
};

static int interrupted(long result) { return result < 0 && errno == EINTR; }

/* The child, with a pidfd of its own, when the intermediate process has ended. */
static void meet(struct begun *self)
{
    struct child *child = self->arena.child;
    if (!self->intermediate)
        return;
    while (interrupted(waitpid((pid_t)self->intermediate, NULL, __WALL)))
        ;
    self->intermediate = 0;
    if (child->tid <= 0) {
        if (child->failed.stage == STAGE_NONE)
            child->failed = (struct failure){.stage = STAGE_CLONE, .error = EINTR}; /* somebody has killed it */
        return;
    }
    long pidfd = sys2(__NR_pidfd_open, child->tid, 0);
    if (!sys_failed(pidfd)) {
        child->pid = child->tid;
        child->pidfd = (int32_t)pidfd;
        return;
    }
    sys2(__NR_kill, child->tid, SIGKILL); /* still ours, as nobody has reaped it */
    while (interrupted(waitpid(child->tid, NULL, __WALL)))
        ;
    child->failed = (struct failure){.stage = STAGE_CLONE, .error = (int32_t)-pidfd};
}

static int ours(const struct begun *self)
{
    if (self->open && self->owner == getpid())
        return 1;
    PyErr_SetString(PyExc_ValueError, "nothing was begun here");
    return 0;
}

static PyObject *begun_meet(PyObject *object, PyObject *sync)
{
    struct begun *self = (struct begun *)(void *)object;
    struct child *child = self->arena.child;
    uint64_t mask;
    if (!ours(self))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    set_mask(ALL_SIGNALS, &mask);
    meet(self);
    Py_END_ALLOW_THREADS
    int failed = child->pid > 0 ? child_sync(sync, mask, child) : 0;
    set_mask(mask, NULL);
    return failed ? NULL : PyBool_FromLong(child->pid > 0);
}

/* Wait until the child has ended, and let go of what it ran in. */
static void finish(struct begun *self)
{
    struct child *child = self->arena.child;
    self->open = 0;
    Py_BEGIN_ALLOW_THREADS
    meet(self);
    if (child->pid > 0) {
        wait_left_memory(child);
        child_reap(child->pidfd);
    }
    Py_END_ALLOW_THREADS
    self->whole = child->whole != 0;
    arena_end(&self->arena);
}

static PyObject *begun_end(PyObject *object, PyObject *none)
{
    struct begun *self = (struct begun *)(void *)object;
    (void)none;
    if (!ours(self))
        return NULL;
    finish(self);
    return PyBool_FromLong(self->whole);
}

static void begun_dealloc(PyObject *object)
{
    struct begun *self = (struct begun *)(void *)object;
    if (self->open && self->owner == getpid()) {
        Py_BEGIN_ALLOW_THREADS
        meet(self);
        Py_END_ALLOW_THREADS
        if (self->arena.child->pid > 0)
            sys4(__NR_pidfd_send_signal, self->arena.child->pidfd, SIGKILL, 0, 0);
        finish(self);
    } else if (self->open) { /* in a fork: a copy, of which nobody is the child */
        munmap(self->arena.base, self->arena.size);
    }
    Py_XDECREF(self->bytes);
    Py_XDECREF(self->join);
    PyObject_Free(object);
}

static PyMethodDef begun_methods[] = {
    {"meet", begun_meet, METH_O, NULL},
    {"end", begun_end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject core_begun_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "ramet._core.Begun",
    .tp_basicsize = sizeof(struct begun),
    .tp_dealloc = begun_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A child that was started by begin.",
    .tp_methods = begun_methods,
};

static int start(struct begun *self, const struct programs *programs, unsigned long long flags)
{
    uint64_t mask;
    if (programs_check(programs) || arena_fill(&self->arena, programs, flags, -1, 1, 1))
        return -1;
    struct child *child = self->arena.child;
    child->tid = 0;
    child->clone.flags = (child->clone.flags & ~(uint64_t)CLONE_PIDFD) | CLONE_PARENT_SETTID;
    child->clone.parent_tid = child->clone.pidfd = (uint64_t)(uintptr_t)&child->tid; /* clone(2) has one for both */
    Py_BEGIN_ALLOW_THREADS
    set_mask(ALL_SIGNALS, &mask);
    self->intermediate = join_start(child, self->arena.join_stack, 0);
    set_mask(mask, NULL);
    Py_END_ALLOW_THREADS
    if (self->intermediate > 0) {
        self->open = 1;
        return 0;
    }
    int error = child->failed.error;
    arena_end(&self->arena);
    core_oserror(error, "clone3");
    return -1;
}

PyObject *core_begin(PyObject *module, PyObject *args)
{
    struct programs programs = {.gate = -1, .pid_text = -1, .shares = 1};
    PyObject *bytes, *join;
    unsigned long long flags;
    (void)module;
    if (!PyArg_ParseTuple(args, "SOKO!:begin", &bytes, &programs.inputs[PROGRAM], &flags, &PyTuple_Type, &join) ||
        programs_parse(join, &programs, JOIN))
        return NULL;
    programs.blob[PROGRAM].buf = PyBytes_AS_STRING(bytes);
    programs.blob[PROGRAM].len = PyBytes_GET_SIZE(bytes);
    struct begun *self = PyObject_New(struct begun, &core_begun_type);
    if (!self)
        return NULL;
    self->bytes = Py_NewRef(bytes);
    self->join = Py_NewRef(join);
    self->arena = (struct arena){0};
    self->intermediate = 0;
    self->owner = getpid();
    self->open = self->whole = 0;
    if (start(self, &programs, flags)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}
