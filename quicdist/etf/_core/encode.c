/* Encoding of terms: quicdist/etf/encode.py in C.
 *
 * This file writes the built-in types and the classes of quicdist.etf. All other objects
 * (subclasses, other mappings), invalid objects and terms that exceed the limits are passed to
 * encode.py, which encodes them or raises the error with the path.
 *
 * Objects of other types may run Python code, which may change lists and dicts during encoding.
 * Therefore items are used only with a reference, and indexes only after a check of the length.
 */
#include "encoder.h"

#define MOST_STRING 65535
#define RUN 256
#define FIRST_LANDMARK 8

/* ---- containers ---- */

/* Whether `terms` more, in a container (or NULL) on top of the frames, are within the limits. */
static int is_over(Encoder *e, PyObject *container);

static inline int within_limits(Encoder *e, PyObject *container, int64_t terms) {
    e->terms += terms;
    if (e->depth + 1 > e->settings->max_depth) {
        return 0;
    }
    if (e->terms > e->settings->max_terms) {
        e->over = is_over(e, container) ? TOO_MANY_TERMS : WITHIN;
        return 0;
    }
    return 1;
}

/* Whether `container`, with `terms` terms, may be next: it is within the limits, and is not found to
 * be inside itself. Its path would be a cycle, so that the container at the last power of two repeats
 * once that depth is beyond the start and the length of the cycle. */
static inline int may_open(Encoder *e, PyObject *container, int64_t terms) {
    if (!within_limits(e, container, terms)) {
        return 0;
    }
    if (e->depth >= 2 * e->landmark) {
        e->landmark *= 2;
    }
    while (e->depth < e->landmark && e->landmark > FIRST_LANDMARK) {
        e->landmark /= 2;
    }
    return e->depth <= e->landmark || e->frames[e->landmark].container != container;
}

