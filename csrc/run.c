/* A program's steps made by this very process: for a forked Python child, which builds its sandbox around itself.
 *
 * Nothing is shared with anybody here, so this is ordinary C: libc and Python are at hand. */
#include "core.h"

#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

const char core_fork_doc[] =
    "fork()\n"
    "--\n\n"
    "Fork as os.fork does, but without its warning (since Python 3.12) that a caller with threads may deadlock its child.";

PyObject *core_fork(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    if (PySys_Audit("os.fork", NULL) < 0)
        return NULL;
    PyOS_BeforeFork();
    pid_t pid = fork();
    int error = errno;
    if (pid == 0)
        PyOS_AfterFork_Child();
    else
        PyOS_AfterFork_Parent();
    return pid < 0 ? core_oserror(error, "fork") : PyLong_FromLong(pid);
}

const char core_run_doc[] =
    "run(program, inputs, text_at=-1, text=b'')\n"
    "--\n\n"
    "Make the steps of program (csrc/steps.h) and return None, or (step, errno) of the first that failed.\n"
    "inputs are (offset, value) pairs stored in the program's data; text is stored at text_at, with a NUL.\n"
    "Does not return where the steps end in an exec that succeeds.";

const char core_vmsplice_doc[] =
    "vmsplice(fd, data)\n"
    "--\n\n"
    "Put pages of data into the pipe fd as they are, and return how many bytes of it; 0 where the pipe is full. Whoever reads\n"
    "them sees what is in them then: data must stay until it has been read, or the process has ended. See vmsplice(2).";

PyObject *core_vmsplice(PyObject *module, PyObject *args)
{
    int fd;
    Py_buffer data;
    long taken;
    (void)module;
    if (!PyArg_ParseTuple(args, "iy*:vmsplice", &fd, &data))
        return NULL;
    struct iovec all = {.iov_base = data.buf, .iov_len = (size_t)data.len};
    Py_BEGIN_ALLOW_THREADS
    do
        taken = sys4(__NR_vmsplice, fd, &all, 1, SPLICE_F_NONBLOCK);
    while (taken == -EINTR);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    if (taken == -EAGAIN)
        taken = 0;
    return sys_failed(taken) ? core_oserror((int)-taken, "vmsplice") : PyLong_FromLong(taken);
}

static int store_text(unsigned char *data, uint32_t size, long long at, const Py_buffer *text)
{
    if (at < 0)
        return 0;
    if (at > (long long)size || text->len + 1 > (long long)size - at) {
        PyErr_SetString(PyExc_ValueError, "text outside the program's data");
        return -1;
    }
    memcpy(data + at, text->buf, (size_t)text->len);
    data[at + text->len] = 0;
    return 0;
}

PyObject *core_run(PyObject *module, PyObject *args)
{
    const char *blob; /* of a bytes object: aligned, and nobody changes it */
    Py_ssize_t length;
    Py_buffer text = {0};
    PyObject *inputs, *result = NULL;
    long long text_at = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, "y#O|Ly*:run", &blob, &length, &inputs, &text_at, &text))
        return NULL;
    if (!program_check(blob, (size_t)length)) {
        PyErr_SetString(PyExc_ValueError, "malformed program");
        goto done;
    }
    uint32_t size = program_header(blob)->data_size, at = 0;
    unsigned char *data = PyMem_Malloc(size ? size : 1);
    if (!data) {
        PyErr_NoMemory();
        goto done;
    }
    memcpy(data, program_data(blob), size);
    struct loaded program = program_load(blob, data);
    if (core_store_inputs(inputs, data, size) == 0 && store_text(data, size, text_at, &text) == 0) {
        int error = run_steps(&program, &at);
        result = error ? Py_BuildValue("Ii", (unsigned)at, error) : Py_NewRef(Py_None);
    }
    PyMem_Free(data);
done:
    if (text.obj)
        PyBuffer_Release(&text);
    return result;
}
