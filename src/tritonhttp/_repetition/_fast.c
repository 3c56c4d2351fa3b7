/* The exchange of repeater.py, which holds the contract; blocking.py resumes it if the answer takes another course. Requests
   are made in _fast_requests.c.

   There is no HTTP here. A request that is one piece is sent, an answer is received at once, and its size and the bytes
   that it begins with are compared with those that were expected.

   The pool's books are changed without its lock. Each change is one step of the interpreter: no call between looking at
   them and changing them may run Python code or release the GIL. A connection in use is always in a place that Python
   holds, so that no exception, at whatever instruction it comes, can lose it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "_fast.h"

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
    PyObject *connection;
    PyObject *transport;
    PyObject *wake;
    PyObject *sent;
    PyObject *weakrefs;
    unsigned long long owner;
    double taken;
    double handed;
    double answered;
    Py_ssize_t resent;
    char served;
    char exceeds;
    char cancelled;
} Place;

typedef struct {
    PyObject_HEAD
    PyObject *pool;
    double network;
    double max_idle;
    long long calls;
    long long ended;
} Repeater;

/* Interned names, and the type of tracks; made once, for the life of the process. */
static PyObject *idle_name, *holders_name, *line_name, *ready_name, *closed_name, *limit_name, *frozen_name;
static PyTypeObject *track_type, *place_type;

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
    self->fd = -1;
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

PyDoc_STRVAR(detach_doc, "detach(): forget the socket, whose number may soon be another's.");

static PyObject *
track_detach(Track *self, PyObject *unused)
{
    self->fd = -1;
    Py_RETURN_NONE;
}

/* The milliseconds for poll() to wait; -1: for ever. */
static int
milliseconds(double seconds)
{
    return seconds <= 0 ? 0 : seconds < 1e6 ? (int)(seconds * 1e3) + 1 : -1;
}

/* Receive until a time, and handle signals meanwhile. Return the number of bytes; -1 with the error's number, EAGAIN where
   the time is over; -2 with an exception, of a signal's handler. */
static Py_ssize_t
receive(Track *track, void *room, Py_ssize_t size, double until, int *problem)
{
    for (int interrupted = 0;; interrupted = 1) {
        if (track->fd < 0) { /* poll() would wait for nothing */
            *problem = EBADF;
            return -1;
        }
        double left = until - monotonic();
        /* The kernel's own time limit begins anew behind each signal. */
        int waits = !interrupted && track->armed > 0 && track->armed <= left + 1e-3;
        Py_ssize_t came = -1;
        *problem = EAGAIN;
        Py_BEGIN_ALLOW_THREADS
        struct pollfd look = {.fd = track->fd, .events = POLLIN};
        int ready = waits ? 1 : poll(&look, 1, milliseconds(left));
        if (ready > 0) {
            came = recv(track->fd, room, (size_t)size, waits ? 0 : MSG_DONTWAIT);
        }
        if (ready < 0 || (ready > 0 && came < 0)) {
            *problem = errno;
        }
        Py_END_ALLOW_THREADS
        if (came >= 0) {
            return came;
        }
        if (*problem == EINTR) {
            if (PyErr_CheckSignals() < 0) {
                return -2;
            }
        } else if (*problem != EAGAIN || until <= monotonic() + (waits ? 1e-3 : 0)) { /* a stream may wait longer */
            return -1;
        }
    }
}

PyDoc_STRVAR(receive_doc, "receive(buffer, until): see repeater.py.");

