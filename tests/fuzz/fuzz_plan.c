/* Programs as spawn() gets them: checked, laid into the arena, loaded, and run by the interpreter, by child.c, and by spawn.c
 * on the caller's side, in every shape: with and without a join, an init, a gate; whatever call fails or lies.
 *
 * Each part of the arena has a block of memory of its own here, so that a byte past its end is seen. */
#include "kernel.h"

#include "core.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* What spawn.c asks of Python and of libc, made up too. */
static int fuzz_parse(PyObject *pair, const char *format, ...);
static PyObject *fuzz_list(uint32_t data_size);
static int fuzz_wait(void) { return 0; }
#undef PyArg_ParseTuple
#undef Py_BuildValue
#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define PyArg_ParseTuple fuzz_parse
#define PySequence_Fast(given, message) fuzz_list(data_size) /* a parameter of its caller's */
#define Py_BuildValue(...) NULL
#define Py_BEGIN_ALLOW_THREADS
#define Py_END_ALLOW_THREADS
#define PyErr_SetString(kind, text) ((void)0)
#define PyErr_Clear() ((void)0)
#define PyErr_Occurred() ((PyObject *)NULL)
#define waitid(...) fuzz_wait()
#define waitpid(...) fuzz_wait()
#define close(fd) fuzz_wait()

#include "steps.c"
#define resolve resolve_again
#include "child.c"
#include "spawn.c"

#define INPUTS 4
static PyTypeObject a_list = {.tp_flags = Py_TPFLAGS_LIST_SUBCLASS}, a_tuple = {.tp_flags = Py_TPFLAGS_TUPLE_SUBCLASS};
static PyObject a_pair;
static PyObject *pairs[INPUTS] = {&a_pair, &a_pair, &a_pair, &a_pair};
static PyListObject inputs = {.ob_item = pairs, .allocated = INPUTS};
static uint32_t inputs_for; /* data of this size */

/* Some offset and value: near the end of the data, or anywhere. */
static int fuzz_parse(PyObject *pair, const char *format, ...)
{
    va_list to;
    (void)pair;
    va_start(to, format);
    *va_arg(to, long long *) = fuzz_u8() % 4 ? inputs_for - (int8_t)fuzz_u8() : (long long)fuzz_u64();
    *va_arg(to, int *) = (int)fuzz_u32();
    va_end(to);
    return 1;
}

static PyObject *fuzz_list(uint32_t data_size)
{
    inputs_for = data_size;
    Py_SET_SIZE((PyVarObject *)&inputs, fuzz_u8() % (INPUTS + 1));
    Py_INCREF(&inputs);
    return (PyObject *)&inputs;
}

long sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
    if (nr == __NR_exit_group)
        fuzz_leave();
    if (nr == __NR_rt_sigaction || nr == __NR_futex || nr == __NR_rt_sigprocmask)
        return 0;
    long result = fuzz_result();
    if ((nr == __NR_execve || nr == __NR_execveat) && result == 0)
        fuzz_leave();
    return result;
}

long sys_clone(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void (*fn)(void *), void *arg)
{
    (void)b, (void)c, (void)e;
    const struct kernel_clone_args *args = (const void *)(uintptr_t)a;
    return nr == __NR_clone3 ? fuzz_clone(args->flags, args->child_tid, fn, arg) : fuzz_clone(a, d, fn, arg);
}

/* The arena as it is made, for its sizes; then a block for each part instead. */
static int make_arena(struct arena *arena, const struct programs *programs)
{
    if (arena_make(arena, programs))
        return 0;
    for (int which = 0; which < PROGRAMS; which++) {
        uint32_t size = data_size(programs, which);
        if (arena->data[which] + size > arena->base + arena->size)
            abort();
        if (size) /* written, so that a part that is not mapped is seen */
            arena->data[which][0] = arena->data[which][size - 1] = 1;
    }
    munmap(arena->base, arena->size);
    arena->child = calloc(1, sizeof *arena->child);
    for (int which = 0; which < PROGRAMS; which++)
        arena->data[which] = calloc(1, data_size(programs, which) ? data_size(programs, which) : 1);
    return 1;
}

static void free_arena(struct arena *arena)
{
    free(arena->child);
    for (int which = 0; which < PROGRAMS; which++)
        free(arena->data[which]);
}

static void fuzz_spawn(const struct programs *programs)
{
    struct arena arena = {0};
    uint8_t how = fuzz_u8();
    if (!make_arena(&arena, programs))
        return;
    if (load_all(&arena, programs) == 0) {
        describe(&arena, programs, how & 1 ? 0x100000000 : 0, how & 2 ? 7 : -1, 0);
        arena.child->no_clone3 = how & 4;
        spawn_in(&arena, NULL, 0, NULL);
    }
    free_arena(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* gate, pid_text, flags, the programs' lengths; the programs; what is answered. See corpus.py. */
    struct programs programs = {0};
    uint16_t lengths[PROGRAMS];
    fuzz_at = data, fuzz_left = size, fuzz_depth = 0;
    Py_SET_TYPE(&inputs, &a_list);
    Py_SET_TYPE(&a_pair, &a_tuple);
    Py_SET_REFCNT((PyObject *)&inputs, 1 << 20);
    programs.gate = (int32_t)fuzz_u32();
    programs.pid_text = (int32_t)fuzz_u32();
    uint32_t flags = fuzz_u32();
    programs.shares = flags & 1;
    if (flags & 2) { /* far out */
        programs.gate = (long long)((uint64_t)programs.gate << 32);
        programs.pid_text = (long long)((uint64_t)programs.pid_text << 32);
    }
    fuzz_take(lengths, sizeof lengths);
    for (int which = 0; which < PROGRAMS; which++) {
        size_t length = lengths[which] < fuzz_left ? lengths[which] : fuzz_left;
        if (!length && which != PROGRAM)
            continue;
        programs.blob[which].buf = (char *)fuzz_copy(fuzz_at, length);
        programs.blob[which].len = (Py_ssize_t)length;
        fuzz_at += length, fuzz_left -= length;
    }
    if (programs_check(&programs) == 0)
        fuzz_spawn(&programs);
    for (int which = 0; which < PROGRAMS; which++)
        free((char *)(uintptr_t)programs.blob[which].buf);
    return 0;
}