static NEVER_INLINE int grow_frames(Encoder *e) {
    Py_ssize_t room = e->frames_room * 2;
    int moved = e->frames == e->inline_frames;
    Frame *frames = PyMem_Realloc(moved ? NULL : e->frames, (size_t)room * sizeof(Frame));
    if (frames == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (moved) {
        memcpy(frames, e->inline_frames, sizeof(e->inline_frames));
    }
    e->frames = frames;
    e->frames_room = room;
    return 0;
}

/* Pushes an empty frame for `container`, which may be next. */
static inline Outcome push_frame(Encoder *e, Kind kind, PyObject *container) {
    if (e->depth == e->frames_room && grow_frames(e) < 0) {
        return FAILED;
    }
    e->frames[e->depth++] = (Frame){
        .kind = kind, .container = new_reference(container), .size_at = -1};
    return OPENED;
}

/* Pushes an empty frame for `container` with `terms` terms. */
static NEVER_INLINE Outcome open_frame(Encoder *e, Kind kind, PyObject *container, int64_t terms) {
    return may_open(e, container, terms) ? push_frame(e, kind, container) : REFUSED;
}

static inline Frame *top_frame(Encoder *e) { return &e->frames[e->depth - 1]; }

static void close_frame(Encoder *e) {
    Frame frame = e->frames[--e->depth];
    Py_DECREF(frame.container);
    Py_XDECREF(frame.items);
    Py_XDECREF(frame.pending);
    Py_XDECREF(frame.closing);
}

/* A container of terms of common types needs no frame: one that ends with such a term gets its
 * frame only at the first other one. */

static inline int is_plain(const Encoder *e, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    return type == &PyLong_Type || type == e->state->atom.type || type == &PyBytes_Type ||
           type == &PyUnicode_Type || type == &PyFloat_Type || type == &PyBool_Type ||
           object == Py_None;
}

static Outcome write_first_items(Encoder *e, PyObject *sequence, Py_ssize_t *index);
static NEVER_INLINE Outcome write_pairs(Encoder *e, PyObject *dict, Py_ssize_t count,
                                        Py_ssize_t *at, int *kinds, PyObject **value);

static Outcome open_tuple(Encoder *e, PyObject *tuple) {
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    if (count < 256) {
        uint8_t *p = reserve(e, 2);
        if (p == NULL) {
            return FAILED;
        }
        p[0] = SMALL_TUPLE_EXT;
        p[1] = (uint8_t)count;
        if (count == 0) {
            return DONE;
        }
    } else {
        Outcome outcome = write_head(e, LARGE_TUPLE_EXT, count);
        if (outcome != DONE) {
            return outcome;
        }
    }
    if (!may_open(e, tuple, count)) {
        return REFUSED;
    }
    Py_ssize_t index = 0;
    int tried = is_plain(e, PyTuple_GET_ITEM(tuple, count - 1));
    Outcome outcome = tried ? write_first_items(e, tuple, &index) : ANOTHER;
    if (outcome == ANOTHER) {
        outcome = push_frame(e, TUPLE, tuple);
        if (outcome == OPENED) {
            top_frame(e)->items = new_reference(tuple);
            top_frame(e)->index = index;
            top_frame(e)->another = tried;
        }
    }
    return outcome;
}

/* Writes a leaf that encode.py encoded, which may be a list of numbers. */
static Outcome write_leaf(Encoder *e, PyObject *leaf) {
    const uint8_t *data = (const uint8_t *)PyBytes_AS_STRING(leaf);
    Py_ssize_t size = PyBytes_GET_SIZE(leaf);
    if ((data[0] == LIST_EXT && !within_limits(e, NULL, get_u32(data + 1))) ||
        ((data[0] == SMALL_BIG_EXT || data[0] == LARGE_BIG_EXT) &&
         size > e->settings->max_integer)) { /* or nearly so: encode.py decides */
        return REFUSED;
    }
    return write_bytes(e, data, size);
}

/* Writes a list of numbers with encode.py. If it is not one, `*written` is 0. */
static Outcome write_numbers(Encoder *e, PyObject *list, int *written) {
    PyObject *numbers = PyObject_CallOneArg(e->state->numbers, list);
    if (numbers == NULL) {
        return after_exception(e);
    }
    Outcome outcome = DONE;
    *written = PyBytes_CheckExact(numbers);
    if (*written) {
        outcome = write_leaf(e, numbers);
    }
    Py_DECREF(numbers);
    return outcome;
}

/* Writes a list of bytes as STRING_EXT. If it is not one, writes nothing and `*written` is 0. */
static Outcome write_string(Encoder *e, PyObject *list, int *written) {
    Py_ssize_t count = PyList_GET_SIZE(list);
    *written = 0;
    PyObject *first = PyList_GET_ITEM(list, 0);
    if (!PyLong_CheckExact(first)) {
        return PyIndex_Check(first) && !PyBool_Check(first) ? write_numbers(e, list, written)
                                                            : DONE;
    }
    Py_ssize_t size = count <= MOST_STRING ? 3 + count : 0;
    uint8_t *p = reserve(e, size);
    if (p == NULL) {
        return FAILED;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyList_GET_ITEM(list, i);
        int64_t value;
        if (!PyLong_CheckExact(item) || !is_wide(item, &value) || value < 0 || value > 255) {
            e->size -= size;
            /* Other types may also be encoded as integers. */
            return PyIndex_Check(item) && !PyLong_CheckExact(item) && !PyBool_Check(item)
                       ? write_numbers(e, list, written)
                       : DONE;
        }
        if (size != 0) {
            p[3 + i] = (uint8_t)value;
        }
    }
    if (size != 0) {
        p[0] = STRING_EXT;
        put_u16(p + 1, (uint32_t)count);
        *written = 1;
    }
    return DONE;
}

static inline Outcome write_nil(Encoder *e) {
    uint8_t *p = reserve(e, 1);
    if (p == NULL) {
        return FAILED;
    }
    *p = NIL_EXT;
    return DONE;
}

static Outcome open_list(Encoder *e, PyObject *list) {
    Py_ssize_t count = PyList_GET_SIZE(list);
    if (count == 0) {
        return write_nil(e);
    }
    int written;
    Outcome outcome = write_string(e, list, &written);
    if (outcome != DONE || written) {
        return outcome;
    }
    outcome = write_head(e, LIST_EXT, count);
    if (outcome != DONE) {
        return outcome;
    }
    if (!may_open(e, list, count)) {
        return REFUSED;
    }
    Py_ssize_t index = 0;
    count = PyList_GET_SIZE(list); /* `numbers` of encode.py may have changed it */
    int tried = count > 0 && is_plain(e, PyList_GET_ITEM(list, count - 1));
    outcome = tried ? write_first_items(e, list, &index) : ANOTHER;
    if (outcome == ANOTHER) {
        outcome = push_frame(e, LIST, list);
        if (outcome == OPENED) {
            top_frame(e)->index = index;
            top_frame(e)->another = tried;
        }
        return outcome;
    }
    return outcome == DONE ? write_nil(e) : outcome;
}

enum { ATOM = 1, NUMBER = 2, BYTES = 4, STR = 8, BOOL = 16, IDENTIFIER = 32, OTHER = 64 };

static int key_kind(State *state, PyTypeObject *type) {
    return type == state->atom.type                                       ? ATOM
           : type == &PyBytes_Type                                        ? BYTES
           : type == &PyUnicode_Type                                      ? STR
           : type == &PyLong_Type || type == &PyFloat_Type                ? NUMBER
           : type == &PyBool_Type                                         ? BOOL
           : type == state->pid.type || type == state->port.type ||
                   type == state->reference.type                          ? IDENTIFIER
                                                                          : OTHER;
}

static int key_kinds(State *state, PyObject *key) {
    if (!PyTuple_CheckExact(key)) {
        return key_kind(state, Py_TYPE(key));
    }
    int kinds = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++) {
        kinds |= key_kind(state, Py_TYPE(PyTuple_GET_ITEM(key, i)));
    }
    return kinds;
}

