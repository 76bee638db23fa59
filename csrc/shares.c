/* Does another process still share our memory?
 *
 * In exec the kernel first tells whoever waits (CLONE_VFORK, CLONE_CHILD_CLEARTID: exec_mm_release()), and only then gives the process
 * another memory. Between the two the waiting caller runs already, while the process still counts as one of its memory: who
 * is killed for that one then (the OOM killer ends everybody of the victim's memory) takes the caller along.
 *
 * Asked by process_vm_readv(2) for a word that only we know: one's own memory may always be read (mm_access() in
 * kernel/fork.c), and the call waits for an exec that is just changing it.
 */
#include "core.h"

#include <sys/random.h>
#include <sys/uio.h>

const char core_shares_memory_doc[] = "shares_memory(pid)\n--\n\nHas this process our memory? Raises OSError where that can't be asked.";

static long read_there(int pid, void *into, void *from, size_t size)
{
    struct iovec here = {into, size}, there = {from, size};
    return sys6(__NR_process_vm_readv, pid, SYS_ARG(&here), 1, SYS_ARG(&there), 1, 0);
}

PyObject *core_shares_memory(PyObject *module, PyObject *args)
{
    static int works;
    volatile uint64_t word;
    uint64_t found = 0, unguessed;
    int pid;
    long got;
    (void)module;
    if (!PyArg_ParseTuple(args, "i:shares_memory", &pid))
        return NULL;
    if (getrandom(&unguessed, sizeof unguessed, 0) != sizeof unguessed)
        return core_oserror(errno, "getrandom");
    word = unguessed;
    Py_BEGIN_ALLOW_THREADS
    got = works ? 0 : read_there((int)sys0(__NR_getpid), &found, (void *)&word, sizeof word);
    if (works || got == sizeof word) {
        works = 1;
        found = 0;
        got = read_there(pid, &found, (void *)&word, sizeof word);
    }
    Py_END_ALLOW_THREADS
    if (!works) /* no CONFIG_CROSS_MEMORY_ATTACH, or a filter */
        return core_oserror((int)-got, "process_vm_readv");
    return PyBool_FromLong(got == sizeof word && found == unguessed);
}
