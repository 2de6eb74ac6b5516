/* Declarations that all parts of the compiled core share.
 *
 * The core implements quicdist/etf/decode.py and quicdist/etf/encode.py in C, with the same terms,
 * bytes, errors and offsets. The reasons for the behavior are documented there. The term classes
 * are the Python classes of quicdist.etf.terms. Their objects are created and read through the
 * offsets of their slots, which are determined when the module is loaded.
 */
#ifndef QUICDIST_ETF_CORE_H
#define QUICDIST_ETF_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if SIZEOF_SIZE_T < 8
#error "the compiled core needs a 64-bit Py_ssize_t; use the pure Python codec instead"
#endif

#ifdef __GNUC__
#define NEVER_INLINE __attribute__((noinline))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define NEVER_INLINE
#define ALWAYS_INLINE inline
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

/* A class of quicdist.etf.terms with slots, and the offsets of the slots in its objects. */
#define MOST_FIELDS 9
typedef struct {
    PyTypeObject *type;
    int count;
    Py_ssize_t slot[MOST_FIELDS];
} Record;

/* A field of an object of a record, NULL if it is not set. */
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

/* The values of an Options object. */
typedef struct {
    int text;                           /* binaries that are UTF-8 become str */
    int views;                          /* large binaries become memoryviews */
    enum { AS_LIST, AS_BYTES, AS_STR } strings; /* the type that STRING_EXT decodes to */
    int64_t max_depth, max_terms, max_decompressed, max_integer, max_bytes;
    int native_records;                 /* whether they are encoded */
    int compression;
    PyObject *none;                     /* the atom for None, borrowed from the state */
} Settings;

/* The bounded caches of earlier terms. Each set replaces its oldest entry. */
#define ATOM_SETS 2048
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
    /* The Python functions for rare cases and errors. */
    PyObject *make_map, *footprint, *inflate, *view, *compress, *encode_all, *encode_all_parts, *leaf, *numbers, *open,
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

/* A new object of the class of `record`. Takes over the references in `fields`, also on failure. */
PyObject *record_new(const Record *record, PyObject **fields);

/* The values of `options`, in `room` unless they are the default options. NULL on failure. */
const Settings *read_options(State *state, PyObject *options, Settings *room);

/* The atom with this UTF-8 text, a new reference. Raises UnicodeDecodeError or ValueError. */
PyObject *find_atom(State *state, const uint8_t *text, size_t size);

/* The str of this UTF-8 text. Raises UnicodeDecodeError. */
PyObject *make_text(const uint8_t *data, size_t size);

/* A map key, bytes or with `text` str, a new reference. Raises UnicodeDecodeError. */
PyObject *find_key(State *state, const uint8_t *data, size_t size, int text);

/* A pid, a new reference. */
PyObject *find_pid(State *state, PyObject *node, uint32_t id, uint32_t serial, uint32_t creation);

/* Decodes the term at `*pos` and moves `*pos` after it. `atoms` is a list, a tuple or NULL. Views
 * are of `source`, whose bytes are `data`. */
PyObject *decode_term(State *state, PyObject *source, const uint8_t *data, Py_ssize_t size,
                      Py_ssize_t *pos, const Settings *settings, PyObject *atoms);

/* Raises EtfDecodeError and returns NULL. The format is that of PyUnicode_FromFormat. */
void *decode_failed(State *state, Py_ssize_t offset, const char *format, ...);

#define ALL_IN_ONE PY_SSIZE_T_MAX

/* The arguments of encode_frame. */
typedef struct {
    PyObject *refs;     /* a dict, or NULL */
    PyObject *atoms;    /* a tuple: the keys of `refs` before the call */
    PyObject *prefixes; /* a dict from such tuples to bytes */
    Py_ssize_t most;
} Framing;

/* The frame of an encoded payload, and `refs` as before the call. NULL without an exception if the
 * payload has no known prefix, or if prefix and payload have more than `most` bytes. */
PyObject *make_frame(const Framing *framing, const void *payload, Py_ssize_t size);

/* The encoded bytes of `term`. `refs` is the dict of atoms that become references, or NULL. Unless
 * `large` is ALL_IN_ONE, a list of parts, in which binaries of at least `large` bytes are separate
 * and not copied. With `framing`, the frame as bytes if `make_frame` makes one of a single part. */
PyObject *encode_term(State *state, PyObject *term, PyObject *options, const Settings *settings,
                      PyObject *refs, int with_version, Py_ssize_t large, const Framing *framing);

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

/* An inline memcmp for few bytes. */
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