/* Rejects keys, which are of these kinds, that are different in Python but equal in Erlang, such
 * as "a" and b"a", or that are nested too deeply. */
static Outcome check_keys(Encoder *e, PyObject *dict, int kinds) {
    if ((kinds & ~(ATOM | NUMBER | BYTES | IDENTIFIER)) == 0 ||
        (kinds & ~(ATOM | NUMBER | STR | IDENTIFIER)) == 0 ||
        (kinds & ~(BOOL | NUMBER | STR)) == 0) {
        return DONE;
    }
    PyObject *none = PyObject_CallFunctionObjArgs(e->state->check_keys, dict, e->settings->none,
                                                  NULL);
    if (none == NULL) {
        return after_exception(e);
    }
    Py_DECREF(none);
    return DONE;
}

static Outcome open_dict(Encoder *e, PyObject *dict) {
    Py_ssize_t count = PyDict_GET_SIZE(dict);
    Outcome outcome = write_head(e, MAP_EXT, count);
    if (outcome != DONE || count == 0) {
        return outcome;
    }
    if (!may_open(e, dict, 2 * (int64_t)count)) {
        return REFUSED;
    }
    PyObject *value = NULL;
    Py_ssize_t at = 0;
    int kinds = 0;
    outcome = write_pairs(e, dict, count, &at, &kinds, &value);
    if (outcome != ANOTHER) {
        return outcome;
    }
    outcome = push_frame(e, DICT, dict);
    if (outcome != OPENED) {
        Py_XDECREF(value);
        return outcome;
    }
    Frame *frame = top_frame(e);
    frame->count = count;
    frame->index = at;
    frame->kinds = kinds;
    frame->pending = value;
    return OPENED;
}

/* Whether an excess of terms is the only error in the output so far, with `container` (or NULL)
 * next. Other errors are reported by encode.py, which checks the keys of a map before its values,
 * and checks for a container that contains itself at other depths. */
static int is_over(Encoder *e, PyObject *container) {
    PyObject *seen = PySet_New(NULL);
    int over = seen != NULL;
    for (Py_ssize_t i = 0; over && i <= e->depth; i++) {
        PyObject *one = i < e->depth ? e->frames[i].container : container;
        if (one == NULL) {
            continue;
        }
        PyObject *key, *value, *address = PyLong_FromVoidPtr(one);
        Py_ssize_t count = PySet_GET_SIZE(seen), at = 0;
        int kinds = 0;
        over = address != NULL && PySet_Add(seen, address) == 0 && PySet_GET_SIZE(seen) > count;
        Py_XDECREF(address);
        if (over && PyDict_CheckExact(one)) {
            while (PyDict_Next(one, &at, &key, &value)) {
                kinds |= key_kinds(e->state, key);
            }
            over = check_keys(e, one, kinds) == DONE;
        }
    }
    Py_XDECREF(seen);
    PyErr_Clear();
    return over;
}

static Outcome open_native(Encoder *e, PyObject *native) {
    Outcome outcome = write_native_head(e, native);
    PyObject *values = FIELD(&e->state->native, native, NATIVE_VALUES);
    if (outcome != DONE || PyTuple_GET_SIZE(values) == 0) {
        return outcome;
    }
    outcome = open_frame(e, TUPLE, native, 2 * (int64_t)PyTuple_GET_SIZE(values));
    if (outcome == OPENED) {
        top_frame(e)->items = new_reference(values);
    }
    return outcome;
}

static Outcome open_improper(Encoder *e, PyObject *list) {
    PyObject *items = FIELD(&e->state->improper, list, IMPROPER_ITEMS);
    PyObject *tail = FIELD(&e->state->improper, list, IMPROPER_TAIL);
    if (items == NULL || tail == NULL || !PyTuple_CheckExact(items)) {
        return REFUSED;
    }
    Outcome outcome = write_head(e, LIST_EXT, PyTuple_GET_SIZE(items));
    if (outcome == DONE) {
        outcome = open_frame(e, TUPLE, list, PyTuple_GET_SIZE(items));
    }
    if (outcome == OPENED) {
        top_frame(e)->items = new_reference(items);
        top_frame(e)->pending = new_reference(tail);
    }
    return outcome;
}

