/* The work on bytes of 1-RTT packets (see engine/aioquic_packets.py, which also has it in Python).

   The ciphers are callables that Python passes in. Every length comes from a peer until it has been
   checked. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define CID 8 /* CONNECTION_ID_LENGTH */
#define NUMBER_AT (1 + CID)
#define SAMPLE_AT (NUMBER_AT + 4)
#define SAMPLE 16
#define MIN_PACKET (SAMPLE_AT + SAMPLE)
#define NONCE 12
#define MAX_NUMBER ((int64_t)1 << 62)
#define MAX_CID 20    /* of a peer (RFC 9000, 17.2) */
#define NUMBER 2      /* size of sent packet numbers */
#define SENT_SAMPLE_AT (4 - NUMBER) /* in a protected payload */
#define MAX_FULL 65535 /* bytes of a datagram */

#define LONG_HEADER_OR_RESERVED (0x80 | 0x18)
#define PROTECTED 0x1F

/* STREAM frames without the end of the stream (RFC 9000, 19.8). */
#define STREAM 0x08
#define STREAM_MASK 0xF9
#define STREAM_OFFSET 0x04
#define STREAM_LENGTH 0x02

static PyObject *invalid_tag; /* the exception of a packet that is not authentic */

/* Reads a variable-length integer at `*at`, which becomes its end. Returns -1 behind the data. */
static int64_t
read_var(const unsigned char *data, Py_ssize_t size, Py_ssize_t *at)
{
    if (*at >= size)
        return -1;
    int bytes = 1 << (data[*at] >> 6);
    if (bytes > size - *at)
        return -1;
    int64_t value = data[*at] & 0x3F;
    for (int more = 1; more < bytes; more++)
        value = value << 8 | data[*at + more];
    *at += bytes;
    return value;
}

/* Returns where the data begins, if a payload is one STREAM frame with the data of that stream from
   `offset` on and up to `limit` at most; otherwise 0. */
static Py_ssize_t
next_data(const unsigned char *data, Py_ssize_t size, int64_t stream, int64_t offset, int64_t limit)
{
    if (stream < 0 || size < 1 || (data[0] & STREAM_MASK) != STREAM)
        return 0;
    Py_ssize_t at = 1;
    if (read_var(data, size, &at) != stream)
        return 0;
    if ((data[0] & STREAM_OFFSET ? read_var(data, size, &at) : 0) != offset)
        return 0;
    if (data[0] & STREAM_LENGTH) {
        int64_t length = read_var(data, size, &at);
        if (length != size - at)
            return 0;
    }
    return at < size && size - at <= limit - offset ? at : 0;
}

/* Decodes a packet number of `bits` bits (RFC 9000, A.3). */
static int64_t
decode_number(int64_t truncated, int bits, int64_t expected)
{
    int64_t window = (int64_t)1 << bits, half = window / 2;
    int64_t candidate = (expected & ~(window - 1)) | truncated;
    if (candidate <= expected - half && candidate < MAX_NUMBER - window)
        return candidate + window;
    if (candidate > expected + half && candidate >= window)
        return candidate - window;
    return candidate;
}

/* Datagrams of `size` bytes that follow each other in `data`; the last one may be shorter. */
typedef struct {
    const unsigned char *data, *masks, *cid, *iv;
    Py_ssize_t total, size, start, mask_bytes;
    PyObject *decrypt;
    int phase;
} Batch;

static int
borrow(PyObject *from, Py_ssize_t least, const unsigned char **data, Py_ssize_t *size)
{
    if (!PyBytes_Check(from) || PyBytes_GET_SIZE(from) < least) {
        PyErr_SetString(PyExc_TypeError, "bytes of another size are needed");
        return -1;
    }
    *data = (const unsigned char *)PyBytes_AS_STRING(from);
    if (size != NULL)
        *size = PyBytes_GET_SIZE(from);
    return 0;
}

/* Checks `at`, an offset of a datagram. */
static int
is_outside(Py_ssize_t total, Py_ssize_t size, Py_ssize_t at)
{
    if (size >= 1 && at >= 0 && at <= total)
        return 0;
    PyErr_SetString(PyExc_ValueError, "no such datagram");
    return 1;
}

