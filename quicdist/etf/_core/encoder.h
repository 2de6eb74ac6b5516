/* Declarations that encode.c and encode_leaves.c share: the encoder, its output, common leaves. */
#ifndef QUICDIST_ETF_ENCODER_H
#define QUICDIST_ETF_ENCODER_H

#include "core.h"

typedef enum {
    DONE = 0,     /* a leaf, written */
    OPENED = 1,   /* a container, now on top of the frames */
    ANOTHER = 2,  /* nothing is written: the type is not a common one */
    FAILED = -1,  /* with an exception set, or Encoder.over */
    REFUSED = -2, /* encode.py raises the error */
} Outcome;

typedef enum { TUPLE, LIST, DICT, ITERATOR } Kind;

/* A container being written. */
typedef struct {
    Kind kind;
    PyObject *container;
    PyObject *items;   /* TUPLE: a tuple; ITERATOR: an iterator */
    PyObject *pending; /* DICT: the value of the key that was opened; TUPLE: a term behind it */
    PyObject *closing; /* ITERATOR: bytes to end with */
    Py_ssize_t index;
    Py_ssize_t count;   /* DICT: the number of keys at the start */
    Py_ssize_t size_at; /* TUPLE: the position of the size of a fun, or -1 */
    Py_ssize_t apart_at; /* TUPLE: `apart_size` at the start of that fun */
    int kinds;          /* DICT: the types of the keys */
    int another;        /* TUPLE, LIST: whether the next item is known to be of no common type */
} Frame;

#define INLINE_BYTES 1024
#define INLINE_FRAMES 8

typedef struct {
    State *state;
    const Settings *settings;
    PyObject *refs; /* or NULL */
    uint8_t *out;   /* `inline_bytes`, then the state's spare output, then in `bytes` */
    Py_ssize_t size, room;
    PyObject *bytes; /* or NULL */
    Py_ssize_t large;      /* immutable binaries of at least this size are separate parts */
    PyObject *apart;       /* the separate parts, each after its offset; or NULL */
    Py_ssize_t apart_size; /* the total size of these parts */
    Frame *frames;
    Py_ssize_t depth, frames_room;
    Py_ssize_t landmark; /* the last power of two that the depth has reached */
    int64_t terms;       /* elements of all containers so far */
    int versioned;       /* whether the version byte is in the output */
    enum { WITHIN, TOO_MANY_TERMS, TOO_MANY_BYTES } over; /* the exceeded limit */
    int unread;          /* whether the output has funs that were not decoded */
    const Framing *framing; /* what precedes the output in a frame, or NULL */
    uint8_t inline_bytes[INLINE_BYTES];
    Frame inline_frames[INLINE_FRAMES];
} Encoder;

/* Makes room for `more` bytes. */
int grow_output(Encoder *e, Py_ssize_t more);

/* The outcome for an exception from a function of encode.py. */
Outcome after_exception(Encoder *e);

Outcome write_atom_text(Encoder *e, PyObject *atom);
Outcome write_atom_ref(Encoder *e, PyObject *atom);
Outcome write_huge(Encoder *e, PyObject *number, int negative);
Outcome write_wide_text(Encoder *e, PyObject *text);
Outcome write_pid(Encoder *e, PyObject *pid);
Outcome write_reference(Encoder *e, PyObject *reference);
Outcome write_port(Encoder *e, PyObject *port);
Outcome write_export(Encoder *e, PyObject *export);
Outcome write_native_head(Encoder *e, PyObject *native);
Outcome write_bits(Encoder *e, PyObject *object);
Outcome write_apart(Encoder *e, PyObject *binary, Py_ssize_t size);
Outcome write_view_apart(Encoder *e, PyObject *view);

/* Writes a buffer such as bytearray or memoryview. `*written` is 0 if it is not contiguous. */
Outcome write_buffer(Encoder *e, PyObject *object, int *written);

#define LONG_PART 4096

/* Whether `more` bytes exceed the limit. The caller must then fail. */
static inline int exceeds(Encoder *e, Py_ssize_t more) {
    Py_ssize_t size = e->size - e->versioned + e->apart_size;
    if (more <= e->settings->max_bytes && size <= e->settings->max_bytes - more) {
        return 0;
    }
    e->over = TOO_MANY_BYTES;
    return 1;
}

