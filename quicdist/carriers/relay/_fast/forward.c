/* Forwards the datagrams of known flows of a relay (see flows.py).

   A flow is what Python has decided for one sender at one socket: where its datagrams go, with which
   head, how many bytes may still pass, and until when. Everything else is returned to Python. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define SLOTS 4096 /* a power of two */
#define PROBES 8
#define MAX_HEAD 19
#define MAX_DATAGRAM 65535
#define MAX_SEGMENTS 64
#define MAX_SEGMENTED 65000
#define FIRST_QUIC_BYTE 64
#define MAX_EVENTS 64

typedef struct {
    struct sockaddr_storage address;
    socklen_t length;
} Place;

typedef struct {
    int fd; /* -1: no flow */
    Place sender;
    unsigned char match[MAX_HEAD]; /* what each datagram begins with, and loses */
    size_t match_size;
    int out;
    Place to;
    unsigned char head[MAX_HEAD]; /* what each datagram gets */
    size_t head_size;
    int64_t left; /* bytes */
    double until; /* CLOCK_MONOTONIC, seconds */
} Flow;

typedef struct {
    PyObject_HEAD
    Flow *flows;
    unsigned char *in;
    unsigned char *out;
    int poll;    /* the epoll of all watched sockets; -1 if there is none */
    double last; /* when a datagram was forwarded, CLOCK_MONOTONIC, seconds */
} Flows;

/* What a call of `receive` has done. */
typedef struct {
    PyObject *own;    /* batches of its socket */
    PyObject *others; /* batches of other sockets, each with its descriptor */
    long long datagrams[2], bytes[2]; /* forwarded, from ports and from the main socket */
} Work;

static double
now_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Only the fields that identify a sender: the rest of a sockaddr may hold anything. */
static int
same_place(const Place *one, const Place *other)
{
    if (one->address.ss_family != other->address.ss_family)
        return 0;
    if (one->address.ss_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)&one->address;
        const struct sockaddr_in *b = (const struct sockaddr_in *)&other->address;
        return a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&one->address;
    const struct sockaddr_in6 *b = (const struct sockaddr_in6 *)&other->address;
    return a->sin6_port == b->sin6_port && a->sin6_scope_id == b->sin6_scope_id &&
           memcmp(&a->sin6_addr, &b->sin6_addr, 16) == 0;
}

static uint32_t
mix(uint32_t hash, const unsigned char *bytes, size_t count)
{
    for (size_t at = 0; at < count; at++)
        hash = (hash ^ bytes[at]) * 16777619u;
    return hash;
}

static uint32_t
hash_of(int fd, const Place *sender, const unsigned char *match, size_t size)
{
    uint32_t hash = mix(2166136261u, (const unsigned char *)&fd, sizeof fd);
    if (sender->address.ss_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)&sender->address;
        hash = mix(hash, (const unsigned char *)&a->sin_port, 2);
        hash = mix(hash, (const unsigned char *)&a->sin_addr, 4);
    }
    else {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&sender->address;
        hash = mix(hash, (const unsigned char *)&a->sin6_port, 2);
        hash = mix(hash, (const unsigned char *)&a->sin6_addr, 16);
    }
    return mix(hash, match, size);
}

static Flow *
find(Flows *self, int fd, const Place *sender, const unsigned char *match, size_t size)
{
    uint32_t at = hash_of(fd, sender, match, size);
    for (int step = 0; step < PROBES; step++) {
        Flow *flow = &self->flows[(at + step) & (SLOTS - 1)];
        if (flow->fd == fd && flow->match_size == size && same_place(&flow->sender, sender) &&
            memcmp(flow->match, match, size) == 0)
            return flow;
    }
    return NULL;
}

static int
place_of(const char *host, int port, Place *place)
{
    memset(place, 0, sizeof *place);
    struct sockaddr_in *four = (struct sockaddr_in *)&place->address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)&place->address;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        place->length = sizeof *four;
        return 1;
    }
    memset(place, 0, sizeof *place);
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        place->length = sizeof *six;
        return 1;
    }
    return 0;
}