static PyObject *
track_receive(Track *self, PyObject *const *args, Py_ssize_t count)
{
    Py_buffer buffer;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "receive() takes a buffer and a time");
        return NULL;
    }
    double until = PyFloat_AsDouble(args[1]);
    if ((until == -1.0 && PyErr_Occurred()) || PyObject_GetBuffer(args[0], &buffer, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    int problem;
    Py_ssize_t came = receive(self, buffer.buf, buffer.len, until, &problem);
    PyBuffer_Release(&buffer);
    if (came == -1) {
        if (problem == EAGAIN) {
            PyErr_SetString(PyExc_TimeoutError, "timed out");
        } else {
            errno = problem;
            PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    return came < 0 ? NULL : PyLong_FromSsize_t(came);
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
    {"detach", (PyCFunction)track_detach, METH_NOARGS, detach_doc},
    {"receive", (PyCFunction)(void (*)(void))track_receive, METH_FASTCALL, receive_doc},
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
    .name = "tritonhttp._repetition._fast.Track",
    .basicsize = sizeof(Track),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = track_slots,
};

/* -- a call's place -- */

static int
place_init(Place *self, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs != NULL && PyDict_GET_SIZE(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "Place() takes no arguments");
        return -1;
    }
    return 0;
}

static int
place_traverse(Place *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->connection);
    Py_VISIT(self->transport);
    Py_VISIT(self->wake);
    Py_VISIT(self->sent);
    return 0;
}

static int
place_clear(Place *self)
{
    Py_CLEAR(self->connection);
    Py_CLEAR(self->transport);
    Py_CLEAR(self->wake);
    Py_CLEAR(self->sent);
    return 0;
}

static void
place_dealloc(Place *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    place_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMemberDef place_members[] = {
    {"connection", T_OBJECT, offsetof(Place, connection), 0, NULL},
    {"transport", T_OBJECT, offsetof(Place, transport), 0, NULL},
    {"wake", T_OBJECT, offsetof(Place, wake), 0, NULL},
    {"sent", T_OBJECT, offsetof(Place, sent), 0, NULL},
    {"owner", T_ULONGLONG, offsetof(Place, owner), 0, NULL},
    {"taken", T_DOUBLE, offsetof(Place, taken), READONLY, NULL},
    {"handed", T_DOUBLE, offsetof(Place, handed), READONLY, NULL},
    {"answered", T_DOUBLE, offsetof(Place, answered), READONLY, NULL},
    {"resent", T_PYSSIZET, offsetof(Place, resent), 0, NULL},
    {"exceeds", T_BOOL, offsetof(Place, exceeds), 0, NULL},
    {"cancelled", T_BOOL, offsetof(Place, cancelled), 0, NULL},
    {"served", T_BOOL, offsetof(Place, served), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Place, weakrefs), READONLY, NULL},
    {0, 0, 0, 0, NULL},
};

static PyType_Slot place_slots[] = {
    {Py_tp_doc, "A call's claim to a connection: see repeater.py."},
    {Py_tp_init, place_init},
    {Py_tp_dealloc, place_dealloc},
    {Py_tp_traverse, place_traverse},
    {Py_tp_clear, place_clear},
    {Py_tp_members, place_members},
    {0, NULL},
};

static PyType_Spec place_spec = {
    .name = "tritonhttp._repetition._fast.Place",
    .basicsize = sizeof(Place),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = place_slots,
};

/* -- an exchange -- */

/* Whether the connection can be used, as far as can be known: there is time, nothing came unasked, and the kernel waits as
   long as it has to, unless the call ends before. */
static int
is_fit(const Track *track, double network, double until)
{
    double now = monotonic();
    struct pollfd look = {.fd = track->fd, .events = POLLIN};
    return track->room.obj != NULL && track->fd >= 0 && now < track->expires && now < until &&
           (track->armed == network || until - now < network) && poll(&look, 1, 0) == 0;
}

/* Wait until a time for something to come, where the kernel would wait longer by itself; return 0 if nothing did, and -1 with
   errno behind a signal. */
static int
wait_until(const Track *track, double network, double until)
{
    double left = until - monotonic();
    if (left >= network) {
        return 1;
    }
    struct pollfd look = {.fd = track->fd, .events = POLLIN};
    return poll(&look, 1, milliseconds(left));
}

/* Send the request and receive once. What came of it is in ahead, came and problem; return -1 with the exception of a
   signal's handler. */
static int
swap(Track *track, Place *place, PyObject *request, double network, double until)
{
    const char *data = PyBytes_AS_STRING(request);
    Py_ssize_t length = PyBytes_GET_SIZE(request), sent, came = -1;
    int problem = 0, fd = track->fd;
    double began = monotonic(), handed = 0;
    Py_BEGIN_ALLOW_THREADS
    sent = send(fd, data, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == length) {
        handed = monotonic();
        int ready = wait_until(track, network, until);
        if (ready > 0) {
            came = recv(fd, track->room.buf, (size_t)track->room.len, 0);
        }
        problem = ready == 0 ? EAGAIN : came < 0 ? errno : 0;
    }
    Py_END_ALLOW_THREADS
    place->taken = began;
    place->handed = handed;
    track->ahead = sent < 0 ? 0 : sent; /* who sends the rest will meet the error again */
    track->sent += track->ahead;
    if (problem == EINTR) {
        double end = began + network < until ? began + network : until;
        came = PyErr_CheckSignals() < 0 ? -2 : receive(track, track->room.buf, track->room.len, end, &problem);
        problem = came < 0 ? problem : 0;
    }
    track->came = came < 0 ? -1 : came;
    place->answered = came < 0 ? 0 : monotonic();
    track->problem = problem;
    return came == -2 ? -1 : 0;
}

/* -- the transport's part -- */

static PyObject *
repeater_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pool;
    double network, max_idle;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Repeater() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "Odd:Repeater", &pool, &network, &max_idle)) {
        return NULL;
    }
    Repeater *self = (Repeater *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->pool = Py_NewRef(pool);
        self->network = network;
        self->max_idle = max_idle;
    }
    return (PyObject *)self;
}