static Outcome open_fun(Encoder *e, PyObject *fun) {
    PyObject *encoded = FIELD(&e->state->fun, fun, FUN_ENCODED);
    PyObject *free = FIELD(&e->state->fun, fun, FUN_FREE);
    if (encoded == NULL || free == NULL || !PyTuple_CheckExact(free)) {
        return REFUSED;
    }
    if (encoded != Py_None && e->refs == NULL) {
        e->unread = 1;
        return PyBytes_CheckExact(encoded)
                   ? write_bytes(e, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
                   : REFUSED;
    }
    PyObject *head = PyObject_CallFunctionObjArgs(e->state->fun_head, fun,
                                                  e->refs != NULL ? e->refs : Py_None, NULL);
    if (head == NULL) {
        return after_exception(e);
    }
    Outcome outcome = write_head(e, NEW_FUN_EXT, 0);
    if (outcome == DONE) {
        outcome = write_bytes(e, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head));
    }
    Py_ssize_t size_at = e->size - PyBytes_GET_SIZE(head) - 4;
    Py_DECREF(head);
    if (outcome == DONE) {
        outcome = open_frame(e, TUPLE, fun, PyTuple_GET_SIZE(free));
    }
    if (outcome == OPENED) {
        top_frame(e)->items = new_reference(free);
        top_frame(e)->size_at = size_at;
        top_frame(e)->apart_at = e->apart_size;
    }
    return outcome;
}

/* Writes an object of another type with the functions of encode.py. */
static Outcome write_other(Encoder *e, PyObject *object) {
    PyObject *leaf = PyObject_CallFunctionObjArgs(e->state->leaf, object,
                                                  e->refs != NULL ? e->refs : Py_None, NULL);
    if (leaf == NULL) {
        return after_exception(e);
    }
    Outcome outcome = REFUSED;
    if (PyBytes_CheckExact(leaf)) {
        outcome = write_leaf(e, leaf);
        Py_DECREF(leaf);
        return outcome;
    }
    Py_DECREF(leaf);
    PyObject *opened =
        PyObject_CallFunctionObjArgs(e->state->open, object, e->settings->none, NULL);
    if (opened == NULL) {
        return after_exception(e);
    }
    PyObject *opening, *items, *closing;
    long long terms;
    if (PyArg_ParseTuple(opened, "SOSL", &opening, &items, &closing, &terms)) {
        outcome = write_bytes(e, PyBytes_AS_STRING(opening), PyBytes_GET_SIZE(opening));
        if (outcome == DONE) {
            outcome = open_frame(e, ITERATOR, object, terms);
        }
        if (outcome == OPENED) {
            top_frame(e)->items = new_reference(items);
            top_frame(e)->closing = new_reference(closing);
        }
    } else {
        outcome = FAILED;
    }
    Py_DECREF(opened);
    return outcome;
}

static Outcome write_less_common(Encoder *e, PyObject *object) {
    State *state = e->state;
    PyTypeObject *type = Py_TYPE(object);
    if (type == state->pid.type) {
        return write_pid(e, object);
    }
    if (type == state->reference.type) {
        return write_reference(e, object);
    }
    if (type == state->port.type) {
        return write_port(e, object);
    }
    if (type == state->bits.type) {
        return write_bits(e, object);
    }
    if (type == state->export.type) {
        return write_export(e, object);
    }
    if (type == state->improper.type) {
        return open_improper(e, object);
    }
    if (type == state->fun.type) {
        return open_fun(e, object);
    }
    if (type == state->native.type) {
        return open_native(e, object);
    }
    if (type == &PyMemoryView_Type && e->large != ALL_IN_ONE) {
        const Py_buffer *view = PyMemoryView_GET_BUFFER(object);
        if (view->readonly && view->len >= e->large && PyBuffer_IsContiguous(view, 'C')) {
            return write_view_apart(e, object);
        }
    }
    if (type == &PyByteArray_Type || type == &PyMemoryView_Type) {
        int written;
        Outcome outcome = write_buffer(e, object, &written);
        if (written) {
            return outcome;
        }
    }
    return write_other(e, object);
}

/* Writes an object of a common type. */
static ALWAYS_INLINE Outcome write_plain(Encoder *e, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyLong_Type) {
        return write_integer(e, object);
    }
    if (type == e->state->atom.type) {
        return write_atom(e, object);
    }
    if (type == &PyBytes_Type) {
        Py_ssize_t size = PyBytes_GET_SIZE(object);
        return size < e->large ? write_binary(e, PyBytes_AS_STRING(object), size)
                               : write_apart(e, object, size);
    }
    if (type == &PyUnicode_Type) {
        return write_text(e, object);
    }
    if (type == &PyFloat_Type) {
        return write_float(e, object);
    }
    return ANOTHER;
}