static PyObject *
address_of(const Place *place)
{
    char text[INET6_ADDRSTRLEN];
    if (place->address.ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&place->address;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
        return Py_BuildValue("(si)", text, (int)ntohs(four->sin_port));
    }
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&place->address;
    inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    return Py_BuildValue("(siII)", text, (int)ntohs(six->sin6_port),
                         (unsigned)ntohl(six->sin6_flowinfo), (unsigned)six->sin6_scope_id);
}

/* Sends `count` bytes of datagrams of `size` bytes. Returns 0 if the kernel refuses. */
static int
send_merged(const Flow *flow, unsigned char *data, size_t count, size_t size)
{
    struct iovec part = {data, count};
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } control;
    struct msghdr message = {0};
    message.msg_name = (void *)&flow->to.address;
    message.msg_namelen = flow->to.length;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (count > size) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = IPPROTO_UDP;
        header->cmsg_type = UDP_SEGMENT;
        header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t segment = (uint16_t)size;
        memcpy(CMSG_DATA(header), &segment, sizeof segment);
    }
    return sendmsg(flow->out, &message, MSG_DONTWAIT) >= 0;
}

/* Forwards merged datagrams; returns how many bytes of `data` have left. */
static size_t
forward(Flows *self, const Flow *flow, const unsigned char *data, size_t length, size_t size)
{
    size_t new_size = size - flow->match_size + flow->head_size;
    size_t most = MAX_SEGMENTED / new_size;
    if (most > MAX_SEGMENTS)
        most = MAX_SEGMENTS;
    if (most < 1)
        most = 1;
    size_t at = 0;
    while (at < length) {
        size_t begun = at, filled = 0;
        for (size_t n = 0; n < most && at < length; n++) {
            size_t whole = length - at < size ? length - at : size;
            memcpy(self->out + filled, flow->head, flow->head_size);
            filled += flow->head_size;
            memcpy(self->out + filled, data + at + flow->match_size, whole - flow->match_size);
            filled += whole - flow->match_size;
            at += whole;
        }
        if (!send_merged(flow, self->out, filled, new_size))
            return begun;
    }
    return length;
}

/* The flow that all these datagrams belong to, or NULL. */
static Flow *
flow_of(Flows *self, int fd, const Place *sender, const unsigned char *data, size_t length,
        size_t size, int frames, double now)
{
    size_t match = 0;
    if (frames) {
        match = data[0] == 0x20 ? 7 : data[0] == 0x21 ? 19 : 0;
        if (match == 0 || size <= match || (length % size && length % size <= match))
            return NULL;
        for (size_t at = size; at < length; at += size)
            if (memcmp(data, data + at, match) != 0)
                return NULL;
    }
    for (size_t at = 0; at < length; at += size)
        if (data[at + match] < FIRST_QUIC_BYTE)
            return NULL;
    Flow *flow = find(self, fd, sender, data, match);
    if (flow == NULL || flow->left < (int64_t)length || now >= flow->until)
        return NULL;
    return flow;
}

static size_t
segment_size(struct msghdr *message, size_t length)
{
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one))
        if (one->cmsg_level == IPPROTO_UDP && one->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(one), sizeof size);
            if (size > 0 && (size_t)size < length)
                return (size_t)size;
        }
    return length;
}

/* Returns what does not belong to a flow to Python. -1 if there is no memory. */
static int
give(Work *work, int fd, int is_own, const unsigned char *data, size_t length, size_t size,
     const Place *sender)
{
    PyObject *address = address_of(sender);
    if (address == NULL)
        return -1;
    PyObject *batch =
        Py_BuildValue("(y#n(NO))", (const char *)data, (Py_ssize_t)length,
                      (Py_ssize_t)(size < length ? size : length), address, Py_None);
    if (batch != NULL && !is_own)
        batch = Py_BuildValue("(iN)", fd, batch);
    if (batch == NULL)
        return -1;
    int failed = PyList_Append(is_own ? work->own : work->others, batch);
    Py_DECREF(batch);
    return failed;
}

/* Reads a socket until it is empty, at most `limit` times. Returns the number of reads, or -1 with
   an exception. */