static int
read_batch(PyObject *keys, PyObject *packets, Batch *batch)
{
    PyObject *iv, *data, *masks, *cid, *mask_of;
    if (!PyArg_ParseTuple(keys, "OOOi", &batch->decrypt, &iv, &mask_of, &batch->phase) ||
        !PyArg_ParseTuple(packets, "OnnOO", &data, &batch->size, &batch->start, &masks, &cid) ||
        borrow(data, 0, &batch->data, &batch->total) < 0 || borrow(iv, NONCE, &batch->iv, NULL) < 0 ||
        borrow(masks, 0, &batch->masks, &batch->mask_bytes) < 0 ||
        borrow(cid, CID, &batch->cid, NULL) < 0)
        return -1;
    return is_outside(batch->total, batch->size, batch->start) ? -1 : 0;
}

/* Applies a cipher to the data of a packet with this number and header (RFC 9001, 5.3). Drops the
   reference to the data, which may be NULL; then it returns NULL. */
static PyObject *
apply(PyObject *cipher, const unsigned char *iv, int64_t number, PyObject *data,
      const unsigned char *head, Py_ssize_t head_size)
{
    unsigned char nonce[NONCE];
    memcpy(nonce, iv, NONCE);
    for (int each = 0; each < 8; each++)
        nonce[NONCE - 1 - each] ^= (unsigned char)(number >> 8 * each);
    PyObject *parts[] = {
        PyBytes_FromStringAndSize((const char *)nonce, NONCE),
        data,
        PyBytes_FromStringAndSize((const char *)head, head_size),
    };
    PyObject *result = NULL;
    if (parts[0] != NULL && parts[1] != NULL && parts[2] != NULL)
        result = PyObject_Vectorcall(cipher, parts, 3, NULL);
    for (int each = 0; each < 3; each++)
        Py_XDECREF(parts[each]);
    return result;
}

/* Opens the packet at `at`. Returns its payload, or NULL: with an exception, or with `first` -1 if it
   is not one of these keys and this connection ID. */
static PyObject *
open_packet(const Batch *batch, Py_ssize_t at, int64_t expected, int *first, int64_t *number)
{
    const unsigned char *data = batch->data + at;
    Py_ssize_t size = batch->total - at < batch->size ? batch->total - at : batch->size;
    Py_ssize_t mask_at = (at - batch->start) / batch->size * SAMPLE;
    *first = -1;
    if (size < MIN_PACKET || mask_at > batch->mask_bytes - SAMPLE)
        return NULL;
    const unsigned char *mask = batch->masks + mask_at;
    int bits = data[0] ^ (mask[0] & PROTECTED);
    if (bits & LONG_HEADER_OR_RESERVED || (bits >> 2 & 1) != batch->phase ||
        memcmp(data + 1, batch->cid, CID) != 0)
        return NULL;
    *first = bits;
    int length = (bits & 0x03) + 1;
    unsigned char head[NUMBER_AT + 4];
    head[0] = (unsigned char)bits;
    memcpy(head + 1, batch->cid, CID);
    int64_t truncated = 0;
    for (int each = 0; each < length; each++) {
        head[NUMBER_AT + each] = data[NUMBER_AT + each] ^ mask[1 + each];
        truncated = truncated << 8 | head[NUMBER_AT + each];
    }
    *number = decode_number(truncated, 8 * length, expected);
    Py_ssize_t body = NUMBER_AT + length;
    PyObject *closed = PyBytes_FromStringAndSize((const char *)data + body, size - body);
    PyObject *payload = apply(batch->decrypt, batch->iv, *number, closed, head, body);
    if (payload != NULL && !PyBytes_Check(payload)) {
        Py_CLEAR(payload);
        PyErr_SetString(PyExc_TypeError, "the cipher returned no bytes");
    }
    return payload;
}

PyDoc_STRVAR(samples_doc, "samples(data, size, at, /)\n--\n\n"
                          "See `samples` in aioquic_packets.");

