/* Decoding of terms: quicdist/etf/decode.py in C.
 *
 * The decoder uses one loop and two stacks on the heap. `values` contains the complete terms of
 * all containers under construction, `frames` the index of the first term of each container. No
 * object is visible to Python before it is complete. Memory for a length is allocated only if the
 * input has that many bytes.
 */
#include "decoder.h"

#define FEW_KEYS 64 /* quicdist.etf.maps.FEW */

#define FEW_BYTES 256

/* quicdist.etf.decode._VIEWED and _PINNED */
#define VIEWED 65536
#define PINNED 8

/* Raises EtfDecodeError if a container with `more` terms at `place` is nested too deeply or has
 * too many terms. Returns 0 otherwise. */
static int check_limits(Decoder *d, const uint8_t *place, int64_t more) {
    if (!d->guarded) {
        return 0;
    }
    d->terms += more;
    if (d->depth > d->settings->max_depth) {
        FAIL(d, place, "nested deeper than %lld, Limits.max_depth",
             (long long)d->settings->max_depth);
        return -1;
    }
    if (d->terms > d->settings->max_terms) {
        FAIL(d, place, "more than %lld terms, Limits.max_terms",
             (long long)d->settings->max_terms);
        return -1;
    }
    return 0;
}

/* A term takes at least one byte, so input with fewer bytes than the limits cannot exceed them. */
static void set_guard(Decoder *d, const uint8_t *place) {
    d->guarded = d->end - place > d->settings->max_depth - d->depth ||
                 d->end - place > d->settings->max_terms - d->terms;
}

/* ---- containers ---- */

/* Releases the values from `base` on. */
static void drop(Decoder *d, Py_ssize_t base) {
    while (d->count > base) {
        Py_DECREF(d->values[--d->count]);
    }
}

/* A tuple or list of the values from `base` on. It takes over their references. */

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

/* Whether nearly all keys have different hashes, -1 on failure.
 *
 * The keys are counted in a table with a secret seed, so that a peer cannot predict its slots. */
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

static int is_plain_key(const State *state, PyTypeObject *type) {
    return type == &PyBytes_Type || type == state->atom.type || type == &PyUnicode_Type ||
           type == &PyLong_Type || type == &PyFloat_Type || type == &PyBool_Type;
}

/* Whether a dict with these keys is fast even if a peer chose them, because the hash of numbers
 * in Python is predictable. 0 also on failure. */
static int are_harmless(State *state, PyObject **items, Py_ssize_t count) {
    int numbers = 0;
    for (Py_ssize_t i = 0; i < count; i += 2) {
        if (!is_plain_key(state, Py_TYPE(items[i]))) {
            return 0;
        }
        numbers |= PyLong_CheckExact(items[i]) || PyFloat_CheckExact(items[i]);
    }
    return !numbers || are_spread(state, items, count / 2) == 1;
}

/* The dict of the pairs in `items`, or NULL without an exception if a dict is not possible. Then
 * quicdist.etf.maps.make_map creates the map. */
static PyObject *dict_of(State *state, PyObject **items, Py_ssize_t count) {
    if (count / 2 > FEW_KEYS && !are_harmless(state, items, count)) {
        return NULL;
    }
#if PY_VERSION_HEX < 0x030D0000
    /* A presized dict avoids resizing, which takes a quarter of the time. */
    PyObject *dict = count > 10 ? _PyDict_NewPresized(count / 2) : PyDict_New();
#else
    PyObject *dict = PyDict_New();
#endif
    for (Py_ssize_t i = 0; dict != NULL && i < count; i += 2) {
        if (!is_plain_key(state, Py_TYPE(items[i])) ||
            PyDict_SetItem(dict, items[i], items[i + 1]) < 0) {
            Py_CLEAR(dict);
        }
    }
    if (dict != NULL && PyDict_GET_SIZE(dict) != count / 2) {
        Py_CLEAR(dict);
    }
    return dict;
}

/* The map of the pairs from `base` on. `hard` means that a key is a container. */
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

static inline int push(Decoder *d, PyObject *value);

/* Reads the head of the native record at d->at as four values: module, name, names of the fields,
 * flags. Returns the number of values that follow, or -1. */
static int64_t open_native(Decoder *d) {
    const uint8_t *p = d->at;
    if (d->end - p < 6) {
        truncated(d);
        return -1;
    }
    int64_t count = get_u32(p + 1);
    if (d->guarded && d->terms + 2 * count > d->settings->max_terms) {
        FAIL(d, p, "more than %lld terms, Limits.max_terms", (long long)d->settings->max_terms);
        return -1;
    }
    PyObject *flags = d->state->small[p[5]];
    d->at = p + 6;
    PyObject *module = read_atom(d, "the module of a native record");
    if (module == NULL || push(d, module) < 0) {
        return -1;
    }
    PyObject *name = read_atom(d, "the name of a native record");
    if (name == NULL || push(d, name) < 0) {
        return -1;
    }
    PyObject *names = PyList_New(0);
    for (int64_t i = 0; names != NULL && i < count; i++) {
        PyObject *field = read_atom(d, "the name of a field");
        if (field == NULL || PyList_Append(names, field) < 0) {
            Py_CLEAR(names);
        }
        Py_XDECREF(field);
    }
    if (names != NULL) {
        Py_SETREF(names, PyList_AsTuple(names));
    }
    if (names == NULL || push(d, names) < 0 || push(d, new_reference(flags)) < 0) {
        return -1;
    }
    return count;
}

