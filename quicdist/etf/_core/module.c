/* The module quicdist.etf._compiled: its functions and its references to Python objects.
 *
 * If the Python modules do not match (a class without its slots, a missing function), the import
 * raises ImportError, and quicdist.etf.codec selects the pure Python codec.
 */
#include "core.h"

#include <structmember.h>

/* ---- settings ---- */

static int is_word(PyObject *object, const char *word) {
    return PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, word) == 0;
}

/* Reads a limit. Larger values are clipped to the largest integer, which no count reaches. */
static int read_limit(PyObject *limits, const char *name, int64_t *value) {
    PyObject *number = PyObject_GetAttrString(limits, name);
    if (number == NULL) {
        return -1;
    }
    int overflow;
    *value = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow != 0) {
        *value = overflow > 0 ? INT64_MAX : INT64_MIN;
        return 0;
    }
    return *value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int parse_options(State *state, PyObject *options, Settings *settings) {
    PyObject *binaries = PyObject_GetAttrString(options, "binaries");
    PyObject *strings = PyObject_GetAttrString(options, "strings");
    PyObject *none = PyObject_GetAttrString(options, "none");
    PyObject *compression = PyObject_GetAttrString(options, "compression");
    PyObject *limits = PyObject_GetAttrString(options, "limits");
    PyObject *records = PyObject_GetAttrString(options, "native_records");
    int failed = 1;
    if (binaries != NULL && strings != NULL && none != NULL && compression != NULL &&
        limits != NULL && records != NULL && read_limit(limits, "max_depth", &settings->max_depth) == 0 &&
        read_limit(limits, "max_terms", &settings->max_terms) == 0 &&
        read_limit(limits, "max_decompressed", &settings->max_decompressed) == 0 &&
        read_limit(limits, "max_integer", &settings->max_integer) == 0 &&
        read_limit(limits, "max_bytes", &settings->max_bytes) == 0) {
        settings->text = is_word(binaries, "str");
        settings->views = is_word(binaries, "memoryview");
        settings->strings = is_word(strings, "list")    ? AS_LIST
                            : is_word(strings, "bytes") ? AS_BYTES
                                                        : AS_STR;
        settings->none = is_word(none, "nil") ? state->atom_nil : state->atom_undefined;
        settings->compression = (int)PyLong_AsLong(compression);
        settings->native_records = PyObject_IsTrue(records);
        failed = (settings->compression == -1 && PyErr_Occurred()) || settings->native_records < 0;
    }
    Py_XDECREF(binaries);
    Py_XDECREF(strings);
    Py_XDECREF(none);
    Py_XDECREF(compression);
    Py_XDECREF(limits);
    Py_XDECREF(records);
    return failed ? -1 : 0;
}

const Settings *read_options(State *state, PyObject *options, Settings *room) {
    if (options == state->default_options) {
        return &state->default_settings;
    }
    /* Options are frozen and usually reused, so their values are cached by identity. */
    for (int i = 0; i < OPTIONS_KEPT; i++) {
        if (options == state->known_options[i]) {
            *room = state->known_settings[i];
            return room;
        }
    }
    if (parse_options(state, options, room) < 0) {
        return NULL;
    }
    unsigned place = state->oldest_options++ % OPTIONS_KEPT;
    PyObject *forgotten = state->known_options[place];
    state->known_settings[place] = *room;
    state->known_options[place] = new_reference(options);
    Py_XDECREF(forgotten);
    return room;
}

/* ---- arguments ---- */

/* Sorts the arguments of a call that has names or a wrong number of arguments. */
static int sort_by_name(const char *function, const char *const *names, int most, int least,
                          PyObject *const *given, Py_ssize_t count, PyObject *keywords,
                          PyObject **arguments) {
    if (count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments, not %zd",
                     function, most, count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        arguments[i] = given[i];
    }
    Py_ssize_t named = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        int place = 0;
        while (place < most && PyUnicode_CompareWithASCIIString(keyword, names[place]) != 0) {
            place++;
        }
        if (place == most) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function,
                         keyword);
            return -1;
        }
        if (arguments[place] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", function,
                         keyword);
            return -1;
        }
        arguments[place] = given[count + i];
    }
    for (int i = 0; i < least; i++) {
        if (arguments[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s'", function,
                         names[i]);
            return -1;
        }
    }
    return 0;
}

/* Sorts the arguments of a call. Missing arguments stay NULL. */
static inline int sort_arguments(const char *function, const char *const *names, int most,
                                 int least, PyObject *const *given, Py_ssize_t count,
                                 PyObject *keywords, PyObject **arguments) {
    if (keywords != NULL || count > most || count < least) {
        return sort_by_name(function, names, most, least, given, count, keywords, arguments);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        arguments[i] = given[i];
    }
    return 0;
}

