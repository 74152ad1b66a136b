/* core/pickle.h - Python's pickle as a tree of plain values. Nothing is imported and nothing is called: a name that is
 * not known to the reader of the tree is refused where it stands. Not part of the public interface. */
#ifndef AG_PICKLE_H
#define AG_PICKLE_H
#include "core/io.h"

typedef enum {
    AG_PICKLE_NONE, AG_PICKLE_BOOL, AG_PICKLE_INT, AG_PICKLE_FLOAT, AG_PICKLE_STRING, AG_PICKLE_TUPLE, AG_PICKLE_LIST,
    AG_PICKLE_DICT, AG_PICKLE_NAME, AG_PICKLE_CALL, AG_PICKLE_PERSISTENT
} ag_pickle_kind;

typedef struct ag_pickle {
    ag_pickle_kind kind;
    const char *text;               /* of a string, not ended by 0; of a name or a call, as in the list of names */
    int64_t n, integer;             /* bytes of text, or the number of items; value of an int or bool */
    double number;
    struct ag_pickle **items;       /* of a tuple or list; of a dict key, value, key, value; of a call or persistent id
                                       one tuple, the arguments */
    int64_t room;
} ag_pickle;

/* The value of a pickle of protocol 2, in the innermost scope. names: what may be named, "module.attribute", ended by
 * NULL; of these "collections.OrderedDict" makes a dict, those that begin with '!' may be called (without the '!'), the
 * others be arguments. bytes must outlive the value. A value may contain itself. Fails, naming path and what is wanted. */
const ag_pickle *ag_pickle_read(const char *at, const char *path, ag_bytes bytes, const char *const *names);
/* The same of a pickle at the beginning of bytes, which then begin behind it. */
const ag_pickle *ag_pickle_read_first(const char *at, const char *path, ag_bytes *bytes, const char *const *names);

#endif
