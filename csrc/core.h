/* The extension's own parts, one file a topic; module.c lists their methods. */
#ifndef RAMET_CORE_H
#define RAMET_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "sys.h"

/* Raise OSError(errno) whose text names the system call. Returns NULL. */
PyObject *core_oserror(int error, const char *call);

/* Around every child that shares the caller's memory; with the GIL held. */
void core_dumpable_save(void);
void core_dumpable_restore(void);
void core_dumpable_abandon(void); /* the child is lost in the middle: one fewer, the flag left as it is */

PyObject *core_spawn(PyObject *module, PyObject *args, PyObject *kwargs);
extern const char core_spawn_doc[];

PyObject *core_begin(PyObject *module, PyObject *args);
extern const char core_begin_doc[];
extern PyTypeObject core_begun_type;

/* Store (offset, value) pairs in a program's data; -1 with an exception. */
int core_store_inputs(PyObject *inputs, unsigned char *data, uint32_t data_size);

PyObject *core_msgpack_check(PyObject *module, PyObject *data);
extern const char core_msgpack_check_doc[];

PyObject *core_run(PyObject *module, PyObject *args);
extern const char core_run_doc[];

PyObject *core_fork(PyObject *module, PyObject *none);
extern const char core_fork_doc[];

PyObject *core_vmsplice(PyObject *module, PyObject *args);
extern const char core_vmsplice_doc[];

PyObject *core_map_shared(PyObject *module, PyObject *args);
extern const char core_map_shared_doc[];
PyObject *core_lay(PyObject *module, PyObject *args);
extern const char core_lay_doc[];

PyObject *core_branch(PyObject *module, PyObject *args);
extern const char core_branch_doc[];

PyObject *core_bud(PyObject *module, PyObject *args);
extern const char core_bud_doc[];
extern PyTypeObject core_bud_type;

PyObject *core_watch_arenas(PyObject *module, PyObject *none);
extern const char core_watch_arenas_doc[];

PyObject *core_shelve(PyObject *module, PyObject *args);
extern const char core_shelve_doc[];

PyObject *core_loaded_data(PyObject *module, PyObject *none);
extern const char core_loaded_data_doc[];

PyObject *core_fetch_shelved(PyObject *module, PyObject *none);
extern const char core_fetch_shelved_doc[];

PyObject *core_note_generator(PyObject *module, PyObject *args);
extern const char core_note_generator_doc[];

PyObject *core_renew_generator(PyObject *module, PyObject *none);
extern const char core_renew_generator_doc[];

PyObject *core_call(PyObject *module, PyObject *args, PyObject *kwargs);
extern const char core_call_doc[];

PyObject *core_clone3(PyObject *module, PyObject *args, PyObject *kwargs);
extern const char core_clone3_doc[];

PyObject *core_trace(PyObject *module, PyObject *args);
extern const char core_trace_doc[];

PyObject *core_syscall(PyObject *module, PyObject *args);
extern const char core_syscall_doc[];

PyObject *core_shares_memory(PyObject *module, PyObject *args);
extern const char core_shares_memory_doc[];

PyObject *core_identity(PyObject *module, PyObject *file);
extern const char core_identity_doc[];

PyObject *core_unchanged(PyObject *module, PyObject *known);
extern const char core_unchanged_doc[];

#endif
