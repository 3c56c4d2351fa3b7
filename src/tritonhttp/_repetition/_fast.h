/* What the two sources of the extension share: the functions of _fast_requests.c. */

#ifndef TRITONHTTP_FAST_H
#define TRITONHTTP_FAST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern const char fast_find_doc[], fast_compose_doc[];

PyObject *fast_find(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *fast_compose(PyObject *module, PyObject *const *args, Py_ssize_t count);
int fast_requests_init(void);

#endif
