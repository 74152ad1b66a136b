/* core/json.h - as much JSON as the file formats need: strict, without recursion. Not part of the public interface. */
#ifndef AG_JSON_H
#define AG_JSON_H
#include "core/base.h"

/* A place in a text. Strings are decoded into `store`, which has at least as many bytes as the text, plus one. */
typedef struct { const char *at, *path, *begin, *p, *end; char *store; } ag_json;

/* Fails unless the text is UTF-8. */
ag_json ag_json_begin(const char *at, const char *path, const char *text, int64_t size, char *store);
void ag_json_fail(const ag_json *j, const char *fmt, ...) AG_PRINTF(2, 3) AG_NORETURN;    /* path: byte: message */
void ag_json_expect(ag_json *j, char c);
bool ag_json_accept(ag_json *j, char c);            /* consumes c if it is next */
bool ag_json_more(ag_json *j, char close);          /* after an item: ',' true, close false, else fails */
const char *ag_json_string(ag_json *j);
int64_t ag_json_integer(ag_json *j);                /* 0 or more */
bool ag_json_null(ag_json *j);                      /* consumes null if it is next */
enum { AG_JSON_DEPTH = 125 };                       /* serde's 128, less the header's own brackets */
void ag_json_skip(ag_json *j);                      /* any value, at most AG_JSON_DEPTH brackets deep */
void ag_json_end(ag_json *j);                       /* nothing but white space follows */

/* A growing text, in the innermost scope. */
typedef struct ag_json_writer ag_json_writer;
ag_json_writer *ag_json_writer_new(void);
void ag_json_put(ag_json_writer *w, const char *fmt, ...) AG_PRINTF(2, 3);
void ag_json_put_string(ag_json_writer *w, const char *s);      /* quoted and escaped */
int64_t ag_json_length(const ag_json_writer *w);
const char *ag_json_text(const ag_json_writer *w);

#endif
