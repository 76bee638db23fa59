/* clone3 and clone with every field, and a plain system call, for ramet.lowlevel.
 *
 * Two kinds of child:
 *
 * - A Python child goes on where the caller was, in a copy of its memory, as after os.fork. A raw clone tells nobody,
 *   so this file does what libc's fork would have: Python's own fork hooks run, libc's copy of the thread id is
 *   renewed through CLONE_CHILD_SETTID at the address where libc keeps it, and the robust list is set again. What
 *   can't be made good is a lock that another thread holds at that moment: lowlevel.py refuses callers with threads.
 * - A plain child (plain.c) takes any flags: it has a stack of its own and makes nothing but raw system calls. Signals
 *   are blocked around the clone and stay so in the child, so that no handler of Python's runs in there.
 */
#include "core.h"

#include "child.h"
#include "libc_state.h"
#include "plain.h"

#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* On the caller's own stack: only without CLONE_VM. */
static long clone_here(const struct kernel_clone_args *args, int old)
{
    if (!old)
        return sys2(__NR_clone3, args, sizeof *args);
    uint64_t flags = args->flags | args->exit_signal;
    uint64_t word = args->flags & CLONE_PIDFD ? args->pidfd : args->parent_tid;
#if defined(__x86_64__)
    return sys5(__NR_clone, flags, 0, word, args->child_tid, args->tls);
#else
    return sys5(__NR_clone, flags, 0, word, args->tls, args->child_tid);
#endif
}

/* What the kernel writes for a Python child. Not on the stack: CLONE_CHILD_CLEARTID writes when the child ends. */
static struct {
    int32_t pidfd, parent_tid, child_tid;
} words;

static void default_word(uint64_t *field, int32_t *word)
{
    if (!*field)
        *field = (uint64_t)(uintptr_t)word;
}

static PyObject *clone_python(struct kernel_clone_args *args, int old)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_RuntimeError, "only the main interpreter can be cloned");
        return NULL;
    }
    memset(&words, 0, sizeof words);
    words.pidfd = -1;
    struct libc_state state = libc_state();
    if (args->flags & CLONE_PIDFD)
        default_word(&args->pidfd, &words.pidfd);
    if (args->flags & CLONE_PARENT_SETTID)
        default_word(&args->parent_tid, &words.parent_tid);
    if (args->flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)) {
        default_word(&args->child_tid, &words.child_tid);
    } else if (state.tid) {
        args->flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID; /* as libc's fork has them */
        args->child_tid = (uint64_t)(uintptr_t)state.tid;
    }

    PyOS_BeforeFork();
    long pid = clone_here(args, old);
    if (pid == 0) {
        renew_libc(&state);
        PyOS_AfterFork_Child();
    } else {
        PyOS_AfterFork_Parent();
    }
    if (sys_failed(pid))
        return core_oserror((int)-pid, old ? "clone" : "clone3");
    return Py_BuildValue("liii", pid, (int)words.pidfd, (int)words.parent_tid, (int)words.child_tid);
}

/* The calls stay inside the mapping, and refer only to earlier results. */
static int plain_check(const struct plain *plain, size_t size)
{
    size_t room = size - PLAIN_STACK_SIZE - PLAIN_GUARD_SIZE;
    if ((uintptr_t)plain % sizeof(uint64_t) || size < sizeof *plain + PLAIN_STACK_SIZE + PLAIN_GUARD_SIZE ||
        plain->n_calls > (room - sizeof *plain) / sizeof plain->calls[0])
        return 0;
    for (uint32_t i = 0; i < plain->n_calls; i++) {
        for (int j = 0; j < 6; j++) {
            uint64_t kind = (plain->calls[i].kinds >> (2 * j)) & 3u, arg = plain->calls[i].args[j];
            if ((kind == PLAIN_ADDRESS && arg >= room) || (kind == PLAIN_RESULT && arg >= i) || kind == 3)
                return 0;
        }
    }
    return 1;
}