static PyObject *
samples(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    const unsigned char *data;
    Py_ssize_t total;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "samples takes 3 arguments");
        return NULL;
    }
    if (borrow(arguments[0], 0, &data, &total) < 0)
        return NULL;
    Py_ssize_t size = PyLong_AsSsize_t(arguments[1]), at = PyLong_AsSsize_t(arguments[2]);
    if (PyErr_Occurred() || is_outside(total, size, at))
        return NULL;
    Py_ssize_t datagrams = (total - at) / size + ((total - at) % size != 0);
    if (datagrams > PY_SSIZE_T_MAX / SAMPLE)
        return PyErr_NoMemory();
    PyObject *made = PyBytes_FromStringAndSize(NULL, datagrams * SAMPLE);
    if (made == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(made);
    for (Py_ssize_t each = 0; each < datagrams; each++, at += size, to += SAMPLE) {
        Py_ssize_t left = total - at < size ? total - at : size;
        if (left >= MIN_PACKET)
            memcpy(to, data + at + SAMPLE_AT, SAMPLE);
        else
            memset(to, 0, SAMPLE); /* `take` stops at it */
    }
    return made;
}

PyDoc_STRVAR(take_doc, "take(keys, packets, at, expected, stream, offset, limit, /)\n--\n\n"
                       "See `take` in aioquic_packets.");

static PyObject *
take(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Batch batch;
    if (count != 7) {
        PyErr_SetString(PyExc_TypeError, "take takes 7 arguments");
        return NULL;
    }
    if (read_batch(arguments[0], arguments[1], &batch) < 0)
        return NULL;
    Py_ssize_t at = PyLong_AsSsize_t(arguments[2]);
    int64_t expected = PyLong_AsLongLong(arguments[3]), stream = PyLong_AsLongLong(arguments[4]);
    int64_t offset = PyLong_AsLongLong(arguments[5]), limit = PyLong_AsLongLong(arguments[6]);
    if (PyErr_Occurred() || is_outside(batch.total, batch.size, at))
        return NULL;
    if (at < batch.start || (at < batch.total && (at - batch.start) % batch.size) || expected < 0 ||
        expected >= MAX_NUMBER || offset < 0 || limit < 0) {
        PyErr_SetString(PyExc_ValueError, "out of range");
        return NULL;
    }
    PyObject *joined = NULL, *payload = NULL;
    Py_ssize_t filled = 0, packets = 0;
    int newest = 0, first = 0;
    int64_t number = 0;
    while (at < batch.total) {
        payload = open_packet(&batch, at, expected, &first, &number);
        if (payload == NULL) {
            if (!PyErr_Occurred())
                break;
            if (!PyErr_ExceptionMatches(invalid_tag))
                goto failed;
            PyErr_Clear();
            at = batch.total - at <= batch.size ? batch.total : at + batch.size;
            continue;
        }
        const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(payload);
        Py_ssize_t size = PyBytes_GET_SIZE(payload);
        Py_ssize_t begin = number == expected ? next_data(data, size, stream, offset, limit) : 0;
        Py_ssize_t left = batch.total - at;
        at = left <= batch.size ? batch.total : at + batch.size;
        if (!begin)
            break;
        size -= begin;
        if (joined == NULL && (joined = PyBytes_FromStringAndSize(NULL, left)) == NULL)
            goto failed;
        if (size > PyBytes_GET_SIZE(joined) - filled) {
            PyErr_SetString(PyExc_ValueError, "the cipher returned too many bytes");
            goto failed;
        }
        memcpy(PyBytes_AS_STRING(joined) + filled, data + begin, (size_t)size);
        filled += size;
        offset += size;
        expected++;
        packets++;
        newest = first;
        Py_CLEAR(payload);
    }
    if (joined == NULL)
        joined = PyBytes_FromStringAndSize(NULL, 0);
    else
        _PyBytes_Resize(&joined, filled);
    if (joined == NULL)
        goto failed;
    if (payload == NULL)
        return Py_BuildValue("(nniNO)", at, packets, newest, joined, Py_None);
    return Py_BuildValue("(nniN(LiN))", at, packets, newest, joined, (long long)number, first,
                         payload);
failed:
    Py_XDECREF(joined);
    Py_XDECREF(payload);
    return NULL;
}

