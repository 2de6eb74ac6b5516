/* The leaves, which are the terms without other terms inside, and the output. */
#include "encoder.h"

#define MOST_CACHED 255

/* Makes room for `more` bytes, first in reused memory, then in the result object. */
int grow_output(Encoder *e, Py_ssize_t more) {
    State *state = e->state;
    if (exceeds(e, 0)) {
        return -1;
    }
    if (more > PY_SSIZE_T_MAX - e->size) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t room = e->size + more;
    if (e->out == e->inline_bytes && room <= SPARE_OUTPUT && state->spare_output != NULL) {
        e->out = memcpy(state->spare_output, e->inline_bytes, (size_t)e->size);
        e->room = SPARE_OUTPUT;
        state->spare_output = NULL;
        return 0;
    }
    if (room < PY_SSIZE_T_MAX / 2 && room < 2 * e->room) {
        room = 2 * e->room;
    }
    if (e->bytes == NULL) {
        e->bytes = PyBytes_FromStringAndSize(NULL, room);
        if (e->bytes == NULL) {
            return -1;
        }
        memcpy(PyBytes_AS_STRING(e->bytes), e->out, (size_t)e->size);
        if (e->out != e->inline_bytes) {
            state->spare_output = e->out;
        }
    } else if (_PyBytes_Resize(&e->bytes, room) < 0) {
        e->out = e->inline_bytes;
        return -1;
    }
    e->out = (uint8_t *)PyBytes_AS_STRING(e->bytes);
    e->room = room;
    return 0;
}

Outcome after_exception(Encoder *e) {
    if (PyErr_ExceptionMatches(e->state->refused) ||
        PyErr_ExceptionMatches(e->state->struct_error) ||
        PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
        PyErr_Clear();
        return REFUSED;
    }
    return FAILED;
}

/* Whether `object` is an exact int of 32 bits without sign. */
static inline int is_u32(PyObject *object, uint32_t *value) {
    if (object == NULL || !PyLong_CheckExact(object)) {
        return 0;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    *value = (uint32_t)number;
    return !overflow && number >= 0 && number <= UINT32_MAX;
}

Outcome write_atom_text(Encoder *e, PyObject *atom) {
    PyObject *encoded = FIELD(&e->state->atom, atom, ATOM_ENCODED);
    if (encoded == NULL || !PyBytes_CheckExact(encoded)) {
        return REFUSED;
    }
    return write_bytes(e, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded));
}

/* Writes the reference to an atom, adding the atom to `refs` if there is room, else the atom. */
Outcome write_atom_ref(Encoder *e, PyObject *atom) {
    int64_t index = PyDict_GET_SIZE(e->refs);
    Py_INCREF(atom); /* Comparing the keys of the dict may run Python code. */
    PyObject *number = PyDict_GetItemWithError(e->refs, atom);
    Outcome outcome = DONE;
    if (number != NULL) {
        if (!PyLong_CheckExact(number) || !is_wide(number, &index) || index < 0 || index > 255) {
            outcome = REFUSED;
        }
    } else if (PyErr_Occurred()) {
        outcome = FAILED;
    } else if (index >= MOST_CACHED) {
        outcome = write_atom_text(e, atom);
        Py_DECREF(atom);
        return outcome;
    } else if (PyDict_SetItem(e->refs, atom, e->state->small[index]) < 0) {
        outcome = FAILED;
    }
    Py_DECREF(atom);
    uint8_t reference[] = {ATOM_CACHE_REF, (uint8_t)index};
    return outcome != DONE ? outcome : write_bytes(e, reference, sizeof reference);
}

/* Writes an atom where the format requires one. */
static Outcome write_name(Encoder *e, PyObject *name) {
    return name != NULL && Py_TYPE(name) == e->state->atom.type ? write_atom(e, name) : REFUSED;
}

