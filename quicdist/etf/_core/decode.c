/* Bytes to terms: quicdist/etf/decode.py in C.
 *
 * One loop and two stacks on the heap, whatever the depth: `values` holds the finished terms of
 * all containers under construction, `frames` says where each container's begin. No object is
 * visible to Python before it is complete, and nothing is allocated for a length before that many
 * bytes are there.
 */
#include "core.h"

#include <stdarg.h>

#define FEW_KEYS 64 /* quicdist.etf.maps.FEW */
#define MOST_REFERENCE_WORDS 5

typedef enum { TOP, TUPLE, LIST, TAIL, MAP, HARD_MAP, FUN } Kind;

/* A container under construction. */
typedef struct {
    Py_ssize_t base; /* where its terms begin in `values` */
    int64_t left;    /* terms still to come */
    Kind kind;
} Frame;

/* A fun whose free variables are being read. */
typedef struct {
    Py_ssize_t start, promised_end;
    PyObject *fields[MOST_FIELDS];
    int lossy; /* the options around it were not those that lose nothing */
    int guarded;
    int64_t terms; /* the count before a lossy one */
} FunHead;

#define RUN 256
#define INLINE_VALUES 64
#define INLINE_FRAMES 16

typedef struct {
    State *state;
    const uint8_t *data, *at, *end; /* `at`: where the functions below read on */
    const Settings *settings;
    PyObject *atoms;
    int text, strings; /* the settings in force: in a fun nothing is lost */
    int guarded;       /* whether the bytes are enough to break the limits */
    int64_t terms;     /* terms of containers up to here, where guarded */
    PyObject **values;
    Py_ssize_t count, values_room;
    Frame *frames;
    Py_ssize_t depth, frames_room;
    FunHead *funs;
    Py_ssize_t funs_count, funs_room;
    PyObject *inline_values[INLINE_VALUES];
    Frame inline_frames[INLINE_FRAMES];
} Decoder;

static const char *const NAMES[256] = {
    [NEW_FLOAT_EXT] = "NEW_FLOAT_EXT",
    [BIT_BINARY_EXT] = "BIT_BINARY_EXT",
    [COMPRESSED] = "a compressed term",
    [ATOM_CACHE_REF] = "ATOM_CACHE_REF",
    [NEW_PID_EXT] = "NEW_PID_EXT",
    [NEW_PORT_EXT] = "NEW_PORT_EXT",
    [NEWER_REFERENCE_EXT] = "NEWER_REFERENCE_EXT",
    [SMALL_INTEGER_EXT] = "SMALL_INTEGER_EXT",
    [INTEGER_EXT] = "INTEGER_EXT",
    [FLOAT_EXT] = "FLOAT_EXT",
    [ATOM_EXT] = "ATOM_EXT",
    [REFERENCE_EXT] = "REFERENCE_EXT",
    [PORT_EXT] = "PORT_EXT",
    [PID_EXT] = "PID_EXT",
    [SMALL_TUPLE_EXT] = "SMALL_TUPLE_EXT",
    [LARGE_TUPLE_EXT] = "LARGE_TUPLE_EXT",
    [NIL_EXT] = "NIL_EXT",
    [STRING_EXT] = "STRING_EXT",
    [LIST_EXT] = "LIST_EXT",
    [BINARY_EXT] = "BINARY_EXT",
    [SMALL_BIG_EXT] = "SMALL_BIG_EXT",
    [LARGE_BIG_EXT] = "LARGE_BIG_EXT",
    [NEW_FUN_EXT] = "NEW_FUN_EXT",
    [EXPORT_EXT] = "EXPORT_EXT",
    [NEW_REFERENCE_EXT] = "NEW_REFERENCE_EXT",
    [SMALL_ATOM_EXT] = "SMALL_ATOM_EXT",
    [MAP_EXT] = "MAP_EXT",
    [FUN_EXT] = "FUN_EXT",
    [ATOM_UTF8_EXT] = "ATOM_UTF8_EXT",
    [SMALL_ATOM_UTF8_EXT] = "SMALL_ATOM_UTF8_EXT",
    [V4_PORT_EXT] = "V4_PORT_EXT",
    [LOCAL_EXT] = "LOCAL_EXT",
};

/* ---- errors ---- */

static void raise_decode_error(State *state, Py_ssize_t offset, PyObject *reason) {
    PyObject *error = PyObject_CallFunction(state->decode_error, "nO", offset, reason);
    if (error != NULL) {
        PyErr_SetObject(state->decode_error, error);
        Py_DECREF(error);
    }
}

void *decode_failed(State *state, Py_ssize_t offset, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    PyObject *reason = PyUnicode_FromFormatV(format, arguments);
    va_end(arguments);
    if (reason != NULL) {
        raise_decode_error(state, offset, reason);
        Py_DECREF(reason);
    }
    return NULL;
}

#define FAIL(d, place, ...) decode_failed((d)->state, (place) - (d)->data, __VA_ARGS__)

static void *truncated(Decoder *d) { return FAIL(d, d->end, "truncated"); }