/* Writes True, False or None. */
static inline Outcome write_constant(Encoder *e, PyObject *object) {
    if (PyBool_Check(object)) {
        return write_atom(e, object == Py_True ? e->state->atom_true : e->state->atom_false);
    }
    return object == Py_None ? write_atom(e, e->settings->none) : ANOTHER;
}

/* Writes an object of any other type, or starts a container and pushes its frame. The caller holds
 * a reference to `object`. */
static Outcome write_another(Encoder *e, PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyTuple_Type) {
        return open_tuple(e, object);
    }
    if (type == &PyList_Type) {
        return open_list(e, object);
    }
    if (type == &PyDict_Type) {
        return open_dict(e, object);
    }
    Outcome outcome = write_constant(e, object);
    return outcome != ANOTHER ? outcome : write_less_common(e, object);
}

/* Writes any object. Takes over the reference. */
static Outcome write_term(Encoder *e, PyObject *object) {
    Outcome outcome = write_plain(e, object);
    if (outcome == ANOTHER) {
        outcome = write_another(e, object);
    }
    Py_DECREF(object);
    return outcome;
}

/* ---- the loop ---- */

/* Each of these continues the top frame until it is complete or another frame is pushed. */

/* Writes floats and 64-bit ints until another object. Returns their number, or -1 on failure. */
static Py_ssize_t write_run(Encoder *e, PyObject *const *items, Py_ssize_t count) {
    const Py_ssize_t most = 11; /* bytes of one */
    if (count > RUN) {
        count = RUN;
    }
    uint8_t *p = reserve(e, count * most), *const begin = p;
    if (p == NULL) {
        return -1;
    }
    Py_ssize_t i = 0;
    for (; i < count; i++) {
        PyObject *item = items[i];
        if (PyFloat_CheckExact(item)) {
            double number = PyFloat_AS_DOUBLE(item);
            uint64_t bits;
            if (number - number != 0.0) {
                break;
            }
            memcpy(&bits, &number, 8);
            *p = NEW_FLOAT_EXT;
            put_u64(p + 1, bits);
            p += 9;
            continue;
        }
        int64_t value;
        if (!PyLong_CheckExact(item) || !is_wide(item, &value)) {
            break;
        }
        p = put_integer(p, value);
    }
    e->size -= count * most - (p - begin);
    return i;
}

/* Writes items of common types until another item. `*index` is advanced. */
static ALWAYS_INLINE Outcome write_items(Encoder *e, PyObject *sequence, Py_ssize_t *index) {
    Py_ssize_t count;
    while (*index < (count = PySequence_Fast_GET_SIZE(sequence))) {
        PyObject *const *items = PySequence_Fast_ITEMS(sequence), *item = items[*index];
        if (PyFloat_CheckExact(item) || PyLong_CheckExact(item)) {
            Py_ssize_t written = write_run(e, items + *index, count - *index);
            if (written < 0) {
                return FAILED;
            }
            if (written > 0) {
                *index += written;
                continue;
            }
        }
        Outcome outcome = write_plain(e, item);
        if (outcome != DONE) {
            return outcome;
        }
        ++*index;
    }
    return DONE;
}

static NEVER_INLINE Outcome write_first_items(Encoder *e, PyObject *sequence, Py_ssize_t *index) {
    Outcome outcome = write_items(e, sequence, index);
    while (outcome == ANOTHER) {
        outcome = write_constant(e, PySequence_Fast_ITEMS(sequence)[*index]);
        if (outcome != DONE) {
            break;
        }
        ++*index;
        outcome = write_items(e, sequence, index);
    }
    return outcome;
}

static Outcome write_tuple_items(Encoder *e) {
    Py_ssize_t place = e->depth - 1;
    PyObject *tuple = e->frames[place].items;
    Py_ssize_t index = e->frames[place].index;
    int another = e->frames[place].another;
    e->frames[place].another = 0;
    while (index < PyTuple_GET_SIZE(tuple)) {
        Outcome outcome = another ? ANOTHER : write_items(e, tuple, &index);
        another = 0;
        if (outcome == ANOTHER) {
            outcome = write_another(e, PyTuple_GET_ITEM(tuple, index++));
            e->frames[place].index = index;
        }
        if (outcome != DONE) {
            return outcome;
        }
    }
    Frame *frame = &e->frames[place];
    frame->index = index;
    if (frame->pending != NULL) { /* the tail of an improper list */
        PyObject *tail = frame->pending;
        frame->pending = NULL;
        return write_term(e, tail);
    }
    if (frame->size_at >= 0) {
        Py_ssize_t size = e->size - frame->size_at + e->apart_size - frame->apart_at;
        if (size > (Py_ssize_t)UINT32_MAX) {
            return REFUSED;
        }
        put_u32(e->out + frame->size_at, (uint32_t)size);
    }
    return DONE;
}

