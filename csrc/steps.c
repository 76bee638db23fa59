/* The plan interpreter. Runs in the CLONE_VM child and in the payload's process: no libc, no allocation. */
#include "steps.h"

static const struct step *program_steps(const void *blob)
{
    return (const struct step *)((const unsigned char *)blob + sizeof(struct program));
}

static const uint32_t *program_relocs(const void *blob)
{
    return (const uint32_t *)(program_steps(blob) + program_header(blob)->n_steps);
}

const unsigned char *program_data(const void *blob)
{
    return (const unsigned char *)(program_relocs(blob) + program_header(blob)->n_relocs);
}

static int word_fits(uint64_t offset, uint64_t width, uint32_t data_size)
{
    return offset % width == 0 && offset <= data_size && width <= data_size - offset;
}

static int step_check(const struct step *step, uint32_t data_size)
{
    if ((step->kinds & STEP_SAVE) && !word_fits(step->save, sizeof(int32_t), data_size))
        return 0;
    for (int i = 0; i < 6; i++) {
        switch (ARG_KIND(step->kinds, i)) {
        case ARG_IMMEDIATE:
            break;
        case ARG_ADDRESS:
            if (!word_fits(step->args[i], 1, data_size))
                return 0;
            break;
        case ARG_SLOT:
            if (!word_fits(step->args[i], sizeof(int32_t), data_size))
                return 0;
            break;
        default:
            return 0;
        }
    }
    return 1;
}

int program_check(const void *blob, size_t size)
{
    const struct program *header = blob;
    if ((uintptr_t)blob % sizeof(uint64_t) || size < sizeof *header || header->magic != PROGRAM_MAGIC ||
        header->n_relocs % PROGRAM_RELOC_PAD)
        return 0;
    uint64_t total = sizeof *header + (uint64_t)header->n_steps * sizeof(struct step) +
                     (uint64_t)header->n_relocs * sizeof(uint32_t) + header->data_size;
    if (total != size)
        return 0;
    const struct step *steps = program_steps(blob);
    for (uint32_t i = 0; i < header->n_steps; i++)
        if (!step_check(&steps[i], header->data_size))
            return 0;
    const uint32_t *relocs = program_relocs(blob);
    for (uint32_t i = 0; i < header->n_relocs; i++)
        if (!word_fits(relocs[i], sizeof(uint64_t), header->data_size))
            return 0;
    return 1;
}

static int32_t *slot_at(unsigned char *data, uint64_t offset)
{
    return (int32_t *)(void *)(data + offset);
}

struct loaded program_load(const void *blob, unsigned char *data)
{
    const struct program *header = blob;
    const uint32_t *relocs = program_relocs(blob);
    for (uint32_t i = 0; i < header->n_relocs; i++)
        *(uint64_t *)(void *)(data + relocs[i]) += (uint64_t)(uintptr_t)data;
    return (struct loaded){program_steps(blob), header->n_steps, header->data_size, data};
}

static uint64_t resolve(const struct step *step, int i, unsigned char *data)
{
    uint64_t arg = step->args[i];
    switch (ARG_KIND(step->kinds, i)) {
    case ARG_ADDRESS:
        return (uint64_t)(uintptr_t)(data + arg);
    case ARG_SLOT:
        return (uint64_t)(int64_t)*slot_at(data, arg);
    default:
        return arg;
    }
}

/* With RESOLVE_IN_ROOT a path that has ".." in it is not looked up where anybody on the machine mounts or renames something
 * meanwhile: openat2(2), EAGAIN (11). Beside one process that does nothing else, that is one lookup of sixteen. */
static long call(const struct step *step, unsigned char *data)
{
    if (step->nr == NR_INJECT)
        return (long)step->args[0];
    for (int left = 10000;; left--) {
        long result = sys6(step->nr, resolve(step, 0, data), resolve(step, 1, data), resolve(step, 2, data),
                           resolve(step, 3, data), resolve(step, 4, data), resolve(step, 5, data));
        if (result != -11 || step->nr != __NR_openat2 || !left)
            return result;
    }
}

static int allowed(const struct step *step, long error)
{
    return error == step->allow[0] || error == step->allow[1];
}

int run_steps(const struct loaded *program, uint32_t *at)
{
    for (uint32_t i = 0; i < program->n_steps; i++) {
        const struct step *step = &program->steps[i];
        long result = call(step, program->data);
        *at = i;
        if (sys_failed(result)) {
            if (!allowed(step, -result))
                return (int)-result;
        } else if ((step->kinds & STEP_EXPECT) && result != step->expect) {
            return STEP_EPROTO;
        }
        if (step->kinds & STEP_SAVE)
            *slot_at(program->data, step->save) = (int32_t)result;
    }
    return 0;
}