/* Writes a variable-length integer (RFC 9000, 16). Returns its size. */
static Py_ssize_t
put_var(unsigned char *to, int64_t value)
{
    int kind = value < 0x40 ? 0 : value < 0x4000 ? 1 : value < 0x40000000 ? 2 : 3;
    int bytes = 1 << kind;
    for (int each = 0; each < bytes; each++)
        to[each] = (unsigned char)(value >> 8 * (bytes - 1 - each));
    to[0] |= (unsigned char)(kind << 6);
    return bytes;
}

/* What a burst may still send (see `Room` in aioquic_packets). */
typedef struct {
    long long full, allowed, left;
    double tokens, count;
    long long overhead;
    int is_paced;
} Room;

/* Returns how many of the wanted bytes fit into the next packet, as `_Burst.take`. */
static int64_t
take_room(Room *room, int64_t head, int64_t wanted)
{
    long long least = room->full < room->left ? room->full : room->left;
    int64_t size = least - room->overhead - head;
    if (size >= wanted)
        size = wanted;
    else if (size <= 0 ||
             room->left < (room->full < room->allowed ? room->full : room->allowed))
        return 0;
    if (room->tokens <= 0 || room->count <= 0) {
        room->is_paced = 1;
        return 0;
    }
    int64_t used = size + head + room->overhead;
    room->left -= used;
    room->tokens -= (double)used;
    room->count -= 1;
    return size;
}

/* Appends an object and drops its reference. */
static int
append_new(PyObject *list, PyObject *one)
{
    int failed = one == NULL || PyList_Append(list, one) < 0;
    Py_XDECREF(one);
    return failed ? -1 : 0;
}

PyDoc_STRVAR(frames_doc, "frames(room, ack, kind, sender, buffer, base, at, end, /)\n--\n\n"
                         "See `frames` in aioquic_packets.");

static PyObject *
frames(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    Room room = {.is_paced = 0};
    const unsigned char *ack, *kind;
    Py_ssize_t ack_size, kind_size;
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "frames takes 8 arguments");
        return NULL;
    }
    PyObject *sender = arguments[3];
    int64_t base = PyLong_AsLongLong(arguments[5]), at = PyLong_AsLongLong(arguments[6]);
    int64_t end = PyLong_AsLongLong(arguments[7]);
    if (PyErr_Occurred() ||
        !PyArg_ParseTuple(arguments[0], "LLLddL", &room.full, &room.allowed, &room.left,
                          &room.tokens, &room.count, &room.overhead) ||
        borrow(arguments[1], 0, &ack, &ack_size) < 0 ||
        borrow(arguments[2], 0, &kind, &kind_size) < 0)
        return NULL;
    Py_buffer buffer;
    if (PyObject_GetBuffer(arguments[4], &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *payloads = PyList_New(0), *pieces = PyList_New(0);
    if (payloads == NULL || pieces == NULL)
        goto failed;
    if (base < 0 || base > at || end < 0 || end >= MAX_NUMBER || end - base > buffer.len ||
        room.full > MAX_FULL || room.full < 0 || room.left < -MAX_NUMBER || room.overhead < 0 ||
        room.overhead > MAX_FULL) {
        PyErr_SetString(PyExc_ValueError, "out of range");
        goto failed;
    }
    while (at < end) {
        unsigned char offset[8];
        Py_ssize_t var = put_var(offset, at), head = ack_size + kind_size + var;
        int64_t size = take_room(&room, head, end - at);
        if (!size)
            break;
        PyObject *payload = PyBytes_FromStringAndSize(NULL, head + (Py_ssize_t)size);
        if (payload == NULL)
            goto failed;
        char *to = PyBytes_AS_STRING(payload);
        memcpy(to, ack, (size_t)ack_size);
        memcpy(to + ack_size, kind, (size_t)kind_size);
        memcpy(to + ack_size + kind_size, offset, (size_t)var);
        memcpy(to + head, (const char *)buffer.buf + (at - base), (size_t)size);
        if (append_new(payloads, payload) < 0 ||
            append_new(pieces, Py_BuildValue("((OLL))", sender, (long long)at,
                                             (long long)(at + size))) < 0)
            goto failed;
        at += size;
        ack_size = 0;
    }
    PyBuffer_Release(&buffer);
    return Py_BuildValue("(NNLLddi)", payloads, pieces, (long long)at, room.left, room.tokens,
                         room.count, room.is_paced);
failed:
    PyBuffer_Release(&buffer);
    Py_XDECREF(payloads);
    Py_XDECREF(pieces);
    return NULL;
}

/* The plain header of a sent packet. */
typedef struct {
    unsigned char bytes[1 + MAX_CID + NUMBER];
    Py_ssize_t number_at, size;
} Head;

static void
set_number(Head *head, int64_t number)
{
    head->bytes[head->number_at] = (unsigned char)(number >> 8);
    head->bytes[head->number_at + 1] = (unsigned char)number;
}

/* Encrypts payloads. Returns the protected payloads. */
static PyObject *
encrypted(PyObject *encrypt, const unsigned char *iv, Head *head, int64_t number,
          PyObject *payloads)
{
    Py_ssize_t count = PyList_GET_SIZE(payloads);
    PyObject *bodies = PyList_New(count);
    for (Py_ssize_t each = 0; bodies != NULL && each < count; each++, number++) {
        set_number(head, number);
        /* `encrypt` may run any code, which could change the list. */
        PyObject *payload = each < PyList_GET_SIZE(payloads) ? PyList_GET_ITEM(payloads, each) : NULL;
        PyObject *body = apply(encrypt, iv, number, Py_XNewRef(payload), head->bytes, head->size);
        if (body != NULL &&
            (!PyBytes_Check(body) || PyBytes_GET_SIZE(body) < SENT_SAMPLE_AT + SAMPLE)) {
            Py_CLEAR(body);
            PyErr_SetString(PyExc_ValueError, "a payload is too short");
        }
        if (body == NULL) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_RuntimeError, "the payloads have changed");
            Py_CLEAR(bodies);
        }
        else
            PyList_SET_ITEM(bodies, each, body);
    }
    return bodies;
}

