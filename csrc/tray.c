/* The sandbox's side of a tray (ramet/run/trays.py): a file of the caller's that this process has mapped, and no descriptor of. */
#include "core.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* since Linux 5.14 */
#endif
#define ALIGNED (1 << 16) /* the largest page that a kernel of ours has */
#define CHUNK (2L << 20) /* a large page: copied into while what the kernel has zeroed is still in the processor's cache */

const char core_map_shared_doc[] =
    "map_shared(fd, size)\n"
    "--\n\n"
    "The first bytes of a file, as a memoryview that can be written to, for as long as this process lives. Unlike an mmap.mmap it\n"
    "keeps no descriptor of the file.";

PyObject *core_map_shared(PyObject *module, PyObject *args)
{
    int fd;
    Py_ssize_t size;
    (void)module;
    if (!PyArg_ParseTuple(args, "in:map_shared", &fd, &size))
        return NULL;
    char *base = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return core_oserror(errno, "mmap");
    PyObject *view = PyMemoryView_FromMemory(base, size, PyBUF_WRITE);
    if (!view)
        munmap(base, (size_t)size);
    return view;
}

/* Memory first, then bytes: where a file system is full, or memory is, writing to a page would be a SIGBUS. */
static int copy_into(char *to, const char *from, Py_ssize_t size)
{
    for (Py_ssize_t at = 0; at < size; at += CHUNK) {
        size_t part = (size_t)(size - at < CHUNK ? size - at : CHUNK);
        while (madvise(to + at, part, MADV_POPULATE_WRITE))
            if (errno != EINTR && errno != EAGAIN)
                return errno;
        memcpy(to + at, from + at, part);
    }
    return 0;
}

const char core_lay_doc[] =
    "lay(tray, at, data)\n"
    "--\n\n"
    "Copy data to this place of what map_shared has given, a multiple of 64 KiB. Raises OSError where there is no\n"
    "memory for it.";

PyObject *core_lay(PyObject *module, PyObject *args)
{
    Py_buffer tray, data;
    Py_ssize_t at;
    (void)module;
    if (!PyArg_ParseTuple(args, "w*ny*:lay", &tray, &at, &data))
        return NULL;
    int error = EINVAL;
    if (at >= 0 && at % ALIGNED == 0 && data.len <= tray.len && at <= tray.len - data.len) {
        Py_BEGIN_ALLOW_THREADS
        error = copy_into((char *)tray.buf + at, data.buf, data.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&tray);
    PyBuffer_Release(&data);
    if (error)
        return core_oserror(error, "madvise");
    Py_RETURN_NONE;
}
