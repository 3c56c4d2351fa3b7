/* The loops of bytes_tensor.py, which has the contract, every rule about single elements, and every message.

   Sizes measured earlier may be stale: the str() of an element runs Python code, and threads without the GIL can
   write to the memory behind a buffer. So each write is bounded by the remaining space. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define PREFIX 4
#define MAX_LENGTH 0xFFFFFFFFULL

static inline void
write_length(unsigned char *to, Py_ssize_t length)
{
    uint32_t value = (uint32_t)length;
    to[0] = (unsigned char)value;
    to[1] = (unsigned char)(value >> 8);
    to[2] = (unsigned char)(value >> 16);
    to[3] = (unsigned char)(value >> 24);
}

static inline uint32_t
read_length(const unsigned char *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Borrow an item's encoded bytes from the item itself. Return 0 unless it is bytes or a str of ASCII only. */
static inline int
borrow(PyObject *item, const void **octets, Py_ssize_t *length)
{
    if (PyBytes_CheckExact(item)) {
        *octets = PyBytes_AS_STRING(item);
        *length = PyBytes_GET_SIZE(item);
        return 1;
    }
    /* Check compact first: before 3.12 a str that is not ready is not compact. */
    if (PyUnicode_CheckExact(item) && PyUnicode_IS_COMPACT(item) && PyUnicode_IS_ASCII(item)) {
        *octets = PyUnicode_DATA(item);
        *length = PyUnicode_GET_LENGTH(item);
        return 1;
    }
    return 0;
}

/* Return new bytes for an item that borrow() refuses. */
static PyObject *
convert_item(PyObject *item, Py_ssize_t index, PyObject *convert)
{
    if (PyUnicode_CheckExact(item)) {
        /* PyUnicode_AsUTF8AndSize would keep a second copy inside the caller's str. */
        PyObject *utf8 = PyUnicode_AsUTF8String(item);
        if (utf8 != NULL && (unsigned long long)PyBytes_GET_SIZE(utf8) <= MAX_LENGTH) {
            return utf8;
        }
        if (utf8 == NULL && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            return NULL;
        }
        Py_XDECREF(utf8);
        PyErr_Clear(); /* convert() raises an error that names the element */
    }
    PyObject *converted = PyObject_CallFunction(convert, "On", item, index);
    if (converted != NULL
        && (!PyBytes_CheckExact(converted) || (unsigned long long)PyBytes_GET_SIZE(converted) > MAX_LENGTH)) {
        Py_DECREF(converted);
        PyErr_SetString(PyExc_TypeError, "convert() did not return bytes that can be framed");
        return NULL;
    }
    return converted;
}

PyDoc_STRVAR(encode_doc,
             "encode(items, convert, /)\n--\n\n"
             "Frame the items of a list, which is private: items are replaced in it. convert(item, index) makes bytes\n"
             "of what is neither bytes nor str, and raises for items that are too long or have no UTF-8 form.");

static PyObject *
encode(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyList_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "encode() takes a list and a callable");
        return NULL;
    }
    PyObject *items = args[0];
    const void *octets;
    Py_ssize_t length;
    Py_ssize_t total = 0;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (!borrow(item, &octets, &length) || (unsigned long long)length > MAX_LENGTH) {
            Py_INCREF(item);
            PyObject *converted = convert_item(item, i, args[1]);
            Py_DECREF(item);
            if (converted == NULL) {
                return NULL;
            }
            length = PyBytes_GET_SIZE(converted);
            if (PyList_SetItem(items, i, converted) < 0) { /* takes the reference in either case */
                return NULL;
            }
        }
        if (total > PY_SSIZE_T_MAX - PREFIX - length) {
            return PyErr_NoMemory();
        }
        total += PREFIX + length;
    }

    PyObject *encoded = PyBytes_FromStringAndSize(NULL, total);
    if (encoded == NULL) {
        return NULL;
    }
    unsigned char *to = (unsigned char *)PyBytes_AS_STRING(encoded);
    Py_ssize_t left = total;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        if (!borrow(PyList_GET_ITEM(items, i), &octets, &length) || left < PREFIX || length > left - PREFIX) {
            left = -1;
            break;
        }
        write_length(to, length);
        memcpy(to + PREFIX, octets, (size_t)length);
        to += PREFIX + length;
        left -= PREFIX + length;
    }
    if (left != 0) {
        Py_DECREF(encoded);
        PyErr_SetString(PyExc_RuntimeError, "the elements changed while they were encoded");
        return NULL;
    }
    return encoded;
}

