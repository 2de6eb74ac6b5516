/* Reads the datagrams of a UDP socket in batches (see engine.CompiledSocket).

   One system call reads several datagrams (recvmmsg(2)), and datagrams of one size, path and ECN
   codepoint in a row become one batch, as with UDP_GRO. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define MAX_MESSAGES 8 /* of one system call */
#define MAX_DATAGRAM 65535
#define MAX_RUN (128 * 1024) /* bytes of single datagrams that become one batch */
#define CONTROL 128          /* for the segment size, the local address and the TOS byte */
#define MAX_PATHS 1024
#define ECN 0x03 /* the bits of the ECN field in the TOS byte (RFC 3168, 5) */

/* The addresses of a datagram, without padding that could differ between equal ones. */
typedef struct {
    unsigned char bytes[48];
    size_t size;
} Key;

typedef struct {
    unsigned char *data;
    size_t size, segment;
    int ecn;
    Key key;
} Datagram;

typedef struct {
    PyObject_HEAD
    int fd;
    int has_locals; /* whether paths contain the local address */
    int merges;     /* whether the last system call returned merged datagrams */
    unsigned char *in;
    PyObject *paths; /* the path of each key */
    Key last;
    PyObject *path; /* that of `last` */
    /* Single datagrams that become one batch. */
    unsigned char *run;
    size_t run_size, whole;
    int run_ecn, is_open;
    PyObject *run_path;
} Reader;

static void
append(Key *key, const void *bytes, size_t count)
{
    memcpy(key->bytes + key->size, bytes, count);
    key->size += count;
}

static PyObject *
new_address(const struct sockaddr_storage *from)
{
    char host[INET6_ADDRSTRLEN];
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)from;
        inet_ntop(AF_INET, &four->sin_addr, host, sizeof host);
        return Py_BuildValue("(si)", host, (int)ntohs(four->sin_port));
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;
        inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, (int)ntohs(six->sin6_port),
                             (unsigned int)ntohl(six->sin6_flowinfo),
                             (unsigned int)six->sin6_scope_id);
    }
    return Py_BuildValue("(si)", "", 0);
}

/* Returns a borrowed reference to the path of a key, one object for equal paths; NULL on error. */
static PyObject *
path_of(Reader *self, const Key *key, const struct sockaddr_storage *from, const Key *local)
{
    if (self->path != NULL && key->size == self->last.size &&
        memcmp(key->bytes, self->last.bytes, key->size) == 0)
        return self->path;
    PyObject *name = PyBytes_FromStringAndSize((const char *)key->bytes, (Py_ssize_t)key->size);
    if (name == NULL)
        return NULL;
    PyObject *path = PyDict_GetItemWithError(self->paths, name);
    Py_XINCREF(path);
    if (path == NULL && !PyErr_Occurred()) {
        if (PyDict_Size(self->paths) >= MAX_PATHS)
            PyDict_Clear(self->paths);
        PyObject *address = new_address(from);
        if (address != NULL && local->size)
            path = Py_BuildValue("(Ny#)", address, (const char *)local->bytes,
                                 (Py_ssize_t)local->size);
        else if (address != NULL)
            path = Py_BuildValue("(NO)", address, Py_None);
        if (path != NULL && PyDict_SetItem(self->paths, name, path) < 0)
            Py_CLEAR(path);
    }
    Py_DECREF(name);
    if (path != NULL) {
        Py_XSETREF(self->path, path);
        self->last = *key;
    }
    return path;
}

/* Reads the control messages and addresses of a message. Returns its path or NULL. */
static PyObject *
look_at(Reader *self, struct msghdr *head, Datagram *got)
{
    Key local = {.size = 0};
    got->segment = 0;
    got->ecn = 0;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(head); each != NULL; each = CMSG_NXTHDR(head, each)) {
        const unsigned char *data = CMSG_DATA(each);
        int value = 0;
        size_t size = each->cmsg_len - CMSG_LEN(0);
        if (size >= sizeof value)
            memcpy(&value, data, sizeof value);
        if (each->cmsg_level == IPPROTO_UDP && each->cmsg_type == UDP_GRO && value > 0)
            got->segment = (size_t)value;
        else if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_TOS && size)
            got->ecn = data[0] & ECN;
        else if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_TCLASS)
            got->ecn = value & ECN;
        else if (!self->has_locals)
            continue;
        else if (each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_PKTINFO) {
            if (local.size == 0 && size >= sizeof(struct in_pktinfo))
                append(&local, &((const struct in_pktinfo *)data)->ipi_spec_dst, 4);
        }
        else if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_PKTINFO) {
            if (local.size == 0 && size >= sizeof(struct in6_pktinfo))
                append(&local, &((const struct in6_pktinfo *)data)->ipi6_addr, 16);
        }
    }
    const struct sockaddr_storage *from = head->msg_name;
    Key *key = &got->key;
    key->size = 0;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)from;
        append(key, &four->sin_port, 2);
        append(key, &four->sin_addr, 4);
    }
    else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;
        append(key, &six->sin6_port, 2);
        append(key, &six->sin6_addr, 16);
        append(key, &six->sin6_flowinfo, 4);
        append(key, &six->sin6_scope_id, 4);
    }
    append(key, local.bytes, local.size);
    return path_of(self, key, from, &local);
}

