/* init.c from its start to its end, whatever the kernel, the caller and the processes inside let it see. */
#include "kernel.h"

#include "init.c"

long sys6(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    (void)a, (void)e, (void)f;
    int over = fuzz_left == 0;
    switch (nr) {
    case __NR_exit_group:
        fuzz_leave();
        break;
    case __NR_ppoll:
        for (uint64_t i = 0; i < b; i++)
            ((struct poll_fd *)(uintptr_t)a)[i].revents = (int16_t)(over ? POLL_IN : fuzz_u16());
        return (long)b;
    case __NR_read:
    case __NR_recvfrom: {
        size_t got = over ? 0 : fuzz_u8() % (c + 1);
        fuzz_take((void *)(uintptr_t)b, got);
        return (long)got;
    }
    case __NR_wait4: {
        if (over)
            return -ECHILD;
        uint32_t status = fuzz_u32();
        if (b)
            memcpy((void *)(uintptr_t)b, &status, sizeof status);
        for (size_t i = 0; d && i < sizeof(struct usage) / sizeof(int64_t); i++)
            ((int64_t *)(uintptr_t)d)[i] = fuzz_u16();
        return fuzz_u8() % 4 == 0 ? 0 : (long)(int32_t)fuzz_u32();
    }
    case __NR_statfs:
        fuzz_take((void *)(uintptr_t)b, sizeof(struct file_system));
        return fuzz_u8() % 2;
    case __NR_capget:
        fuzz_take((void *)(uintptr_t)b, 2 * sizeof(struct capability_data));
        return 0;
    case __NR_getpid:
        return fuzz_u8() % 2;
    case __NR_sendto:
        for (size_t i = 0; i < c; i++) /* the message is all initialised and all there */
            *(volatile unsigned char *)(uintptr_t)(b + i);
        return (long)c;
    default:
        break;
    }
    return over ? 0 : fuzz_result();
}

static void start(void *stack) { init_main(stack); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_at = data, fuzz_left = size;
    size_t length = fuzz_u8() % 40;
    char *text = malloc(length + 1);
    fuzz_take(text, length);
    text[length] = 0;
    uint64_t stack[] = {fuzz_u8() % 4 ? 3 : 1, 0, (uint64_t)(uintptr_t)text, (uint64_t)(uintptr_t)"/", 0};
    fuzz_clone(0, 0, start, stack);
    free(text);
    return 0;
}
