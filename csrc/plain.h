/* The plain child of ramet.lowlevel: any flags at all, no Python. It makes a short list of system calls, keeps
 * what each returned, and exits.
 *
 * One shared mapping, made and filled by ramet/lowlevel.py and kept until the child has left it:
 *
 *     struct plain | struct plain_call[n_calls] | data | guard page | stack
 */
#ifndef RAMET_PLAIN_H
#define RAMET_PLAIN_H

#include "sys.h"

#define PLAIN_STACK_SIZE (16u * 1024u)
#define PLAIN_GUARD_SIZE (64u * 1024u) /* a page, whatever a page is on aarch64 */

enum plain_arg {
    PLAIN_IMMEDIATE = 0,
    PLAIN_ADDRESS = 1, /* offset into the mapping; the call gets a pointer */
    PLAIN_RESULT = 2,  /* index of an earlier call; the call gets what that returned */
};

struct plain_call {
    int64_t nr;
    uint64_t kinds; /* 2 bits an argument */
    uint64_t args[6];
    int64_t result; /* what the kernel returned: a value, or -errno */
};

struct plain {
    uint32_t n_calls;
    int32_t status;     /* to exit with */
    uint32_t is_thread; /* exit, since exit_group would end the caller */
    int32_t pidfd;
    int32_t parent_tid;
    int32_t child_tid;      /* the word of CLONE_CHILD_SETTID and CLEARTID: 0 once the child has left */
    int32_t seen_child_tid; /* what stood there when the child began */
    uint32_t made;          /* calls made so far */
    struct plain_call calls[];
};

/* The child: runs on the mapping's stack, and ends the process, or the thread. */
void plain_main(void *plain);

#endif
