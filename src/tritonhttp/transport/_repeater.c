/* The exchange of repeater.py, which holds the contract; blocking.py goes on where one takes another course.

   There is no HTTP here. A request that is one piece is sent, an answer is received at once, and its size and the bytes
   that it begins with are compared with those that were expected.

   The transport's lock guards the pool. Where it is free and the GIL is held, nothing can come between looking at the
   pool and changing it: so no call between those two may run Python code or release the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

typedef struct {
    PyObject_HEAD
    double expires;
    double dies;
    double armed;
    long long requests;
    long long sent;
    long long received;
    Py_ssize_t ahead;
    Py_ssize_t came;
    int problem;
    int fd;
    Py_buffer room; /* obj is NULL until attach() */
} Track;

typedef struct {
    PyObject_HEAD
    PyObject *lock;
    PyObject *pool;
    double network;
    double max_idle;
    long long calls;
} Repeater;

/* Interned names, and the type of tracks; made once, for the life of the process. */
static PyObject *locked_name, *idle_name, *waiters_name, *closed_name, *keep_name, *drop_name;
static PyTypeObject *track_type;

static double
monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* -- a connection's part -- */

static int
track_init(Track *self, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs != NULL && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Track() takes no arguments");
        return -1;
    }
    self->expires = self->dies = Py_HUGE_VAL;
    self->armed = -1.0;
    self->came = -1;
    return 0;
}

PyDoc_STRVAR(attach_doc, "attach(fd, room): name the socket, and the memory where its answers begin.");

static PyObject *
track_attach(Track *self, PyObject *args)
{
    if (self->room.obj != NULL) { /* another thread may receive into it just now */
        PyErr_SetString(PyExc_ValueError, "attach() is called once");
        return NULL;
    }
    return PyArg_ParseTuple(args, "iw*:attach", &self->fd, &self->room) ? Py_NewRef(Py_None) : NULL;
}