/* Raises what a wrong tag at `place` is, where `what` was wanted. */
static void *unexpected(Decoder *d, const uint8_t *place, const char *what, const char *wanted) {
    if (NAMES[*place] != NULL) {
        return FAIL(d, place, "%s is %s, not %s", what, wanted, NAMES[*place]);
    }
    return FAIL(d, place, "%s is %s, not tag %d", what, wanted, *place);
}

/* Makes the exception now set one of ours at `place`, if it is of class `kind`. */
static void *translate(Decoder *d, PyObject *kind, const uint8_t *place) {
    if (!PyErr_ExceptionMatches(kind)) {
        return NULL;
    }
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    PyObject *reason = PyObject_Str(error);
    if (reason != NULL) {
        raise_decode_error(d->state, place - d->data, reason);
        Py_DECREF(reason);
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return NULL;
}

/* Refuses a container with so many terms more at `place` if it is too deep or they are too many;
 * 0 if it may be. */
static int check_limits(Decoder *d, const uint8_t *place, int64_t more) {
    if (!d->guarded) {
        return 0;
    }
    d->terms += more;
    if (d->depth > d->settings->max_depth) {
        FAIL(d, place, "nested deeper than %lld", (long long)d->settings->max_depth);
        return -1;
    }
    if (d->terms > d->settings->max_terms) {
        FAIL(d, place, "more than %lld terms", (long long)d->settings->max_terms);
        return -1;
    }
    return 0;
}

/* A term takes at least a byte: fewer bytes than the limits allow terms cannot break them. */
static void set_guard(Decoder *d, const uint8_t *place) {
    d->guarded = d->end - place > d->settings->max_depth - d->depth ||
                 d->end - place > d->settings->max_terms - d->terms;
}

/* ---- leaves: each reads at d->at and leaves it behind what it read ---- */

/* Refuses what needs `size` more bytes than there are. */
#define NEED(d, place, size)                       \
    do {                                           \
        if ((d)->end - (place) < (int64_t)(size)) { \
            return truncated(d);                   \
        }                                          \
    } while (0)

/* The atom that the header gave number `at[1]`. */
static PyObject *cached_atom(Decoder *d) {
    NEED(d, d->at, 2);
    Py_ssize_t index = d->at[1];
    if (d->atoms == NULL || index >= PySequence_Fast_GET_SIZE(d->atoms)) {
        return FAIL(d, d->at, "no atom %zd in the atom cache header", index);
    }
    PyObject *atom = PySequence_Fast_GET_ITEM(d->atoms, index);
    if (Py_TYPE(atom) != d->state->atom.type) {
        PyErr_Format(PyExc_TypeError, "atoms are Atom, not %.100s", Py_TYPE(atom)->tp_name);
        return NULL;
    }
    d->at += 2;
    return new_reference(atom);
}

/* The atom whose text this is; `tag` is where it began. */
static PyObject *atom_of_text(Decoder *d, const uint8_t *tag, const uint8_t *text, size_t size,
                              int latin1) {
    PyObject *atom;
    for (size_t i = 0; latin1 && i < size; i++) {
        latin1 += text[i] >> 7;
    }
    if (latin1 > 1) { /* not ASCII, where it is UTF-8, too */
        PyObject *string = PyUnicode_DecodeLatin1((const char *)text, (Py_ssize_t)size, NULL);
        if (string == NULL) {
            return NULL;
        }
        atom = PyObject_CallOneArg((PyObject *)d->state->atom.type, string);
        Py_DECREF(string);
    } else {
        atom = find_atom(d->state, text, size);
    }
    if (atom == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            PyErr_Clear();
            return FAIL(d, tag, "an atom that is not UTF-8");
        }
        return translate(d, PyExc_ValueError, tag);
    }
    return atom;
}

/* An atom as such, `true` and `false` too, where the format wants one as `what`. */
static PyObject *read_atom(Decoder *d, const char *what) {
    const uint8_t *p = d->at;
    NEED(d, p, 1);
    const uint8_t *text;
    size_t size;
    switch (*p) {
    case ATOM_CACHE_REF:
        return cached_atom(d);
    case SMALL_ATOM_UTF8_EXT:
    case SMALL_ATOM_EXT:
        NEED(d, p, 2);
        size = p[1];
        text = p + 2;
        break;
    case ATOM_UTF8_EXT:
    case ATOM_EXT:
        NEED(d, p, 3);
        size = get_u16(p + 1);
        text = p + 3;
        break;
    default:
        return unexpected(d, p, what, "an atom");
    }
    NEED(d, text, size);
    d->at = text + size;
    return atom_of_text(d, p, text, size, *p == SMALL_ATOM_EXT || *p == ATOM_EXT);
}

/* The term that an atom is: `true` and `false` are bool. Takes over the reference. */
static inline PyObject *atom_term(State *state, PyObject *atom) {
    if (atom == state->atom_true || atom == state->atom_false) {
        PyObject *truth = atom == state->atom_true ? Py_True : Py_False;
        Py_DECREF(atom);
        return new_reference(truth);
    }
    return atom;
}

