/* One spawn, for spawn.c, which waits for its child, and begun.c, which does not at once. */
#ifndef RAMET_SPAWN_H
#define RAMET_SPAWN_H

#include "child.h"
#include "core.h"

#define ALL_SIGNALS (~(uint64_t)0)

/* Set the calling thread's signal mask; the one before, where it is wanted. */
void set_mask(uint64_t mask, uint64_t *before);

/* The programs of one spawn, and whose memory they run in. */
enum { PROGRAM, JOIN, PAYLOAD, INIT, PROGRAMS };

struct programs {
    struct {
        const char *buf; /* NULL: there is none */
        Py_ssize_t len;
    } blob[PROGRAMS]; /* of bytes objects: aligned, and nobody changes them after the check */
    PyObject *inputs[PROGRAMS];
    long long gate, pid_text;
    int shares; /* is the child's memory ours? */
};

/* One mapping: for each process (child, intermediate, payload's) a guard page and a stack, then struct child, then
 * the data of each program. */
struct arena {
    unsigned char *base;
    size_t size, stacks;
    int shared; /* by those who have a copy of our memory */
    unsigned char *stack, *join_stack, *payload_stack;
    struct child *child;
    unsigned char *data[PROGRAMS];
};

/* A program given as (bytes, inputs), or None; -1 with an exception. */
int programs_parse(PyObject *given, struct programs *programs, int which);
int programs_check(const struct programs *programs);

/* Map, load and describe the child; -1 with an exception. syncs: will it wait for the caller? */
int arena_fill(struct arena *arena, const struct programs *programs, unsigned long long flags, int cgroup, int clone3,
               int syncs);
void arena_end(struct arena *arena);

/* Clone the child; its pid in *child, or why not. */
void child_start(struct child *child);
void child_reap(const struct child *child);
void wait_left_memory(struct child *child);

/* The caller's side of the sync steps, with its own signal mask; 0, or -1 with an exception, and the child is killed. */
int child_sync(PyObject *sync, uint64_t mask, struct child *child);

#endif
