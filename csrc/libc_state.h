/* What libc's fork renews in its child and a raw clone does not: found before the clone, put right in the child. */
#ifndef RAMET_LIBC_STATE_H
#define RAMET_LIBC_STATE_H

#include "sys.h"

#define RAMET_GET_TID_ADDRESS 40 /* PR_GET_TID_ADDRESS, which some libc headers lack */

struct libc_state {
    int32_t *tid; /* NULL where the kernel won't say (no CONFIG_CHECKPOINT_RESTORE) */
    uint64_t robust_list;
    uint64_t robust_size;
};

static inline struct libc_state libc_state(void)
{
    struct libc_state state = {0};
    if (sys_failed(sys2(__NR_prctl, RAMET_GET_TID_ADDRESS, &state.tid)))
        state.tid = NULL;
    if (sys_failed(sys3(__NR_get_robust_list, 0, &state.robust_list, &state.robust_size)))
        state.robust_list = 0;
    return state;
}

static inline void renew_libc(const struct libc_state *state)
{
    if (state->tid)
        *state->tid = (int32_t)sys0(__NR_gettid);
    if (state->robust_list)
        sys2(__NR_set_robust_list, state->robust_list, state->robust_size);
}

#endif