static void
track_dealloc(Track *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->room);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef track_methods[] = {
    {"attach", (PyCFunction)track_attach, METH_VARARGS, attach_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef track_members[] = {
    {"expires", T_DOUBLE, offsetof(Track, expires), 0, NULL},
    {"dies", T_DOUBLE, offsetof(Track, dies), 0, NULL},
    {"armed", T_DOUBLE, offsetof(Track, armed), 0, NULL},
    {"requests", T_LONGLONG, offsetof(Track, requests), 0, NULL},
    {"sent", T_LONGLONG, offsetof(Track, sent), 0, NULL},
    {"received", T_LONGLONG, offsetof(Track, received), 0, NULL},
    {"ahead", T_PYSSIZET, offsetof(Track, ahead), 0, NULL},
    {"came", T_PYSSIZET, offsetof(Track, came), 0, NULL},
    {"problem", T_INT, offsetof(Track, problem), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot track_slots[] = {
    {Py_tp_doc, "A connection's part of an exchange: see repeater.py."},
    {Py_tp_init, track_init},
    {Py_tp_dealloc, track_dealloc},
    {Py_tp_methods, track_methods},
    {Py_tp_members, track_members},
    {0, NULL},
};

static PyType_Spec track_spec = {
    .name = "tritonhttp.transport._repeater.Track",
    .basicsize = sizeof(Track),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = track_slots,
};

/* Whether the connection can be used, as far as can be known: there is time, nothing came unasked, and the kernel waits as
   long as it has to, unless the call ends before. */
static int
is_fit(const Track *track, double network, double until)
{
    double now = monotonic();
    struct pollfd look = {.fd = track->fd, .events = POLLIN};
    return track->room.obj != NULL && now < track->expires && now < until &&
           (track->armed == network || until - now < network) && poll(&look, 1, 0) == 0;
}

/* Wait until a time for something to come, where the kernel would wait longer by itself; return 0 if nothing did. */
static int
wait_until(const Track *track, double network, double until)
{
    double left = until - monotonic();
    if (left >= network) {
        return 1;
    }
    struct pollfd look = {.fd = track->fd, .events = POLLIN};
    return left > 0 && poll(&look, 1, left < 1e6 ? (int)(left * 1e3) + 1 : -1) > 0;
}

/* Send the request and receive once. What came of it is in ahead, came and problem. */
static void
swap(Track *track, PyObject *request, double network, double until)
{
    const char *data = PyBytes_AS_STRING(request);
    Py_ssize_t length = PyBytes_GET_SIZE(request), sent, came = -1;
    int problem = 0;
    Py_BEGIN_ALLOW_THREADS
    sent = send(track->fd, data, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == length && wait_until(track, network, until)) {
        came = recv(track->fd, track->room.buf, (size_t)track->room.len, 0);
        problem = came < 0 ? errno : 0;
    }
    Py_END_ALLOW_THREADS
    track->ahead = sent < 0 ? 0 : sent; /* who sends the rest will meet the error again */
    track->came = came;
    track->problem = problem == EINTR ? 0 : problem; /* its signal is handled where Python runs again */
    track->sent += track->ahead;
}

/* -- the transport's part -- */

static PyObject *
repeater_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *lock, *pool;
    double network, max_idle;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Repeater() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OOdd:Repeater", &lock, &pool, &network, &max_idle)) {
        return NULL;
    }
    Repeater *self = (Repeater *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->lock = Py_NewRef(lock);
        self->pool = Py_NewRef(pool);
        self->network = network;
        self->max_idle = max_idle;
    }
    return (PyObject *)self;
}

static int
is_free(PyObject *lock)
{
    PyObject *locked = PyObject_CallMethodNoArgs(lock, locked_name);
    Py_XDECREF(locked); /* one of two that live for ever */
    return locked == Py_False;
}

/* Return the pool's list of idle connections, where it may be changed now; NULL, perhaps without an error, if not. */
static PyObject *
borrow_idle(Repeater *self)
{
    PyObject *idle = is_free(self->lock) ? PyObject_GetAttr(self->pool, idle_name) : NULL;
    if (idle != NULL && !PyList_CheckExact(idle)) {
        Py_CLEAR(idle);
    }
    return idle;
}

/* Take the connection that was used last, where it is fit for use; NULL, perhaps without an error, if not. */
static Track *
take(Repeater *self, double until)
{
    PyObject *idle = borrow_idle(self);
    if (idle == NULL) {
        return NULL;
    }
    Track *track = NULL;
    Py_ssize_t last = PyList_GET_SIZE(idle) - 1;
    if (last >= 0 && PyObject_TypeCheck(PyList_GET_ITEM(idle, last), track_type)) {
        track = (Track *)PyList_GET_ITEM(idle, last);
        Py_INCREF(track);
        if (!is_fit(track, self->network, until) || PyList_SetSlice(idle, last, last + 1, NULL) < 0) {
            Py_CLEAR(track);
        }
    }
    Py_DECREF(idle);
    return track;
}

/* Put a connection back where that is all there is to it; return 0 where the transport has to see to it. */
static int
put_back(Repeater *self, Track *track, double now)
{
    PyObject *waiters = PyObject_GetAttr(self->pool, waiters_name), *closed = PyObject_GetAttr(self->pool, closed_name);
    PyObject *idle = borrow_idle(self);
    int done = 0;
    if (idle != NULL && waiters != NULL && closed == Py_False && PyObject_Size(waiters) == 0) {
        PyObject *oldest = PyList_GET_SIZE(idle) ? PyList_GET_ITEM(idle, 0) : (PyObject *)track;
        done = PyObject_TypeCheck(oldest, track_type) && now < ((Track *)oldest)->expires &&
               PyList_Append(idle, (PyObject *)track) == 0;
    }
    Py_XDECREF(idle);
    Py_XDECREF(closed);
    Py_XDECREF(waiters);
    PyErr_Clear();
    return done;
}

/* Have the transport close a connection; return NULL, with the error that there is. */
static PyObject *
drop(PyObject *transport, Track *track)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    track->requests++;
    PyObject *dropped = PyObject_CallMethodOneArg(transport, drop_name, (PyObject *)track);
    Py_XDECREF(dropped);
    Py_DECREF(track);
    PyErr_Restore(type, value, trace); /* in place of one of now */
    return NULL;
}

PyDoc_STRVAR(repeat_doc, "repeat(transport, request, answer, head, size, until): see repeater.py.");

static PyObject *
repeater_repeat(Repeater *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 6 || !PyBytes_CheckExact(args[1]) || !PyBytes_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "repeat() takes a transport, two of bytes, two sizes and a time");
        return NULL;
    }
    double until = args[5] == Py_None ? Py_HUGE_VAL : PyFloat_AsDouble(args[5]);
    if (until == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *transport = args[0], *request = args[1], *answer = args[2];
    Py_ssize_t head = PyLong_AsSsize_t(args[3]), size = PyLong_AsSsize_t(args[4]), known = PyBytes_GET_SIZE(answer);
    if (head < 0 || head > known || known > size || known == 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "repeat() takes sizes of one answer");
        }
        return NULL;
    }
    Track *track = take(self, until);
    if (track == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    self->calls++;
    swap(track, request, self->network, until);
    /* A handler that raises later would do so before anybody has the connection: behind the return, or in _keep(). */
    if (PyErr_CheckSignals() < 0) {
        return drop(transport, track);
    }
    if (track->came != size || memcmp(track->room.buf, PyBytes_AS_STRING(answer), (size_t)known) != 0) {
        return (PyObject *)track;
    }
    track->ahead = 0;
    track->came = -1;
    track->requests++;
    track->received += size;
    PyObject *body = PyBytes_FromStringAndSize((const char *)track->room.buf + head, size - head);
    double now = monotonic(), expires = now + self->max_idle;
    track->expires = expires < track->dies ? expires : track->dies;
    int failed = 0;
    if (!put_back(self, track, now)) {
        PyObject *kept = PyObject_CallMethodOneArg(transport, keep_name, (PyObject *)track);
        failed = kept == NULL;
        Py_XDECREF(kept);
    }
    Py_DECREF(track);
    if (failed) {
        Py_CLEAR(body);
    } else if (body == NULL) {
        PyErr_NoMemory();
    }
    return body;
}