static Outcome write_list_items(Encoder *e) {
    Py_ssize_t place = e->depth - 1;
    PyObject *list = e->frames[place].container;
    Py_ssize_t index = e->frames[place].index;
    int another = e->frames[place].another;
    e->frames[place].another = 0;
    while (index < PyList_GET_SIZE(list)) {
        Outcome outcome = another ? ANOTHER : write_items(e, list, &index);
        another = 0;
        if (outcome == ANOTHER) {
            PyObject *item = new_reference(PyList_GET_ITEM(list, index++));
            outcome = write_another(e, item);
            Py_DECREF(item);
            e->frames[place].index = index;
        }
        if (outcome != DONE) {
            return outcome;
        }
    }
    return write_nil(e);
}

/* Writes pairs of common types from `*at` on, and checks the keys at the end. ANOTHER is a key, or
 * with a new reference in `*value` a value, of another type, which is next. */
static NEVER_INLINE Outcome write_pairs(Encoder *e, PyObject *dict, Py_ssize_t count,
                                        Py_ssize_t *at, int *kinds, PyObject **value) {
    for (;;) {
        if (PyDict_GET_SIZE(dict) != count) {
            PyErr_SetString(PyExc_RuntimeError, "dictionary changed size during iteration");
            return FAILED;
        }
        PyObject *key, *item;
        Py_ssize_t next = *at;
        if (!PyDict_Next(dict, &next, &key, &item)) {
            return check_keys(e, dict, *kinds);
        }
        *kinds |= key_kinds(e->state, key);
        Py_INCREF(item); /* Writing the key may run Python code. */
        Outcome outcome = write_plain(e, key);
        if (outcome == DONE) {
            *at = next;
            outcome = write_plain(e, item);
            if (outcome == ANOTHER) {
                outcome = write_constant(e, item);
            }
            if (outcome == ANOTHER) {
                *value = item;
                return ANOTHER;
            }
        }
        Py_DECREF(item);
        if (outcome != DONE) {
            return outcome;
        }
    }
}

static Outcome write_dict_items(Encoder *e) {
    Py_ssize_t place = e->depth - 1;
    PyObject *dict = e->frames[place].container, *key, *value = e->frames[place].pending;
    Py_ssize_t count = e->frames[place].count, at = e->frames[place].index;
    int kinds = e->frames[place].kinds;
    e->frames[place].pending = NULL;
    Outcome outcome = value == NULL ? DONE : write_term(e, value);
    while (outcome == DONE) {
        value = NULL;
        outcome = write_pairs(e, dict, count, &at, &kinds, &value);
        if (outcome != ANOTHER) {
            return outcome;
        }
        outcome = DONE;
        if (value == NULL && PyDict_Next(dict, &at, &key, &value)) {
            Py_INCREF(value);
            outcome = write_term(e, new_reference(key));
        }
        if (outcome == DONE) {
            outcome = write_term(e, value);
        } else if (outcome == OPENED) {
            e->frames[place].pending = value;
        } else {
            Py_DECREF(value);
        }
    }
    e->frames[place].index = at;
    e->frames[place].kinds = kinds;
    return outcome;
}

static Outcome write_iterator_items(Encoder *e) {
    PyObject *iterator = top_frame(e)->items, *closing = top_frame(e)->closing, *item;
    while ((item = PyIter_Next(iterator)) != NULL) {
        Outcome outcome = write_term(e, item);
        if (outcome != DONE) {
            return outcome;
        }
    }
    if (PyErr_Occurred()) {
        return after_exception(e);
    }
    return write_bytes(e, PyBytes_AS_STRING(closing), PyBytes_GET_SIZE(closing));
}

/* Writes the rest of the open containers, if `outcome` is that of the first one. */
static Outcome run(Encoder *e, Outcome outcome) {
    while (outcome >= 0 && e->depth > 0) {
        switch (top_frame(e)->kind) {
        case TUPLE:
            outcome = write_tuple_items(e);
            break;
        case LIST:
            outcome = write_list_items(e);
            break;
        case DICT:
            outcome = write_dict_items(e);
            break;
        case ITERATOR:
            outcome = write_iterator_items(e);
            break;
        }
        if (outcome == DONE) {
            close_frame(e);
        }
    }
    return outcome;
}

