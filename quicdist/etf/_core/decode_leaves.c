/* The leaves, which are the terms without other terms inside, and the errors. */
#include "decoder.h"

#include <stdarg.h>

#define MOST_REFERENCE_WORDS 5

static const char *const NAMES[256] = {
    [RECORD_EXT] = "RECORD_EXT",
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

void *truncated(Decoder *d) { return FAIL(d, d->end, "truncated"); }

void *unexpected(Decoder *d, const uint8_t *place, const char *what, const char *wanted) {
    if (NAMES[*place] != NULL) {
        return FAIL(d, place, "%s must be %s, not %s", what, wanted, NAMES[*place]);
    }
    return FAIL(d, place, "%s must be %s, not tag %d", what, wanted, *place);
}

void *translate(Decoder *d, PyObject *kind, const uint8_t *place) {
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

/* The atom with number `at[1]` in the header. */
static PyObject *cached_atom(Decoder *d) {
    NEED(d, d->at, 2);
    Py_ssize_t index = d->at[1];
    if (d->atoms == NULL || index >= PySequence_Fast_GET_SIZE(d->atoms)) {
        return FAIL(d, d->at, "no atom %zd in the atom cache header", index);
    }
    PyObject *atom = PySequence_Fast_GET_ITEM(d->atoms, index);
    if (Py_TYPE(atom) != d->state->atom.type) {
        PyErr_Format(PyExc_TypeError, "atoms must be Atom, not %.100s", Py_TYPE(atom)->tp_name);
        return NULL;
    }
    d->at += 2;
    return new_reference(atom);
}

PyObject *atom_of_text(Decoder *d, const uint8_t *tag, const uint8_t *text, size_t size,
                       int latin1) {
    PyObject *atom;
    for (size_t i = 0; latin1 && i < size; i++) {
        latin1 += text[i] >> 7;
    }
    if (latin1 > 1) { /* not ASCII, whose text is the same in UTF-8 */
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

PyObject *read_atom(Decoder *d, const char *what) {
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

/* The integer of `size` bytes at `digits`, in little-endian order. */
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
        return FAIL(d, p, "an integer of %lld bytes, Limits.max_integer is %lld", (long long)size,
                    (long long)d->settings->max_integer);
    }
    NEED(d, sign, 1);
    return integer_of_digits(d, sign + 1, size, *sign);
}

PyObject *read_small(Decoder *d, const char *what) {
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

/* Whether `creation` is valid for the old tags, which have two bits for it. Raises otherwise. */
static int is_old_creation(Decoder *d, int creation, const uint8_t *place) {
    if (creation <= 3) {
        return 1;
    }
    FAIL(d, place, "the creation of an old tag must be 0..3, not %d", creation);
    return 0;
}

PyObject *read_pid(Decoder *d) {
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

/* The words of a reference. The first word of an old reference has 18 bits. */
static PyObject *read_words(Decoder *d, const uint8_t *p, Py_ssize_t count, int old) {
    NEED(d, p, 4 * count);
    if (old && count > 0 && get_u32(p) >= 1 << 18) {
        return FAIL(d, p, "the first word of an old reference has more than 18 bits");
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

/* The words and the creation after the node of a reference of `count` words. */
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
            return FAIL(d, p, "a reference of %zd words, at most %d are allowed", count,
                        MOST_REFERENCE_WORDS);
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
            FAIL(d, place, "the arity of an external fun must be 0..255, not %lld", number);
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
    if (size == 1) { /* Python shares bytes of length one, which must not be modified. */
        char last = (char)(p[6] & 0xFF00 >> bits);
        Py_SETREF(bytes, PyBytes_FromStringAndSize(&last, 1));
    } else {
        PyBytes_AS_STRING(bytes)[size - 1] &= (char)(0xFF00 >> bits);
    }
    PyObject *fields[] = {bytes, new_reference(d->state->small[bits])};
    return record_new(&d->state->bits, fields);
}

/* Whether `text` is a number with a decimal point and an optional exponent. A comma becomes the
 * point. */
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

/* FLOAT_EXT: 31 bytes, the output of printf("%.20e") and zero bytes. */
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
        FAIL(d, p, "invalid float text %R", shown);
        Py_DECREF(shown);
    }
    return NULL;
}

PyObject *binary_term(Decoder *d, const uint8_t *data, Py_ssize_t size) {
    if (!d->text) {
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    PyObject *text = make_text(data, (size_t)size);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    return text;
}

/* A read-only memoryview of the binary in the data. */
PyObject *view_term(Decoder *d, const uint8_t *data, Py_ssize_t size) {
    Py_ssize_t start = data - d->data;
    return PyObject_CallFunction(d->state->view, "Onn", d->source, start, start + size);
}

PyObject *key_term(Decoder *d, const uint8_t *data, Py_ssize_t size) {
    PyObject *key = find_key(d->state, data, (size_t)size, d->text);
    if (key == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    return key;
}

PyObject *string_term(Decoder *d, const uint8_t *data, Py_ssize_t size) {
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

PyObject *read_rare(Decoder *d) {
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
        return FAIL(d, p, "FUN_EXT, which OTP 23 and later do not decode");
    case LOCAL_EXT:
        return FAIL(d, p, "LOCAL_EXT, which only the node that encoded it can decode");
    case VERSION:
        return FAIL(d, p, "the version byte inside a term");
    default:
        return FAIL(d, p, "unknown tag %d", *p);
    }
}