/* An integer of more than 64 bits. */
Outcome write_huge(Encoder *e, PyObject *number, int negative) {
    PyObject *magnitude = negative ? PyNumber_Negative(number) : new_reference(number);
    if (magnitude == NULL) {
        return FAILED;
    }
#if PY_VERSION_HEX >= 0x030D0000
    const int flags = Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER;
    Py_ssize_t size = PyLong_AsNativeBytes(magnitude, NULL, 0, flags);
#else
    Py_ssize_t size = (Py_ssize_t)(_PyLong_NumBits(magnitude) / 8 + 1);
#endif
    uint8_t *p = size < 0 ? NULL : reserve(e, 6 + size);
    if (p == NULL) {
        Py_DECREF(magnitude);
        return FAILED;
    }
#if PY_VERSION_HEX >= 0x030D0000
    int failed = PyLong_AsNativeBytes(magnitude, p + 6, size, flags) < 0;
#else
    int failed = _PyLong_AsByteArray((PyLongObject *)magnitude, p + 6, (size_t)size, 1, 0) < 0;
#endif
    Py_DECREF(magnitude);
    if (failed) {
        return FAILED;
    }
    Py_ssize_t unused = 0; /* `size` was an upper bound */
    while (p[6 + size - 1] == 0) {
        size--;
        unused++;
    }
    if (size > e->settings->max_integer) {
        return REFUSED;
    }
    if (size < 256) {
        p[0] = SMALL_BIG_EXT;
        p[1] = (uint8_t)size;
        p[2] = (uint8_t)negative;
        memmove(p + 3, p + 6, (size_t)size);
        unused += 3;
    } else if ((uint64_t)size <= UINT32_MAX) {
        p[0] = LARGE_BIG_EXT;
        put_u32(p + 1, (uint32_t)size);
        p[5] = (uint8_t)negative;
    } else {
        return REFUSED;
    }
    e->size -= unused;
    return DONE;
}

/* A str that is not ASCII. */
Outcome write_wide_text(Encoder *e, PyObject *text) {
    if (PyUnicode_GET_LENGTH(text) > LONG_PART && exceeds(e, PyUnicode_GET_LENGTH(text))) {
        return FAILED;
    }
    PyObject *utf8 = PyUnicode_AsUTF8String(text);
    if (utf8 == NULL) {
        return after_exception(e);
    }
    Outcome outcome = write_binary(e, PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8));
    Py_DECREF(utf8);
    return outcome;
}

Outcome write_pid(Encoder *e, PyObject *pid) {
    const Record *record = &e->state->pid;
    uint32_t id, serial, creation;
    if (!is_u32(FIELD(record, pid, PID_ID), &id) ||
        !is_u32(FIELD(record, pid, PID_SERIAL), &serial) ||
        !is_u32(FIELD(record, pid, PID_CREATION), &creation)) {
        return REFUSED;
    }
    uint8_t *p = reserve(e, 1);
    if (p == NULL) {
        return FAILED;
    }
    *p = NEW_PID_EXT;
    Outcome outcome = write_name(e, FIELD(record, pid, PID_NODE));
    if (outcome != DONE) {
        return outcome;
    }
    p = reserve(e, 12);
    if (p == NULL) {
        return FAILED;
    }
    put_u32(p, id);
    put_u32(p + 4, serial);
    put_u32(p + 8, creation);
    return DONE;
}

Outcome write_reference(Encoder *e, PyObject *reference) {
    const Record *record = &e->state->reference;
    PyObject *ids = FIELD(record, reference, REFERENCE_IDS);
    uint32_t words[6];
    if (ids == NULL || !PyTuple_CheckExact(ids) || PyTuple_GET_SIZE(ids) > 5 ||
        !is_u32(FIELD(record, reference, REFERENCE_CREATION), &words[0])) {
        return REFUSED;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(ids);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!is_u32(PyTuple_GET_ITEM(ids, i), &words[i + 1])) {
            return REFUSED;
        }
    }
    uint8_t *p = reserve(e, 3);
    if (p == NULL) {
        return FAILED;
    }
    p[0] = NEWER_REFERENCE_EXT;
    put_u16(p + 1, (uint32_t)count);
    Outcome outcome = write_name(e, FIELD(record, reference, REFERENCE_NODE));
    if (outcome != DONE) {
        return outcome;
    }
    p = reserve(e, 4 * (count + 1));
    if (p == NULL) {
        return FAILED;
    }
    for (Py_ssize_t i = 0; i <= count; i++) {
        put_u32(p + 4 * i, words[i]);
    }
    return DONE;
}

Outcome write_port(Encoder *e, PyObject *port) {
    const Record *record = &e->state->port;
    PyObject *number = FIELD(record, port, PORT_ID);
    uint32_t creation;
    if (number == NULL || !PyLong_CheckExact(number) ||
        !is_u32(FIELD(record, port, PORT_CREATION), &creation)) {
        return REFUSED;
    }
    unsigned long long id = PyLong_AsUnsignedLongLong(number);
    if (id == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return REFUSED;
    }
    uint8_t *p = reserve(e, 1);
    if (p == NULL) {
        return FAILED;
    }
    *p = V4_PORT_EXT;
    Outcome outcome = write_name(e, FIELD(record, port, PORT_NODE));
    if (outcome != DONE) {
        return outcome;
    }
    p = reserve(e, 12);
    if (p == NULL) {
        return FAILED;
    }
    put_u64(p, id);
    put_u32(p + 8, creation);
    return DONE;
}

