/* ratings.c - ratings from the files people have. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "movielens.h"

typedef struct { const char *file, *names, *sep; bool header; const char *films, *film_names, *film_sep;
                 bool film_header; } layout;
static const layout layouts[] = {
    { "u.data", "user,item,rating,time", "\t", false, "u.item", "item,title,*", "|", false },             /* 100K */
    { "ratings.csv", "user,item,rating,time", ",", true, "movies.csv", "item,title,genres", ",", true },  /* latest, 20M, 25M */
    { "ratings.dat", "user,item,rating,time", "::", false, "movies.dat", "item,title,genres", "::", false }, /* 1M, 10M */
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool find_layout(const char *path, const layout **which, char *file, char *films, size_t size)
{
    const bool folder = ag_is_folder(path);
    for (int i = 0; i < LAYOUTS; i++) {
        if (folder) snprintf(file, size, "%s/%s", path, layouts[i].file);
        else snprintf(file, size, "%s", path);
        if (folder ? !ag_file_exists(file) : strcmp(base_name(path), layouts[i].file) != 0) continue;
        *which = &layouts[i];
        snprintf(films, size, "%.*s%s", (int)(base_name(file) - file), file, layouts[i].films);
        return true;
    }
    if (folder)
        ag_fail(NULL, "movielens: no ratings in the folder %s; it should hold u.data, ratings.csv or ratings.dat", path);
    return false;
}

/* A CSV of any kind: columns by their names in the header. */
static const char *column_for(const data_table *t, const char *path, const char *what, const char *const *aliases)
{
    for (int i = 0; aliases[i]; i++)
        if (data_has_column(t, aliases[i])) return aliases[i];
    ag_fail(NULL, "%s: no column for the %s; the header should name one '%s'", path, what, aliases[0]);
}

static data_table *read_plain(const char *path)
{
    static const char *const user[] = { "user", "userId", "user_id", "UserID", NULL };
    static const char *const item[] = { "item", "movieId", "movie_id", "item_id", "movie", "film", "title", "MovieID", NULL };
    static const char *const rating[] = { "rating", "Rating", "score", "stars", NULL };
    data_table *t = data_csv(path);
    const char *from[3] = { column_for(t, path, "user", user), column_for(t, path, "item", item),
                            column_for(t, path, "rating", rating) };
    if (data_column_type(t, from[2]) == DATA_TEXT) {        /* read as numbers, it says which cell is none */
        char types[256];
        snprintf(types, sizeof types, "%s:float", from[2]);
        t = data_csv(path, .types = types);
    }
    data_table *r = data_table_new(data_rows(t));
    for (int k = 0; k < 3; k++) {
        const char *to[3] = { "user", "item", "rating" };
        switch (data_column_type(t, from[k])) {
        case DATA_INT: data_add_ints(r, to[k], data_ints(t, from[k])); break;
        case DATA_FLOAT: data_add_floats(r, to[k], data_floats(t, from[k])); break;
        default: data_add_text(r, to[k], data_texts(t, from[k]));
        }
    }
    return r;
}

static void check(const ratings *r)
{
    const data_table *t = r->table;
    for (int64_t i = 0; i < data_rows(t); i++)
        if (!isfinite(data_number(t, i, "rating")))
            ag_fail(NULL, "%s: row %" PRId64 " has no rating; remove the row or give it one", r->source, i + 1);
    for (int k = 0; k < 2; k++) {
        const char *name = k ? "item" : "user";
        if (data_column_type(t, name) != DATA_INT) continue;
        const int64_t *id = data_ints(t, name);
        for (int64_t i = 0; i < data_rows(t); i++)
            if (id[i] < 0) ag_fail(NULL, "%s: row %" PRId64 " has the negative %s id %" PRId64, r->source, i + 1, name, id[i]);
    }
}

static ratings read_file(const char *path, const char *by)
{
    ratings r = { .item_column = "item" };
    char films[1100];
    const layout *l;
    if (!find_layout(path, &l, r.source, films, sizeof r.source)) {
        r.table = read_plain(path);
        check(&r);
        return r;
    }
    r.table = data_csv(r.source, .names = l->names, .sep = l->sep, .types = "rating:float",
                       .header = l->header ? DATA_HEADER_YES : DATA_HEADER_NO);
    check(&r);
    if (!ag_file_exists(films)) return r;
    r.films = data_csv(films, .names = l->film_names, .sep = l->film_sep, .index = "item",
                       .header = l->film_header ? DATA_HEADER_YES : DATA_HEADER_NO);
    if (!strcmp(by, "title")) {
        r.table = data_join(r.table, r.films, "item");
        r.item_column = "title";
    }
    return r;
}

static bool default_folder(char *path, size_t size)
{
    const char *env = getenv("AGRAD_DATA");
    const char *const places[] = { "../shared/data/ml-100k", "data/ml-100k", NULL };
    if (env && *env) {
        snprintf(path, size, "%s/ml-100k", env);
        if (ag_is_folder(path)) return true;
    }
    for (int i = 0; places[i]; i++)
        if (ag_is_folder(places[i])) {
            snprintf(path, size, "%s", places[i]);
            return true;
        }
    return false;
}

ratings ratings_read(const char *path, const char *by, bool quiet)
{
    char found[1024];
    const bool made_up = path && !strcmp(path, "made up");
    if (!made_up && (path || default_folder(found, sizeof found))) {
        const ratings r = read_file(path ? path : found, by);
        if (!quiet) printf("ratings: %s (%" PRId64 ")\n", r.source, data_rows(r.table));
        return r;
    }
    ratings r = { .source = "made up", .made_up = true, .table = data_synthetic() };
    r.item_column = !strcmp(by, "title") ? "title" : "item";
    if (!quiet)
        printf("ratings: made up, of the size of MovieLens 100K, from known tastes; `movielens download` gets the real ones\n");
    return r;
}

/* ---- batches ------------------------------------------------------------------------------------------- */

static data_set *samples(data_table *t, const char *item_column)
{
    char x[64];
    snprintf(x, sizeof x, "user,%s", item_column);
    return data_from_table(t, .x = x, .y = "rating");
}

batches ratings_batches(const ratings *r, const options *o)
{
    batches b = { 0 };
    data_set *train, *valid;
    if (o->valid_file) {
        ratings held_out = read_file(o->valid_file, o->by);
        b.n_users = data_categorify(r->table, "user");
        b.n_items = data_categorify(r->table, r->item_column);
        data_categorify(held_out.table, "user", .vocab = data_vocab_of(r->table, "user"));
        data_categorify(held_out.table, held_out.item_column, .vocab = data_vocab_of(r->table, r->item_column));
        train = samples(r->table, r->item_column);
        valid = samples(held_out.table, held_out.item_column);
    } else {
        const data_split_rows rows = data_random_rows(data_rows(r->table), o->valid, (uint64_t)o->seed);
        b.n_users = data_categorify(r->table, "user", .rows = rows.train, .n_rows = rows.n_train);
        b.n_items = data_categorify(r->table, r->item_column, .rows = rows.train, .n_rows = rows.n_train);
        data_split s = data_index_split(samples(r->table, r->item_column), rows.valid, rows.n_valid);
        train = s.train, valid = s.valid;
    }
    b.users = data_vocab_of(r->table, "user");
    b.items = data_vocab_of(r->table, r->item_column);
    b.train = data_loader_new(train, o->batch, .shuffle = true, .seed = (uint64_t)o->seed);
    b.valid = data_loader_new(valid, data_size(valid) < 4096 ? data_size(valid) : 4096);
    return b;
}
