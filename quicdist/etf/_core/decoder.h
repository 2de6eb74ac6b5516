/* Declarations that decode.c and decode_leaves.c share. */
#ifndef QUICDIST_ETF_DECODER_H
#define QUICDIST_ETF_DECODER_H

#include "core.h"

typedef enum { TOP, TUPLE, LIST, TAIL, MAP, HARD_MAP, FUN, NATIVE } Kind;

/* A container under construction. */
typedef struct {
    Py_ssize_t base; /* index of its first term in `values` */
    int64_t left;    /* terms left to read */
    Kind kind;
} Frame;

/* A fun whose free variables are being read. */
typedef struct {
    Py_ssize_t start, promised_end;
    PyObject *fields[MOST_FIELDS];
    int lossy; /* whether the options outside of the fun are lossy */
    int guarded;
    int64_t terms; /* the count before a lossy one */
} FunHead;

#define RUN 256
#define INLINE_VALUES 64
#define INLINE_FRAMES 16

typedef struct {
    State *state;
    const uint8_t *data, *at, *end; /* `at`: the read position of the functions below */
    const Settings *settings;
    PyObject *source; /* the object with the data */
    PyObject *atoms;
    int text, strings, views; /* the current settings, which are lossless inside a fun */
    int guarded;       /* whether the input is long enough to exceed the limits */
    int64_t terms;     /* number of terms of containers so far, if guarded */
    PyObject **values;
    Py_ssize_t count, values_room;
    Frame *frames;
    Py_ssize_t depth, frames_room;
    FunHead *funs;
    Py_ssize_t funs_count, funs_room;
    PyObject *inline_values[INLINE_VALUES];
    Frame inline_frames[INLINE_FRAMES];
} Decoder;

#define FAIL(d, place, ...) decode_failed((d)->state, (place) - (d)->data, __VA_ARGS__)

/* Raises EtfDecodeError if fewer than `size` bytes are left. */
#define NEED(d, place, size)                       \
    do {                                           \
        if ((d)->end - (place) < (int64_t)(size)) { \
            return truncated(d);                   \
        }                                          \
    } while (0)

/* Raises the error for truncated input. */
void *truncated(Decoder *d);

/* Raises the error for a wrong tag at `place`, where `what` must be `wanted`. */
void *unexpected(Decoder *d, const uint8_t *place, const char *what, const char *wanted);

/* Converts the current exception to EtfDecodeError at `place`, if it is of class `kind`. */
void *translate(Decoder *d, PyObject *kind, const uint8_t *place);

/* The atom with this text, whose tag is at `tag`. */
PyObject *atom_of_text(Decoder *d, const uint8_t *tag, const uint8_t *text, size_t size,
                       int latin1);

/* The leaves: each reads at d->at and moves it to the end of the term. */

/* An atom, also `true` and `false`, where the format requires one as `what`. */
PyObject *read_atom(Decoder *d, const char *what);

/* An integer of at most 32 bits, where the format requires one as `what`. */
PyObject *read_small(Decoder *d, const char *what);

PyObject *read_pid(Decoder *d);

/* A rare leaf, or the error for an unknown tag. */
PyObject *read_rare(Decoder *d);

/* Leaves whose bytes the caller has located: BINARY_EXT, BINARY_EXT as a map key, STRING_EXT. */

PyObject *binary_term(Decoder *d, const uint8_t *data, Py_ssize_t size);
PyObject *view_term(Decoder *d, const uint8_t *data, Py_ssize_t size);
PyObject *key_term(Decoder *d, const uint8_t *data, Py_ssize_t size);
PyObject *string_term(Decoder *d, const uint8_t *data, Py_ssize_t size);

/* The term of an atom: bool for `true` and `false`. Takes over the reference. */
static inline PyObject *atom_term(State *state, PyObject *atom) {
    if (atom == state->atom_true || atom == state->atom_false) {
        PyObject *truth = atom == state->atom_true ? Py_True : Py_False;
        Py_DECREF(atom);
        return new_reference(truth);
    }
    return atom;
}

#endif
