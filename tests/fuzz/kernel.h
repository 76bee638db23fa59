/* A kernel that is made up, for fuzzers: what it answers comes from the fuzzer's bytes, and no call reaches a real one.
 *
 * A clone runs the child at once, in this very process, as far as its exec or its end, and then goes on as the caller: so all
 * processes of a spawn run in one memory that the sanitizers watch. Include this before the source that is fuzzed. */
#ifndef RAMET_FUZZ_KERNEL_H
#define RAMET_FUZZ_KERNEL_H

#include <errno.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sys.h"

#ifndef RAMET_FAKE_KERNEL
#error "compile with -DRAMET_FAKE_KERNEL, or the fuzzer's calls are real"
#endif

/* The fuzzer's bytes, taken from the front; zeros when they have run out. */
static const unsigned char *fuzz_at;
static size_t fuzz_left;

static void fuzz_take(void *to, size_t size)
{
    size_t piece = size < fuzz_left ? size : fuzz_left;
    if (size)
        memset(to, 0, size);
    if (piece)
        memcpy(to, fuzz_at, piece);
    fuzz_at += piece;
    fuzz_left -= piece;
}

#define FUZZ_TAKE(type, name)                                                                                          \
    static inline type name(void)                                                                                      \
    {                                                                                                                  \
        type value;                                                                                                    \
        fuzz_take(&value, sizeof value);                                                                               \
        return value;                                                                                                  \
    }
FUZZ_TAKE(uint8_t, fuzz_u8)
FUZZ_TAKE(uint16_t, fuzz_u16)
FUZZ_TAKE(uint32_t, fuzz_u32)
FUZZ_TAKE(uint64_t, fuzz_u64)

/* A copy with nothing behind it, so that a byte too far is seen. */
static inline unsigned char *fuzz_copy(const void *from, size_t size)
{
    unsigned char *copy = malloc(size ? size : 1);
    if (size)
        memcpy(copy, from, size);
    return copy;
}

/* Processes within processes. */
#define FUZZ_DEPTH 8
static struct {
    jmp_buf left;
    int32_t *cleared; /* CLONE_CHILD_CLEARTID */
} fuzz_process[FUZZ_DEPTH];
static int fuzz_depth;

static inline void fuzz_leave(void)
{
    if (!fuzz_depth)
        abort(); /* the caller itself would have ended */
    fuzz_depth--;
    if (fuzz_process[fuzz_depth].cleared)
        *(volatile int32_t *)fuzz_process[fuzz_depth].cleared = 0;
    longjmp(fuzz_process[fuzz_depth].left, 1);
}

/* Run fn(arg) as a process; a pid once it has left, or -errno. */
static inline long fuzz_clone(uint64_t flags, uint64_t child_tid, void (*fn)(void *), void *arg)
{
    uint8_t answer = fuzz_u8();
    if (answer >= 200 || fuzz_depth == FUZZ_DEPTH)
        return -(long)(answer - 199);
    fuzz_process[fuzz_depth].cleared = flags & 0x200000 ? (int32_t *)(uintptr_t)child_tid : NULL;
    if (setjmp(fuzz_process[fuzz_depth].left) == 0) {
        fuzz_depth++;
        fn(arg);
        abort(); /* it must not return */
    }
    return answer % 2 ? 4194304 : 1 + answer;
}

/* What any call returns: mostly a small value, sometimes an errno, rarely all 64 bits. */
static inline long fuzz_result(void)
{
    uint8_t answer = fuzz_u8();
    if (answer < 200)
        return answer;
    return answer < 250 ? -(long)(answer - 199) : (long)fuzz_u64();
}

#endif