static int
add(PyObject *batches, const unsigned char *data, size_t bytes, size_t size, PyObject *path, int ecn)
{
    PyObject *batch = Py_BuildValue("(y#nOi)", (const char *)data, (Py_ssize_t)bytes,
                                    (Py_ssize_t)size, path, ecn);
    if (batch == NULL)
        return -1;
    int failed = PyList_Append(batches, batch);
    Py_DECREF(batch);
    return failed;
}

static int
end_run(Reader *self, PyObject *batches)
{
    PyObject *path = self->run_path;
    if (path == NULL)
        return 0;
    self->run_path = NULL;
    int failed = add(batches, self->run, self->run_size, self->whole, path, self->run_ecn);
    Py_DECREF(path);
    return failed;
}

/* Adds a datagram to the run, which ends if it cannot be part of it. */
static int
extend_run(Reader *self, PyObject *batches, const Datagram *got, PyObject *path)
{
    int fits = self->run_path == path && self->is_open && got->size && got->size <= self->whole &&
               got->ecn == self->run_ecn && self->run_size + got->size <= MAX_RUN;
    if (!fits) {
        if (end_run(self, batches) < 0)
            return -1;
        self->run_path = Py_NewRef(path);
        self->run_size = 0;
        self->whole = got->size;
        self->run_ecn = got->ecn;
    }
    memcpy(self->run + self->run_size, got->data, got->size);
    self->run_size += got->size;
    self->is_open = got->size == self->whole;
    return 0;
}

/* Makes one system call for at most `limit` datagrams. Returns the number of datagrams, 0 if there
   was none, -1 if the socket has an error, or -2 with an exception. */
static long
read_some(Reader *self, PyObject *batches, long limit, int *is_last)
{
    struct mmsghdr messages[MAX_MESSAGES];
    struct iovec parts[MAX_MESSAGES];
    struct sockaddr_storage from[MAX_MESSAGES];
    union {
        struct cmsghdr align;
        unsigned char bytes[CONTROL];
    } control[MAX_MESSAGES];
    /* A merged message may contain 64 datagrams. */
    int most = self->merges ? 1 : limit < MAX_MESSAGES ? (int)limit : MAX_MESSAGES;
    for (int at = 0; at < most; at++) {
        parts[at].iov_base = self->in + (size_t)at * MAX_DATAGRAM;
        parts[at].iov_len = MAX_DATAGRAM;
        from[at].ss_family = AF_UNSPEC;
        struct msghdr *head = &messages[at].msg_hdr;
        memset(head, 0, sizeof *head);
        head->msg_name = &from[at];
        head->msg_namelen = sizeof from[at];
        head->msg_iov = &parts[at];
        head->msg_iovlen = 1;
        head->msg_control = control[at].bytes;
        head->msg_controllen = CONTROL;
    }
    int found = recvmmsg(self->fd, messages, (unsigned int)most, MSG_DONTWAIT, NULL);
    *is_last = found < most;
    if (found < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
    long count = 0;
    self->merges = 0;
    for (int at = 0; at < found; at++) {
        Datagram got = {.data = parts[at].iov_base, .size = messages[at].msg_len};
        PyObject *path = look_at(self, &messages[at].msg_hdr, &got);
        if (path == NULL)
            return -2;
        int failed;
        if (got.segment && got.segment < got.size) {
            self->merges = 1;
            count += (long)((got.size + got.segment - 1) / got.segment);
            failed = end_run(self, batches) < 0 ||
                     add(batches, got.data, got.size, got.segment, path, got.ecn) < 0;
        }
        else {
            count++;
            failed = extend_run(self, batches, &got, path) < 0;
        }
        if (failed)
            return -2;
    }
    return count;
}

PyDoc_STRVAR(read_doc, "read($self, limit, /)\n--\n\n"
                       "Returns about `limit` received datagrams, and whether the socket has an "
                       "error.\n\nEqual paths are one object.");

static PyObject *
reader_read(Reader *self, PyObject *argument)
{
    long limit = PyLong_AsLong(argument);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    PyObject *batches = PyList_New(0);
    if (batches == NULL)
        return NULL;
    long count = 0;
    int is_last = 0;
    while (count < limit && !is_last) {
        long more = read_some(self, batches, limit - count, &is_last);
        if (more < 0) {
            count = more;
            break;
        }
        count += more;
    }
    if (count == -2 || end_run(self, batches) < 0) {
        Py_CLEAR(self->run_path);
        Py_DECREF(batches);
        return NULL;
    }
    return Py_BuildValue("(NO)", batches, count == -1 ? Py_True : Py_False);
}

static void
reader_dealloc(Reader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(self->in);
    PyMem_Free(self->run);
    Py_XDECREF(self->paths);
    Py_XDECREF(self->path);
    Py_XDECREF(self->run_path);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *
reader_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"fd", "has_locals", NULL};
    int fd, has_locals;
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "ip", names, &fd, &has_locals))
        return NULL;
    Reader *self = (Reader *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->fd = fd;
    self->has_locals = has_locals;
    self->paths = PyDict_New();
    self->in = PyMem_Malloc((size_t)MAX_MESSAGES * MAX_DATAGRAM);
    self->run = PyMem_Malloc(MAX_RUN);
    if (self->paths == NULL || self->in == NULL || self->run == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"read", (PyCFunction)reader_read, METH_O, read_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, reader_new},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "quicdist.carriers.quic._reader.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_reader",
    .m_size = 0,
};

PyMODINIT_FUNC
PyInit__reader(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made == NULL)
        return NULL;
    PyObject *type = PyType_FromSpec(&spec);
    if (type == NULL || PyModule_AddObject(made, "Reader", type) < 0) {
        Py_XDECREF(type);
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