/* Returns the header protection masks of protected payloads. */
static PyObject *
masks_for(PyObject *mask_of, PyObject *bodies)
{
    Py_ssize_t count = PyList_GET_SIZE(bodies);
    PyObject *found = PyBytes_FromStringAndSize(NULL, count * SAMPLE);
    if (found == NULL)
        return NULL;
    for (Py_ssize_t each = 0; each < count; each++)
        memcpy(PyBytes_AS_STRING(found) + each * SAMPLE,
               PyBytes_AS_STRING(PyList_GET_ITEM(bodies, each)) + SENT_SAMPLE_AT, SAMPLE);
    PyObject *masks = PyObject_CallOneArg(mask_of, found);
    Py_DECREF(found);
    if (masks != NULL && (!PyBytes_Check(masks) || PyBytes_GET_SIZE(masks) < count * SAMPLE)) {
        Py_CLEAR(masks);
        PyErr_SetString(PyExc_TypeError, "the cipher returned too few masks");
    }
    return masks;
}

/* Returns the end of the packets from `at` on that can be one batch. `*bytes` is its size. */
static Py_ssize_t
batch_end(PyObject *bodies, Py_ssize_t head, Py_ssize_t at, Py_ssize_t segments, Py_ssize_t most,
          Py_ssize_t *bytes)
{
    Py_ssize_t size = head + PyBytes_GET_SIZE(PyList_GET_ITEM(bodies, at));
    *bytes = size;
    Py_ssize_t stop = at + 1;
    while (stop < PyList_GET_SIZE(bodies) && stop - at < segments) {
        Py_ssize_t next = head + PyBytes_GET_SIZE(PyList_GET_ITEM(bodies, stop));
        if (next > size || *bytes + next > most)
            break;
        *bytes += next;
        stop++;
        if (next < size)
            break;
    }
    return stop;
}