static PyObject *new_slice(PyObject *bytes, Py_ssize_t begin, Py_ssize_t end) {
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(bytes) + begin, end - begin);
}

/* Appends a new object to a list. Takes over the reference. */
static int append_new(PyObject *list, PyObject *object) {
    int failed = object == NULL || PyList_Append(list, object) < 0;
    Py_XDECREF(object);
    return failed ? -1 : 0;
}

/* The output as parts, with the separate binaries in their places. Takes over the reference. */
static PyObject *with_apart(PyObject *output, PyObject *apart) {
    PyObject *parts = output == NULL ? NULL : PyList_New(0);
    Py_ssize_t begin = 0, end, count = apart == NULL ? 0 : PyList_GET_SIZE(apart);
    int failed = parts == NULL;
    for (Py_ssize_t i = 0; i < count && !failed; i += 2) {
        end = PyLong_AsSsize_t(PyList_GET_ITEM(apart, i));
        failed = append_new(parts, new_slice(output, begin, end)) < 0 ||
                 PyList_Append(parts, PyList_GET_ITEM(apart, i + 1)) < 0;
        begin = end;
    }
    if (!failed && count == 0) {
        failed = PyList_Append(parts, output) < 0;
    } else if (!failed && begin < PyBytes_GET_SIZE(output)) {
        failed = append_new(parts, new_slice(output, begin, PyBytes_GET_SIZE(output))) < 0;
    }
    Py_XDECREF(output);
    if (failed) {
        Py_CLEAR(parts);
    }
    return parts;
}

/* Encodes the term with encode.py, which also raises its errors. */
static PyObject *parts_in_python(State *state, PyObject *term, PyObject *options, PyObject *refs,
                                 int with_version, Py_ssize_t large) {
    PyObject *parts = PyObject_CallFunction(state->encode_all_parts, "OOOn", term, options,
                                            refs != NULL ? refs : Py_None, large);
    if (parts != NULL && with_version) {
        PyObject *first = PyBytes_FromStringAndSize("\x83", 1);
        PyBytes_Concat(&first, PyList_GET_ITEM(parts, 0));
        if (first == NULL || PyList_SetItem(parts, 0, first) < 0) {
            Py_CLEAR(parts);
        }
    }
    return parts;
}

/* Encodes the term with encode.py as one bytes object. */
static PyObject *encode_in_python(State *state, PyObject *term, PyObject *options, PyObject *refs,
                                  int with_version) {
    PyObject *bare = PyObject_CallFunctionObjArgs(state->encode_all, term, options,
                                                  refs != NULL ? refs : Py_None, NULL);
    if (bare != NULL && with_version) {
        PyObject *whole = PyBytes_FromStringAndSize("\x83", 1);
        PyBytes_ConcatAndDel(&whole, bare);
        return whole;
    }
    return bare;
}

/* Raises the error for an exceeded limit on the whole term. */
static void raise_over(const Encoder *e) {
    int is_terms = e->over == TOO_MANY_TERMS;
    const char *limit = is_terms ? "max_terms" : "max_bytes";
    int64_t most = is_terms ? e->settings->max_terms : e->settings->max_bytes;
    PyObject *reason = PyUnicode_FromFormat("more than %lld %s, Limits.%s", (long long)most,
                                            limit + strlen("max_"), limit);
    PyObject *error = reason == NULL ? NULL
                                     : PyObject_CallFunction(e->state->encode_error, "sOs", "",
                                                             reason, limit);
    if (error != NULL) {
        PyErr_SetObject(e->state->encode_error, error);
        Py_DECREF(error);
    }
    Py_XDECREF(reason);
}

PyObject *make_frame(const Framing *framing, const void *payload, Py_ssize_t size) {
    PyObject *refs = framing->refs, *atoms = new_reference(framing->atoms), *frame = NULL;
    Py_ssize_t known = PyTuple_GET_SIZE(atoms);
    if (refs != NULL && PyDict_GET_SIZE(refs) != known) {
        Py_SETREF(atoms, PySequence_Tuple(refs));
        if (atoms == NULL) {
            return NULL;
        }
    }
    PyObject *prefix = PyDict_GetItemWithError(framing->prefixes, atoms);
    if (prefix != NULL && PyBytes_Check(prefix) &&
        PyBytes_GET_SIZE(prefix) + size <= framing->most) {
        Py_ssize_t length = PyBytes_GET_SIZE(prefix);
        frame = PyBytes_FromStringAndSize(NULL, 4 + length + size);
        if (frame != NULL) {
            uint8_t *out = (uint8_t *)PyBytes_AS_STRING(frame);
            put_u32(out, (uint32_t)(length + size));
            memcpy(out + 4, PyBytes_AS_STRING(prefix), (size_t)length);
            memcpy(out + 4 + length, payload, (size_t)size);
        }
        for (Py_ssize_t i = PyTuple_GET_SIZE(atoms); frame != NULL && i-- > known;) {
            if (PyDict_DelItem(refs, PyTuple_GET_ITEM(atoms, i)) < 0) {
                Py_CLEAR(frame);
            }
        }
    }
    Py_DECREF(atoms);
    return frame;
}