/* The pool's books, each a new reference. */
typedef struct {
    PyObject *idle, *holders, *line;
} Books;

static void
close_books(Books *books)
{
    Py_CLEAR(books->idle);
    Py_CLEAR(books->holders);
    Py_CLEAR(books->line);
}

/* Look into the pool's books; return 0, perhaps without an error, if they are to be left alone, or not of the types that can
   be changed in one step. */
static int
open_books(Repeater *self, Books *books, PyObject *line)
{
    PyObject *frozen = PyObject_GetAttr(self->pool, frozen_name);
    int open = frozen == Py_False;
    Py_XDECREF(frozen);
    books->idle = books->holders = books->line = NULL;
    if (open && (books->idle = PyObject_GetAttr(self->pool, idle_name)) != NULL &&
        (books->holders = PyObject_GetAttr(self->pool, holders_name)) != NULL &&
        (books->line = PyObject_GetAttr(self->pool, line)) != NULL && PyList_CheckExact(books->idle) &&
        PyAnySet_CheckExact(books->holders)) {
        return 1;
    }
    close_books(books);
    return 0;
}

static Py_ssize_t
limit_of(Repeater *self)
{
    PyObject *limit = PyObject_GetAttr(self->pool, limit_name);
    Py_ssize_t most = limit != NULL ? PyLong_AsSsize_t(limit) : -1;
    Py_XDECREF(limit);
    return most;
}

/* Return where in the line a place stands that would be served if it were ready; 0 too if there is no line. -1, perhaps with
   an error, if it has to wait. */
static Py_ssize_t
position(Repeater *self, const Books *books, const Place *place)
{
    Py_ssize_t length = PyObject_Size(books->line), room;
    if (length <= 0) {
        return length;
    }
    room = limit_of(self) - PySet_GET_SIZE(books->holders);
    for (Py_ssize_t ahead = 0; ahead < room && ahead < length; ahead++) {
        PyObject *other = PySequence_GetItem(books->line, ahead);
        Py_XDECREF(other); /* the line has it */
        if (other == NULL || other == (PyObject *)place) {
            return other == NULL ? -1 : ahead;
        }
    }
    return -1;
}

/* Give the place a connection that is fit for use: its own, or the one that was used last if it is its turn. Return it, borrowed, or NULL,
   perhaps without an error. */
static Track *
take(Repeater *self, Place *place, double until)
{
    Track *track = (Track *)place->connection;
    if (place->cancelled) {
        return NULL;
    }
    if (track != NULL && (PyObject *)track != Py_None) {
        return PyObject_TypeCheck(track, track_type) && is_fit(track, self->network, until) ? track : NULL;
    }
    Books books;
    if (!open_books(self, &books, line_name)) {
        return NULL;
    }
    track = NULL;
    Py_ssize_t last = PyList_GET_SIZE(books.idle) - 1, ahead = last < 0 ? -1 : position(self, &books, place);
    int waited = ahead >= 0 && PyObject_Size(books.line) > 0;
    if (ahead >= 0 && PyObject_TypeCheck(PyList_GET_ITEM(books.idle, last), track_type)) {
        track = (Track *)Py_NewRef(PyList_GET_ITEM(books.idle, last));
        /* If memory is missing for one of these, nothing is lost, nor in two places: the connection is taken last. */
        if (!is_fit(track, self->network, until) || (waited && PySequence_DelItem(books.line, ahead) < 0) ||
            PySet_Add(books.holders, (PyObject *)place) < 0) {
            Py_CLEAR(track);
        } else if (PyList_SetSlice(books.idle, last, last + 1, NULL) < 0) {
            PyObject *type, *error, *traceback;
            PyErr_Fetch(&type, &error, &traceback);
            PySet_Discard(books.holders, (PyObject *)place);
            PyErr_Restore(type, error, traceback);
            Py_CLEAR(track);
        } else {
            Py_XSETREF(place->connection, (PyObject *)track); /* drops None at most */
        }
    }
    close_books(&books);
    return track;
}