/* The contiguous bytes of `object`. A buffer that is not contiguous is copied. */
static int get_bytes(PyObject *object, Py_buffer *view) {
    if (PyBytes_CheckExact(object)) { /* without a buffer to release, in half the time */
        view->buf = PyBytes_AS_STRING(object);
        view->len = PyBytes_GET_SIZE(object);
        view->obj = object;
        return 0;
    }
    if (PyObject_GetBuffer(object, view, PyBUF_SIMPLE) == 0) {
        return 0;
    }
    if (!PyMemoryView_Check(object)) {
        return -1;
    }
    PyErr_Clear();
    PyObject *copy = PyBytes_FromObject(object);
    if (copy == NULL) {
        return -1;
    }
    int outcome = PyObject_GetBuffer(copy, view, PyBUF_SIMPLE);
    Py_DECREF(copy);
    return outcome;
}

static inline void release_bytes(PyObject *object, Py_buffer *view) {
    if (!PyBytes_CheckExact(object)) {
        PyBuffer_Release(view);
    }
}

/* A non-negative offset, or -1 with an exception. Offsets beyond any buffer are clipped. */
static Py_ssize_t get_offset(PyObject *object) {
    if (object == NULL) {
        return 0;
    }
    Py_ssize_t offset = PyNumber_AsSsize_t(object, NULL);
    if (offset < 0) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "offset must not be negative: %R", object);
        }
        return -1;
    }
    return offset;
}

/* ---- decoding ---- */

/* The compressed term whose tag is at `*pos` in `view`, which is of `object`. */
static PyObject *decode_compressed(State *state, PyObject *object, const Py_buffer *view,
                                   Py_ssize_t *pos, PyObject *options, const Settings *settings) {
    PyObject *data = PyBytes_CheckExact(object) ? new_reference(object)
                                                : PyBytes_FromStringAndSize(view->buf, view->len);
    if (data == NULL) {
        return NULL;
    }
    PyObject *inflated = PyObject_CallFunction(state->inflate, "OnO", data, *pos, options);
    Py_DECREF(data);
    if (inflated == NULL) {
        return NULL;
    }
    PyObject *plain, *term = NULL;
    Py_ssize_t end, inner = 0;
    if (PyArg_ParseTuple(inflated, "Sn", &plain, &end)) {
        Py_ssize_t size = PyBytes_GET_SIZE(plain);
        term = decode_term(state, plain, (const uint8_t *)PyBytes_AS_STRING(plain), size, &inner,
                           settings, NULL);
        if (term != NULL && inner != size) {
            decode_failed(state, inner, "%zd bytes after the compressed term", size - inner);
            Py_CLEAR(term);
        }
        *pos = end;
    }
    Py_DECREF(inflated);
    return term;
}

/* The term at `*pos`, version byte first. */
static PyObject *decode_versioned(State *state, PyObject *object, const Py_buffer *view,
                                  Py_ssize_t *pos, PyObject *options, const Settings *settings) {
    const uint8_t *data = view->buf;
    if (*pos >= view->len) {
        return decode_failed(state, *pos, "an external term must begin with %d, not the end",
                             VERSION);
    }
    if (data[*pos] != VERSION) {
        return decode_failed(state, *pos, "an external term must begin with %d, not %d", VERSION,
                             data[*pos]);
    }
    ++*pos;
    if (*pos < view->len && data[*pos] == COMPRESSED) {
        return decode_compressed(state, object, view, pos, options, settings);
    }
    return decode_term(state, view->obj, data, view->len, pos, settings, NULL);
}

/* `(term, end)`; takes over the reference. */
static PyObject *with_end(PyObject *term, Py_ssize_t end) {
    if (term == NULL) {
        return NULL;
    }
    PyObject *number = PyLong_FromSsize_t(end);
    PyObject *pair = number == NULL ? NULL : PyTuple_New(2);
    if (pair == NULL) {
        Py_XDECREF(number);
        Py_DECREF(term);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, term);
    PyTuple_SET_ITEM(pair, 1, number);
    return pair;
}

PyDoc_STRVAR(decode_doc,
             "decode(data, options=...)\n--\n\n"
             "Decodes `data`, which is one term with the version byte first.\n\n"
             "Raises EtfDecodeError if the data is invalid, exceeds the limits or has extra bytes.");

