/* shelve: a warm process puts what it has in memory into a file, and maps that in the same place, privately.
 *
 * Who forks copies every page-table entry of anonymous memory, and takes each down again at the end: for fifty megabytes of
 * imported modules that is a third of what a copy costs. Private pages of a file that nobody has written to are not copied
 * (vma_needs_copy() in the kernel): a copy finds them in the page cache, sixteen at a time, when it looks at them, or all
 * at once where it has time before its work comes (fetch_shelved).
 *
 * What it may be done with:
 * 1. Python's own arenas, the heap that libc has from brk(2), and the data of loaded libraries (what the dynamic linker has relocated,
 *    .data and .bss). Of no other memory do we know that nobody resizes it by mremap(2), which would bring up what comes next in the
 *    file, or drops it by MADV_DONTNEED and takes it for zeros, where it would be the file's again. (malloc_trim(3) drops free
 *    parts of the heap, of which nobody expects anything.)
 * 2. By the only thread there is, with all signals blocked: between the copy of a piece and its replacement nothing may write to it.
 *    Here that is the stack and registers, and neither is among the pieces; and the kernel, which tells a thread by its
 *    restartable-sequences area on which processor it is. That is beside the thread pointer: what has that is left where it is.
 * 3. Piece by piece: there is never much in memory twice, and where one fails all is as it was, as far as that got.
 * 4. In the order of addresses: neighbours are one mapping then, which is one less to be copied.
 */
#include "core.h"

#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#define PIECE ((size_t)1 << 20)
#define MOST 4096 /* arenas: of a MiB each, that is 4 GiB */
#define DATA_MOST 2048
#define SHELF_MOST (MOST + DATA_MOST + 1)

struct range {
    uintptr_t at;
    size_t size;
    int prot;
};

static PyObjectArenaAllocator usual;
static struct range arenas[MOST], shelved[SHELF_MOST];
static size_t count, on_shelf;

static void *get_arena(void *context, size_t size)
{
    (void)context;
    void *arena = usual.alloc(usual.ctx, size);
    if (arena && count < MOST)
        arenas[count++] = (struct range){(uintptr_t)arena, size, PROT_READ | PROT_WRITE};
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
        struct range piece = {range.at, range.size < PIECE ? range.size : PIECE, range.prot};
        long error = fill(fd, &piece, *offset);
        if (!error)
            error = sys6(__NR_mmap, piece.at, piece.size, piece.prot, MAP_PRIVATE | MAP_FIXED, fd, *offset);
        if (sys_failed(error))
            return error;
        *offset += piece.size;
        range.at += piece.size;
        range.size -= piece.size;
    }
    return 0;
}

static int by_address(const void *left, const void *right)
{
    uintptr_t one = ((const struct range *)left)->at, other = ((const struct range *)right)->at;
    return (one > other) - (one < other);
}

/* Where the pieces of data are, (start, end, writable) each; how many, or -1 with an exception. */
static Py_ssize_t take_data(PyObject *data, struct range *into, uintptr_t page)
{
    uintptr_t own = (uintptr_t)__builtin_thread_pointer();
    Py_ssize_t taken = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(data); i++) {
        unsigned long long start, end;
        int writable;
        PyObject *piece = PyTuple_GET_ITEM(data, i);
        if (!PyTuple_Check(piece)) {
            PyErr_SetString(PyExc_TypeError, "a piece of data is a tuple");
            return -1;
        }
        if (!PyArg_ParseTuple(piece, "KKp", &start, &end, &writable))
            return -1;
        if (!start || start % page || end % page || start >= end || taken == DATA_MOST) {
            PyErr_SetString(PyExc_ValueError, taken == DATA_MOST ? "too many pieces of data" : "no data lies there");
            return -1;
        }
        if (own < start || own >= end)
            into[taken++] = (struct range){start, end - start, writable ? PROT_READ | PROT_WRITE : PROT_READ};
    }
    return taken;
}

/* Puts all that is to go into the file into `all`, in the order of addresses; how many, or -1 with an exception. */
static Py_ssize_t survey(struct range heap, PyObject *data, struct range *all, uintptr_t page)
{
    Py_ssize_t found = take_data(data, all, page);
    if (found < 0)
        return -1;
    if (heap.size)
        all[found++] = heap;
    for (size_t i = 0; i < count; i++)
        all[found++] = arenas[i];
    qsort(all, (size_t)found, sizeof *all, by_address);
    for (Py_ssize_t i = 1; i < found; i++)
        if (all[i - 1].at + all[i - 1].size > all[i].at) {
            PyErr_SetString(PyExc_ValueError, "pieces that overlap");
            return -1;
        }
    return found;
}

static long shelve_all(int fd, const struct range *all, Py_ssize_t found, uint64_t *offset)
{
    on_shelf = 0;
    long error = 0;
    for (Py_ssize_t i = 0; i < found && !error; i++) {
        error = shelve(fd, all[i], offset);
        if (!error)
            shelved[on_shelf++] = all[i];
    }
    return error;
}

const char core_shelve_doc[] =
    "shelve(fd, heap, data=())\n"
    "--\n\n"
    "Put this process's heap, which begins at the address heap (0: leave it), all arenas since watch_arenas, and of what loaded_data says\n"
    "the (start, end, writable) in data, into the file fd and map that privately in their place; return how many bytes. Only\n"
    "for a process with one thread. Raises OSError.";

PyObject *core_shelve(PyObject *module, PyObject *args)
{
    int fd;
    unsigned long long start;
    uint64_t all_signals = ~(uint64_t)0, mask, offset = 0;
    PyObject *data = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "iK|O!:shelve", &fd, &start, &PyTuple_Type, &data))
        return NULL;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), end = start ? (uintptr_t)sbrk(0) & -page : 0;
    if (start % page || start > end) {
        PyErr_SetString(PyExc_ValueError, "no heap begins there");
        return NULL;
    }
    data = data ? Py_NewRef(data) : PyTuple_New(0);
    struct range *all = malloc(SHELF_MOST * sizeof *all);
    Py_ssize_t found = -1;
    long error = 0;
    if (data && all)
        found = survey((struct range){start, end - start, PROT_READ | PROT_WRITE}, data, all, page);
    else
        PyErr_NoMemory();
    if (found >= 0) {
        sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all_signals, &mask, sizeof mask);
        error = shelve_all(fd, all, found, &offset);
        sys4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
    }
    free(all);
    Py_XDECREF(data);
    if (found < 0)
        return NULL;
    return sys_failed(error) ? core_oserror((int)-error, "shelve") : PyLong_FromUnsignedLongLong(offset);
}

/* Appends (start, end) of each writable segment to the list. */
static int list_data(struct dl_phdr_info *object, size_t size, void *list)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W))
            continue;
        uintptr_t start = object->dlpi_addr + segment->p_vaddr, end = start + segment->p_memsz;
        PyObject *pair = Py_BuildValue("KK", (unsigned long long)(start & -page),
                                       (unsigned long long)((end + page - 1) & -page));
        int failed = !pair || PyList_Append(list, pair);
        Py_XDECREF(pair);
        if (failed)
            return -1;
    }
    return 0;
}

const char core_loaded_data_doc[] =
    "loaded_data()\n"
    "--\n\n"
    "Return (start, end) of each writable segment of the program and its libraries, in whole pages; a part of it may be read-only by now.\n"
    "See dl_iterate_phdr(3).";

PyObject *core_loaded_data(PyObject *module, PyObject *none)
{
    PyObject *list = PyList_New(0);
    (void)module, (void)none;
    if (list && dl_iterate_phdr(list_data, list))
        Py_CLEAR(list);
    return list;
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
