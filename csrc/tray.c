/* The sandbox's side of a tray (ramet/run/trays.py): a file of the caller's that this process has mapped, and no descriptor of. */
#include "core.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* since Linux 5.14 */
#endif
#define ALIGNED (1 << 16) /* the largest page that a kernel of ours has */
#define HANDS 16
#define STACK (256 << 10) /* thread-local storage of libraries is on it, too */
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

/* What several threads copy, each the next chunk that nobody has taken. */
struct copying {
    char *to;
    const char *from;
    Py_ssize_t size;
    atomic_long next;
    atomic_int error;
};

/* Memory first, then bytes: where a file system is full, or memory is, writing to a page would be a SIGBUS. */
static void *copy_chunks(void *arg)
{
    struct copying *c = arg;
    long at;
    while (!c->error && (at = atomic_fetch_add(&c->next, CHUNK)) < c->size) {
        size_t part = (size_t)(c->size - at < CHUNK ? c->size - at : CHUNK);
        while (madvise(c->to + at, part, MADV_POPULATE_WRITE))
            if (errno != EINTR && errno != EAGAIN) {
                c->error = errno;
                return NULL;
            }
        memcpy(c->to + at, c->from + at, part);
    }
    return NULL;
}

/* By so many threads at most, this one among them. Where there can be fewer it takes longer, that is all. */
static int copy_into(char *to, const char *from, Py_ssize_t size, int hands)
{
    struct copying copying = {.to = to, .from = from, .size = size};
    pthread_t others[HANDS];
    pthread_attr_t small;
    sigset_t all, mask;
    int count = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask); /* the function's handlers are for its own thread */
    while (count < hands - 1 && (count + 1) * CHUNK < size &&
           !pthread_create(&others[count], &small, copy_chunks, &copying))
        count++;
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&small);
    copy_chunks(&copying);
    while (count--)
        pthread_join(others[count], NULL);
    return copying.error;
}

const char core_lay_doc[] =
    "lay(tray, at, data, hands=1)\n"
    "--\n\n"
    "Copy data to this place of what map_shared has given, a multiple of 64 KiB, by so many threads, or fewer. Raises OSError\n"
    "where there is no memory for it.";

PyObject *core_lay(PyObject *module, PyObject *args)
{
    Py_buffer tray, data;
    Py_ssize_t at;
    int hands = 1;
    (void)module;
    if (!PyArg_ParseTuple(args, "w*ny*|i:lay", &tray, &at, &data, &hands))
        return NULL;
    int error = EINVAL;
    if (at >= 0 && at % ALIGNED == 0 && data.len <= tray.len && at <= tray.len - data.len) {
        Py_BEGIN_ALLOW_THREADS
        error = copy_into((char *)tray.buf + at, data.buf, data.len, hands < HANDS ? hands : HANDS);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&tray);
    PyBuffer_Release(&data);
    if (error)
        return core_oserror(error, "madvise");
    Py_RETURN_NONE;
}
