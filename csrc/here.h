/* Clone a CLONE_VM child that goes on on the caller's own stack.
 *
 * The caller's thread must stand still meanwhile (CLONE_VFORK). Its registers are kept by the kernel; its frames
 * must be kept by us, and the only code that can promise that is the instruction after the system call: the
 * child leaves from there, below the red zone, for a function that never returns. So whatever frame, spill
 * or sibling call the compiler makes of the code around it, the child writes only below the caller's stack
 * pointer. That is also where a shadow stack (CET) is right: for CLONE_VFORK the kernel lets the child
 * use the caller's. A libc wrapper could not be used: the child's first call would overwrite its return
 * address, which the caller has yet to return to. */
#ifndef RAMET_HERE_H
#define RAMET_HERE_H

#include "child.h"

#define HERE_CSIGNAL 0xffULL
#define HERE_ENOSYS 38
#define HERE_EINVAL 22

/* Run fn(arg), which must not return, in a child on this very stack. args has no stack and has CLONE_VM and
 * CLONE_VFORK. Returns, once the child has left our memory, its pid; or -errno. */
static inline long clone_here(const struct kernel_clone_args *args, int no_clone3, void (*fn)(void *), void *arg)
{
    if (!no_clone3) {
        long result = raw_clone3(args, fn, arg);
        /* ENOSYS is what an old kernel and a container's seccomp filter answer. EPERM is a verdict: keep it. */
        if (result != -HERE_ENOSYS)
            return result;
    }
    if (args->flags >> 32 || args->flags & HERE_CSIGNAL)
        return -HERE_EINVAL; /* what only clone3 can say */
    return raw_clone(args, fn, arg);
}

#endif
