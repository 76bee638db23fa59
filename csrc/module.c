/* ramet._core: the method table, and what the topics share. */
#include "core.h"

PyObject *core_oserror(int error, const char *call)
{
    errno = error;
    PyObject *filename = PyUnicode_FromString(call);
    if (!filename)
        return NULL;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, filename);
    Py_DECREF(filename);
    return NULL;
}

#define WITH_KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef core_methods[] = {
    {"spawn", WITH_KEYWORDS(core_spawn), METH_VARARGS | METH_KEYWORDS, core_spawn_doc},
    {"begin", core_begin, METH_VARARGS, core_begin_doc},
    {"call", WITH_KEYWORDS(core_call), METH_VARARGS | METH_KEYWORDS, core_call_doc},
    {"clone3", WITH_KEYWORDS(core_clone3), METH_VARARGS | METH_KEYWORDS, core_clone3_doc},
    {"trace", core_trace, METH_VARARGS, core_trace_doc},
    {"msgpack_check", core_msgpack_check, METH_O, core_msgpack_check_doc},
    {"fork", core_fork, METH_NOARGS, core_fork_doc},
    {"vmsplice", core_vmsplice, METH_VARARGS, core_vmsplice_doc},
    {"map_shared", core_map_shared, METH_VARARGS, core_map_shared_doc},
    {"lay", core_lay, METH_VARARGS, core_lay_doc},
    {"run", core_run, METH_VARARGS, core_run_doc},
    {"branch", core_branch, METH_VARARGS, core_branch_doc},
    {"bud", core_bud, METH_VARARGS, core_bud_doc},
    {"watch_arenas", core_watch_arenas, METH_NOARGS, core_watch_arenas_doc},
    {"shelve", core_shelve, METH_VARARGS, core_shelve_doc},
    {"loaded_data", core_loaded_data, METH_NOARGS, core_loaded_data_doc},
    {"fetch_shelved", core_fetch_shelved, METH_NOARGS, core_fetch_shelved_doc},
    {"note_generator", core_note_generator, METH_VARARGS, core_note_generator_doc},
    {"renew_generator", core_renew_generator, METH_NOARGS, core_renew_generator_doc},
    {"syscall", core_syscall, METH_VARARGS, core_syscall_doc},
    {"identity", core_identity, METH_O, core_identity_doc},
    {"unchanged", core_unchanged, METH_O, core_unchanged_doc},
    {"shares_memory", core_shares_memory, METH_VARARGS, core_shares_memory_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ramet._core",
    .m_doc = "The C core: clone and the plan interpreter. Private; see ramet.lowlevel.",
    .m_size = 0,
    .m_methods = core_methods,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&core_module);
    if (module && (PyModule_AddType(module, &core_begun_type) < 0 || PyModule_AddType(module, &core_bud_type) < 0))
        Py_CLEAR(module);
    return module;
}