/* Put a connection back where that is all there is to it; return 0 where the transport has to see to it. */
static int
put_back(Repeater *self, Place *place, Track *track, double now)
{
    int done = 0;
    Books books;
    if (!place->cancelled && open_books(self, &books, ready_name)) { /* who is in the line, but not ready, takes it later */
        PyObject *closed = PyObject_GetAttr(self->pool, closed_name);
        Py_ssize_t most = closed == NULL ? -1 : limit_of(self);
        PyObject *oldest = PyList_GET_SIZE(books.idle) ? PyList_GET_ITEM(books.idle, 0) : (PyObject *)track;
        if (closed == Py_False && most >= 0 && PyObject_Size(books.line) == 0 && PyList_GET_SIZE(books.idle) + PySet_GET_SIZE(books.holders) <= most &&
            PyObject_TypeCheck(oldest, track_type) && now < ((Track *)oldest)->expires &&
            PySet_Contains(books.holders, (PyObject *)place) == 1) {
            done = PyList_Append(books.idle, (PyObject *)track) == 0;
            if (done) {
                PySet_Discard(books.holders, (PyObject *)place);
                Py_CLEAR(place->connection); /* the list has it too */
            }
        }
        Py_XDECREF(closed);
        close_books(&books);
    }
    PyErr_Clear();
    return done;
}

PyDoc_STRVAR(repeat_doc, "repeat(place, request, answer, head, size, until): see repeater.py.");

static PyObject *
repeater_repeat(Repeater *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 6 || !Py_IS_TYPE(args[0], place_type) || !PyBytes_CheckExact(args[1]) || !PyBytes_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "repeat() takes a place, two of bytes, two sizes and a time");
        return NULL;
    }
    double until = args[5] == Py_None ? Py_HUGE_VAL : PyFloat_AsDouble(args[5]);
    if (until == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    Place *place = (Place *)args[0];
    PyObject *request = args[1], *answer = args[2];
    Py_ssize_t head = PyLong_AsSsize_t(args[3]), size = head < 0 ? -1 : PyLong_AsSsize_t(args[4]), known = PyBytes_GET_SIZE(answer);
    if (head < 0 || head > known || known > size) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "repeat() takes sizes of one answer");
        }
        return NULL;
    }
    place->owner = PyThread_get_thread_ident();
    Track *track = take(self, place, until);
    if (track == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    Py_INCREF(track); /* a handler may give the place back */
    place->served = 1;
    self->calls += known > 0;
    PyObject *body = NULL;
    if (swap(track, place, request, self->network, until) < 0) {
        track->requests++; /* nobody resumes it */
        goto done;
    }
    if (known == 0 || track->came != size || memcmp(track->room.buf, PyBytes_AS_STRING(answer), (size_t)known) != 0) {
        body = Py_NewRef(Py_None);
        goto done;
    }
    track->ahead = 0;
    track->came = -1;
    track->requests++;
    track->received += size;
    body = PyBytes_FromStringAndSize((const char *)track->room.buf + head, size - head);
    double now = monotonic(), expires = now + self->max_idle;
    track->expires = expires < track->dies ? expires : track->dies;
    if (body != NULL && put_back(self, place, track, now)) {
        self->ended++;
    }
done:
    Py_DECREF(track);
    return body;
}

static int
repeater_traverse(Repeater *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->pool);
    return 0;
}

static int
repeater_clear(Repeater *self)
{
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
    {"ended", T_LONGLONG, offsetof(Repeater, ended), READONLY, NULL},
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
    .name = "tritonhttp._repetition._fast.Repeater",
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
    } names[] = {{&idle_name, "idle"}, {&holders_name, "holders"}, {&line_name, "line"}, {&ready_name, "ready"}, {&closed_name, "closed"},
                 {&limit_name, "limit"}, {&frozen_name, "frozen"}};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (*names[i].name == NULL && (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    if (fast_requests_init() < 0) {
        return -1;
    }
    PyObject *track = NULL, *place = NULL, *repeater = NULL;
    int failed = (track = PyType_FromModuleAndSpec(module, &track_spec, NULL)) == NULL ||
                 (place = PyType_FromModuleAndSpec(module, &place_spec, NULL)) == NULL ||
                 (repeater = PyType_FromModuleAndSpec(module, &repeater_spec, NULL)) == NULL ||
                 PyModule_AddType(module, (PyTypeObject *)track) < 0 || PyModule_AddType(module, (PyTypeObject *)place) < 0 ||
                 PyModule_AddType(module, (PyTypeObject *)repeater) < 0;
    Py_XDECREF(repeater);
    if (failed) {
        Py_XDECREF(place);
        Py_XDECREF(track);
        return -1;
    }
    Py_XSETREF(track_type, (PyTypeObject *)track);
    Py_XSETREF(place_type, (PyTypeObject *)place);
    return 0;
}

static PyMethodDef methods[] = {
    {"find", (PyCFunction)(void (*)(void))fast_find, METH_FASTCALL, fast_find_doc},
    {"compose", (PyCFunction)(void (*)(void))fast_compose, METH_FASTCALL, fast_compose_doc},
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
    .m_name = "tritonhttp._repetition._fast",
    .m_doc = "The fast half of tritonhttp._repetition.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__fast(void)
{
    return PyModuleDef_Init(&definition);
}