/* Writes what is left of the term after the first outcome, and returns the result. */
static NEVER_INLINE PyObject *encode_rest(Encoder *e, PyObject *term, PyObject *options,
                                          Outcome outcome) {
    State *state = e->state;
    const Settings *settings = e->settings;
    outcome = run(e, outcome);
    Py_ssize_t size = e->size + e->apart_size;
    if (outcome >= 0 && exceeds(e, 0)) {
        outcome = FAILED;
    }
    if (e->unread && outcome >= 0 && (size > settings->max_depth || size > settings->max_terms)) {
        outcome = REFUSED;
    }
    while (e->depth > 0) {
        close_frame(e);
    }
    if (e->frames != e->inline_frames) {
        PyMem_Free(e->frames);
    }
    if (outcome < 0 && e->over != WITHIN && !PyErr_Occurred()) {
        raise_over(e);
        outcome = FAILED;
    }
    PyObject *result = NULL, *frame = NULL;
    if (e->framing != NULL && outcome >= 0 && e->apart == NULL) {
        frame = make_frame(e->framing, e->out, e->size);
        if (frame == NULL && PyErr_Occurred()) {
            outcome = FAILED;
        }
    }
    if (e->bytes == NULL) {
        if (outcome >= 0 && frame == NULL) {
            result = PyBytes_FromStringAndSize((const char *)e->out, e->size);
        }
        if (e->out != e->inline_bytes) {
            state->spare_output = e->out;
        }
    } else if (outcome < 0 || frame != NULL) {
        Py_CLEAR(e->bytes);
    } else {
        _PyBytes_Resize(&e->bytes, e->size); /* NULL on failure */
        result = e->bytes;
    }
    if (frame != NULL) {
        return frame;
    }
    if (e->large != ALL_IN_ONE) {
        if (outcome == REFUSED) {
            result = parts_in_python(state, term, options, e->refs, e->versioned, e->large);
        } else {
            result = with_apart(result, e->apart);
        }
        Py_XDECREF(e->apart);
        return result;
    }
    return outcome == REFUSED ? encode_in_python(state, term, options, e->refs, e->versioned)
                              : result;
}

PyObject *encode_term(State *state, PyObject *term, PyObject *options, const Settings *settings,
                      PyObject *refs, int with_version, Py_ssize_t large, const Framing *framing) {
    if (settings->max_integer < 8) { /* the fast paths below do not check integers of a word */
        return large != ALL_IN_ONE
                   ? parts_in_python(state, term, options, refs, with_version, large)
                   : encode_in_python(state, term, options, refs, with_version);
    }
    Encoder e;
    e.state = state;
    e.settings = settings;
    e.refs = refs;
    e.out = e.inline_bytes;
    e.size = 0;
    e.room = INLINE_BYTES;
    e.bytes = NULL;
    e.large = large;
    e.apart = NULL;
    e.apart_size = 0;
    e.frames = e.inline_frames;
    e.depth = 0;
    e.frames_room = INLINE_FRAMES;
    e.landmark = FIRST_LANDMARK;
    e.terms = 0;
    e.unread = 0;
    e.versioned = with_version;
    e.framing = framing;
    e.over = WITHIN;
    if (with_version) {
        e.out[e.size++] = VERSION;
    }
    Outcome outcome = write_plain(&e, term);
    if (outcome == ANOTHER) {
        outcome = write_another(&e, term);
    }
    if (outcome == DONE && e.out == e.inline_bytes && large == ALL_IN_ONE && !e.unread &&
        !exceeds(&e, 0)) {
        return PyBytes_FromStringAndSize((const char *)e.out, e.size);
    }
    if (outcome == DONE && framing != NULL && e.out == e.inline_bytes && e.apart == NULL &&
        !e.unread && !exceeds(&e, 0)) {
        PyObject *frame = make_frame(framing, e.out, e.size);
        if (frame != NULL || PyErr_Occurred()) {
            return frame;
        }
    }
    return encode_rest(&e, term, options, outcome);
}
