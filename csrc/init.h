/* What caller and init say to each other. ramet/run/control.py is the other side. */
#ifndef RAMET_INIT_H
#define RAMET_INIT_H

#include <stdint.h>

/* Init's descriptors; it has no others. Its argv[1] is the pid of the payload, which is its
 * child; argv[2] a path in the file system that is the sandbox's own. */
enum {
    INIT_CONTROL = 0, /* SOCK_SEQPACKET; its other end is the caller's. End of file: die. */
    INIT_CALLER = 1,  /* pidfd of the caller, readable when it is dead */
    INIT_SIGNALS = 2, /* signalfd for all of them */
};

/* To the caller: the payload ended, and all else in its pid namespace with it. */
struct init_message {
    int32_t status; /* as wait4 gives it */
    int32_t disk_full; /* argv[2] is a file system in memory, the sandbox's own, and had no room left */
    int64_t user_usec, system_usec, max_rss_kib, minor_faults, major_faults, blocks_in, blocks_out,
        voluntary_switches, involuntary_switches; /* of all that init reaped; blocks are of 512 bytes */
};

/* From the caller: forward this signal to the payload; or, before it kills us, who could not tell any more: is the disk full?
 * That is answered by an int32_t. */
enum { INIT_TELL_DISK = -1 };
struct init_command {
    int32_t signal;
};

#endif
