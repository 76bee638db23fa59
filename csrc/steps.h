/* The plan interpreter: a loop over system calls. It decides nothing but to look a path up once more.
 *
 * A program is one flat blob, made by ramet/plan/encode.py:
 *
 *     struct program | struct step[n_steps] | uint32_t reloc[n_relocs] | data
 *
 * The data holds the strings and structures that the calls point to, and the slots: 32-bit words in which
 * results (file descriptors) and the caller's inputs are kept. A relocation names an 8-byte word of the data
 * to which the data's own address is added, so that argv, iovec and the like can be written as offsets.
 */
#ifndef RAMET_STEPS_H
#define RAMET_STEPS_H

#include "sys.h"

#define PROGRAM_MAGIC 0x31544d52u /* "RMT1" */

struct program {
    uint32_t magic;
    uint32_t n_steps;
    uint32_t n_relocs;
    uint32_t data_size;
};

/* The count of relocations is a multiple of this (the rest point at a spare word), so that the data, and
 * with it every aligned offset into it, is aligned as the blob is. */
#define PROGRAM_RELOC_PAD 4

enum arg_kind {
    ARG_IMMEDIATE = 0,
    ARG_ADDRESS = 1, /* offset into the data; the call gets a pointer */
    ARG_SLOT = 2,    /* offset into the data; the call gets the signed 32-bit word found there */
};
#define ARG_KIND(kinds, i) (((kinds) >> (2 * (i))) & 3u)

#define STEP_EXPECT (1u << 12) /* any result other than `expect` is a failure (EPROTO) */
#define STEP_SAVE (1u << 13)   /* keep the result in the slot at `save` */

#define NR_INJECT (-1) /* no call: the result is args[0]. How a test makes step N fail. */

struct step {
    int32_t nr;
    uint16_t kinds; /* 2 bits an argument, then the STEP_ flags */
    uint8_t allow[2]; /* errnos that are no failure; 0: none */
    uint32_t save;
    int32_t expect;
    uint64_t args[6];
};

#define STEP_EPROTO 71

static inline const struct program *program_header(const void *blob) { return blob; }

/* Where a loaded program's parts are. */
struct loaded {
    const struct step *steps;
    uint32_t n_steps;
    uint32_t data_size;
    unsigned char *data;
};

/* Is this blob well-formed: aligned, sizes add up, every offset inside the data and aligned? 1 or 0. */
int program_check(const void *blob, size_t size);

/* Bytes of data behind the blob's steps and relocations. Only for a checked blob. */
const unsigned char *program_data(const void *blob);

/* Relocate `data` (a writable copy of, or the blob's own data) and say where everything is. */
struct loaded program_load(const void *blob, unsigned char *data);

/* Run the steps in order. 0 when all succeeded, else the errno of the step left in *at. */
int run_steps(const struct loaded *program, uint32_t *at);

#endif
