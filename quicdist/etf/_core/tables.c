/* Caches of atoms, pids and map keys, so that most of them are not created again.
 *
 * The tables have a fixed size, so that a peer can neither exhaust the memory nor keep many atoms
 * alive. Releasing an entry may run Python code (the weak reference of the atom in
 * quicdist.etf.terms), which may enter this code again. A set is consistent before that happens.
 */
#include "core.h"

#define MIX 0x9E3779B97F4A7C15u

static inline uint64_t stir(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * MIX;
    return hash ^ hash >> 32;
}

static inline uint64_t hash_text(uint64_t seed, const uint8_t *text, size_t size) {
    uint64_t hash = seed ^ size, first = 0, last = 0;
    for (; size > 16; size -= 8, text += 8) {
        hash = stir(hash, load_u64(text));
    }
    if (size >= 8) {
        first = load_u64(text);
        last = load_u64(text + size - 8);
    } else if (size >= 4) {
        first = load_u32(text);
        last = load_u32(text + size - 4);
    } else if (size > 0) {
        first = text[0];
        last = (uint64_t)text[size >> 1] << 8 | text[size - 1];
    }
    hash = (hash ^ first) * MIX + (last ^ hash >> 32) * 0xD6E8FEB86659FD93u;
    return stir(hash ^ hash >> 32, 0);
}

static PyObject *make_atom(State *state, const uint8_t *text, size_t size) {
    PyObject *string = PyUnicode_DecodeUTF8((const char *)text, (Py_ssize_t)size, NULL);
    if (string == NULL) {
        return NULL;
    }
    PyObject *atom = PyObject_CallOneArg((PyObject *)state->atom.type, string);
    Py_DECREF(string);
    return atom;
}

/* The atom with this text in a set, a borrowed reference or NULL. */
static inline PyObject *known_atom(State *state, const AtomSet *set, uint64_t hash,
                                   const uint8_t *text, size_t size) {
    for (int way = 0; way < ATOM_WAYS; way++) {
        PyObject *atom = set->atoms[way];
        if (set->hashes[way] == hash && atom != NULL) {
            PyObject *encoded = FIELD(&state->atom, atom, ATOM_ENCODED);
            if (encoded != NULL && PyBytes_CheckExact(encoded) &&
                (size_t)PyBytes_GET_SIZE(encoded) == size + 2 &&
                same_bytes((uint8_t *)PyBytes_AS_STRING(encoded) + 2, text, size)) {
                return atom;
            }
        }
    }
    return NULL;
}

static inline int is_full(const AtomSet *set) { return set->atoms[ATOM_WAYS - 1] != NULL; }

PyObject *find_atom(State *state, const uint8_t *text, size_t size) {
    if (size > ATOM_BYTES_KEPT) {
        return make_atom(state, text, size);
    }
    /* An atom whose set is full goes to a second set. With a single one, a few of the sets overflow
     * long before the table is full, and their atoms replace each other. */
    uint64_t hash = hash_text(state->seed, text, size);
    AtomSet *set = &state->atoms[hash % ATOM_SETS];
    AtomSet *second = &state->atoms[(hash >> 32) % ATOM_SETS];
    PyObject *atom = known_atom(state, set, hash, text, size);
    if (atom == NULL && is_full(set)) {
        atom = known_atom(state, second, hash, text, size);
    }
    if (atom != NULL) {
        return new_reference(atom);
    }
    atom = make_atom(state, text, size);
    if (atom == NULL) {
        return NULL;
    }
    if (is_full(set) && !is_full(second)) {
        set = second;
    }
    unsigned way = set->oldest++ % ATOM_WAYS;
    PyObject *forgotten = set->atoms[way];
    set->hashes[way] = hash;
    set->atoms[way] = new_reference(atom);
    Py_XDECREF(forgotten);
    return atom;
}

PyObject *make_text(const uint8_t *data, size_t size) {
    uint64_t bits = 0;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        bits |= load_u64(data + i);
    }
    for (; i < size; i++) {
        bits |= data[i];
    }
    if (bits & 0x8080808080808080u || size < 2) { /* not ASCII, or one that Python shares */
        return PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)size, NULL);
    }
    PyObject *text = PyUnicode_New((Py_ssize_t)size, 127);
    if (text != NULL) {
        memcpy(PyUnicode_DATA(text), data, size);
    }
    return text;
}

PyObject *find_key(State *state, const uint8_t *data, size_t size, int text) {
    uint64_t hash = hash_text(state->seed, data, size);
    PyObject **place = &state->keys[(hash + (uint64_t)text) % KEYS_KEPT];
    PyObject *key = *place;
    if (key != NULL) {
        /* ASCII only: there the text is its bytes. */
        if (text ? PyUnicode_CheckExact(key) && (size_t)PyUnicode_GET_LENGTH(key) == size &&
                       same_bytes(PyUnicode_DATA(key), data, size)
                 : PyBytes_CheckExact(key) && (size_t)PyBytes_GET_SIZE(key) == size &&
                       same_bytes((uint8_t *)PyBytes_AS_STRING(key), data, size)) {
            return new_reference(key);
        }
    }
    key = text ? make_text(data, size)
               : PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    if (key != NULL && (!text || PyUnicode_IS_COMPACT_ASCII(key))) {
        Py_XSETREF(*place, new_reference(key));
    }
    return key;
}

static PyObject *make_pid(State *state, PyObject *node, uint32_t id, uint32_t serial,
                          uint32_t creation) {
    PyObject *fields[] = {
        new_reference(node),
        PyLong_FromUnsignedLong(id),
        PyLong_FromUnsignedLong(serial),
        PyLong_FromUnsignedLong(creation),
    };
    return record_new(&state->pid, fields);
}

PyObject *find_pid(State *state, PyObject *node, uint32_t id, uint32_t serial, uint32_t creation) {
    uint64_t hash = stir(state->seed, (uint64_t)(uintptr_t)node);
    hash = stir(hash, (uint64_t)id << 32 | serial);
    hash = stir(stir(hash, creation), 0);
    PidSet *set = &state->pids[hash % PID_SETS];
    for (int way = 0; way < PID_WAYS; way++) {
        KnownPid *known = &set->pids[way];
        if (known->pid != NULL && known->id == id && known->serial == serial &&
            known->creation == creation && FIELD(&state->pid, known->pid, PID_NODE) == node) {
            return new_reference(known->pid);
        }
    }
    PyObject *pid = make_pid(state, node, id, serial, creation);
    if (pid == NULL || PyUnicode_GET_LENGTH(node) > ATOM_BYTES_KEPT) {
        return pid;
    }
    KnownPid *place = &set->pids[set->oldest++ % PID_WAYS];
    PyObject *forgotten = place->pid;
    *place = (KnownPid){id, serial, creation, new_reference(pid)};
    Py_XDECREF(forgotten);
    return pid;
}
