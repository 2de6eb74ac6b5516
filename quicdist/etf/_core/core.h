/* What the parts of the compiled core share.
 *
 * The core does what quicdist/etf/decode.py and quicdist/etf/encode.py do, faster: the same terms,
 * the same bytes, the same errors at the same offsets. Those two say why things are as they are;
 * here it is only said how. The Python types of the terms are theirs, too: their objects are made
 * and read through the offsets of their slots, which are looked up when the module is loaded.
 */
#ifndef QUICDIST_ETF_CORE_H
#define QUICDIST_ETF_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if SIZEOF_SIZE_T < 8
#error "lengths of 32 bits need a wider Py_ssize_t: pure Python does the work here"
#endif

enum {
    VERSION = 131,
    RECORD_EXT = 67,
    NEW_FLOAT_EXT = 70,
    BIT_BINARY_EXT = 77,
    COMPRESSED = 80,
    ATOM_CACHE_REF = 82,
    NEW_PID_EXT = 88,
    NEW_PORT_EXT = 89,
    NEWER_REFERENCE_EXT = 90,
    SMALL_INTEGER_EXT = 97,
    INTEGER_EXT = 98,
    FLOAT_EXT = 99,
    ATOM_EXT = 100,
    REFERENCE_EXT = 101,
    PORT_EXT = 102,
    PID_EXT = 103,
    SMALL_TUPLE_EXT = 104,
    LARGE_TUPLE_EXT = 105,
    NIL_EXT = 106,
    STRING_EXT = 107,
    LIST_EXT = 108,
    BINARY_EXT = 109,
    SMALL_BIG_EXT = 110,
    LARGE_BIG_EXT = 111,
    NEW_FUN_EXT = 112,
    EXPORT_EXT = 113,
    NEW_REFERENCE_EXT = 114,
    SMALL_ATOM_EXT = 115,
    MAP_EXT = 116,
    FUN_EXT = 117,
    ATOM_UTF8_EXT = 118,
    SMALL_ATOM_UTF8_EXT = 119,
    V4_PORT_EXT = 120,
    LOCAL_EXT = 121,
};

/* A class of quicdist.etf.terms with slots, and where those lie in its objects. */
#define MOST_FIELDS 9
typedef struct {
    PyTypeObject *type;
    int count;
    Py_ssize_t slot[MOST_FIELDS];
} Record;

/* The field of a record's object; NULL if it was never set. */
#define FIELD(record, object, field) \
    (*(PyObject **)((char *)(object) + (record)->slot[field]))

enum { ATOM_ENCODED };
enum { PID_NODE, PID_ID, PID_SERIAL, PID_CREATION };
enum { PORT_NODE, PORT_ID, PORT_CREATION };
enum { REFERENCE_NODE, REFERENCE_IDS, REFERENCE_CREATION };
enum { BITS_DATA, BITS_BITS };
enum { IMPROPER_ITEMS, IMPROPER_TAIL };
enum { NATIVE_MODULE, NATIVE_NAME, NATIVE_NAMES, NATIVE_VALUES, NATIVE_FLAGS };
enum { EXPORT_MODULE, EXPORT_FUNCTION, EXPORT_ARITY };
enum {
    FUN_MODULE,
    FUN_ARITY,
    FUN_UNIQ,
    FUN_INDEX,
    FUN_OLD_INDEX,
    FUN_OLD_UNIQ,
    FUN_PID,
    FUN_FREE,
    FUN_ENCODED,
};

/* What an Options object says. */
typedef struct {
    int text;                           /* binaries that are UTF-8 become str */
    enum { AS_LIST, AS_BYTES, AS_STR } strings; /* what STRING_EXT becomes */
    int64_t max_depth, max_terms, max_decompressed, max_integer, max_bytes;
    int native_records;                 /* whether they are written */
    int compression;
    PyObject *none;                     /* the atom that None is; borrowed from the state */
} Settings;

/* What was met before. Bounded: each set forgets its oldest entry for a new one. */
#define ATOM_SETS 512
#define ATOM_WAYS 8
#define ATOM_BYTES_KEPT 63
typedef struct {
    uint64_t hashes[ATOM_WAYS];
    PyObject *atoms[ATOM_WAYS];
    unsigned oldest;
} AtomSet;

#define PID_SETS 1024
#define PID_WAYS 4
typedef struct {
    uint32_t id, serial, creation;
    PyObject *pid;
} KnownPid;
typedef struct {
    KnownPid pids[PID_WAYS];
    unsigned oldest;
} PidSet;

#define SPARE_ROOM 65536
#define SPARE_OUTPUT (256 * 1024)