/* The native record whose values start at `base`, after its head. */
static PyObject *close_native(Decoder *d, Py_ssize_t base) {
    PyObject *values = take_tuple(d, base);
    if (values == NULL) {
        return NULL;
    }
    PyObject **head = d->values + base - 4;
    PyObject *fields[] = {head[0], head[1], head[2], values, head[3]};
    d->count -= 4;
    return record_new(&d->state->native, fields);
}

/* Reads the head of the fun at d->at onto d->funs. Returns the number of free variables. */
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
    fun.lossy = d->text || d->views || d->strings != AS_LIST;
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
        unexpected(d, d->at, "the creator of a fun", "a pid");
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

/* The innermost fun, whose free variables are the values from `base` on. */
static PyObject *close_fun(Decoder *d, Py_ssize_t base) {
    FunHead fun = d->funs[--d->funs_count];
    Py_ssize_t end = d->at - d->data;
    if (fun.lossy) {
        d->text = d->settings->text;
        d->views = d->settings->views;
        d->strings = d->settings->strings;
        d->guarded = fun.guarded;
        d->terms = fun.terms + (end - fun.start); /* an upper bound */
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

/* Doubles an array, which is initially inside the decoder. */
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

/* Reads up to `most` numbers at d->at, until another kind of term or an error that the caller
 * reports. Returns the number of them, or -1 on failure. */
static inline Py_ssize_t read_run(Decoder *d, int64_t most) {
    const uint8_t *p = d->at, *const end = d->end;
    const int64_t most_bytes = d->settings->max_integer;
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
        } else if (*p == SMALL_BIG_EXT && end - p >= 11 && p[1] == 8 && most_bytes >= 8) {
            uint64_t number = (uint64_t)p[10] << 56 | (uint64_t)p[9] << 48 | (uint64_t)p[8] << 40 |
                              (uint64_t)p[7] << 32 | (uint64_t)p[6] << 24 | (uint64_t)p[5] << 16 |
                              (uint64_t)p[4] << 8 | p[3];
            if (p[2] && number > (uint64_t)1 << 63) {
                break;
            }
            value = p[2] ? PyLong_FromLongLong((int64_t)(0 - number))
                         : PyLong_FromUnsignedLongLong(number);
            p += 11;
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

/* Whether a binary of `size` bytes in the container `top` becomes a view: it is large, and not in a
 * map key. A key is read while an odd number of terms is left. */
static int is_viewed(const Decoder *d, const Frame *top, Py_ssize_t size) {
    if (size < VIEWED || d->end - d->data > size * PINNED ||
        ((top->kind == MAP || top->kind == HARD_MAP) && (top->left & 1))) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < d->depth; i++) {
        const Frame *frame = &d->frames[i];
        if ((frame->kind == MAP || frame->kind == HARD_MAP) && (frame->left & 1)) {
            return 0;
        }
    }
    return 1;
}

/* Reads terms until the outermost one is complete. It is then values[0]. */
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
            case SMALL_BIG_EXT:
                d->at = p;
                count = read_run(d, top.left + 1);
                if (count < 0) {
                    return -1;
                }
                if (count == 0 && *p == SMALL_BIG_EXT) {
                    READ(read_rare(d));
                    break;
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
                    value = key_term(d, p, size);
                } else if (d->views && is_viewed(d, &top, size)) {
                    value = view_term(d, p, size);
                } else {
                    value = binary_term(d, p, size);
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
                top.left++; /* without elements, the list is only its tail */
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
            case RECORD_EXT:
                d->at = p;
                count = open_native(d);
                if (count < 0) {
                    return -1;
                }
                p = d->at;
                kind = NATIVE;
                if (count) {
                    d->terms += d->guarded ? count : 0; /* its names; `open` counts the values */
                    goto open;
                }
                value = close_native(d, d->count);
                break;
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
                d->text = d->views = 0;
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
            } else if (*p == LIST_EXT) { /* more elements of the same list */
                HAVE(5);
                top.left = get_u32(p + 1);
                p += 5;
                if (check_limits(d, p, top.left) < 0) {
                    return -1;
                }
                continue;
            } else if (*p == STRING_EXT) { /* the last elements of the same list */
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
        case NATIVE:
            value = close_native(d, top.base);
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

PyObject *decode_term(State *state, PyObject *source, const uint8_t *data, Py_ssize_t size,
                      Py_ssize_t *pos, const Settings *settings, PyObject *atoms) {
    Decoder d; /* without an initializer, which would clear the inline arrays */
    d.state = state;
    d.data = data;
    d.at = data + *pos;
    d.end = data + size;
    d.settings = settings;
    d.source = source;
    d.atoms = atoms;
    d.text = settings->text;
    d.views = settings->views;
    d.strings = settings->strings;
    d.terms = 0;
    d.values = d.inline_values;
    d.count = 0;
    d.values_room = INLINE_VALUES;
    d.frames = d.inline_frames;
    d.depth = 0;
    d.frames_room = INLINE_FRAMES;
    d.funs = NULL;
    d.funs_count = d.funs_room = 0;
    set_guard(&d, d.at);
    /* Decoding creates no garbage cycles, so garbage collection is only overhead. A few bytes are
     * decoded to fewer objects than start one. */
    int collecting = size - *pos > FEW_BYTES && PyGC_Disable();
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