/* Writes a protected packet. Returns its end. */
static unsigned char *
put_packet(unsigned char *to, const Head *head, const unsigned char *mask, PyObject *body)
{
    memcpy(to, head->bytes, (size_t)head->size);
    to[0] ^= mask[0] & PROTECTED;
    to[head->number_at] ^= mask[1];
    to[head->number_at + 1] ^= mask[2];
    to += head->size;
    memcpy(to, PyBytes_AS_STRING(body), (size_t)PyBytes_GET_SIZE(body));
    return to + PyBytes_GET_SIZE(body);
}

PyDoc_STRVAR(seal_doc, "seal(keys, first, cid, number, payloads, segments, most, /)\n--\n\n"
                       "See `seal` in aioquic_packets.");

static PyObject *
seal(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    (void)module;
    PyObject *encrypt, *mask_of, *iv_bytes;
    const unsigned char *iv, *cid;
    Py_ssize_t cid_size;
    if (count != 7) {
        PyErr_SetString(PyExc_TypeError, "seal takes 7 arguments");
        return NULL;
    }
    long first = PyLong_AsLong(arguments[1]);
    int64_t number = PyLong_AsLongLong(arguments[3]);
    Py_ssize_t segments = PyLong_AsSsize_t(arguments[5]), most = PyLong_AsSsize_t(arguments[6]);
    if (PyErr_Occurred() || !PyArg_ParseTuple(arguments[0], "OOO", &encrypt, &iv_bytes, &mask_of) ||
        borrow(iv_bytes, NONCE, &iv, NULL) < 0 || borrow(arguments[2], 0, &cid, &cid_size) < 0)
        return NULL;
    if (!PyList_Check(arguments[4]) || cid_size > MAX_CID || number < 0 || number >= MAX_NUMBER) {
        PyErr_SetString(PyExc_ValueError, "out of range");
        return NULL;
    }
    Head head = {.number_at = 1 + cid_size, .size = 1 + cid_size + NUMBER};
    head.bytes[0] = (unsigned char)first;
    memcpy(head.bytes + 1, cid, (size_t)cid_size);
    PyObject *bodies = encrypted(encrypt, iv, &head, number, arguments[4]), *masks = NULL;
    PyObject *batches = NULL;
    if (bodies == NULL || (masks = masks_for(mask_of, bodies)) == NULL ||
        (batches = PyList_New(0)) == NULL)
        goto failed;
    const unsigned char *mask = (const unsigned char *)PyBytes_AS_STRING(masks);
    for (Py_ssize_t at = 0, stop; at < PyList_GET_SIZE(bodies); at = stop) {
        Py_ssize_t bytes;
        stop = batch_end(bodies, head.size, at, segments, most, &bytes);
        PyObject *data = PyBytes_FromStringAndSize(NULL, bytes);
        if (data == NULL)
            goto failed;
        unsigned char *to = (unsigned char *)PyBytes_AS_STRING(data);
        for (Py_ssize_t each = at; each < stop; each++, number++, mask += SAMPLE) {
            set_number(&head, number);
            to = put_packet(to, &head, mask, PyList_GET_ITEM(bodies, each));
        }
        Py_ssize_t size = head.size + PyBytes_GET_SIZE(PyList_GET_ITEM(bodies, at));
        if (append_new(batches, Py_BuildValue("(Nn)", data, size)) < 0)
            goto failed;
    }
    Py_DECREF(bodies);
    Py_DECREF(masks);
    return batches;
failed:
    Py_XDECREF(bodies);
    Py_XDECREF(masks);
    Py_XDECREF(batches);
    return NULL;
}

static PyMethodDef methods[] = {
    {"frames", (PyCFunction)(void (*)(void))frames, METH_FASTCALL, frames_doc},
    {"samples", (PyCFunction)(void (*)(void))samples, METH_FASTCALL, samples_doc},
    {"seal", (PyCFunction)(void (*)(void))seal, METH_FASTCALL, seal_doc},
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, take_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_packets",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__packets(void)
{
    PyObject *exceptions = PyImport_ImportModule("cryptography.exceptions");
    if (exceptions == NULL)
        return NULL;
    Py_XSETREF(invalid_tag, PyObject_GetAttrString(exceptions, "InvalidTag"));
    Py_DECREF(exceptions);
    return invalid_tag == NULL ? NULL : PyModule_Create(&module);
}