/* Reserves `size` bytes of output, which count as written. NULL on failure. */
static inline uint8_t *reserve(Encoder *e, Py_ssize_t size) {
    if (e->room - e->size < size && grow_output(e, size) < 0) {
        return NULL;
    }
    uint8_t *place = e->out + e->size;
    e->size += size;
    return place;
}

static inline Outcome write_bytes(Encoder *e, const void *data, Py_ssize_t size) {
    if (size > LONG_PART && exceeds(e, size)) {
        return FAILED;
    }
    uint8_t *p = reserve(e, size);
    if (p == NULL) {
        return FAILED;
    }
    memcpy(p, data, (size_t)size);
    return DONE;
}

/* Writes a tag and a 32-bit number, usually a length. */
static inline Outcome write_head(Encoder *e, uint8_t tag, Py_ssize_t number) {
    if ((uint64_t)number > UINT32_MAX) {
        return REFUSED;
    }
    uint8_t *p = reserve(e, 5);
    if (p == NULL) {
        return FAILED;
    }
    p[0] = tag;
    put_u32(p + 1, (uint32_t)number);
    return DONE;
}

static inline Outcome write_binary(Encoder *e, const void *data, Py_ssize_t size) {
    if ((uint64_t)size > UINT32_MAX) {
        return REFUSED;
    }
    if (size > LONG_PART && exceeds(e, size)) {
        return FAILED;
    }
    uint8_t *p = reserve(e, 5 + size);
    if (p == NULL) {
        return FAILED;
    }
    p[0] = BINARY_EXT;
    put_u32(p + 1, (uint32_t)size);
    memcpy(p + 5, data, (size_t)size);
    return DONE;
}

/* The value of an exact int if it fits 64 bits. */
static inline int is_wide(PyObject *number, int64_t *value) {
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)number)) {
        *value = PyUnstable_Long_CompactValue((PyLongObject *)number);
        return 1;
    }
#else
    Py_ssize_t size = Py_SIZE(number);
    if (size >= -1 && size <= 1) {
        *value = size * (int64_t)((PyLongObject *)number)->ob_digit[0];
        return 1;
    }
#endif
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    return !overflow;
}

static inline Outcome write_atom(Encoder *e, PyObject *atom) {
    return e->refs == NULL ? write_atom_text(e, atom) : write_atom_ref(e, atom);
}

/* Writes an integer of up to 64 bits into the 11 bytes at `p`. Returns the end. */
static inline uint8_t *put_integer(uint8_t *p, int64_t value) {
    if (value >= 0 && value <= 255) {
        p[0] = SMALL_INTEGER_EXT;
        p[1] = (uint8_t)value;
        return p + 2;
    }
    if (value >= INT32_MIN && value <= INT32_MAX) {
        p[0] = INTEGER_EXT;
        put_u32(p + 1, (uint32_t)value);
        return p + 5;
    }
    uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    int size = 0;
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(p + 3, &magnitude, 8);
    size = 8 - __builtin_clzll(magnitude) / 8;
#else
    for (; magnitude != 0; magnitude >>= 8) {
        p[3 + size++] = (uint8_t)magnitude;
    }
#endif
    p[0] = SMALL_BIG_EXT;
    p[1] = (uint8_t)size;
    p[2] = value < 0;
    return p + 3 + size;
}

static inline Outcome write_integer(Encoder *e, PyObject *number) {
    int64_t value;
    if (!is_wide(number, &value)) {
        int overflow;
        PyLong_AsLongLongAndOverflow(number, &overflow);
        return write_huge(e, number, overflow < 0);
    }
    uint8_t *p = reserve(e, 11);
    if (p == NULL) {
        return FAILED;
    }
    e->size -= 11 - (put_integer(p, value) - p);
    return DONE;
}

static inline Outcome write_float(Encoder *e, PyObject *object) {
    double number = PyFloat_AS_DOUBLE(object);
    if (number - number != 0.0) {
        return REFUSED;
    }
    uint8_t *p = reserve(e, 9);
    if (p == NULL) {
        return FAILED;
    }
    uint64_t bits;
    memcpy(&bits, &number, 8);
    p[0] = NEW_FLOAT_EXT;
    put_u64(p + 1, bits);
    return DONE;
}

static inline Outcome write_text(Encoder *e, PyObject *text) {
    return PyUnicode_IS_COMPACT_ASCII(text)
               ? write_binary(e, PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
               : write_wide_text(e, text);
}

#endif