/* The integer of `size` bytes at `digits`, the lowest first. */
static PyObject *integer_of_digits(Decoder *d, const uint8_t *digits, int64_t size, int negative) {
    NEED(d, digits, size);
    d->at = digits + size;
    if (size <= 8) {
        uint64_t number = 0;
        for (int64_t i = size; i-- > 0;) {
            number = number << 8 | digits[i];
        }
        if (!negative) {
            return PyLong_FromUnsignedLongLong(number);
        }
        if (number <= (uint64_t)1 << 63) {
            return PyLong_FromLongLong((int64_t)(0 - number));
        }
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *number = PyLong_FromUnsignedNativeBytes(digits, (size_t)size,
                                                      Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    PyObject *number = _PyLong_FromByteArray(digits, (size_t)size, 1, 0);
#endif
    if (negative && number != NULL) {
        Py_SETREF(number, PyNumber_Negative(number));
    }
    return number;
}

static PyObject *read_big(Decoder *d) {
    const uint8_t *p = d->at;
    int small = *p == SMALL_BIG_EXT;
    NEED(d, p, small ? 2 : 5);
    int64_t size = small ? p[1] : get_u32(p + 1);
    const uint8_t *sign = p + (small ? 2 : 5);
    if (size > d->settings->max_integer) {
        return FAIL(d, p, "an integer of %lld bytes, %lld are allowed", (long long)size,
                    (long long)d->settings->max_integer);
    }
    NEED(d, sign, 1);
    return integer_of_digits(d, sign + 1, size, *sign);
}

/* The integer, at most 32 bits, that the format wants as `what`. */
static PyObject *read_small(Decoder *d, const char *what) {
    const uint8_t *p = d->at;
    NEED(d, p, 1);
    switch (*p) {
    case SMALL_INTEGER_EXT:
        NEED(d, p, 2);
        d->at = p + 2;
        return new_reference(d->state->small[p[1]]);
    case INTEGER_EXT:
        NEED(d, p, 5);
        d->at = p + 5;
        return PyLong_FromLong((int32_t)get_u32(p + 1));
    case SMALL_BIG_EXT:
        NEED(d, p, 2);
        if (p[1] <= 4) {
            NEED(d, p, 3);
            return integer_of_digits(d, p + 3, p[1], p[2]);
        }
    }
    return unexpected(d, p, what, "a small integer");
}

/* Whether `creation` is one of the old tags, which have two bits for it; if not, fails. */
static int is_old_creation(Decoder *d, int creation, const uint8_t *place) {
    if (creation <= 3) {
        return 1;
    }
    FAIL(d, place, "the old tags have creations 0..3, not %d", creation);
    return 0;
}

static PyObject *read_pid(Decoder *d) {
    int old = *d->at == PID_EXT;
    d->at++;
    PyObject *node = read_atom(d, "the node of a pid");
    if (node == NULL) {
        return NULL;
    }
    PyObject *pid = NULL;
    const uint8_t *p = d->at;
    if (d->end - p < (old ? 9 : 12)) {
        truncated(d);
    } else if (!old || is_old_creation(d, p[8], p)) {
        d->at = p + (old ? 9 : 12);
        pid = find_pid(d->state, node, get_u32(p), get_u32(p + 4), old ? p[8] : get_u32(p + 8));
    }
    Py_DECREF(node);
    return pid;
}

static PyObject *read_port(Decoder *d) {
    uint8_t tag = *d->at;
    d->at++;
    PyObject *node = read_atom(d, "the node of a port");
    if (node == NULL) {
        return NULL;
    }
    const uint8_t *p = d->at;
    int size = tag == PORT_EXT ? 5 : tag == NEW_PORT_EXT ? 8 : 12;
    if (d->end - p < size || (tag == PORT_EXT && !is_old_creation(d, p[4], p + 4))) {
        if (d->end - p < size) {
            truncated(d);
        }
        Py_DECREF(node);
        return NULL;
    }
    d->at = p + size;
    uint64_t id = tag == V4_PORT_EXT ? get_u64(p) : get_u32(p);
    uint32_t creation = tag == PORT_EXT ? p[4] : get_u32(d->at - 4);
    PyObject *fields[] = {
        node,
        PyLong_FromUnsignedLongLong(id),
        PyLong_FromUnsignedLong(creation),
    };
    return record_new(&d->state->port, fields);
}

/* The words of a reference, an old one's first of which has 18 bits. */
static PyObject *read_words(Decoder *d, const uint8_t *p, Py_ssize_t count, int old) {
    NEED(d, p, 4 * count);
    if (old && count > 0 && get_u32(p) >= 1 << 18) {
        return FAIL(d, p, "the first word of an old reference has 18 bits");
    }
    PyObject *words = PyTuple_New(count);
    for (Py_ssize_t i = 0; words != NULL && i < count; i++) {
        PyObject *word = PyLong_FromUnsignedLong(get_u32(p + 4 * i));
        if (word == NULL) {
            Py_CLEAR(words);
        } else {
            PyTuple_SET_ITEM(words, i, word);
        }
    }
    return words;
}

/* The words and the creation behind the node of a reference of `count` words. */
static PyObject *reference_of(Decoder *d, PyObject *node, uint8_t tag, Py_ssize_t count) {
    const uint8_t *p = d->at;
    PyObject *words;
    uint32_t creation;
    if (tag == NEWER_REFERENCE_EXT) {
        NEED(d, p, 4 + 4 * count);
        creation = get_u32(p);
        words = read_words(d, p + 4, count, 0);
        d->at = p + 4 + 4 * count;
    } else if (tag == NEW_REFERENCE_EXT) {
        NEED(d, p, 1);
        if (!is_old_creation(d, *p, p)) {
            return NULL;
        }
        creation = *p;
        words = read_words(d, p + 1, count, 1);
        d->at = p + 1 + 4 * count;
    } else {
        NEED(d, p, 5);
        words = read_words(d, p, 1, 1);
        if (words != NULL && !is_old_creation(d, p[4], p + 4)) {
            Py_CLEAR(words);
        }
        creation = p[4];
        d->at = p + 5;
    }
    if (words == NULL) {
        return NULL;
    }
    PyObject *fields[] = {new_reference(node), words, PyLong_FromUnsignedLong(creation)};
    return record_new(&d->state->reference, fields);
}

static PyObject *read_reference(Decoder *d) {
    const uint8_t *p = d->at;
    Py_ssize_t count = 1;
    if (*p == REFERENCE_EXT) {
        d->at = p + 1;
    } else {
        NEED(d, p, 3);
        count = get_u16(p + 1);
        if (count > MOST_REFERENCE_WORDS) {
            return FAIL(d, p, "a reference of %zd words, %d at most", count, MOST_REFERENCE_WORDS);
        }
        d->at = p + 3;
    }
    PyObject *node = read_atom(d, "the node of a reference");
    if (node == NULL) {
        return NULL;
    }
    PyObject *reference = reference_of(d, node, *p, count);
    Py_DECREF(node);
    return reference;
}

static PyObject *read_export(Decoder *d) {
    d->at++;
    PyObject *module = read_atom(d, "the module of an external fun");
    if (module == NULL) {
        return NULL;
    }
    PyObject *function = read_atom(d, "the function of an external fun");
    if (function == NULL) {
        Py_DECREF(module);
        return NULL;
    }
    const uint8_t *place = d->at;
    PyObject *arity = read_small(d, "the arity of an external fun");
    if (arity != NULL) {
        long long number = PyLong_AsLongLong(arity);
        if (number < 0 || number > 255) {
            FAIL(d, place, "an external fun has arity 0..255, not %lld", number);
            Py_CLEAR(arity);
        }
    }
    PyObject *fields[] = {module, function, arity};
    return record_new(&d->state->export, fields);
}

static PyObject *read_bits(Decoder *d) {
    const uint8_t *p = d->at;
    NEED(d, p, 6);
    int64_t size = get_u32(p + 1);
    int bits = p[5];
    if (bits > 8 || (size > 0) != (bits > 0)) {
        return FAIL(d, p, "a bitstring of %lld bytes with %d bits in the last", (long long)size,
                    bits);
    }
    NEED(d, p + 6, size);
    d->at = p + 6 + size;
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)p + 6, (Py_ssize_t)size);
    if (bytes == NULL || bits == 0 || bits == 8) {
        return bytes;
    }
    if (size == 1) { /* Bytes of one byte are shared: none may be changed. */
        char last = (char)(p[6] & 0xFF00 >> bits);
        Py_SETREF(bytes, PyBytes_FromStringAndSize(&last, 1));
    } else {
        PyBytes_AS_STRING(bytes)[size - 1] &= (char)(0xFF00 >> bits);
    }
    PyObject *fields[] = {bytes, new_reference(d->state->small[bits])};
    return record_new(&d->state->bits, fields);
}

