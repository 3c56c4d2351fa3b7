/* The search for what is known of an inference, and its request made from that: recall() of inferences.py, which holds the
   contract. Whatever is not as it is most of the time is left to Python. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

/* The most inputs and outputs in all. */
#define MOST 32

/* Interned names; made once, for the life of the process. */
static PyObject *form_name, *binary_name, *head_name, *size_name;

/* Append an attribute's value to those held; return 0 without it. */
static int
hold(PyObject *holder, PyObject *name, PyObject **held, Py_ssize_t *count)
{
    PyObject *value = PyObject_GetAttr(holder, name);
    if (value == NULL || value == Py_None) {
        Py_XDECREF(value);
        return 0;
    }
    held[(*count)++] = value;
    return 1;
}

/* Return the size that an object says it has, or -1, perhaps with an error. */
static Py_ssize_t
size_of(PyObject *known)
{
    PyObject *size = PyObject_GetAttr(known, size_name);
    Py_ssize_t value = size == NULL ? -1 : PyLong_AsSsize_t(size);
    Py_XDECREF(size);
    return value;
}

/* Return the request: the head that is known, and the data behind it. NULL, perhaps with an error, where that does not have
   the size that is known. */
static PyObject *
join(PyObject *known, PyObject *const *data, Py_ssize_t count, Py_ssize_t limit)
{
    Py_ssize_t size = size_of(known);
    PyObject *head = size < 0 ? NULL : PyObject_GetAttr(known, head_name), *request = NULL;
    if (head != NULL && PyBytes_CheckExact(head) && PyBytes_GET_SIZE(head) <= size && size <= limit) {
        request = PyBytes_FromStringAndSize(NULL, size);
    }
    if (request != NULL) {
        Py_ssize_t at = PyBytes_GET_SIZE(head), i;
        memcpy(PyBytes_AS_STRING(request), PyBytes_AS_STRING(head), (size_t)at);
        for (i = 0; i < count; i++) {
            Py_buffer view;
            if (PyObject_GetBuffer(data[i], &view, PyBUF_SIMPLE) < 0) {
                break;
            }
            int fits = view.len <= size - at;
            if (fits) {
                memcpy(PyBytes_AS_STRING(request) + at, view.buf, (size_t)view.len);
                at += view.len;
            }
            PyBuffer_Release(&view);
            if (!fits) {
                break;
            }
        }
        if (i < count || at != size) {
            Py_CLEAR(request);
        }
    }
    Py_XDECREF(head);
    return request;
}

PyDoc_STRVAR(recall_doc, "recall(table, name, version, inputs, outputs, Input, Output, limit): see inferences.py.");

static PyObject *
recall(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 8 || !PyDict_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "recall() takes a dict and seven arguments more");
        return NULL;
    }
    Py_ssize_t limit = PyLong_AsSsize_t(args[7]);
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *inputs = args[3], *outputs = args[4];
    if (!PyList_CheckExact(inputs) || (outputs != Py_None && !PyList_CheckExact(outputs))) {
        Py_RETURN_NONE;
    }
    PyObject *forms[MOST + 1], *data[MOST];
    Py_ssize_t formed = 0, filled = 0, i;
    PyObject *form = NULL, *key = NULL, *known = NULL, *request = NULL, *result = NULL;
    for (i = 0; i < PyList_GET_SIZE(inputs); i++) {
        PyObject *input = Py_NewRef(PyList_GET_ITEM(inputs, i)); /* an attribute may be code that empties the list */
        int held = formed < MOST && (PyObject *)Py_TYPE(input) == args[5] && hold(input, form_name, forms, &formed) &&
                   (hold(input, binary_name, data, &filled) || !PyErr_Occurred());
        Py_DECREF(input);
        if (!held) {
            goto done;
        }
    }
    if (outputs != Py_None && PyList_GET_SIZE(outputs)) {
        forms[formed++] = Py_NewRef(Py_None);
        for (i = 0; i < PyList_GET_SIZE(outputs); i++) {
            PyObject *output = PyList_GET_ITEM(outputs, i);
            if (formed > MOST || (PyObject *)Py_TYPE(output) != args[6] || !hold(output, form_name, forms, &formed)) {
                goto done;
            }
        }
    }
    if ((form = PyTuple_New(formed)) == NULL) {
        goto done;
    }
    for (i = 0; i < formed; i++) {
        PyTuple_SET_ITEM(form, i, Py_NewRef(forms[i]));
    }
    if ((key = PyTuple_Pack(3, args[1], args[2], form)) != NULL && (known = PyDict_GetItemWithError(args[0], key)) != NULL) {
        Py_INCREF(known); /* making the request may let others run, and forget it */
        request = join(known, data, filled, limit);
    }
    if (request != NULL) {
        result = Py_BuildValue("(O[O])", known, request);
    }
done:
    Py_XDECREF(request);
    Py_XDECREF(known);
    Py_XDECREF(key);
    Py_XDECREF(form);
    while (filled) {
        Py_DECREF(data[--filled]);
    }
    while (formed) {
        Py_DECREF(forms[--formed]);
    }
    if (result == NULL && (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_Exception))) {
        PyErr_Clear(); /* Python meets it again, and says what it means */
        Py_RETURN_NONE;
    }
    return result;
}

static int
populate(PyObject *Py_UNUSED(module))
{
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {{&form_name, "_form"}, {&binary_name, "_binary"}, {&head_name, "head"}, {&size_name, "size"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (*names[i].name == NULL && (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    return 0;
}

static PyMethodDef methods[] = {
    {"recall", (PyCFunction)(void (*)(void))recall, METH_FASTCALL, recall_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, populate},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tritonhttp._repetition._recall",
    .m_doc = "The search of tritonhttp._protocol.inferences.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__recall(void)
{
    return PyModuleDef_Init(&definition);
}