static PyObject *clone_plain(struct kernel_clone_args *args, int old, struct plain *plain, size_t size)
{
    if (!plain_check(plain, size)) {
        PyErr_SetString(PyExc_ValueError, "not a plain child's mapping");
        return NULL;
    }
    if (!args->stack) {
        unsigned char *stack = (unsigned char *)plain + size - PLAIN_STACK_SIZE;
        if (mprotect(stack - PLAIN_GUARD_SIZE, PLAIN_GUARD_SIZE, PROT_NONE))
            return core_oserror(errno, "mprotect");
        args->stack = (uint64_t)(uintptr_t)stack;
        args->stack_size = PLAIN_STACK_SIZE;
    }
    plain->is_thread = (args->flags & CLONE_THREAD) != 0;
    plain->pidfd = -1;
    plain->child_tid = 1;
    if (args->flags & CLONE_VM)
        args->flags |= CLONE_CHILD_CLEARTID; /* how lowlevel.py learns that the mapping can go */
    if (args->flags & CLONE_PIDFD)
        default_word(&args->pidfd, &plain->pidfd);
    if (args->flags & CLONE_PARENT_SETTID)
        default_word(&args->parent_tid, &plain->parent_tid);
    if (args->flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID))
        default_word(&args->child_tid, &plain->child_tid);
    if (old && !(args->flags & CLONE_PIDFD))
        args->pidfd = args->parent_tid; /* clone has one argument for both */

    uint64_t all = ~(uint64_t)0, mask;
    long pid;
    Py_BEGIN_ALLOW_THREADS
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_BYTES);
    pid = old ? raw_clone(args, plain_main, plain) : raw_clone3(args, plain_main, plain);
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, KERNEL_SIGSET_BYTES);
    Py_END_ALLOW_THREADS
    if (sys_failed(pid))
        return core_oserror((int)-pid, old ? "clone" : "clone3");
    return Py_BuildValue("liii", pid, (int)plain->pidfd, (int)plain->parent_tid, 0);
}

const char core_clone3_doc[] =
    "clone3(fields, set_tid=b'', plain=None, *, old=False)\n"
    "--\n\n"
    "Clone with fields, a struct clone_args, and return (pid, pidfd, parent_tid, child_tid).\n"
    "A field pidfd, parent_tid or child_tid of 0 means a word of the core's own, if a flag wants one.\n"
    "set_tid is an array of pid_t. plain is the mapping of a plain child (csrc/plain.h); without it the\n"
    "child is Python's, and gets 0 as its pid. old makes the call clone(2).\n"
    "Raises OSError. Follows clone(2).";

PyObject *core_clone3(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fields", "set_tid", "plain", "old", NULL};
    struct kernel_clone_args fields;
    Py_buffer given, set_tid = {0}, plain = {0};
    PyObject *mapping = Py_None, *result = NULL;
    int old = 0;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|y*O$p:clone3", names, &given, &set_tid, &mapping, &old))
        return NULL;
    if (given.len != (Py_ssize_t)sizeof fields) {
        PyErr_SetString(PyExc_ValueError, "fields is not a struct clone_args");
        goto done;
    }
    memcpy(&fields, given.buf, sizeof fields);
    if (set_tid.len) {
        fields.set_tid = (uint64_t)(uintptr_t)set_tid.buf;
        fields.set_tid_size = (uint64_t)set_tid.len / sizeof(int32_t);
    }
    if (mapping == Py_None) {
        if (fields.flags & CLONE_VM || fields.stack)
            PyErr_SetString(PyExc_ValueError, "a Python child can have neither CLONE_VM nor another stack");
        else
            result = clone_python(&fields, old);
    } else if (PyObject_GetBuffer(mapping, &plain, PyBUF_WRITABLE) == 0) {
        result = clone_plain(&fields, old, plain.buf, (size_t)plain.len);
        PyBuffer_Release(&plain);
    }
done:
    PyBuffer_Release(&given);
    if (set_tid.obj)
        PyBuffer_Release(&set_tid);
    return result;
}

const char core_syscall_doc[] =
    "syscall(call, number, *arguments)\n"
    "--\n\n"
    "Make one system call and return its result. call is its name, for the OSError it may raise.\n"
    "An argument is an int, or an object with the buffer protocol, passed by address.";

PyObject *core_syscall(PyObject *module, PyObject *args)
{
    (void)module;
    Py_ssize_t count = PyTuple_GET_SIZE(args) - 2;
    if (count < 0 || count > 6) {
        PyErr_SetString(PyExc_TypeError, "syscall takes a name, a number and up to six arguments");
        return NULL;
    }
    const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(args, 0));
    long number = name ? PyLong_AsLong(PyTuple_GET_ITEM(args, 1)) : -1;
    if (PyErr_Occurred())
        return NULL;

    uint64_t values[6] = {0};
    Py_buffer buffers[6] = {{0}};
    long result = -EINVAL;
    Py_ssize_t taken = 0;
    for (; taken < count; taken++) {
        PyObject *arg = PyTuple_GET_ITEM(args, taken + 2);
        if (PyLong_Check(arg)) {
            values[taken] = PyLong_AsUnsignedLongLongMask(arg);
        } else if (PyObject_GetBuffer(arg, &buffers[taken], PyBUF_SIMPLE) == 0) {
            values[taken] = (uint64_t)(uintptr_t)buffers[taken].buf;
        }
        if (PyErr_Occurred())
            goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    result = sys6(number, values[0], values[1], values[2], values[3], values[4], values[5]);
    Py_END_ALLOW_THREADS
done:
    for (Py_ssize_t i = 0; i <= taken && i < count; i++)
        if (buffers[i].obj)
            PyBuffer_Release(&buffers[i]);
    if (PyErr_Occurred())
        return NULL;
    return sys_failed(result) ? core_oserror((int)-result, name) : PyLong_FromLong(result);
}