static int
drain(Flows *self, Work *work, int fd, int limit, int frames, int is_own)
{
    double now = now_seconds();
    for (int turn = 0; turn < limit; turn++) {
        Place sender;
        char control[128];
        struct iovec part = {self->in, MAX_DATAGRAM};
        struct msghdr message = {0};
        memset(&sender, 0, sizeof sender);
        message.msg_name = &sender.address;
        message.msg_namelen = sizeof sender.address;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
        if (got < 0)
            return turn;
        sender.length = message.msg_namelen;
        size_t length = (size_t)got, size = segment_size(&message, length), left_at = 0;
        Flow *flow = length ? flow_of(self, fd, &sender, self->in, length, size, frames, now) : NULL;
        if (flow != NULL) {
            left_at = forward(self, flow, self->in, length, size);
            size_t count = (left_at + size - 1) / size;
            size_t payload = left_at - count * flow->match_size;
            flow->left -= (int64_t)payload;
            work->datagrams[frames] += (long long)count;
            work->bytes[frames] += (long long)payload;
            self->last = now;
        }
        if (left_at == length && length)
            continue;
        if (give(work, fd, is_own, self->in + left_at, length - left_at, size, &sender) < 0)
            return -1;
    }
    return limit;
}

/* Serves all watched sockets for `stay` seconds, while only flows use them. Returns -1 with an
   exception. */
static int
serve(Flows *self, Work *work, int limit, double stay)
{
    double end = now_seconds() + stay;
    int has_errors = 0;
    while (!has_errors && PyList_GET_SIZE(work->own) + PyList_GET_SIZE(work->others) == 0) {
        struct epoll_event events[MAX_EVENTS];
        int count, reads = 0, rest = (int)(1e3 * (end - now_seconds()));
        if (rest < 1)
            break;
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(self->poll, events, MAX_EVENTS, rest);
        Py_END_ALLOW_THREADS
        for (int at = 0; at < count; at++) {
            int fd = (int)(events[at].data.u64 & 0xffffffffu);
            int some = drain(self, work, fd, limit, (int)(events[at].data.u64 >> 32), 0);
            if (some < 0)
                return -1;
            reads += some;
            has_errors |= (events[at].events & EPOLLERR) != 0;
        }
        if (reads == 0)
            break;
    }
    return 0;
}

PyDoc_STRVAR(receive_doc,
             "receive(fd, limit, frames, stay) -> (batches, others, counts)\n\n"
             "Reads a socket `limit` times and forwards what belongs to a flow. If all of it does,\n"
             "and something was forwarded within the last `stay` seconds, serves all watched\n"
             "sockets for up to `stay` seconds. `counts` are the datagrams and bytes forwarded\n"
             "from ports, and those from the main socket.");

static PyObject *
receive(Flows *self, PyObject *args)
{
    int fd, limit, frames;
    double stay;
    if (!PyArg_ParseTuple(args, "iipd", &fd, &limit, &frames, &stay))
        return NULL;
    int is_busy = now_seconds() - self->last < stay;
    Work work = {PyList_New(0), PyList_New(0), {0, 0}, {0, 0}};
    int failed = work.own == NULL || work.others == NULL ||
                 drain(self, &work, fd, limit, frames, 1) < 0;
    if (!failed && is_busy && self->poll >= 0 && work.datagrams[frames] > 0)
        failed = serve(self, &work, limit, stay) < 0;
    if (failed) {
        Py_XDECREF(work.own);
        Py_XDECREF(work.others);
        return NULL;
    }
    return Py_BuildValue("(NN(LLLL))", work.own, work.others, work.datagrams[0], work.bytes[0],
                         work.datagrams[1], work.bytes[1]);
}

PyDoc_STRVAR(watch_doc, "watch(fd, frames)\n\n"
                        "Has `receive` of other sockets serve this one as well. Raises OSError.");

