/* generator: numpy's global random numbers, begun anew in a copy of a process.
 *
 * numpy.random.set_state does that too, and writes to eighty pages of objects on its way, each of which is copied then. Here it is
 * the 2,500 bytes alone. Where they are tells the capsule that numpy has for extensions (numpy/random/bitgen.h), whose first
 * word is the state; that it is that of a Mersenne Twister as we know it is seen by what it contains.
 */
#include "core.h"

#include <string.h>

#define WORDS 624

struct twister { /* numpy/random/src/mt19937/mt19937.h */
    uint32_t key[WORDS];
    int32_t position;
};

static struct twister *noted;

const char core_note_generator_doc[] =
    "note_generator(capsule, state)\n"
    "--\n\n"
    "Remember the generator of a capsule named BitGenerator for renew_generator, if its state is these bytes: 624 words and a position.\n"
    "Is it? For one that lives as long as the process.";

PyObject *core_note_generator(PyObject *module, PyObject *args)
{
    PyObject *capsule;
    const char *state;
    Py_ssize_t size;
    (void)module;
    if (!PyArg_ParseTuple(args, "Oy#:note_generator", &capsule, &state, &size))
        return NULL;
    void *const *found = PyCapsule_GetPointer(capsule, "BitGenerator");
    if (!found)
        return NULL;
    noted = size == sizeof *noted && *found && !memcmp(*found, state, sizeof *noted) ? *found : NULL;
    return PyBool_FromLong(noted != NULL);
}

const char core_renew_generator_doc[] =
    "renew_generator()\n"
    "--\n\n"
    "Give the generator of note_generator a random state. False where there is none, or no randomness to be had.";

PyObject *core_renew_generator(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    if (!noted)
        Py_RETURN_FALSE;
    for (size_t done = 0; done < sizeof noted->key;) {
        long got = sys3(__NR_getrandom, (char *)noted->key + done, sizeof noted->key - done, 0);
        if (got <= 0)
            Py_RETURN_FALSE;
        done += (size_t)got;
    }
    noted->position = WORDS;
    Py_RETURN_TRUE;
}
