/* The search for an inference's template, and its request made of that: find() and compose() of template.py, which holds
   the contract. Whatever is not as it is most of the time is left to Python. */

#include "_fast.h"

#include <string.h>

const char fast_find_doc[] = "find(table, inference, Input, Output): see template.py.";
const char fast_compose_doc[] =
    "compose(table, inference, Input, Output, piece, whole, query, lines, id_json, parameters): see template.py.";

/* Interned names; made once, for the life of the process. */
static PyObject *form_name, *data_name, *start_name, *lines_name, *json_name, *parameters_name, *size_name, *binary_name;
static PyObject *model_name, *version_name, *inputs_name, *outputs_name;

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
            PyObject *binary = PyObject_GetAttr(tensor, data_name);
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

/* Return the template of an inference, borrowed, or NULL, perhaps with an error; its data are appended to a list. */
static PyObject *
look_up(PyObject *table, PyObject *inference, PyObject *input, PyObject *output, PyObject *data)
{
    PyObject *inputs = NULL, *outputs = NULL, *name = NULL, *version = NULL, *form = NULL, *key = NULL, *template = NULL;
    if ((inputs = PyObject_GetAttr(inference, inputs_name)) == NULL ||
        (outputs = PyObject_GetAttr(inference, outputs_name)) == NULL ||
        (name = PyObject_GetAttr(inference, model_name)) == NULL ||
        (version = PyObject_GetAttr(inference, version_name)) == NULL || !PyList_CheckExact(inputs) ||
        (outputs != Py_None && !PyList_CheckExact(outputs))) {
        goto done;
    }
    Py_ssize_t wanted = outputs == Py_None ? 0 : PyList_GET_SIZE(outputs), at = 0;
    form = PyTuple_New(PyList_GET_SIZE(inputs) + (wanted ? wanted + 1 : 0));
    if (form == NULL || !collect(inputs, input, form, &at, data)) {
        goto done;
    }
    if (wanted && at < PyTuple_GET_SIZE(form)) {
        PyTuple_SET_ITEM(form, at++, Py_NewRef(Py_None));
        if (!collect(outputs, output, form, &at, NULL)) {
            goto done;
        }
    }
    if (at == PyTuple_GET_SIZE(form) && (key = PyTuple_Pack(3, name, version, form)) != NULL) { /* or a list was changed */
        template = PyDict_GetItemWithError(table, key);
    }
done:
    Py_XDECREF(key);
    Py_XDECREF(form);
    Py_XDECREF(inputs);
    Py_XDECREF(outputs);
    Py_XDECREF(name);
    Py_XDECREF(version);
    return template;
}

PyObject *
fast_find(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "find() takes a dict and three arguments more");
        return NULL;
    }
    PyObject *data = PyList_New(0), *found = NULL;
    PyObject *template = data == NULL ? NULL : look_up(args[0], args[1], args[2], args[3], data);
    if (template != NULL) {
        found = PyTuple_Pack(2, template, data);
    }
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

/* Write a number in decimal; return where it ends. */
static char *
write_number(char *to, Py_ssize_t number)
{
    char digits[24];
    int count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (count) {
        *to++ = digits[--count];
    }
    return to;
}

static char *
write_text(char *to, const char *text)
{
    size_t size = strlen(text);
    memcpy(to, text, size);
    return to + size;
}

/* Return a request; NULL, perhaps with an error, where it cannot be made in one piece. */
static PyObject *
fill(PyObject *template, PyObject *data, Py_ssize_t most, Py_ssize_t limit, PyObject *const *own)
{
    enum { START, QUERY, LINES, GIVEN, ID, JSON, END, PIECES };
    Piece pieces[PIECES];
    PyObject *start = NULL, *lines = NULL, *json = NULL, *size = NULL, *binary = NULL, *end = NULL, *request = NULL;
    if (!piece_of(start = PyObject_GetAttr(template, start_name), &pieces[START]) ||
        !piece_of(lines = PyObject_GetAttr(template, lines_name), &pieces[LINES]) ||
        !piece_of(json = PyObject_GetAttr(template, json_name), &pieces[JSON]) ||
        !piece_of(end = own[3] == Py_None ? PyObject_GetAttr(template, parameters_name) : Py_NewRef(own[3]), &pieces[END]) ||
        !piece_of(own[0], &pieces[QUERY]) || !piece_of(own[1], &pieces[GIVEN]) || !piece_of(own[2], &pieces[ID]) ||
        (size = PyObject_GetAttr(template, size_name)) == NULL || (binary = PyObject_GetAttr(template, binary_name)) == NULL) {
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
    char sizes[128], *at = sizes;
    if (binary == Py_True) {
        at = write_number(write_text(at, "Inference-Header-Content-Length: "), head);
        at = write_text(at, "\r\n");
    }
    at = write_number(write_text(at, "Content-Length: "), head + tensors);
    at = write_text(at, "\r\n\r\n{");
    size_t length = (size_t)(at - sizes);
    whole += (Py_ssize_t)length + 1 + tensors;
    if (whole > limit || (request = PyBytes_FromStringAndSize(NULL, whole)) == NULL) {
        goto done;
    }
    char *to = PyBytes_AS_STRING(request);
    for (int i = 0; i < PIECES; i++) {
        if (i == ID) {
            memcpy(to, sizes, length);
            to += length;
        }
        memcpy(to, pieces[i].text, (size_t)pieces[i].size);
        to += pieces[i].size;
    }
    *to++ = '}';
    if (!append(data, to, tensors, most)) {
        Py_CLEAR(request);
    }
done:
    Py_XDECREF(start);
    Py_XDECREF(lines);
    Py_XDECREF(json);
    Py_XDECREF(size);
    Py_XDECREF(binary);
    Py_XDECREF(end);
    return request;
}

PyObject *
fast_compose(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 10 || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "compose() takes a dict and nine arguments more");
        return NULL;
    }
    Py_ssize_t most, limit;
    if (((most = PyLong_AsSsize_t(args[4])) == -1 && PyErr_Occurred()) ||
        ((limit = PyLong_AsSsize_t(args[5])) == -1 && PyErr_Occurred())) {
        return NULL;
    }
    PyObject *data = PyList_New(0), *request = NULL, *found = NULL;
    PyObject *template = data == NULL ? NULL : look_up(args[0], args[1], args[2], args[3], data);
    if (template != NULL) {
        Py_INCREF(template); /* making the request may let others run, and forget it */
        request = fill(template, data, most, limit, &args[6]);
        if (request != NULL) {
            found = Py_BuildValue("(O[O])", template, request);
        }
        Py_DECREF(template);
    }
    Py_XDECREF(request);
    Py_XDECREF(data);
    return found != NULL ? found : leave_to_python();
}

int
fast_requests_init(void)
{
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {{&form_name, "_form"}, {&data_name, "_binary"}, {&start_name, "start"},
                 {&lines_name, "lines"}, {&json_name, "json"},           {&parameters_name, "parameters"},
                 {&size_name, "size"},   {&binary_name, "binary"},
                 {&model_name, "model_name"}, {&version_name, "model_version"},
                 {&inputs_name, "inputs"}, {&outputs_name, "outputs"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (*names[i].name == NULL && (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    return 0;
}
