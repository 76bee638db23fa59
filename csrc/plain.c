/* The plain child. Bare, like child.c: with CLONE_SETTLS even the stack protector's guard is out of reach. */
#include "plain.h"

static uint64_t resolve(struct plain *plain, const struct plain_call *call, int i)
{
    uint64_t arg = call->args[i];
    switch ((call->kinds >> (2 * i)) & 3u) {
    case PLAIN_ADDRESS:
        return (uint64_t)(uintptr_t)plain + arg;
    case PLAIN_RESULT:
        return (uint64_t)plain->calls[arg].result;
    default:
        return arg;
    }
}

void plain_main(void *arg)
{
    struct plain *plain = arg;
    plain->seen_child_tid = plain->child_tid;
    for (uint32_t i = 0; i < plain->n_calls; i++) {
        struct plain_call *call = &plain->calls[i];
        call->result = sys6((long)call->nr, resolve(plain, call, 0), resolve(plain, call, 1),
                            resolve(plain, call, 2), resolve(plain, call, 3), resolve(plain, call, 4),
                            resolve(plain, call, 5));
        plain->made = i + 1;
    }
    for (;;)
        sys1(plain->is_thread ? __NR_exit : __NR_exit_group, plain->status);
}