static PyObject *core_decode(PyObject *module, PyObject *const *given, Py_ssize_t count,
                             PyObject *keywords) {
    static const char *const names[] = {"data", "options"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[2] = {NULL};
    if (sort_arguments("decode", names, 2, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[1] == NULL ? state->default_options : arguments[1];
    Settings room;
    const Settings *settings = read_options(state, options, &room);
    Py_buffer view;
    if (settings == NULL || get_bytes(arguments[0], &view) < 0) {
        return NULL;
    }
    Py_ssize_t pos = 0;
    PyObject *term = decode_versioned(state, arguments[0], &view, &pos, options, settings);
    if (term != NULL && pos != view.len) {
        decode_failed(state, pos, "%zd bytes after the term", view.len - pos);
        Py_CLEAR(term);
    }
    release_bytes(arguments[0], &view);
    return term;
}

PyDoc_STRVAR(decode_prefix_doc,
             "decode_prefix(data, offset=0, options=...)\n--\n\n"
             "Decodes the term at `offset`, version byte first. Returns the term and the offset\n"
             "after it.\n\n"
             "Raises EtfDecodeError if the data is invalid or exceeds the limits.");

static PyObject *core_decode_prefix(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                    PyObject *keywords) {
    static const char *const names[] = {"data", "offset", "options"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[3] = {NULL};
    if (sort_arguments("decode_prefix", names, 3, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[2] == NULL ? state->default_options : arguments[2];
    Py_ssize_t pos = get_offset(arguments[1]);
    Settings room;
    const Settings *settings =
        pos < 0 ? NULL : read_options(state, options, &room);
    Py_buffer view;
    if (settings == NULL || get_bytes(arguments[0], &view) < 0) {
        return NULL;
    }
    PyObject *term = decode_versioned(state, arguments[0], &view, &pos, options, settings);
    release_bytes(arguments[0], &view);
    return with_end(term, pos);
}

PyDoc_STRVAR(decode_bare_doc,
             "decode_bare(data, offset=0, options=..., atoms=())\n--\n\n"
             "Decodes the term at `offset`, without a version byte. Returns it and the offset\n"
             "after it.\n\n"
             "ATOM_CACHE_REF i is `atoms[i]`. Raises EtfDecodeError if the data is invalid or\n"
             "exceeds the limits.");

static PyObject *core_decode_bare(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                  PyObject *keywords) {
    static const char *const names[] = {"data", "offset", "options", "atoms"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[4] = {NULL};
    if (sort_arguments("decode_bare", names, 4, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[2] == NULL ? state->default_options : arguments[2];
    Py_ssize_t pos = get_offset(arguments[1]);
    Settings room;
    const Settings *settings =
        pos < 0 ? NULL : read_options(state, options, &room);
    if (settings == NULL) {
        return NULL;
    }
    PyObject *atoms = NULL;
    if (arguments[3] != NULL) {
        atoms = PySequence_Fast(arguments[3], "atoms must be a sequence of Atom");
        if (atoms == NULL) {
            return NULL;
        }
    }
    PyObject *pair = NULL;
    Py_buffer view;
    if (get_bytes(arguments[0], &view) == 0) {
        if (pos > view.len) {
            decode_failed(state, view.len, "truncated");
        } else {
            PyObject *term = decode_term(state, view.obj, view.buf, view.len, &pos, settings,
                                         atoms);
            pair = with_end(term, pos);
        }
        release_bytes(arguments[0], &view);
    }
    Py_XDECREF(atoms);
    return pair;
}

/* ---- frames ---- */

PyDoc_STRVAR(split_frames_doc,
             "split_frames(data, at, limit)\n--\n\n"
             "Returns the bodies of the whole frames with u32 lengths in `data` from `at` on, and the\n"
             "offset of the first other frame: an incomplete one, or one of more than `limit` bytes.");

static PyObject *core_split_frames(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                   PyObject *keywords) {
    static const char *const names[] = {"data", "at", "limit"};
    PyObject *arguments[3] = {NULL};
    if (sort_arguments("split_frames", names, 3, 3, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    Py_ssize_t at = get_offset(arguments[1]), limit = PyNumber_AsSsize_t(arguments[2], NULL);
    if (at < 0 || (limit == -1 && PyErr_Occurred())) {
        return NULL;
    }
    if (!PyBytes_CheckExact(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "split_frames() requires bytes");
        return NULL;
    }
    const char *data = PyBytes_AS_STRING(arguments[0]);
    Py_ssize_t end = PyBytes_GET_SIZE(arguments[0]);
    PyObject *bodies = PyList_New(0);
    while (bodies != NULL && end - at >= 4) {
        Py_ssize_t length = get_u32((const uint8_t *)data + at);
        if (length > limit || length > end - at - 4) {
            break;
        }
        PyObject *body = PyBytes_FromStringAndSize(data + at + 4, length);
        if (body == NULL || PyList_Append(bodies, body) < 0) {
            Py_CLEAR(bodies);
        }
        Py_XDECREF(body);
        at += 4 + length;
    }
    return with_end(bodies, at);
}

/* quicdist.etf.footprint for common leaves, else -1. */
static int64_t leaf_footprint(State *state, PyObject *term) {
    if (PyBytes_CheckExact(term)) {
        return 40 + PyBytes_GET_SIZE(term);
    }
    if (PyLong_CheckExact(term)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(term, &overflow);
        if (overflow) {
            return -1;
        }
        if (number > -6 && number < 257) {
            return 0;
        }
        uint64_t size = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
        int64_t total = 32;
        for (; size > 0x7F; size >>= 8) {
            total++;
        }
        return total;
    }
    if (Py_IS_TYPE(term, state->atom.type) || Py_IS_TYPE(term, state->pid.type) ||
        PyFloat_CheckExact(term) || PyBool_Check(term)) {
        return 56;
    }
    return Py_IS_TYPE(term, state->reference.type) ? 4 * 56 : -1;
}

/* quicdist.etf.footprint, or -1 with an exception. */
static int64_t find_footprint(State *state, PyObject *term) {
    int64_t total = leaf_footprint(state, term);
    if (total >= 0) {
        return total;
    }
    if (PyTuple_CheckExact(term)) {
        total = 56 + 8 * PyTuple_GET_SIZE(term);
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(term); i++) {
            int64_t one = leaf_footprint(state, PyTuple_GET_ITEM(term, i));
            if (one < 0) {
                total = -1;
                break;
            }
            total += one;
        }
        if (total >= 0) {
            return total;
        }
    }
    PyObject *number = PyObject_CallOneArg(state->footprint, term);
    if (number == NULL) {
        return -1;
    }
    total = PyLong_AsLongLong(number);
    Py_DECREF(number);
    return total;
}

/* The arguments of decode_run after the queue. */
typedef struct {
    const uint8_t *beginning;
    Py_ssize_t length, longest;
    PyObject *options, *atoms; /* NULL: the payload has a version byte */
    const Settings *settings;
    long stream;
} Run;

/* The payload of a packet that is in the run, a new reference. NULL without an exception if it is
 * not in the run, or does not decode. */
static PyObject *payload_of(State *state, const Run *run, PyObject *packet, Py_ssize_t *size) {
    if (!PyTuple_Check(packet) || PyTuple_GET_SIZE(packet) != 2) {
        return NULL;
    }
    PyObject *data = PyTuple_GET_ITEM(packet, 0), *stream = PyTuple_GET_ITEM(packet, 1);
    if (!PyBytes_CheckExact(data) || !PyLong_CheckExact(stream) ||
        PyLong_AsLong(stream) != run->stream) {
        return NULL;
    }
    *size = PyBytes_GET_SIZE(data);
    if (*size > run->longest || *size < run->length ||
        memcmp(PyBytes_AS_STRING(data), run->beginning, (size_t)run->length) != 0) {
        return NULL;
    }
    Py_buffer view;
    Py_ssize_t pos = run->length;
    get_bytes(data, &view);
    PyObject *payload =
        run->atoms == NULL
            ? decode_versioned(state, data, &view, &pos, run->options, run->settings)
            : decode_term(state, data, view.buf, view.len, &pos, run->settings, run->atoms);
    if (payload != NULL && pos != view.len) {
        Py_CLEAR(payload);
    }
    return payload;
}

PyDoc_STRVAR(decode_run_doc,
             "decode_run(queue, popleft, beginning, stream, longest, options, atoms, most, room,\n"
             "           overhead)\n--\n\n"
             "Decodes the payloads of packets in a row that begin alike. See quicdist.etf.decode.");

static PyObject *core_decode_run(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                 PyObject *keywords) {
    static const char *const names[] = {"queue",   "popleft", "beginning", "stream", "longest",
                                        "options", "atoms",   "most",      "room",   "overhead"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[10] = {NULL};
    if (sort_arguments("decode_run", names, 10, 10, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    if (!PyBytes_CheckExact(arguments[2]) ||
        (arguments[6] != Py_None && !PyTuple_CheckExact(arguments[6]))) {
        PyErr_SetString(PyExc_TypeError, "decode_run() requires bytes and a tuple of atoms");
        return NULL;
    }
    PyObject *queue = arguments[0];
    Settings settings;
    Run run = {
        .beginning = (const uint8_t *)PyBytes_AS_STRING(arguments[2]),
        .length = PyBytes_GET_SIZE(arguments[2]),
        .stream = PyLong_AsLong(arguments[3]),
        .longest = PyNumber_AsSsize_t(arguments[4], NULL),
        .options = arguments[5],
        .atoms = arguments[6] == Py_None ? NULL : arguments[6],
        .settings = read_options(state, arguments[5], &settings),
    };
    Py_ssize_t most = PyNumber_AsSsize_t(arguments[7], NULL);
    Py_ssize_t room = PyNumber_AsSsize_t(arguments[8], NULL);
    Py_ssize_t overhead = PyNumber_AsSsize_t(arguments[9], NULL);
    PyObject *entries = run.settings == NULL || PyErr_Occurred() ? NULL : PyList_New(0);
    Py_ssize_t consumed = 0, total = 0, left = entries == NULL ? 0 : PySequence_Size(queue);
    while (entries != NULL && left-- > 0 && PyList_GET_SIZE(entries) < most && total <= room) {
        PyObject *packet = PySequence_GetItem(queue, 0);
        Py_ssize_t size = 0;
        PyObject *payload = packet == NULL ? NULL : payload_of(state, &run, packet, &size);
        int64_t weight = payload == NULL ? -1 : find_footprint(state, payload);
        Py_XDECREF(packet);
        if (weight < 0) {
            Py_XDECREF(payload);
            break;
        }
        weight += overhead;
        PyObject *entry = Py_BuildValue("NL", payload, (long long)weight);
        PyObject *first = entry == NULL ? NULL : PyObject_CallNoArgs(arguments[1]);
        if (first == NULL || PyList_Append(entries, entry) < 0) {
            Py_CLEAR(entries);
        }
        Py_XDECREF(first);
        Py_XDECREF(entry);
        consumed += size;
        total += weight;
    }
    if (entries != NULL && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_Clear(); /* the packet is still in the queue */
        } else {
            Py_CLEAR(entries);
        }
    }
    return entries == NULL ? NULL : Py_BuildValue("Nnn", entries, consumed, total);
}

/* ---- encoding ---- */

#define LARGE 65536

/* Compresses a term. OTP compresses only if the result is shorter. Terms that are too large to be
 * decompressed are left uncompressed. Takes over the reference. */
static PyObject *compressed(State *state, PyObject *whole, const Settings *settings) {
    Py_ssize_t size = PyBytes_GET_SIZE(whole) - 1;
    if (size > settings->max_decompressed) {
        return whole;
    }
    PyObject *bare = PyMemoryView_FromMemory(PyBytes_AS_STRING(whole) + 1, size, PyBUF_READ);
    PyObject *packed = NULL;
    if (bare != NULL) {
        packed = PyObject_CallFunction(state->compress, "Oi", bare, settings->compression);
    }
    Py_XDECREF(bare);
    if (packed == NULL || !PyBytes_Check(packed)) {
        Py_XDECREF(packed);
        Py_DECREF(whole);
        return NULL;
    }
    if (PyBytes_GET_SIZE(packed) + 5 < size && (uint64_t)size <= UINT32_MAX) {
        uint8_t head[6] = {VERSION, COMPRESSED};
        put_u32(head + 2, (uint32_t)size);
        Py_DECREF(whole);
        whole = PyBytes_FromStringAndSize((const char *)head, sizeof head);
        PyBytes_Concat(&whole, packed);
    }
    Py_DECREF(packed);
    return whole;
}

PyDoc_STRVAR(encode_doc,
             "encode(term, options=...)\n--\n\n"
             "Encodes `term` with the version byte first.\n\n"
             "Raises EtfEncodeError if the term has no Erlang form or exceeds the limits.");

static PyObject *core_encode(PyObject *module, PyObject *const *given, Py_ssize_t count,
                             PyObject *keywords) {
    static const char *const names[] = {"term", "options"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[2] = {NULL};
    if (sort_arguments("encode", names, 2, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[1] == NULL ? state->default_options : arguments[1];
    Settings room;
    const Settings *settings = read_options(state, options, &room);
    if (settings == NULL) {
        return NULL;
    }
    PyObject *whole = encode_term(state, arguments[0], options, settings, NULL, 1, ALL_IN_ONE, NULL);
    return whole != NULL && settings->compression ? compressed(state, whole, settings) : whole;
}

PyDoc_STRVAR(encode_bare_doc,
             "encode_bare(term, options=..., refs=None)\n--\n\n"
             "Encodes `term` without the version byte.\n\n"
             "With `refs`, an atom is written as ATOM_CACHE_REF `refs[atom]`. An unknown atom is\n"
             "added with the next number. After 255 atoms, unknown atoms are written in full. After\n"
             "an error, `refs` may contain unused atoms. Raises EtfEncodeError like `encode`.");

static PyObject *core_encode_bare(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                  PyObject *keywords) {
    static const char *const names[] = {"term", "options", "refs"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[3] = {NULL};
    if (sort_arguments("encode_bare", names, 3, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[1] == NULL ? state->default_options : arguments[1];
    PyObject *refs = arguments[2] == Py_None ? NULL : arguments[2];
    Settings room;
    const Settings *settings = read_options(state, options, &room);
    if (settings == NULL) {
        return NULL;
    }
    if (refs != NULL && !PyDict_CheckExact(refs)) {
        return PyObject_CallFunctionObjArgs(state->encode_all, arguments[0], options, refs, NULL);
    }
    return encode_term(state, arguments[0], options, settings, refs, 0, ALL_IN_ONE, NULL);
}

/* Reads the minimum size of a binary that is a separate part. Returns -1 with an exception. */
static int get_large(PyObject *object, Py_ssize_t *large) {
    *large = LARGE;
    if (object != NULL) {
        *large = PyNumber_AsSsize_t(object, NULL);
        if (*large == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    if (*large >= ALL_IN_ONE) {
        *large = ALL_IN_ONE - 1;
    }
    return 0;
}

PyDoc_STRVAR(encode_parts_doc,
             "encode_parts(term, options=..., large=65536)\n--\n\n"
             "Encodes `term` like `encode`, but returns the result as parts to be joined.\n\n"
             "A `bytes` object or read-only memoryview of at least `large` bytes in `term` is a\n"
             "separate part and is not copied. Writable buffers such as bytearray are copied. A\n"
             "compressed term is one part. Raises EtfEncodeError like `encode`.");

static PyObject *core_encode_parts(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                   PyObject *keywords) {
    static const char *const names[] = {"term", "options", "large"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[3] = {NULL};
    if (sort_arguments("encode_parts", names, 3, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[1] == NULL ? state->default_options : arguments[1];
    Settings room;
    Py_ssize_t large;
    const Settings *settings = read_options(state, options, &room);
    if (settings == NULL || get_large(arguments[2], &large) < 0) {
        return NULL;
    }
    if (!settings->compression) {
        return encode_term(state, arguments[0], options, settings, NULL, 1, large, NULL);
    }
    PyObject *whole = encode_term(state, arguments[0], options, settings, NULL, 1, ALL_IN_ONE, NULL);
    if (whole != NULL) {
        whole = compressed(state, whole, settings);
    }
    return whole == NULL ? NULL : Py_BuildValue("[N]", whole);
}

PyDoc_STRVAR(encode_bare_parts_doc,
             "encode_bare_parts(term, options=..., refs=None, large=65536)\n--\n\n"
             "Encodes `term` like `encode_bare`, but returns the result as parts like "
             "`encode_parts`.");

static PyObject *core_encode_bare_parts(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                        PyObject *keywords) {
    static const char *const names[] = {"term", "options", "refs", "large"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[4] = {NULL};
    if (sort_arguments("encode_bare_parts", names, 4, 1, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[1] == NULL ? state->default_options : arguments[1];
    PyObject *refs = arguments[2] == Py_None ? NULL : arguments[2];
    Settings room;
    Py_ssize_t large;
    const Settings *settings = read_options(state, options, &room);
    if (settings == NULL || get_large(arguments[3], &large) < 0) {
        return NULL;
    }
    if (refs != NULL && !PyDict_CheckExact(refs)) {
        return PyObject_CallFunction(state->encode_all_parts, "OOOn", arguments[0], options, refs,
                                     large);
    }
    return encode_term(state, arguments[0], options, settings, refs, 0, large, NULL);
}

PyDoc_STRVAR(encode_frame_doc,
             "encode_frame(term, options, refs, atoms, prefixes, most)\n--\n\n"
             "Encodes a payload as the frame of a message, with its u32 length, if\n"
             "`prefixes[atoms]` is known, and otherwise like `encode_bare_parts`. See\n"
             "quicdist.etf.encode.");

static PyObject *core_encode_frame(PyObject *module, PyObject *const *given, Py_ssize_t count,
                                   PyObject *keywords) {
    static const char *const names[] = {"term", "options", "refs", "atoms", "prefixes", "most"};
    State *state = PyModule_GetState(module);
    PyObject *arguments[6] = {NULL};
    if (sort_arguments("encode_frame", names, 6, 6, given, count, keywords, arguments) < 0) {
        return NULL;
    }
    PyObject *options = arguments[1];
    PyObject *refs = arguments[2] == Py_None ? NULL : arguments[2];
    Framing framing = {refs, arguments[3], arguments[4], PyNumber_AsSsize_t(arguments[5], NULL)};
    if (framing.most == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if ((refs != NULL && !PyDict_CheckExact(refs)) || !PyTuple_CheckExact(framing.atoms) ||
        !PyDict_CheckExact(framing.prefixes)) {
        PyErr_SetString(PyExc_TypeError, "encode_frame() requires dicts and a tuple of atoms");
        return NULL;
    }
    Settings room;
    const Settings *settings = read_options(state, options, &room);
    if (settings == NULL) {
        return NULL;
    }
    PyObject *made = encode_term(state, arguments[0], options, settings, refs, 0, LARGE, &framing);
    if (made == NULL || !PyList_CheckExact(made) || PyList_GET_SIZE(made) != 1 ||
        !PyBytes_CheckExact(PyList_GET_ITEM(made, 0))) {
        return made;
    }
    /* The parts are those of encode.py, or there is no frame. */
    PyObject *only = PyList_GET_ITEM(made, 0);
    PyObject *frame = make_frame(&framing, PyBytes_AS_STRING(only), PyBytes_GET_SIZE(only));
    if (frame != NULL || PyErr_Occurred()) {
        Py_SETREF(made, frame);
    }
    return made;
}

/* ---- records ---- */

PyObject *record_new(const Record *record, PyObject **fields) {
    PyObject *object = NULL;
    int complete = 1;
    for (int i = 0; i < record->count; i++) {
        complete &= fields[i] != NULL;
    }
    if (complete) {
        object = record->type->tp_alloc(record->type, 0);
    }
    for (int i = 0; i < record->count; i++) {
        if (object != NULL) {
            FIELD(record, object, i) = fields[i];
        } else {
            Py_XDECREF(fields[i]);
        }
    }
    return object;
}

/* Finds the offsets of the slots of the class `name`. */
static int find_record(Record *record, PyObject *terms, const char *name, const char *const *fields,
                       int count) {
    PyObject *type = PyObject_GetAttrString(terms, name);
    if (type == NULL) {
        return -1;
    }
    record->type = (PyTypeObject *)type;
    record->count = count;
    if (!PyType_Check(type)) {
        PyErr_Format(PyExc_ImportError, "%s is not a class", name);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        PyObject *slot = PyObject_GetAttrString(type, fields[i]);
        if (slot == NULL) {
            return -1;
        }
        PyMemberDef *member = Py_IS_TYPE(slot, &PyMemberDescr_Type)
                                  ? ((PyMemberDescrObject *)slot)->d_member
                                  : NULL;
        Py_DECREF(slot); /* the class keeps it */
        if (member == NULL || member->type != T_OBJECT_EX) {
            PyErr_Format(PyExc_ImportError, "%s.%s is not a slot", name, fields[i]);
            return -1;
        }
        record->slot[i] = member->offset;
    }
    return 0;
}

static int find_records(State *state) {
    static const char *const atom[] = {"encoded"};
    static const char *const pid[] = {"node", "id", "serial", "creation"};
    static const char *const port[] = {"node", "id", "creation"};
    static const char *const reference[] = {"node", "ids", "creation"};
    static const char *const bits[] = {"data", "bits"};
    static const char *const improper[] = {"items", "tail"};
    static const char *const export[] = {"module", "function", "arity"};
    static const char *const fun[] = {"module",   "arity", "uniq", "index",  "old_index",
                                      "old_uniq", "pid",   "free", "encoded"};
    static const char *const native[] = {"module", "name", "names", "values", "flags"};
    PyObject *terms = PyImport_ImportModule("quicdist.etf.terms");
    if (terms == NULL) {
        return -1;
    }
    int failed = find_record(&state->atom, terms, "Atom", atom, 1) < 0 ||
                 find_record(&state->pid, terms, "Pid", pid, 4) < 0 ||
                 find_record(&state->port, terms, "Port", port, 3) < 0 ||
                 find_record(&state->reference, terms, "Reference", reference, 3) < 0 ||
                 find_record(&state->bits, terms, "BitString", bits, 2) < 0 ||
                 find_record(&state->improper, terms, "ImproperList", improper, 2) < 0 ||
                 find_record(&state->export, terms, "Export", export, 3) < 0 ||
                 find_record(&state->fun, terms, "Fun", fun, 9) < 0 ||
                 find_record(&state->native, terms, "NativeRecord", native, 5) < 0;
    Py_DECREF(terms);
    return failed ? -1 : 0;
}

/* ---- the module ---- */

static int find_name(const char *module, const char *name, PyObject **place) {
    PyObject *imported = PyImport_ImportModule(module);
    if (imported == NULL) {
        return -1;
    }
    *place = PyObject_GetAttrString(imported, name);
    Py_DECREF(imported);
    return *place == NULL ? -1 : 0;
}

static int find_atoms(State *state) {
    PyObject *type = (PyObject *)state->atom.type;
    if (!PyType_IsSubtype(state->atom.type, &PyUnicode_Type)) {
        PyErr_SetString(PyExc_ImportError, "Atom is not a subclass of str");
        return -1;
    }
    if ((state->atom_true = PyObject_CallFunction(type, "s", "true")) == NULL ||
        (state->atom_false = PyObject_CallFunction(type, "s", "false")) == NULL ||
        (state->atom_undefined = PyObject_CallFunction(type, "s", "undefined")) == NULL ||
        (state->atom_nil = PyObject_CallFunction(type, "s", "nil")) == NULL) {
        return -1;
    }
    return 0;
}

static int make_tables(State *state) {
    for (int i = 0; i < 256; i++) {
        state->small[i] = PyLong_FromLong(i);
        if (state->small[i] == NULL) {
            return -1;
        }
    }
    state->atoms = PyMem_Calloc(ATOM_SETS, sizeof(AtomSet));
    state->pids = PyMem_Calloc(PID_SETS, sizeof(PidSet));
    state->keys = PyMem_Calloc(KEYS_KEPT, sizeof(PyObject *));
    state->spare_output = PyMem_Malloc(SPARE_OUTPUT);
    if (state->atoms == NULL || state->pids == NULL || state->keys == NULL ||
        state->spare_output == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    /* The secret hash seed of Python, so that a peer cannot choose colliding entries. */
    PyObject *text = PyUnicode_FromString("quicdist.etf._compiled");
    if (text == NULL) {
        return -1;
    }
    state->seed = (uint64_t)PyObject_Hash(text) * 0x9E3779B97F4A7C15u;
    Py_DECREF(text);
    return 0;
}

static int core_exec(PyObject *module) {
    State *state = PyModule_GetState(module);
    if (make_tables(state) < 0 || find_records(state) < 0 || find_atoms(state) < 0 ||
        find_name("quicdist.etf.errors", "EtfDecodeError", &state->decode_error) < 0 ||
        find_name("quicdist.etf.errors", "EtfEncodeError", &state->encode_error) < 0 ||
        find_name("quicdist.etf.maps", "KeyRefused", &state->key_refused) < 0 ||
        find_name("quicdist.etf.maps", "make_map", &state->make_map) < 0 ||
        find_name("quicdist.etf.footprint", "footprint", &state->footprint) < 0 ||
        find_name("quicdist.etf.decode", "_inflate", &state->inflate) < 0 ||
        find_name("quicdist.etf.decode", "_view", &state->view) < 0 ||
        find_name("quicdist.etf.encode", "_Refused", &state->refused) < 0 ||
        find_name("quicdist.etf.encode", "_encode", &state->encode_all) < 0 ||
        find_name("quicdist.etf.encode", "_encode_parts", &state->encode_all_parts) < 0 ||
        find_name("quicdist.etf.encode", "_leaf", &state->leaf) < 0 ||
        find_name("quicdist.etf.encode", "_numbers", &state->numbers) < 0 ||
        find_name("quicdist.etf.encode", "_open", &state->open) < 0 ||
        find_name("quicdist.etf.encode", "_check_keys", &state->check_keys) < 0 ||
        find_name("quicdist.etf.encode", "_fun_head", &state->fun_head) < 0 ||
        find_name("quicdist.etf.settings", "DEFAULT", &state->default_options) < 0 ||
        find_name("struct", "error", &state->struct_error) < 0 ||
        find_name("zlib", "compress", &state->compress) < 0 ||
        parse_options(state, state->default_options, &state->default_settings) < 0) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_SetString(PyExc_ImportError, "built for another version of quicdist");
        }
        return -1;
    }
    return 0;
}

#define EACH_OBJECT(DO)                                                                          \
    DO(atom.type) DO(pid.type) DO(port.type) DO(reference.type) DO(bits.type) DO(improper.type)  \
    DO(export.type) DO(fun.type) DO(native.type) DO(encode_error) DO(atom_true) DO(atom_false) DO(atom_undefined) DO(atom_nil)    \
    DO(decode_error) DO(key_refused) DO(refused) DO(struct_error) DO(make_map) DO(footprint) DO(inflate) DO(view) \
    DO(compress) DO(encode_all) DO(encode_all_parts) DO(leaf) DO(numbers) DO(open)               \
    DO(check_keys) DO(fun_head) DO(default_options)

static int core_traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0;
    }
#define VISIT(object) Py_VISIT(state->object);
    EACH_OBJECT(VISIT)
#undef VISIT
    for (int i = 0; i < OPTIONS_KEPT; i++) {
        Py_VISIT(state->known_options[i]);
    }
    for (int set = 0; state->atoms != NULL && set < ATOM_SETS; set++) {
        for (int way = 0; way < ATOM_WAYS; way++) {
            Py_VISIT(state->atoms[set].atoms[way]);
        }
    }
    for (int set = 0; state->pids != NULL && set < PID_SETS; set++) {
        for (int way = 0; way < PID_WAYS; way++) {
            Py_VISIT(state->pids[set].pids[way].pid);
        }
    }
    return 0;
}

static int core_clear(PyObject *module) {
    State *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0;
    }
    for (int set = 0; state->atoms != NULL && set < ATOM_SETS; set++) {
        for (int way = 0; way < ATOM_WAYS; way++) {
            Py_CLEAR(state->atoms[set].atoms[way]);
        }
    }
    for (int set = 0; state->pids != NULL && set < PID_SETS; set++) {
        for (int way = 0; way < PID_WAYS; way++) {
            Py_CLEAR(state->pids[set].pids[way].pid);
        }
    }
    for (int i = 0; state->keys != NULL && i < KEYS_KEPT; i++) {
        Py_CLEAR(state->keys[i]);
    }
    for (int i = 0; i < 256; i++) {
        Py_CLEAR(state->small[i]);
    }
#define CLEAR(object) Py_CLEAR(state->object);
    EACH_OBJECT(CLEAR)
#undef CLEAR
    for (int i = 0; i < OPTIONS_KEPT; i++) {
        Py_CLEAR(state->known_options[i]);
    }
    return 0;
}

static void core_free(void *module) {
    State *state = PyModule_GetState(module);
    core_clear(module);
    if (state != NULL) {
        PyMem_Free(state->atoms);
        PyMem_Free(state->pids);
        PyMem_Free(state->keys);
        PyMem_Free(state->spare);
        PyMem_Free(state->spare_output);
        state->atoms = NULL;
        state->pids = NULL;
        state->keys = NULL;
        state->spare = NULL;
        state->spare_output = NULL;
    }
}

#define FUNCTION(name)                                                                   \
    {                                                                                    \
        #name, (PyCFunction)(void (*)(void))core_##name, METH_FASTCALL | METH_KEYWORDS,  \
            name##_doc                                                                   \
    }

static PyMethodDef functions[] = {
    FUNCTION(decode),
    FUNCTION(decode_prefix),
    FUNCTION(decode_bare),
    FUNCTION(decode_run),
    FUNCTION(split_frames),
    FUNCTION(encode),
    FUNCTION(encode_bare),
    FUNCTION(encode_parts),
    FUNCTION(encode_bare_parts),
    FUNCTION(encode_frame),
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "quicdist.etf._compiled",
    .m_doc = "The compiled codec of quicdist.etf. See quicdist.etf.decode and quicdist.etf.encode.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
