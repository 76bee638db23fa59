/* Which file is it? Asked of several at once before each run in namespaces made ahead (ramet/run/moulds.py, made.py): is every
 * descriptor still what was opened, does every path still lead where it led?
 *
 * Python's os.stat would do, but makes an object of twenty numbers each time, and a dozen of them were a twentieth of a run.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>

const char core_identity_doc[] =
    "identity(file, /)\n"
    "--\n\n"
    "What tells a file from every other one, as bytes: of a descriptor, or, with the mount that it is on, of a path (bytes).\n"
    "Raises OSError.";
const char core_unchanged_doc[] =
    "unchanged(known, /)\n"
    "--\n\n"
    "Has every file of these, (file, identity) each, this identity? One that can't be looked at has not.";

struct identity {
    uint64_t device, inode, mount;
};

static int look_at_descriptor(int fd, struct identity *found)
{
    struct stat seen;
    if (fstat(fd, &seen))
        return errno;
    *found = (struct identity){seen.st_dev, seen.st_ino, 0};
    return 0;
}

static int look_at_path(const char *path, struct identity *found)
{
    struct statx seen;
    long result = sys5(__NR_statx, AT_FDCWD, path, 0, STATX_INO | STATX_MNT_ID, &seen);
    if (sys_failed(result))
        return (int)-result;
    *found = (struct identity){(uint64_t)seen.stx_dev_major << 32 | seen.stx_dev_minor, seen.stx_ino, seen.stx_mnt_id};
    return 0;
}

/* 0, an errno, or -1 with an exception. */
static int look_at(PyObject *file, struct identity *found)
{
    int is_path = PyBytes_Check(file), fd = is_path ? -1 : (int)PyLong_AsLong(file), error;
    if (PyErr_Occurred())
        return -1;
    Py_BEGIN_ALLOW_THREADS
    error = is_path ? look_at_path(PyBytes_AS_STRING(file), found) : look_at_descriptor(fd, found);
    Py_END_ALLOW_THREADS
    return error;
}

PyObject *core_identity(PyObject *module, PyObject *file)
{
    struct identity found;
    int error = look_at(file, &found);
    (void)module;
    if (error < 0)
        return NULL;
    return error ? core_oserror(error, "stat") : PyBytes_FromStringAndSize((char *)&found, sizeof found);
}

/* 1: it is; 0: it is not; -1: with an exception. */
static int is_still(PyObject *pair)
{
    PyObject *file, *identity;
    struct identity found;
    if (!PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "OS:unchanged", &file, &identity)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a known file is a tuple (file, identity)");
        return -1;
    }
    int error = look_at(file, &found);
    if (error)
        return error < 0 ? -1 : 0;
    return PyBytes_GET_SIZE(identity) == sizeof found && !memcmp(PyBytes_AS_STRING(identity), &found, sizeof found);
}

PyObject *core_unchanged(PyObject *module, PyObject *known)
{
    /* a copy, if it is no list or tuple: other threads may change it while we look */
    PyObject *all = PySequence_Fast(known, "unchanged takes several (file, identity)");
    int same = 1;
    (void)module;
    if (!all)
        return NULL;
    for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(all) && same > 0; n++) {
        PyObject *pair = Py_NewRef(PySequence_Fast_GET_ITEM(all, n));
        same = is_still(pair);
        Py_DECREF(pair);
    }
    Py_DECREF(all);
    return same < 0 ? NULL : PyBool_FromLong(same);
}