#define OPTIONS_KEPT 4

#define KEYS_KEPT 4096
#define KEY_BYTES_KEPT 32

typedef struct {
    Record atom, pid, port, reference, bits, improper, export, fun, native;
    PyObject *atom_true, *atom_false, *atom_undefined, *atom_nil;
    PyObject *small[256]; /* the integers of SMALL_INTEGER_EXT */
    PyObject *decode_error, *encode_error, *key_refused, *refused, *struct_error;
    /* Python's part of the work: what is rare, and what ends in an error. */
    PyObject *make_map, *inflate, *compress, *encode_all, *encode_all_parts, *leaf, *numbers, *open,
        *check_keys, *fun_head;
    PyObject *default_options;
    Settings default_settings;
    PyObject *known_options[OPTIONS_KEPT];
    Settings known_settings[OPTIONS_KEPT];
    unsigned oldest_options;
    uint64_t seed;
    AtomSet *atoms;
    PidSet *pids;
    PyObject **keys;
    PyObject **spare; /* room for the values of the next decoding, or NULL */
    Py_ssize_t spare_room;
    uint8_t *spare_output; /* SPARE_OUTPUT bytes; NULL while they are in use */
} State;

/* A new object of `record`'s class; takes over the references in `fields`, on failure too. */
PyObject *record_new(const Record *record, PyObject **fields);

/* What `options` says, in `settings`. */
int read_options(State *state, PyObject *options, Settings *settings);

/* The atom of this UTF-8, a new reference. Fails with UnicodeDecodeError, ValueError. */
PyObject *find_atom(State *state, const uint8_t *text, size_t size);

/* The str of this UTF-8. Fails with UnicodeDecodeError. */
PyObject *make_text(const uint8_t *data, size_t size);

/* The key of a map, bytes or (`text`) str, a new reference. Fails with UnicodeDecodeError. */
PyObject *find_key(State *state, const uint8_t *data, size_t size, int text);

/* The pid, a new reference. */
PyObject *find_pid(State *state, PyObject *node, uint32_t id, uint32_t serial, uint32_t creation);

/* The term at `*pos`, which is then behind it. `atoms`: a list or tuple, or NULL for none. */
PyObject *decode_term(State *state, const uint8_t *data, Py_ssize_t size, Py_ssize_t *pos,
                      const Settings *settings, PyObject *atoms);

/* Raises EtfDecodeError and returns NULL; the format is PyUnicode_FromFormat's. */
void *decode_failed(State *state, Py_ssize_t offset, const char *format, ...);

#define ALL_IN_ONE PY_SSIZE_T_MAX

/* The bytes of `term`. `refs`: the dict of atoms that become references, or NULL. Unless `large` is
 * ALL_IN_ONE: a list of them, in which binaries of so many bytes stand as they are. */
PyObject *encode_term(State *state, PyObject *term, PyObject *options, const Settings *settings,
                      PyObject *refs, int with_version, Py_ssize_t large);

static inline uint64_t load_u64(const void *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static inline uint32_t load_u32(const void *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* memcmp of few bytes, inline. */
static inline int same_bytes(const uint8_t *one, const uint8_t *other, size_t size) {
    if (size > 16) {
        return memcmp(one, other, size) == 0;
    }
    if (size >= 8) {
        return ((load_u64(one) ^ load_u64(other)) |
                (load_u64(one + size - 8) ^ load_u64(other + size - 8))) == 0;
    }
    if (size >= 4) {
        return ((load_u32(one) ^ load_u32(other)) |
                (load_u32(one + size - 4) ^ load_u32(other + size - 4))) == 0;
    }
    for (size_t i = 0; i < size; i++) {
        if (one[i] != other[i]) {
            return 0;
        }
    }
    return 1;
}

static inline uint32_t get_u16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

static inline uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t get_u64(const uint8_t *p) {
    return (uint64_t)get_u32(p) << 32 | get_u32(p + 4);
}

static inline void put_u16(uint8_t *p, uint32_t n) {
    p[0] = (uint8_t)(n >> 8);
    p[1] = (uint8_t)n;
}

static inline void put_u32(uint8_t *p, uint32_t n) {
    p[0] = (uint8_t)(n >> 24);
    p[1] = (uint8_t)(n >> 16);
    p[2] = (uint8_t)(n >> 8);
    p[3] = (uint8_t)n;
}

static inline void put_u64(uint8_t *p, uint64_t n) {
    put_u32(p, (uint32_t)(n >> 32));
    put_u32(p + 4, (uint32_t)n);
}

static inline PyObject *new_reference(PyObject *object) {
    Py_INCREF(object);
    return object;
}

#endif
