/* shelve: a warm process puts what it has in memory into a file, and maps that in the same place, privately.
 *
 * Who forks copies every page-table entry of anonymous memory, and takes each down again at the end: for fifty megabytes of
 * imported modules that is a third of what a copy costs. Private pages of a file that nobody has written to are not copied
 * (vma_needs_copy() in the kernel): a copy finds them in the page cache, sixteen at a time, when it looks at them, or all
 * at once where it has time before its work comes (fetch_shelved).
 *
 * What it may be done with:
 * 1. Python's own arenas, and the heap that libc has from brk(2). Of no other memory do we know that nobody resizes it by mremap(2),
 *    which would bring up what comes next in the file, or drops it by MADV_DONTNEED and takes it for zeros, where it would be
 *    the file's again. (malloc_trim(3) drops free parts of the heap, of which nobody expects anything.)
 * 2. By the only thread there is, with all signals blocked: between the copy of a piece and its replacement nothing may write to it.
 *    Here that is the stack and registers, and neither is among the pieces.
 * 3. Piece by piece: there is never much in memory twice, and where one fails all is as it was, as far as that got.
 */
#include "core.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#define PIECE ((size_t)1 << 20)
#define MOST 4096 /* arenas: of a MiB each, that is 4 GiB */

struct range {
    uintptr_t at;
    size_t size;
};

static PyObjectArenaAllocator usual;
static struct range arenas[MOST], shelved[MOST + 1];
static size_t count, on_shelf;

static void *get_arena(void *context, size_t size)
{
    (void)context;
    void *arena = usual.alloc(usual.ctx, size);
    if (arena && count < MOST)
        arenas[count++] = (struct range){(uintptr_t)arena, size};
    return arena;
}

static void free_arena(void *context, void *arena, size_t size)
{
    (void)context;
    for (size_t i = 0; i < count; i++)
        if (arenas[i].at == (uintptr_t)arena) {
            arenas[i] = arenas[--count];
            break;
        }
    usual.free(usual.ctx, arena, size);
}

const char core_watch_arenas_doc[] =
    "watch_arenas()\n"
    "--\n\n"
    "From now on note where Python's allocator has its memory, for shelve.";

PyObject *core_watch_arenas(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    if (!usual.alloc) {
        PyObject_GetArenaAllocator(&usual);
        PyObjectArenaAllocator watched = {NULL, get_arena, free_arena};
        PyObject_SetArenaAllocator(&watched);
    }
    Py_RETURN_NONE;
}

static long fill(int fd, const struct range *piece, uint64_t offset)
{
    for (size_t done = 0; done < piece->size;) {
        long put = sys6(__NR_pwrite64, fd, piece->at + done, piece->size - done, offset + done, 0, 0);
        if (put <= 0)
            return put ? put : -EIO;
        done += (size_t)put;
    }
    return 0;
}

/* Raises *offset by what was done; 0 or -errno. */
static long shelve(int fd, struct range range, uint64_t *offset)
{
    while (range.size) {
        struct range piece = {range.at, range.size < PIECE ? range.size : PIECE};
        long error = fill(fd, &piece, *offset);
        if (!error)
            error = sys6(__NR_mmap, piece.at, piece.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, *offset);
        if (sys_failed(error))
            return error;
        *offset += piece.size;
        range.at += piece.size;
        range.size -= piece.size;
    }
    return 0;
}

static long shelve_all(int fd, struct range heap, uint64_t *offset)
{
    on_shelf = 0;
    long error = shelve(fd, heap, offset);
    if (!error)
        shelved[on_shelf++] = heap;
    for (size_t i = 0; i < count && !error; i++) {
        error = shelve(fd, arenas[i], offset);
        if (!error)
            shelved[on_shelf++] = arenas[i];
    }
    return error;
}

const char core_shelve_doc[] =
    "shelve(fd, heap)\n"
    "--\n\n"
    "Put this process's heap, which begins at the address heap (0: leave it), and all arenas since watch_arenas, into the file fd and\n"
    "map that privately in their place; return how many bytes. Only for a process with one thread. Raises OSError.";

PyObject *core_shelve(PyObject *module, PyObject *args)
{
    int fd;
    unsigned long long start;
    uint64_t all = ~(uint64_t)0, mask, offset = 0;
    (void)module;
    if (!PyArg_ParseTuple(args, "iK:shelve", &fd, &start))
        return NULL;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), end = start ? (uintptr_t)sbrk(0) & -page : 0;
    if (start % page || start > end) {
        PyErr_SetString(PyExc_ValueError, "no heap begins there");
        return NULL;
    }
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof mask);
    long error = shelve_all(fd, (struct range){start, end - start}, &offset);
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
    return sys_failed(error) ? core_oserror((int)-error, "shelve") : PyLong_FromUnsignedLongLong(offset);
}

const char core_fetch_shelved_doc[] =
    "fetch_shelved()\n"
    "--\n\n"
    "Map what shelve has put into its file, page by page, as looking at it would; return how many bytes of it could be. For a copy\n"
    "that has time before its work comes: see MADV_POPULATE_READ in madvise(2), since Linux 5.14.";

PyObject *core_fetch_shelved(PyObject *module, PyObject *none)
{
    unsigned long long fetched = 0;
    (void)module, (void)none;
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < on_shelf; i++) /* one may have been given back since, and all else goes on without */
        if (sys3(__NR_madvise, shelved[i].at, shelved[i].size, MADV_POPULATE_READ) == 0)
            fetched += shelved[i].size;
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLongLong(fetched);
}
