/* The plain child of ramet.lowlevel: lowlevel.c's check of a mapping, and the calls of what has passed it. */
#include "kernel.h"

#include "lowlevel.c"
#include "plain.c"

static struct plain *mapping;
static size_t mapping_size;

long sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    (void)b, (void)c, (void)d, (void)e, (void)f;
    if (nr == __NR_exit || nr == __NR_exit_group)
        fuzz_leave();
    if (a >= (uintptr_t)mapping && a < (uintptr_t)mapping + mapping_size)
        *(volatile unsigned char *)(uintptr_t)a; /* an address that was given is one of the mapping's */
    return fuzz_result();
}

long sys_clone(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, void (*fn)(void *), void *arg)
{
    (void)nr, (void)a, (void)b, (void)c, (void)d, (void)e, (void)fn, (void)arg;
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* A word says how large the mapping is to be: what follows of it, then zeros; then what the kernel answers. */
    fuzz_at = data, fuzz_left = size;
    size_t given = fuzz_u16() % 2048;
    mapping_size = given + (fuzz_u8() % 2 ? PLAIN_STACK_SIZE + PLAIN_GUARD_SIZE : 0);
    mapping = malloc(mapping_size ? mapping_size : 1);
    memset(mapping, 0, mapping_size);
    fuzz_take(mapping, given);
    if (plain_check(mapping, mapping_size))
        fuzz_clone(0, 0, plain_main, mapping);
    free(mapping);
    return 0;
}
