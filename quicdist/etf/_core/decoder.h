/* What decode.c and its leaves share. */
#ifndef QUICDIST_ETF_DECODER_H
#define QUICDIST_ETF_DECODER_H

#include "core.h"

typedef enum { TOP, TUPLE, LIST, TAIL, MAP, HARD_MAP, FUN, NATIVE } Kind;

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

#define FAIL(d, place, ...) decode_failed((d)->state, (place) - (d)->data, __VA_ARGS__)

/* Refuses what needs `size` more bytes than there are. */
#define NEED(d, place, size)                       \
    do {                                           \
        if ((d)->end - (place) < (int64_t)(size)) { \
            return truncated(d);                   \
        }                                          \
    } while (0)

/* Raises what bytes that end too early are. */
void *truncated(Decoder *d);

/* Raises what a wrong tag at `place` is, where `what` was to be `wanted`. */
void *unexpected(Decoder *d, const uint8_t *place, const char *what, const char *wanted);

/* Makes the exception now set one of ours at `place`, if it is of class `kind`. */
void *translate(Decoder *d, PyObject *kind, const uint8_t *place);

/* The atom whose text this is; `tag` is where it began. */
PyObject *atom_of_text(Decoder *d, const uint8_t *tag, const uint8_t *text, size_t size,
                       int latin1);

/* The leaves: each reads at d->at and leaves it behind what it read. */

/* An atom as such, `true` and `false` too, where the format wants one as `what`. */
PyObject *read_atom(Decoder *d, const char *what);

/* The integer, at most 32 bits, that the format wants as `what`. */
PyObject *read_small(Decoder *d, const char *what);

PyObject *read_pid(Decoder *d);

/* A leaf that few messages have, or the error that there is none. */
PyObject *read_rare(Decoder *d);

/* The leaves whose bytes the caller has found: BINARY_EXT, that as a map's key, STRING_EXT. */

PyObject *binary_term(Decoder *d, const uint8_t *data, Py_ssize_t size);
PyObject *key_term(Decoder *d, const uint8_t *data, Py_ssize_t size);
PyObject *string_term(Decoder *d, const uint8_t *data, Py_ssize_t size);

/* The term that an atom is: `true` and `false` are bool. Takes over the reference. */
static inline PyObject *atom_term(State *state, PyObject *atom) {
    if (atom == state->atom_true || atom == state->atom_false) {
        PyObject *truth = atom == state->atom_true ? Py_True : Py_False;
        Py_DECREF(atom);
        return new_reference(truth);
    }
    return atom;
}

#endif
