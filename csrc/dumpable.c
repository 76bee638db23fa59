/* The dumpable flag of the caller's memory, which children that share it clear by changing credentials.
 *
 * It belongs to the memory, so to all threads that have such a child: saved one by one, the second would save what
 * the first one's child has cleared. So it is saved before the first and put back after the last. The GIL guards it.
 */
#include "core.h"

#include <pthread.h>
#include <sys/prctl.h>

static unsigned count;
static long before;

/* A fork copies the count, not the threads whose children are counted. Not told by the pid: a function called in a
 * CLONE_VM child has another pid, and the same memory. */
static void forget(void) { count = 0; }

void core_dumpable_save(void)
{
    static int registered;
    if (!registered)
        registered = pthread_atfork(NULL, NULL, forget) == 0;
    if (count++ == 0)
        before = sys1(__NR_prctl, PR_GET_DUMPABLE);
}

void core_dumpable_abandon(void) { count--; }

void core_dumpable_restore(void)
{
    /* 2 (suidsafe) can't be set by hand, and needs no restoring: nothing sets a lower value to higher */
    if (--count == 0 && before == 1)
        sys2(__NR_prctl, PR_SET_DUMPABLE, 1);
}
