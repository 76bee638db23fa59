/* begin: a spawn whose caller goes on at once, and comes back for the child later.
 *
 * The namespaces of the next sandbox are made so (ramet/run/ahead.py): the kernel takes half a millisecond to make them, on
 * another CPU while the caller looks after its payload. All of it runs in the process that is cloned here, which has the
 * caller's memory, as in spawn.c, and touches none of it but its own mapping. What is different, since nobody waits for it:
 *
 * - It leaves the caller's table of descriptors by one of its first steps, with a copy of the lower part (ramet/plan/life.py); what it is
 *   given stays open until `meet`.
 * - Whoever drops the object ends the child, and waits until it has left the memory, before that is unmapped.
 */
#include "spawn.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

const char core_begin_doc[] =
    "begin(program, inputs, flags)\n"
    "--\n\n"
    "Start what spawn would start, with a program that waits for the caller, and return at once. The object that is\n"
    "returned has meet(sync), which calls sync(pid, pidfd) while the child waits,\n"
    "and end(), which waits until it has ended and returns whether all of its steps were made. The program begins with the\n"
    "caller's table of descriptors; what it is given stays open until sync is called.";

struct begun {
    PyObject_HEAD
    PyObject *bytes; /* what the program is part of */
    struct arena arena;
    pid_t owner;
    int open;  /* is there a child, and an arena? */
    int whole; /* were all steps made? */
};

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
    uint64_t mask;
    if (!ours(self))
        return NULL;
    set_mask(ALL_SIGNALS, &mask);
    int failed = child_sync(sync, mask, self->arena.child);
    set_mask(mask, NULL);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* Wait until the child has ended, and let go of what it ran in. */
static void finish(struct begun *self)
{
    struct child *child = self->arena.child;
    self->open = 0;
    Py_BEGIN_ALLOW_THREADS
    wait_left_memory(child);
    child_reap(child);
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
        sys4(__NR_pidfd_send_signal, self->arena.child->pidfd, SIGKILL, 0, 0);
        finish(self);
    } else if (self->open) { /* in a fork: a copy, of which nobody is the child */
        munmap(self->arena.base, self->arena.size);
    }
    Py_XDECREF(self->bytes);
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
    if (programs_check(programs) || arena_fill(&self->arena, programs, flags | CLONE_FILES, -1, 1, 1))
        return -1;
    Py_BEGIN_ALLOW_THREADS
    set_mask(ALL_SIGNALS, &mask);
    child_start(self->arena.child);
    set_mask(mask, NULL);
    Py_END_ALLOW_THREADS
    if (self->arena.child->pid > 0) {
        self->open = 1;
        return 0;
    }
    int error = self->arena.child->failed.error;
    arena_end(&self->arena);
    core_oserror(error, "clone3");
    return -1;
}

PyObject *core_begin(PyObject *module, PyObject *args)
{
    struct programs programs = {.gate = -1, .pid_text = -1, .shares = 1};
    PyObject *bytes;
    unsigned long long flags;
    (void)module;
    if (!PyArg_ParseTuple(args, "SOK:begin", &bytes, &programs.inputs[PROGRAM], &flags))
        return NULL;
    programs.blob[PROGRAM].buf = PyBytes_AS_STRING(bytes);
    programs.blob[PROGRAM].len = PyBytes_GET_SIZE(bytes);
    struct begun *self = PyObject_New(struct begun, &core_begun_type);
    if (!self)
        return NULL;
    self->bytes = Py_NewRef(bytes);
    self->arena = (struct arena){0};
    self->owner = getpid();
    self->open = self->whole = 0;
    if (start(self, &programs, flags)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}