static int
repeater_traverse(Repeater *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->lock);
    Py_VISIT(self->pool);
    return 0;
}

static int
repeater_clear(Repeater *self)
{
    Py_CLEAR(self->lock);
    Py_CLEAR(self->pool);
    return 0;
}

static void
repeater_dealloc(Repeater *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    repeater_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef repeater_methods[] = {
    {"repeat", (PyCFunction)(void (*)(void))repeater_repeat, METH_FASTCALL, repeat_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef repeater_members[] = {
    {"calls", T_LONGLONG, offsetof(Repeater, calls), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot repeater_slots[] = {
    {Py_tp_doc, "Repeats exchanges over a pool's connections: see repeater.py."},
    {Py_tp_new, repeater_new},
    {Py_tp_dealloc, repeater_dealloc},
    {Py_tp_traverse, repeater_traverse},
    {Py_tp_clear, repeater_clear},
    {Py_tp_methods, repeater_methods},
    {Py_tp_members, repeater_members},
    {0, NULL},
};

static PyType_Spec repeater_spec = {
    .name = "tritonhttp.transport._repeater.Repeater",
    .basicsize = sizeof(Repeater),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = repeater_slots,
};

/* -- the module -- */

static int
populate(PyObject *module)
{
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {{&locked_name, "locked"}, {&idle_name, "idle"}, {&waiters_name, "waiters"}, {&closed_name, "closed"},
                 {&keep_name, "_keep"}, {&drop_name, "_drop"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (*names[i].name == NULL && (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    PyObject *track = PyType_FromModuleAndSpec(module, &track_spec, NULL);
    PyObject *repeater = PyType_FromModuleAndSpec(module, &repeater_spec, NULL);
    int failed = track == NULL || repeater == NULL || PyModule_AddType(module, (PyTypeObject *)track) < 0 ||
                 PyModule_AddType(module, (PyTypeObject *)repeater) < 0;
    Py_XDECREF(repeater);
    if (failed) {
        Py_XDECREF(track);
        return -1;
    }
    Py_XSETREF(track_type, (PyTypeObject *)track);
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, populate},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tritonhttp.transport._repeater",
    .m_doc = "The exchange of tritonhttp.transport.repeater.",
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__repeater(void)
{
    return PyModuleDef_Init(&definition);
}
