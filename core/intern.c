/* core/intern.c - strings that stay: equal ones are one pointer, valid until the process ends. */
#include <pthread.h>
#include <string.h>
#include "core/engine.h"

enum { BUCKETS = 4096 };

typedef struct word { struct word *next; char text[]; } word;

static word *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t hash(const char *s)             /* FNV-1a */
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h ^ h >> 32;
}

const char *ag_intern(const char *s)
{
    const size_t size = strlen(s) + 1;
    word *fresh = ag_alloc((int64_t)(sizeof *fresh + size), 1), **at = &buckets[hash(s) % BUCKETS];
    memcpy(fresh->text, s, size);
    pthread_mutex_lock(&lock);
    while (*at && strcmp((*at)->text, s)) at = &(*at)->next;
    word *found = *at;
    if (!found) *at = fresh;
    pthread_mutex_unlock(&lock);
    if (!found) return fresh->text;
    ag_free(fresh);
    return found->text;
}
