/* A Python function in a CLONE_VM child. */
#include "core.h"

const char core_call_doc[] = "call(...)\n--\n\n";
PyObject *core_call(PyObject *module, PyObject *args, PyObject *kwargs)
{
    (void)module; (void)args; (void)kwargs;
    PyErr_SetString(PyExc_NotImplementedError, "call");
    return NULL;
}
