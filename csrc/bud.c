/* bud: a sandbox made before it is needed, with its init, in which a process waits to put forth a copy of the zygote.
 *
 *     bud:        zygote --CLONE_VM|CLONE_VFORK--> child: its steps, then execs init
 *                                                    \--CLONE_VM--> who waits: the stage view, then a futex
 *     put_forth:  zygote: clears the futex, waits     who waits: --clone--> the copy, goes on in Python; ends
 *
 * So a call that nothing was made ready for costs one fork, and the walls of the copy itself. Who waits is in all of the sandbox's
 * namespaces, has its rights, and shares the zygote's memory: a copy of it is one of the zygote as that is when it is told to. It is init's
 * child, so when it ends the copy is. To branch.c's hazards come these:
 *
 * 1. Two in one memory. Who waits has a stack of its own and touches nothing but that, its program's data and this object, from which the
 *    zygote keeps away. While it clones the zygote stands still, until the kernel says that it has left (CLONE_CHILD_CLEARTID).
 * 2. The copy's stack. Who waits is not on the zygote's, so the copy is told to begin there, below the zygote's frames, which are then
 *    its own, and jumps back to where the zygote called. A shadow stack would not follow: no bud where there is one.
 * 3. A payload beside who waits. It is of the same user, and could stop it (SIGSTOP) before it has left the zygote's memory. So the
 *    copy does not go on before its parent is init.
 * 4. Its end. It is in a namespace whose init ends with the zygote, or when the caller lets go of init's control socket.
 * 5. Failure. Nobody waits for what it does, so what fails is told on the copy's channel (ramet.run.fork.NEWS).
 * 6. What is counted. It has used the zygote's memory, not the copy's. Init is told of its end by SIGURG, not SIGCHLD, and leaves it out.
 */
#include "branch.h"

#include <errno.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define STACK_ROOM ((size_t)PAGE + CHILD_STACK_SIZE) /* with a guard below */
#define COPY_STACK_SIZE 16384u
#define RED_ZONE 256u
#define SHADOW_STACK_STATUS 0x5005 /* ARCH_SHSTK_STATUS, since Linux 6.6 */
#define NEWS_FAILED 2
#define INIT_PID 1

enum { WAIT = 0, GO = 1, LEAVE = 2 };

struct bud {
    PyObject_HEAD
    struct branch branch;
    struct loaded view;
    Py_buffer view_blob;
    unsigned char *view_data, *stack;
    uint32_t word;             /* futex: what whoever waits is to do */
    volatile uint32_t running; /* futex: the kernel clears it when that process has left our memory */
    int channel;
    long owner;
};

const char core_bud_doc[] =
    "bud(child, child_inputs, init, init_inputs, pid_text, flags, tid, view, view_inputs, channel)\n"
    "--\n\n"
    "What branch makes, without the copy: (bud, (pid, pidfd, stage, step, errno)). In its place a process makes the steps of view and waits\n"
    "for bud.put_forth(). What fails there is told on the descriptor channel. Follows clone(2).";

static void tell(const struct bud *bud, enum stage stage, uint32_t step, int error)
{
    int32_t news[4] = {NEWS_FAILED, (int32_t)stage, (int32_t)step, error};
    sys3(__NR_write, bud->channel, news, sizeof news);
}

static void emerge(void *arg)
{
    struct bud *bud = arg;
    while (sys0(__NR_getppid) != INIT_PID)
        sys0(__NR_sched_yield);
    longjmp(bud->branch.home, 1);
}

static void wait_inside(void *arg)
{
    struct bud *bud = arg;
    uint32_t at = 0;
    int error = run_steps(&bud->view, &at);
    if (error) {
        tell(bud, STAGE_VIEW, at, error);
        sys_exit_group(EXIT_STEP_FAILED);
    }
    uint32_t word;
    while ((word = __atomic_load_n(&bud->word, __ATOMIC_ACQUIRE)) == WAIT)
        sys4(__NR_futex, &bud->word, FUTEX_WAIT, WAIT, 0);
    if (word == GO) {
        long pid = raw_clone3(&bud->branch.payload_clone, emerge, bud);
        if (sys_failed(pid))
            tell(bud, STAGE_PAYLOAD_CLONE, 0, (int)-pid);
    }
    sys_exit_group(0);
}

static long put_forth_later(struct branch *branch)
{
    struct bud *bud = (struct bud *)(void *)((char *)branch - offsetof(struct bud, branch));
    struct kernel_clone_args args = {
        .flags = CLONE_VM | CLONE_CHILD_CLEARTID,
        .child_tid = (uint64_t)(uintptr_t)&bud->running,
        .exit_signal = SIGURG, /* (6) */
        .stack = (uint64_t)(uintptr_t)(bud->stack + PAGE),
        .stack_size = CHILD_STACK_SIZE,
    };
    bud->running = 1;
    long pid = raw_clone3(&args, wait_inside, bud);
    if (sys_failed(pid))
        bud->running = 0;
    return pid;
}

