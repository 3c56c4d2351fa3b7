/* The search for an inference's template, and its request made of that: find() and write() of template.py, which holds the
   contract. Whatever is not as it is most of the time is left to Python. */

#include "_fast.h"

#include <string.h>

const char fast_find_doc[] = "find(table, name, version, inputs, outputs, Input, Output): see template.py.";
const char fast_write_doc[] = "write(template, data, piece, whole, query, lines, id_json, parameters): see template.py.";

/* Interned names; made once, for the life of the process. */
static PyObject *form_name, *binary_data_name, *start_name, *lines_name, *json_name, *parameters_name, *size_name, *binary_name;

/* Return None in place of an ordinary error, which Python meets again and says what it means. */
static PyObject *
leave_to_python(void)
{
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
        return NULL;
    }
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* Append what the JSON of these tensors depends on; return 0, perhaps with an error, where that is not known. Where `data` is
   given, append their data to that. */
static int
collect(PyObject *tensors, PyObject *type, PyObject *form, Py_ssize_t *at, PyObject *data)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tensors) && *at < PyTuple_GET_SIZE(form); i++) {
        PyObject *tensor = Py_NewRef(PyList_GET_ITEM(tensors, i)); /* an attribute may be code that empties the list */
        PyObject *own = (PyObject *)Py_TYPE(tensor) == type ? PyObject_GetAttr(tensor, form_name) : NULL;
        int done = own != NULL && own != Py_None;
        if (done && data != NULL) {
            PyObject *binary = PyObject_GetAttr(tensor, binary_data_name);
            done = binary != NULL && (binary == Py_None || PyList_Append(data, binary) == 0);
            Py_XDECREF(binary);
        }
        Py_DECREF(tensor);
        if (!done) {
            Py_XDECREF(own);
            return 0;
        }
        PyTuple_SET_ITEM(form, (*at)++, own);
    }
    return 1;
}

PyObject *
fast_find(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 7 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "find() takes a dict and six arguments more");
        return NULL;
    }
    PyObject *inputs = args[3], *outputs = args[4];
    if (!PyList_CheckExact(inputs) || (outputs != Py_None && !PyList_CheckExact(outputs))) {
        Py_RETURN_NONE;
    }
    Py_ssize_t wanted = outputs == Py_None ? 0 : PyList_GET_SIZE(outputs), at = 0;
    PyObject *form = PyTuple_New(PyList_GET_SIZE(inputs) + (wanted ? wanted + 1 : 0)), *data = PyList_New(0);
    PyObject *key = NULL, *template = NULL, *found = NULL;
    if (form == NULL || data == NULL || !collect(inputs, args[5], form, &at, data)) {
        goto done;
    }
    if (wanted && at < PyTuple_GET_SIZE(form)) {
        PyTuple_SET_ITEM(form, at++, Py_NewRef(Py_None));
        if (!collect(outputs, args[6], form, &at, NULL)) {
            goto done;
        }
    }
    if (at != PyTuple_GET_SIZE(form)) { /* the lists were changed meanwhile */
        goto done;
    }
    if ((key = PyTuple_Pack(3, args[1], args[2], form)) != NULL &&
        (template = PyDict_GetItemWithError(args[0], key)) != NULL) {
        found = PyTuple_Pack(2, template, data);
    }
done:
    Py_XDECREF(key);
    Py_XDECREF(form);
    Py_XDECREF(data);
    return found != NULL ? found : leave_to_python();
}

/* A piece of the request. */
typedef struct {
    const char *text;
    Py_ssize_t size;
} Piece;

static int
piece_of(PyObject *bytes, Piece *piece)
{
    if (bytes == NULL || !PyBytes_CheckExact(bytes)) {
        return 0;
    }
    piece->text = PyBytes_AS_STRING(bytes);
    piece->size = PyBytes_GET_SIZE(bytes);
    return 1;
}

