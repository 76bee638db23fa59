/* The dumpable flag of the caller's memory, which children that share it clear by changing credentials.
 *
 * It belongs to the memory, so to all threads that have such a child: saved one by one, the second would save what
 * the first one's child has cleared. So it is saved before the first and put back after the last. The GIL guards it.
 */
#include "core.h"

#include <sys/prctl.h>
#include <unistd.h>

static struct {
    unsigned count;
    pid_t of; /* a fork meanwhile copies the count, not the threads */
    long before;
} dumpable;

void core_dumpable_save(void)
{
    pid_t self = getpid();
    if (dumpable.of != self)
        dumpable.count = 0;
    dumpable.of = self;
    if (dumpable.count++ == 0)
        dumpable.before = sys1(__NR_prctl, PR_GET_DUMPABLE);
}

void core_dumpable_restore(void)
{
    /* 2 (suidsafe) can't be set by hand, and needs no restoring: nothing sets a lower value to higher */
    if (--dumpable.count == 0 && dumpable.before == 1)
        sys2(__NR_prctl, PR_SET_DUMPABLE, 1);
}
