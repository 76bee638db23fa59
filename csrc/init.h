/* What caller and init say to each other. ramet/run/control.py is the other side. */
#ifndef RAMET_INIT_H
#define RAMET_INIT_H

#include <stdint.h>

#define INIT_MAGIC 0x31494d52u /* "RMI1" */

/* Head of the memfd given to init as argv[1]; two programs (see steps.h) follow, each on a multiple of 16. */
struct init_head {
    uint32_t magic;
    int32_t control; /* SOCK_SEQPACKET; its other end is the caller's. End of file: die. */
    int32_t caller;  /* pidfd of the caller, readable when it is dead; -1: none */
    uint32_t own_size;     /* program that init runs itself; may have no steps */
    uint32_t payload_size; /* program of init's child, ending in execve */
    uint32_t quiet;        /* the caller does not wait for INIT_STARTED: don't wake it */
    uint32_t reserved[2];
};

enum init_message_kind {
    INIT_STARTED = 1, /* the payload has exec'd */
    INIT_FAILED = 2,  /* a step failed; nothing runs */
    INIT_EXITED = 3,  /* the payload ended, and all else in its pid namespace with it */
};

struct init_message {
    int32_t kind;
    int32_t value; /* STARTED: pid in init's pid namespace; FAILED: errno; EXITED: status as wait4 gives it */
    int32_t stage; /* FAILED: INIT_STAGE_OWN or INIT_STAGE_PAYLOAD */
    uint32_t step; /* FAILED */
    int64_t user_usec, system_usec, max_rss_kib, minor_faults, major_faults, voluntary_switches,
        involuntary_switches; /* EXITED: of all that init reaped */
};

#define INIT_STAGE_OWN 4
#define INIT_STAGE_PAYLOAD 5

/* From the caller: forward this signal to the payload. */
struct init_command {
    int32_t signal;
};

#endif