PyDoc_STRVAR(encode_fixed_doc,
             "encode_fixed(data, width, /)\n--\n\n"
             "Frame elements of a fixed width without their trailing NULs.");

static PyObject *
encode_fixed(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    Py_ssize_t width;
    if (!PyArg_ParseTuple(args, "y*n:encode_fixed", &data, &width)) {
        return NULL;
    }
    PyObject *encoded = NULL;
    if (width <= 0 || (unsigned long long)width > MAX_LENGTH || data.len % width != 0) {
        PyErr_SetString(PyExc_ValueError, "the data is not a whole number of elements");
        goto done;
    }
    Py_ssize_t count = data.len / width;
    if (width > PY_SSIZE_T_MAX - PREFIX || count > PY_SSIZE_T_MAX / (PREFIX + width)) {
        PyErr_NoMemory();
        goto done;
    }
    /* Allocate for the full widths and shrink: this needs one pass, and no size that could become stale. */
    encoded = PyBytes_FromStringAndSize(NULL, count * (PREFIX + width));
    if (encoded == NULL) {
        goto done;
    }
    const unsigned char *from = data.buf;
    unsigned char *start = (unsigned char *)PyBytes_AS_STRING(encoded);
    unsigned char *to = start;
    for (Py_ssize_t i = 0; i < count; i++, from += width) {
        Py_ssize_t length = width;
        while (length > 0 && from[length - 1] == 0) {
            length--;
        }
        write_length(to, length);
        memcpy(to + PREFIX, from, (size_t)length);
        to += PREFIX + length;
    }
    _PyBytes_Resize(&encoded, to - start); /* sets NULL and an exception if it fails */
done:
    PyBuffer_Release(&data);
    return encoded;
}

PyDoc_STRVAR(scan_doc,
             "scan(data, /)\n--\n\n"
             "Return the number of complete elements at the start of the data, and the offset of their end.");

static PyObject *
scan(PyObject *Py_UNUSED(module), PyObject *arg)
{
    Py_buffer data;
    if (PyObject_GetBuffer(arg, &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    const unsigned char *from = data.buf;
    Py_ssize_t left = data.len;
    Py_ssize_t count = 0;
    while (left >= PREFIX) {
        uint32_t length = read_length(from);
        if (length > (unsigned long long)(left - PREFIX)) {
            break;
        }
        from += PREFIX + (Py_ssize_t)length;
        left -= PREFIX + (Py_ssize_t)length;
        count++;
    }
    Py_ssize_t end = data.len - left;
    PyBuffer_Release(&data);
    return Py_BuildValue("nn", count, end);
}

PyDoc_STRVAR(fill_doc,
             "fill(data, array, /)\n--\n\n"
             "Put the elements into a new object array; return how many were put there.");

static PyObject *
fill(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "fill() takes data and an object array");
        return NULL;
    }
    Py_buffer data, array;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &array, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    PyObject *result = NULL;
    if (array.format == NULL || strcmp(array.format, "O") != 0) {
        PyErr_SetString(PyExc_TypeError, "fill() takes an object array");
        goto done;
    }
    const unsigned char *from = data.buf;
    Py_ssize_t left = data.len;
    PyObject **slots = array.buf;
    Py_ssize_t slot_count = array.len / (Py_ssize_t)sizeof(PyObject *);
    Py_ssize_t i;
    for (i = 0; i < slot_count && left >= PREFIX; i++) {
        uint32_t length = read_length(from);
        if (length > (unsigned long long)(left - PREFIX)) {
            break;
        }
        PyObject *item = PyBytes_FromStringAndSize((const char *)from + PREFIX, (Py_ssize_t)length);
        if (item == NULL) {
            goto done; /* the array owns the items so far */
        }
        PyObject *before = slots[i];
        slots[i] = item;
        Py_XDECREF(before);
        from += PREFIX + (Py_ssize_t)length;
        left -= PREFIX + (Py_ssize_t)length;
    }
    result = PyLong_FromSsize_t(i);
done:
    PyBuffer_Release(&array);
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef methods[] = {
    {"encode", (PyCFunction)(void (*)(void))encode, METH_FASTCALL, encode_doc},
    {"encode_fixed", encode_fixed, METH_VARARGS, encode_fixed_doc},
    {"scan", scan, METH_O, scan_doc},
    {"fill", (PyCFunction)(void (*)(void))fill, METH_FASTCALL, fill_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tritonhttp._wire._bytes_tensor",
    .m_doc = "The loops of tritonhttp._wire.bytes_tensor.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__bytes_tensor(void)
{
    return PyModuleDef_Init(&definition);
}
