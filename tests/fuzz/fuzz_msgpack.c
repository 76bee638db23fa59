/* msgpack.c: what a sandbox sends, looked at before anything is built of it. */
#include "kernel.h"

#include "msgpack.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char *copy = fuzz_copy(data, size);
    check(copy, size);
    free(copy);
    return 0;
}