Outcome write_export(Encoder *e, PyObject *export) {
    const Record *record = &e->state->export;
    uint32_t arity;
    if (!is_u32(FIELD(record, export, EXPORT_ARITY), &arity) || arity > 255) {
        return REFUSED;
    }
    uint8_t *p = reserve(e, 1);
    if (p == NULL) {
        return FAILED;
    }
    *p = EXPORT_EXT;
    Outcome outcome = write_name(e, FIELD(record, export, EXPORT_MODULE));
    if (outcome == DONE) {
        outcome = write_name(e, FIELD(record, export, EXPORT_FUNCTION));
    }
    if (outcome != DONE) {
        return outcome;
    }
    p = reserve(e, 2);
    if (p == NULL) {
        return FAILED;
    }
    p[0] = SMALL_INTEGER_EXT;
    p[1] = (uint8_t)arity;
    return DONE;
}

/* Writes the head of a native record. */
Outcome write_native_head(Encoder *e, PyObject *native) {
    const Record *record = &e->state->native;
    PyObject *names = FIELD(record, native, NATIVE_NAMES);
    PyObject *values = FIELD(record, native, NATIVE_VALUES);
    uint32_t flags;
    if (!e->settings->native_records || names == NULL || values == NULL ||
        !PyTuple_CheckExact(names) || !PyTuple_CheckExact(values) ||
        PyTuple_GET_SIZE(names) != PyTuple_GET_SIZE(values) ||
        !is_u32(FIELD(record, native, NATIVE_FLAGS), &flags) || flags > 255) {
        return REFUSED;
    }
    Outcome outcome = write_head(e, RECORD_EXT, PyTuple_GET_SIZE(names));
    if (outcome == DONE) {
        uint8_t byte = (uint8_t)flags;
        outcome = write_bytes(e, &byte, 1);
    }
    if (outcome == DONE) {
        outcome = write_name(e, FIELD(record, native, NATIVE_MODULE));
    }
    if (outcome == DONE) {
        outcome = write_name(e, FIELD(record, native, NATIVE_NAME));
    }
    for (Py_ssize_t i = 0; outcome == DONE && i < PyTuple_GET_SIZE(names); i++) {
        outcome = write_name(e, PyTuple_GET_ITEM(names, i));
    }
    return outcome;
}

Outcome write_bits(Encoder *e, PyObject *object) {
    PyObject *data = FIELD(&e->state->bits, object, BITS_DATA);
    uint32_t bits;
    if (data == NULL || !PyBytes_CheckExact(data) ||
        !is_u32(FIELD(&e->state->bits, object, BITS_BITS), &bits) || bits > 255) {
        return REFUSED;
    }
    Outcome outcome = write_head(e, BIT_BINARY_EXT, PyBytes_GET_SIZE(data));
    if (outcome == DONE) {
        uint8_t byte = (uint8_t)bits;
        outcome = write_bytes(e, &byte, 1);
    }
    return outcome != DONE ? outcome
                           : write_bytes(e, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data));
}

/* Writes only the tag and length of a binary of `size` bytes, which is a separate part. */
Outcome write_apart(Encoder *e, PyObject *binary, Py_ssize_t size) {
    if (size > LONG_PART && exceeds(e, size)) {
        return FAILED;
    }
    Outcome outcome = write_head(e, BINARY_EXT, size);
    if (outcome != DONE) {
        return outcome;
    }
    if (e->apart == NULL && (e->apart = PyList_New(0)) == NULL) {
        return FAILED;
    }
    PyObject *offset = PyLong_FromSsize_t(e->size);
    int failed = offset == NULL || PyList_Append(e->apart, offset) < 0 ||
                 PyList_Append(e->apart, binary) < 0;
    Py_XDECREF(offset);
    e->apart_size += size;
    return failed ? FAILED : DONE;
}

/* Writes a contiguous memoryview like `write_apart`. The part is a view of its bytes. */
Outcome write_view_apart(Encoder *e, PyObject *view) {
    PyObject *bytes = PyObject_CallMethod(view, "cast", "s", "B");
    if (bytes == NULL) {
        return FAILED;
    }
    Outcome outcome = write_apart(e, bytes, PyMemoryView_GET_BUFFER(view)->len);
    Py_DECREF(bytes);
    return outcome;
}

Outcome write_buffer(Encoder *e, PyObject *object, int *written) {
    Py_buffer view;
    *written = PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) == 0;
    if (!*written) {
        PyErr_Clear();
        return DONE;
    }
    Outcome outcome = write_binary(e, view.buf, view.len);
    PyBuffer_Release(&view);
    return outcome;
}
