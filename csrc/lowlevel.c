/* clone3 with every field, and a plain system call, for ramet.lowlevel. */
#include "core.h"

#include <errno.h>

const char core_clone3_doc[] = "clone3(...)\n--\n\n";
PyObject *core_clone3(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module; (void)args; (void)kwargs;
    PyErr_SetString(PyExc_NotImplementedError, "clone3");
    return NULL;
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