/* Whether `text` is a number with point and perhaps exponent; a comma becomes the point. */
static int is_float_text(char *text) {
    text += *text == '+' || *text == '-';
    size_t digits = strspn(text, "0123456789");
    text += digits;
    if (digits == 0 || (*text != '.' && *text != ',')) {
        return 0;
    }
    *text++ = '.';
    digits = strspn(text, "0123456789");
    text += digits;
    if (digits == 0) {
        return 0;
    }
    if (*text == 'e' || *text == 'E') {
        text++;
        text += *text == '+' || *text == '-';
        digits = strspn(text, "0123456789");
        text += digits;
        if (digits == 0) {
            return 0;
        }
    }
    return *text == '\0';
}

/* FLOAT_EXT: 31 bytes of text, as C prints it, filled with zeros. */
static PyObject *read_float_text(Decoder *d) {
    const uint8_t *p = d->at;
    char text[32];
    NEED(d, p, 32);
    memcpy(text, p + 1, 31);
    text[31] = '\0';
    if (is_float_text(text)) {
        double number = PyOS_string_to_double(text, NULL, NULL);
        if (number == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        if (number - number == 0.0) {
            d->at = p + 32;
            return PyFloat_FromDouble(number);
        }
    }
    memcpy(text, p + 1, 31);
    PyObject *shown = PyUnicode_DecodeLatin1(text, (Py_ssize_t)strlen(text), NULL);
    if (shown != NULL) {
        FAIL(d, p, "no float: %R", shown);
        Py_DECREF(shown);
    }
    return NULL;
}

/* BINARY_EXT where those that are UTF-8 become str. */
static PyObject *text_or_bytes(const uint8_t *data, Py_ssize_t size) {
    PyObject *text = PyUnicode_DecodeUTF8((const char *)data, size, NULL);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    return text;
}

/* A short binary as the key of a map. */
static PyObject *read_key(Decoder *d, const uint8_t *data, Py_ssize_t size) {
    PyObject *key = find_key(d->state, data, (size_t)size, d->text);
    if (key == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    return key;
}

/* STRING_EXT's `size` characters. */
static PyObject *string_term(Decoder *d, const uint8_t *data, Py_ssize_t size) {
    if (d->strings == AS_BYTES) {
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    if (d->strings == AS_STR) {
        return PyUnicode_DecodeLatin1((const char *)data, size, NULL);
    }
    PyObject *list = PyList_New(size);
    if (list != NULL) {
        for (Py_ssize_t i = 0; i < size; i++) {
            PyList_SET_ITEM(list, i, new_reference(d->state->small[data[i]]));
        }
    }
    return list;
}

/* The term at d->at if it is one that few messages have. */
static PyObject *read_rare(Decoder *d) {
    const uint8_t *p = d->at;
    switch (*p) {
    case SMALL_BIG_EXT:
    case LARGE_BIG_EXT:
        return read_big(d);
    case ATOM_CACHE_REF:
    case ATOM_UTF8_EXT:
    case ATOM_EXT:
    case SMALL_ATOM_EXT: {
        PyObject *atom = read_atom(d, "");
        return atom == NULL ? NULL : atom_term(d->state, atom);
    }
    case BIT_BINARY_EXT:
        return read_bits(d);
    case NEW_PID_EXT:
    case PID_EXT:
        return read_pid(d);
    case NEWER_REFERENCE_EXT:
    case NEW_REFERENCE_EXT:
    case REFERENCE_EXT:
        return read_reference(d);
    case V4_PORT_EXT:
    case NEW_PORT_EXT:
    case PORT_EXT:
        return read_port(d);
    case EXPORT_EXT:
        return read_export(d);
    case FLOAT_EXT:
        return read_float_text(d);
    case COMPRESSED:
        return FAIL(d, p, "a compressed term inside another term");
    case FUN_EXT:
        return FAIL(d, p, "FUN_EXT, which OTP 23 and newer no longer read");
    case LOCAL_EXT:
        return FAIL(d, p, "LOCAL_EXT, which only the node that wrote it can read");
    case VERSION:
        return FAIL(d, p, "the version byte inside a term");
    default:
        return FAIL(d, p, "no term begins with %d", *p);
    }
}

/* ---- containers ---- */

/* Gives up the values from `base` on. */
static void drop(Decoder *d, Py_ssize_t base) {
    while (d->count > base) {
        Py_DECREF(d->values[--d->count]);
    }
}

/* A tuple, a list of the values from `base` on, which are then its own. */

static PyObject *take_tuple(Decoder *d, Py_ssize_t base) {
    PyObject *tuple = PyTuple_New(d->count - base);
    if (tuple != NULL) {
        for (Py_ssize_t i = base; i < d->count; i++) {
            PyTuple_SET_ITEM(tuple, i - base, d->values[i]);
        }
        d->count = base;
    }
    return tuple;
}

static PyObject *take_list(Decoder *d, Py_ssize_t base) {
    PyObject *list = PyList_New(d->count - base);
    if (list != NULL) {
        for (Py_ssize_t i = base; i < d->count; i++) {
            PyList_SET_ITEM(list, i - base, d->values[i]);
        }
        d->count = base;
    }
    return list;
}

/* Whether nearly all of so many keys have a hash of their own; -1 on failure.
 *
 * Counts in a table whose places a peer cannot foresee. */
static int are_spread(State *state, PyObject **items, Py_ssize_t keys) {
    size_t places = 256;
    while (places < (size_t)keys * 2) {
        places *= 2;
    }
    Py_hash_t *table = PyMem_Calloc(places, sizeof(Py_hash_t)); /* 0: free */
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t equal = 0;
    int zero_seen = 0;
    for (Py_ssize_t i = 0; i < keys && equal <= FEW_KEYS; i++) {
        Py_hash_t hash = PyObject_Hash(items[2 * i]);
        if (hash == -1) {
            PyMem_Free(table);
            return -1;
        }
        if (hash == 0) {
            equal += zero_seen;
            zero_seen = 1;
            continue;
        }
        uint64_t mixed = ((uint64_t)hash ^ state->seed) * 0xD6E8FEB86659FD93u;
        size_t place = (mixed ^ mixed >> 32) & (places - 1);
        while (table[place] != 0 && table[place] != hash) {
            place = (place + 1) & (places - 1);
        }
        equal += table[place] == hash;
        table[place] = hash;
    }
    PyMem_Free(table);
    return equal <= FEW_KEYS;
}

/* The dict of the pairs in `items`, or NULL without an exception where that is not what they
 * become: quicdist.etf.maps.make_map decides then. */
static PyObject *dict_of(State *state, PyObject **items, Py_ssize_t count) {
    int numbers = 0;
    for (Py_ssize_t i = 0; i < count; i += 2) {
        PyTypeObject *type = Py_TYPE(items[i]);
        if (type == &PyLong_Type || type == &PyFloat_Type) {
            numbers = 1;
        } else if (type != state->atom.type && type != &PyBytes_Type && type != &PyUnicode_Type &&
                   type != &PyBool_Type) {
            return NULL;
        }
    }
    /* Python's hash of numbers is no secret. */
    if (numbers && count / 2 > FEW_KEYS && are_spread(state, items, count / 2) != 1) {
        return NULL;
    }
#if PY_VERSION_HEX < 0x030D0000
    /* Growing in steps takes a quarter of the time for a dict. */
    PyObject *dict = count > 10 ? _PyDict_NewPresized(count / 2) : PyDict_New();
#else
    PyObject *dict = PyDict_New();
#endif
    for (Py_ssize_t i = 0; dict != NULL && i < count; i += 2) {
        if (PyDict_SetItem(dict, items[i], items[i + 1]) < 0) {
            Py_CLEAR(dict);
        }
    }
    if (dict != NULL && PyDict_GET_SIZE(dict) != count / 2) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* The map of the pairs from `base` on; `hard`: a container is among the keys. */
static PyObject *map_of(Decoder *d, Py_ssize_t base, int hard) {
    if (!hard) {
        PyObject *dict = dict_of(d->state, d->values + base, d->count - base);
        if (dict != NULL) {
            drop(d, base);
            return dict;
        }
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    PyObject *list = take_list(d, base);
    if (list == NULL) {
        return NULL;
    }
    PyObject *map = PyObject_CallOneArg(d->state->make_map, list);
    Py_DECREF(list);
    return map == NULL ? translate(d, d->state->key_refused, d->at) : map;
}

static void fun_clear(FunHead *fun) {
    for (int i = 0; i < MOST_FIELDS; i++) {
        Py_CLEAR(fun->fields[i]);
    }
}

/* What stands before the free variables of the fun at d->at, on top of d->funs; their count. */
static int64_t open_fun(Decoder *d) {
    const uint8_t *p = d->at;
    if (d->end - p < 30) {
        truncated(d);
        return -1;
    }
    if (d->funs_count == d->funs_room) {
        Py_ssize_t room = d->funs_room ? d->funs_room * 2 : 4;
        FunHead *funs = PyMem_Realloc(d->funs, (size_t)room * sizeof(FunHead));
        if (funs == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        d->funs = funs;
        d->funs_room = room;
    }
    FunHead fun = {.start = p - d->data};
    fun.promised_end = fun.start + 1 + (Py_ssize_t)get_u32(p + 1);
    fun.lossy = d->text || d->strings != AS_LIST;
    fun.guarded = d->guarded;
    fun.terms = d->terms;
    if (fun.lossy) {
        set_guard(d, p);
    }
    int64_t count = get_u32(p + 26);
    PyObject **fields = fun.fields;
    d->at = p + 30;
    if ((fields[FUN_ARITY] = new_reference(d->state->small[p[5]])) == NULL ||
        (fields[FUN_UNIQ] = PyBytes_FromStringAndSize((const char *)p + 6, 16)) == NULL ||
        (fields[FUN_INDEX] = PyLong_FromUnsignedLong(get_u32(p + 22))) == NULL ||
        (fields[FUN_MODULE] = read_atom(d, "the module of a fun")) == NULL ||
        (fields[FUN_OLD_INDEX] = read_small(d, "the old index of a fun")) == NULL ||
        (fields[FUN_OLD_UNIQ] = read_small(d, "the old uniq of a fun")) == NULL) {
        fun_clear(&fun);
        return -1;
    }
    if (d->at == d->end) {
        truncated(d);
    } else if (*d->at != NEW_PID_EXT && *d->at != PID_EXT) {
        unexpected(d, d->at, "the maker of a fun", "a pid");
    } else {
        fields[FUN_PID] = read_pid(d);
    }
    if (fields[FUN_PID] == NULL) {
        fun_clear(&fun);
        return -1;
    }
    d->funs[d->funs_count++] = fun;
    return count;
}

/* The innermost fun, whose free variables are the values from `base` on, at its end. */
static PyObject *close_fun(Decoder *d, Py_ssize_t base) {
    FunHead fun = d->funs[--d->funs_count];
    Py_ssize_t end = d->at - d->data;
    if (fun.lossy) {
        d->text = d->settings->text;
        d->strings = d->settings->strings;
        d->guarded = fun.guarded;
        d->terms = fun.terms + (end - fun.start); /* at most so many */
    }
    if (fun.promised_end != end) {
        FAIL(d, d->at, "a fun of %zd bytes, not %zd", end - fun.start - 1,
             fun.promised_end - fun.start - 1);
        fun_clear(&fun);
        return NULL;
    }
    int whole = d->funs_count == 0 && (d->atoms == NULL || PySequence_Fast_GET_SIZE(d->atoms) == 0);
    fun.fields[FUN_ENCODED] =
        whole ? PyBytes_FromStringAndSize((const char *)d->data + fun.start, end - fun.start)
              : new_reference(Py_None);
    fun.fields[FUN_FREE] = take_tuple(d, base);
    return record_new(&d->state->fun, fun.fields);
}

static PyObject *improper_of(Decoder *d, Py_ssize_t base) {
    PyObject *tail = d->values[--d->count];
    PyObject *fields[] = {take_tuple(d, base), tail};
    return record_new(&d->state->improper, fields);
}

/* ---- the loop ---- */

/* Doubles an array, whose first place is in the decoder. */
static int grow(void **array, void *inline_array, Py_ssize_t *room, size_t size) {
    size_t wanted = (size_t)*room * 2;
    void *larger = PyMem_Realloc(*array == inline_array ? NULL : *array, wanted * size);
    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (*array == inline_array) {
        memcpy(larger, inline_array, (size_t)*room * size);
    }
    *array = larger;
    *room = (Py_ssize_t)wanted;
    return 0;
}

/* Makes room for `more` values. */
static inline int make_room(Decoder *d, Py_ssize_t more) {
    while (d->values_room - d->count < more) {
        State *state = d->state;
        if (d->values == d->inline_values && state->spare != NULL) {
            memcpy(state->spare, d->values, (size_t)d->count * sizeof(PyObject *));
            d->values = state->spare;
            d->values_room = state->spare_room;
            state->spare = NULL;
        } else if (grow((void **)&d->values, d->inline_values, &d->values_room,
                        sizeof(PyObject *)) < 0) {
            return -1;
        }
    }
    return 0;
}

static inline int push(Decoder *d, PyObject *value) {
    if (d->count == d->values_room && make_room(d, 1) < 0) {
        Py_DECREF(value);
        return -1;
    }
    d->values[d->count++] = value;
    return 0;
}

/* Reads up to `most` numbers at d->at, until another thing comes or bytes that the caller is to
 * complain of. How many, -1 on failure. */
static inline Py_ssize_t read_run(Decoder *d, int64_t most) {
    const uint8_t *p = d->at, *const end = d->end;
    if (most > RUN) {
        most = RUN;
    }
    if (make_room(d, (Py_ssize_t)most) < 0) {
        return -1;
    }
    PyObject **const out = d->values + d->count;
    Py_ssize_t done = 0;
    while (done < most && end - p >= 2) {
        PyObject *value;
        if (*p == SMALL_INTEGER_EXT) {
            value = new_reference(d->state->small[p[1]]);
            p += 2;
        } else if (*p == INTEGER_EXT && end - p >= 5) {
            value = PyLong_FromLong((int32_t)get_u32(p + 1));
            p += 5;
        } else if (*p == NEW_FLOAT_EXT && end - p >= 9) {
            uint64_t bits = get_u64(p + 1);
            double number;
            if ((bits >> 52 & 0x7FF) == 0x7FF) { /* not finite */
                break;
            }
            memcpy(&number, &bits, 8);
            value = PyFloat_FromDouble(number);
            p += 9;
        } else {
            break;
        }
        if (value == NULL) {
            d->count += done;
            return -1;
        }
        out[done++] = value;
    }
    d->count += done;
    d->at = p;
    return done;
}

/* Reads terms until the outermost is complete; it is values[0] then. */
static int run(Decoder *d) {
    State *const state = d->state;
    const uint8_t *const end = d->end;
    const uint8_t *p = d->at;
    Frame top = {0, 1, TOP};
    int64_t count;
    Kind kind;
    PyObject *value;

#define HAVE(size)           \
    if (end - p < (size)) {  \
        goto is_truncated;   \
    }
#define READ(function)       \
    d->at = p;               \
    value = function;        \
    p = d->at

    for (;;) {
        while (top.left) {
            top.left--;
            HAVE(1);
            switch (*p) {
            case SMALL_ATOM_UTF8_EXT: {
                HAVE(2);
                size_t size = p[1];
                HAVE((Py_ssize_t)(2 + size));
                value = atom_of_text(d, p, p + 2, size, 0);
                if (value == NULL) {
                    return -1;
                }
                value = atom_term(state, value);
                p += 2 + size;
                break;
            }
            case SMALL_INTEGER_EXT:
            case INTEGER_EXT:
            case NEW_FLOAT_EXT:
                d->at = p;
                count = read_run(d, top.left + 1);
                if (count < 0) {
                    return -1;
                }
                if (count == 0) {
                    HAVE(*p == SMALL_INTEGER_EXT ? 2 : *p == INTEGER_EXT ? 5 : 9);
                    FAIL(d, p, "a float that is not a finite number");
                    return -1;
                }
                top.left -= count - 1;
                p = d->at;
                continue;
            case BINARY_EXT: {
                HAVE(5);
                Py_ssize_t size = get_u32(p + 1);
                p += 5;
                HAVE(size);
                if (top.kind == MAP && (top.left & 1) && size <= KEY_BYTES_KEPT) {
                    value = read_key(d, p, size);
                } else {
                    value = d->text ? text_or_bytes(p, size)
                                    : PyBytes_FromStringAndSize((const char *)p, size);
                }
                p += size;
                break;
            }
            case STRING_EXT: {
                HAVE(3);
                Py_ssize_t size = get_u16(p + 1);
                p += 3;
                HAVE(size);
                value = string_term(d, p, size);
                p += size;
                break;
            }
            case NIL_EXT:
                value = PyList_New(0);
                p += 1;
                break;
            case SMALL_TUPLE_EXT:
                HAVE(2);
                count = p[1];
                p += 2;
                kind = TUPLE;
                if (count) {
                    goto open;
                }
                value = PyTuple_New(0);
                break;
            case LARGE_TUPLE_EXT:
                HAVE(5);
                count = get_u32(p + 1);
                p += 5;
                kind = TUPLE;
                if (count) {
                    goto open;
                }
                value = PyTuple_New(0);
                break;
            case LIST_EXT:
                HAVE(5);
                count = get_u32(p + 1);
                p += 5;
                kind = LIST;
                if (count) {
                    goto open;
                }
                top.left++; /* no elements: it is its tail */
                continue;
            case MAP_EXT:
                HAVE(5);
                count = (int64_t)get_u32(p + 1) * 2;
                p += 5;
                kind = MAP;
                if (count) {
                    goto open;
                }
                value = PyDict_New();
                break;
            case NEW_FUN_EXT:
                d->at = p;
                count = open_fun(d);
                if (count < 0) {
                    return -1;
                }
                p = d->at;
                kind = FUN;
                goto open;
            default:
                READ(read_rare(d));
                break;
            }
            if (value == NULL || push(d, value) < 0) {
                return -1;
            }
            continue;

        open: /* A container of `count` terms begins. */
            if (d->depth == d->frames_room &&
                grow((void **)&d->frames, d->inline_frames, &d->frames_room, sizeof(Frame)) < 0) {
                return -1;
            }
            d->frames[d->depth++] = top;
            if (check_limits(d, p, count) < 0) {
                return -1;
            }
            top = (Frame){d->count, count, kind};
            if (kind == FUN) {
                d->text = 0;
                d->strings = AS_LIST;
            }
        }

        /* The container has all its terms. */
        switch (top.kind) {
        case TOP:
            d->at = p;
            return 0;
        case TUPLE:
            value = take_tuple(d, top.base);
            break;
        case LIST:
            HAVE(1);
            if (*p == NIL_EXT) {
                p += 1;
            } else if (*p == LIST_EXT) { /* the list goes on */
                HAVE(5);
                top.left = get_u32(p + 1);
                p += 5;
                if (check_limits(d, p, top.left) < 0) {
                    return -1;
                }
                continue;
            } else if (*p == STRING_EXT) { /* the list goes on and ends */
                HAVE(3);
                Py_ssize_t size = get_u16(p + 1);
                p += 3;
                HAVE(size);
                for (Py_ssize_t i = 0; i < size; i++) {
                    if (push(d, new_reference(state->small[p[i]])) < 0) {
                        return -1;
                    }
                }
                p += size;
            } else {
                top.kind = TAIL;
                top.left = 1;
                continue;
            }
            value = take_list(d, top.base);
            break;
        case TAIL:
            value = improper_of(d, top.base);
            break;
        case MAP:
        case HARD_MAP:
            READ(map_of(d, top.base, top.kind == HARD_MAP));
            break;
        case FUN:
            READ(close_fun(d, top.base));
            break;
        default:
            Py_UNREACHABLE();
        }
        if (value == NULL) {
            return -1;
        }
        top = d->frames[--d->depth];
        if (top.kind == MAP && (d->count - top.base) % 2 == 0) {
            top.kind = HARD_MAP; /* a container as a key */
        }
        if (push(d, value) < 0) {
            return -1;
        }
    }

is_truncated:
    truncated(d);
    return -1;
#undef HAVE
#undef READ
}

PyObject *decode_term(State *state, const uint8_t *data, Py_ssize_t size, Py_ssize_t *pos,
                      const Settings *settings, PyObject *atoms) {
    Decoder d = {
        .state = state,
        .data = data,
        .at = data + *pos,
        .end = data + size,
        .settings = settings,
        .atoms = atoms,
        .text = settings->text,
        .strings = settings->strings,
    };
    set_guard(&d, d.at);
    d.values = d.inline_values;
    d.values_room = INLINE_VALUES;
    d.frames = d.inline_frames;
    d.frames_room = INLINE_FRAMES;
    /* Nothing made here is garbage before it is done. */
    int collecting = PyGC_Disable();
    PyObject *term = NULL;
    if (run(&d) == 0) {
        term = d.values[0];
        *pos = d.at - data;
    } else {
        drop(&d, 0);
        while (d.funs_count > 0) {
            fun_clear(&d.funs[--d.funs_count]);
        }
    }
    if (collecting) {
        PyGC_Enable();
    }
    if (d.values != d.inline_values) {
        if (state->spare == NULL && d.values_room <= SPARE_ROOM) {
            state->spare = d.values;
            state->spare_room = d.values_room;
        } else {
            PyMem_Free(d.values);
        }
    }
    if (d.frames != d.inline_frames) {
        PyMem_Free(d.frames);
    }
    PyMem_Free(d.funs);
    return term;
}