/* Copy the data behind what is written; return whether they fill the rest. */
static int
append(PyObject *data, char *to, Py_ssize_t room, Py_ssize_t most)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(data); i++) {
        Py_buffer view;
        PyObject *each = Py_NewRef(PyList_GET_ITEM(data, i));
        int failed = PyObject_GetBuffer(each, &view, PyBUF_SIMPLE) < 0;
        Py_DECREF(each); /* the view has it */
        if (failed) {
            return 0;
        }
        int fits = view.len <= room && view.len <= most;
        if (fits) {
            memcpy(to, view.buf, (size_t)view.len);
            to += view.len;
            room -= view.len;
        }
        PyBuffer_Release(&view);
        if (!fits) {
            return 0;
        }
    }
    return room == 0;
}

PyObject *
fast_write(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    enum { START, QUERY, OWN, LINES, ID, JSON, END, PIECES };
    if (count != 8 || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "write() takes a template, a list and six arguments more");
        return NULL;
    }
    Py_ssize_t most = PyLong_AsSsize_t(args[2]), limit = PyLong_AsSsize_t(args[3]);
    if ((most == -1 || limit == -1) && PyErr_Occurred()) {
        return NULL;
    }
    Piece pieces[PIECES];
    PyObject *start = PyObject_GetAttr(args[0], start_name), *own = PyObject_GetAttr(args[0], lines_name);
    PyObject *json = PyObject_GetAttr(args[0], json_name), *size = PyObject_GetAttr(args[0], size_name);
    PyObject *binary = PyObject_GetAttr(args[0], binary_name), *request = NULL;
    PyObject *end = args[7] == Py_None ? PyObject_GetAttr(args[0], parameters_name) : Py_NewRef(args[7]);
    if (!piece_of(start, &pieces[START]) || !piece_of(args[4], &pieces[QUERY]) || !piece_of(own, &pieces[OWN]) ||
        !piece_of(args[5], &pieces[LINES]) || !piece_of(args[6], &pieces[ID]) || !piece_of(json, &pieces[JSON]) ||
        !piece_of(end, &pieces[END]) || size == NULL || binary == NULL) {
        goto done;
    }
    Py_ssize_t tensors = PyLong_AsSsize_t(size), whole = 0;
    if (tensors < 0 || tensors > limit) {
        goto done;
    }
    for (int i = 0; i < PIECES; i++) {
        if (pieces[i].size > limit) {
            goto done;
        }
        whole += pieces[i].size;
    }
    Py_ssize_t head = 2 + pieces[ID].size + pieces[JSON].size + pieces[END].size;
    char sizes[128];
    int length = binary == Py_True
                     ? snprintf(sizes, sizeof(sizes),
                                "Inference-Header-Content-Length: %zd\r\nContent-Length: %zd\r\n\r\n{", head, head + tensors)
                     : snprintf(sizes, sizeof(sizes), "Content-Length: %zd\r\n\r\n{", head + tensors);
    whole += length + 1 + tensors;
    if (whole > limit || (request = PyBytes_FromStringAndSize(NULL, whole)) == NULL) {
        goto done;
    }
    char *to = PyBytes_AS_STRING(request);
    for (int i = 0; i < PIECES; i++) {
        if (i == ID) {
            memcpy(to, sizes, (size_t)length);
            to += length;
        }
        memcpy(to, pieces[i].text, (size_t)pieces[i].size);
        to += pieces[i].size;
    }
    *to++ = '}';
    if (!append(args[1], to, tensors, most)) {
        Py_CLEAR(request);
    }
done:
    Py_XDECREF(start);
    Py_XDECREF(own);
    Py_XDECREF(json);
    Py_XDECREF(size);
    Py_XDECREF(binary);
    Py_XDECREF(end);
    return request != NULL ? request : leave_to_python();
}

int
fast_requests_init(void)
{
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {{&form_name, "_form"}, {&binary_data_name, "_binary"}, {&start_name, "start"},
                 {&lines_name, "lines"}, {&json_name, "json"},           {&parameters_name, "parameters"},
                 {&size_name, "size"},   {&binary_name, "binary"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (*names[i].name == NULL && (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    return 0;
}