static PyObject *
watch(Flows *self, PyObject *args)
{
    int fd, frames;
    if (!PyArg_ParseTuple(args, "ip", &fd, &frames))
        return NULL;
    struct epoll_event event = {.events = EPOLLIN};
    event.data.u64 = (uint64_t)(uint32_t)fd | (uint64_t)frames << 32;
    if (epoll_ctl(self->poll, EPOLL_CTL_ADD, fd, &event) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unwatch_doc, "unwatch(fd)\n\nEnds `watch`, before the socket is closed.");

static PyObject *
unwatch(Flows *self, PyObject *args)
{
    int fd;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    epoll_ctl(self->poll, EPOLL_CTL_DEL, fd, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(put_doc, "put(fd, sender, match, out, to, head, budget, seconds)\n\n"
                      "Makes or renews a flow. Raises ValueError for an invalid address.");

static PyObject *
put(Flows *self, PyObject *args)
{
    int fd, out, sender_port, to_port;
    const char *sender_host, *to_host, *match, *head;
    Py_ssize_t match_size, head_size;
    long long budget;
    double seconds;
    if (!PyArg_ParseTuple(args, "i(si)y#i(si)y#Ld", &fd, &sender_host, &sender_port, &match,
                          &match_size, &out, &to_host, &to_port, &head, &head_size, &budget,
                          &seconds))
        return NULL;
    Place sender, to;
    if (match_size > MAX_HEAD || head_size > MAX_HEAD || !place_of(sender_host, sender_port, &sender) ||
        !place_of(to_host, to_port, &to)) {
        PyErr_SetString(PyExc_ValueError, "expected numeric addresses and short heads");
        return NULL;
    }
    Flow *flow = find(self, fd, &sender, (const unsigned char *)match, (size_t)match_size);
    if (flow == NULL) {
        uint32_t at = hash_of(fd, &sender, (const unsigned char *)match, (size_t)match_size);
        flow = &self->flows[at & (SLOTS - 1)];
        for (int step = 0; step < PROBES; step++) {
            Flow *other = &self->flows[(at + step) & (SLOTS - 1)];
            if (other->fd < 0) {
                flow = other;
                break;
            }
            if (other->until < flow->until)
                flow = other; /* the one that ends first makes room */
        }
    }
    flow->fd = fd;
    flow->sender = sender;
    memcpy(flow->match, match, (size_t)match_size);
    flow->match_size = (size_t)match_size;
    flow->out = out;
    flow->to = to;
    memcpy(flow->head, head, (size_t)head_size);
    flow->head_size = (size_t)head_size;
    flow->left = budget;
    flow->until = now_seconds() + seconds;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(clear_doc, "clear()\n\nForgets all flows.");

static PyObject *
clear(Flows *self, PyObject *Py_UNUSED(ignored))
{
    for (int at = 0; at < SLOTS; at++)
        self->flows[at].fd = -1;
    Py_RETURN_NONE;
}

static PyObject *
flows_new(PyTypeObject *type, PyObject *args, PyObject *words)
{
    Flows *self = (Flows *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->poll = epoll_create1(EPOLL_CLOEXEC);
    self->flows = PyMem_Calloc(SLOTS, sizeof(Flow));
    self->in = PyMem_Malloc(MAX_DATAGRAM);
    self->out = PyMem_Malloc(MAX_DATAGRAM + MAX_HEAD * (MAX_SEGMENTS + 1));
    if (self->flows == NULL || self->in == NULL || self->out == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    Py_XDECREF(clear(self, NULL));
    return (PyObject *)self;
}

static void
flows_dealloc(Flows *self)
{
    if (self->poll >= 0)
        close(self->poll);
    PyMem_Free(self->flows);
    PyMem_Free(self->in);
    PyMem_Free(self->out);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"receive", (PyCFunction)receive, METH_VARARGS, receive_doc},
    {"watch", (PyCFunction)watch, METH_VARARGS, watch_doc},
    {"unwatch", (PyCFunction)unwatch, METH_VARARGS, unwatch_doc},
    {"put", (PyCFunction)put, METH_VARARGS, put_doc},
    {"clear", (PyCFunction)clear, METH_NOARGS, clear_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, flows_new},
    {Py_tp_dealloc, flows_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "quicdist.carriers.relay._forward.Flows",
    .basicsize = sizeof(Flows),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_forward",
    .m_size = 0,
};

PyMODINIT_FUNC
PyInit__forward(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made == NULL)
        return NULL;
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddObject(made, "Flows", type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