/* And wait until whoever waits has left our memory. */
static void say(struct bud *bud, uint32_t word)
{
    __atomic_store_n(&bud->word, word, __ATOMIC_RELEASE); /* what it clones with is written */
    sys3(__NR_futex, &bud->word, FUTEX_WAKE, 1);
    while (bud->running)
        sys4(__NR_futex, &bud->running, FUTEX_WAIT, 1, 0);
}

/* What lies below this frame is nobody's: there the copy begins. */
static __attribute__((noinline)) void let_go(struct bud *bud)
{
    uintptr_t top = ((uintptr_t)__builtin_frame_address(0) - RED_ZONE) & ~(uintptr_t)15;
    bud->branch.payload_clone.stack = top - COPY_STACK_SIZE;
    bud->branch.payload_clone.stack_size = COPY_STACK_SIZE;
    say(bud, GO);
}

static __attribute__((noinline)) int emerged(struct bud *bud)
{
    if (setjmp(bud->branch.home))
        return 1;
    let_go(bud);
    return 0;
}

/* A copy of the zygote has a copy of the object, and nobody who waits. */
static int ours(const struct bud *bud) { return bud->owner == sys0(__NR_getpid); }

static PyObject *bud_put_forth(PyObject *object, PyObject *none)
{
    struct bud *bud = (struct bud *)(void *)object;
    uint64_t all = ~(uint64_t)0, mask;
    (void)none;
    if (!ours(bud)) {
        PyErr_SetString(PyExc_ValueError, "made by another process");
        return NULL;
    }
    branch_aim(&bud->branch);
    PyOS_BeforeFork();
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_BYTES);
    if (emerged(bud)) {
        branch_settle(&bud->branch);
        Py_RETURN_NONE;
    }
    sys4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, KERNEL_SIGSET_BYTES);
    PyOS_AfterFork_Parent();
    Py_RETURN_TRUE;
}

static void bud_dealloc(PyObject *object)
{
    struct bud *bud = (struct bud *)(void *)object;
    if (bud->running && ours(bud))
        say(bud, LEAVE);
    if (bud->stack)
        munmap(bud->stack, STACK_ROOM);
    branch_free(&bud->branch);
    PyMem_Free(bud->view_data);
    if (bud->view_blob.obj)
        PyBuffer_Release(&bud->view_blob);
    PyObject_Free(object);
}

static PyMethodDef bud_methods[] = {
    {"put_forth", bud_put_forth, METH_NOARGS,
     "put_forth()\n--\n\nReturns None in the copy, and True here. Works once."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject core_bud_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "ramet._core.Bud",
    .tp_basicsize = sizeof(struct bud),
    .tp_dealloc = bud_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "A sandbox that waits for a copy of this process.",
    .tp_methods = bud_methods,
};

static int has_shadow_stack(void)
{
#if defined(__x86_64__)
    uint64_t features = 0;
    return sys2(__NR_arch_prctl, SHADOW_STACK_STATUS, &features) == 0 && features & 1;
#else
    return 0;
#endif
}

/* 0 or an errno. */
static int map_stack(struct bud *bud)
{
    void *stack = mmap(NULL, STACK_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return errno;
    bud->stack = stack;
    return mprotect(stack, PAGE, PROT_NONE) ? errno : 0;
}

/* Until the child has become init, or has failed. */
static PyObject *make(struct bud *bud)
{
    long pid = 0;
    int error = has_shadow_stack() ? ENOTSUP : map_stack(bud);
    if (error)
        return Py_BuildValue("iiiii", -1, -1, STAGE_PAYLOAD_CLONE, 0, error);
    branch_run(&bud->branch, &pid);
    return branch_result(&bud->branch, pid);
}

PyObject *core_bud(PyObject *module, PyObject *args)
{
    Py_buffer child, init, view;
    PyObject *child_inputs, *init_inputs, *view_inputs, *found = NULL;
    unsigned long long flags;
    long long at;
    int tid, channel;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*Oy*OLKiy*Oi:bud", &child, &child_inputs, &init, &init_inputs, &at, &flags, &tid, &view,
                          &view_inputs, &channel))
        return NULL;
    struct bud *bud = PyObject_New(struct bud, &core_bud_type);
    if (!bud) {
        PyBuffer_Release(&view);
        goto done;
    }
    memset((char *)bud + offsetof(struct bud, branch), 0, sizeof *bud - offsetof(struct bud, branch));
    bud->view_blob = view;
    bud->owner = sys0(__NR_getpid);
    bud->channel = channel;
    bud->branch.clone.flags = flags;
    bud->branch.tid = tid;
    bud->branch.hooks = 1;
    bud->branch.put_forth = put_forth_later;
    if (tid <= INIT_PID)
        PyErr_SetString(PyExc_ValueError, "the copy must have a pid that is known before");
    else if ((bud->view_data = branch_load(&bud->view, &view, view_inputs)) != NULL &&
             branch_fill(&bud->branch, &child, child_inputs, &init, init_inputs, at) == 0)
        found = make(bud);
    found = found ? Py_BuildValue("NN", (PyObject *)bud, found) : (Py_DECREF(bud), NULL);
done:
    PyBuffer_Release(&child);
    PyBuffer_Release(&init);
    return found;
}
