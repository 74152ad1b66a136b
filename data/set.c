/* data/set.c - data sets from columns, tensors and functions. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "data/set.h"

void ag_data_set_drop(void *arg)
{
    data_set *s = arg;
    ag_data_buffer_release(s->rows);
    ag_data_buffer_release(s->store);
    for (int k = 0; k < 2; k++) if (s->tensor[k]) ag_release(s->tensor[k]);
    ag_free(s);
}

static data_set *new_set(int64_t n)
{
    data_set *s = ag_alloc(1, sizeof *s);
    s->n = n;
    ag_defer(ag_data_set_drop, s);
    return s;
}

int64_t ag_data_size(const data_set *s) { return s->n; }
int64_t ag_data_source_row(const data_set *s, int64_t i)
{
    return s->rows ? ((const int64_t *)s->rows->data)[i] : i;
}
int64_t ag_data_field_bytes(const data_field *f) { return f->count * (int64_t)ag_dtype_size(f->dtype); }

/* ---- from columns -------------------------------------------------------------------------------------- */

typedef struct { int n; const data_column *column[64]; bool ints, fits; } column_list;

static void fail_text(const char *at, const data_table *t, const data_column *c) AG_NORETURN;
static void fail_text(const char *at, const data_table *t, const data_column *c)
{
    int64_t i;
    double f;
    for (int64_t r = 0; r < t->rows; r++) {
        const char *s = c->v.s[r];
        const data_number_kind k = ag_data_scan_number(s, (int64_t)strlen(s), &i, &f);
        if (k == DATA_NOT_NUMBER || k == DATA_IS_NAN)
            ag_fail(at,
                    "data_from_table: %s: %s is not a number; correct it, or data_categorify(table, \"%s\")",
                    ag_data_place(t, r, c), ag_data_show(s, (int64_t)strlen(s)), c->name);
    }
    ag_fail(
        at,
        "data_from_table: column \"%s\" is text; data_categorify(table, \"%s\"), or .types = \"%s:float\"",
        c->name, c->name, c->name);
}

static column_list find_columns(const char *at, const data_table *t, const char *names, const char *option)
{
    AG_SCOPE;
    const data_names list = ag_data_split_names(at, names);
    column_list l = { .n = list.n, .ints = true, .fits = true };
    if (l.n > 64) ag_fail(at, "data_from_table: %s lists %d columns; at most 64", option, l.n);
    int ints = 0;
    for (int k = 0; k < l.n; k++) {
        const data_column *c = l.column[k] = ag_data_column(at, t, list.name[k]);
        if (c->type == DATA_TEXT) fail_text(at, t, c);
        ints += c->type != DATA_FLOAT;
        for (int64_t i = 0; c->type == DATA_FLOAT && i < t->rows; i++)
            if (isnan(c->v.f[i]))
                ag_fail(at, "data_from_table: %s: the cell is empty; fill it in, or leave the row out",
                        ag_data_place(t, i, c));
    }
    l.ints = ints == l.n;
    if (ints && !l.ints && option[1] == 'x')
        ag_fail(at,
                "data_from_table: .x = \"%s\" mixes integers with floats; read the integers with .types = "
                "\"name:float\"",
                names);
    return l;
}

static void check_ids(const char *at, const data_table *t, column_list *l)
{
    for (int k = 0; k < l->n; k++) {
        const data_column *c = l->column[k];
        for (int64_t i = 0; c->type == DATA_INT && i < t->rows; i++) {
            if (c->v.i[i] < 0)
                ag_fail(at,
                        "data_from_table: %s: %" PRId64
                        " is negative, and no id; a quantity is read with .types = \"%s:float\"",
                        ag_data_place(t, i, c), c->v.i[i], c->name);
            l->fits &= c->v.i[i] <= INT32_MAX;
        }
    }
}

static data_field make_field(const column_list *l, bool integer, bool flat, int64_t *stride)
{
    data_field f = { .dtype = integer ? AG_I64 : AG_F32, .count = l->n, .narrow = integer && l->fits };
    if (!flat) f.shape = AG_SHAPE(l->n);
    const int64_t size = f.narrow ? 4 : (int64_t)ag_dtype_size(f.dtype);
    *stride = (*stride + size - 1) / size * size;
    f.stride = *stride;                         /* the offset in a record, until there is a store */
    *stride += size * l->n;
    return f;
}

/* Column k of the list into its place in every record. */
static void fill_column(char *out, int64_t stride, const data_field *f, const data_column *c, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++, out += stride) {
        const int64_t v = c->type == DATA_INT ? c->v.i[i] : c->type == DATA_CATEGORY ? c->v.code[i] : 0;
        if (f->narrow) *(int32_t *)(void *)out = (int32_t)v;
        else if (f->dtype == AG_I64) *(int64_t *)(void *)out = v;
        else *(real *)(void *)out = (real)(c->type == DATA_FLOAT ? c->v.f[i] : (double)v);
    }
}

static void fill_field(data_field *f, char *store, int64_t stride, const column_list *l, int64_t rows)
{
    const int64_t size = f->narrow ? 4 : (int64_t)ag_dtype_size(f->dtype);
    char *first = store + f->stride;
    f->base = first;
    f->stride = stride;
    for (int k = 0; k < l->n; k++) fill_column(first + k * size, stride, f, l->column[k], rows);
}

/* Every column that y does not name. */
static const char *other_columns(const char *at, const data_table *t, const char *y)
{
    const data_names list = y ? ag_data_split_names(at, y) : (data_names){ 0 };
    const char *x = "";
    for (int c = 0; c < t->n_columns; c++) {
        bool in_y = false;
        for (int k = 0; k < list.n; k++) in_y |= !strcmp(list.name[k], t->column[c].name);
        if (!in_y) x = ag_data_text_printf("%s%s%s", x, *x ? "," : "", t->column[c].name);
    }
    if (!*x) ag_fail(at, "data_from_table: no column is left for .x");
    return x;
}

data_set *ag_data_from_table_(const char *at, const data_table *t, data_from_table_opts opts)
{
    data_set *s = new_set(t->rows);
    AG_SCOPE;
    column_list x = find_columns(at, t, opts.x ? opts.x : other_columns(at, t, opts.y), ".x"), y = { 0 };
    if (x.ints) check_ids(at, t, &x);
    int64_t stride = 0;
    s->x = make_field(&x, x.ints, false, &stride);
    s->has_y = opts.y != NULL;
    if (s->has_y) {
        y = find_columns(at, t, opts.y, ".y");
        int categories = 0;
        for (int k = 0; k < y.n; k++) categories += y.column[k]->type == DATA_CATEGORY;
        if (categories && categories < y.n)
            ag_fail(at, "data_from_table: .y = \"%s\" mixes categories with numbers", opts.y);
        s->y = make_field(&y, categories > 0, y.n == 1, &stride);
    }
    const int64_t align =
        sizeof(int64_t) > 4 && ((!s->x.narrow && s->x.dtype == AG_I64) || sizeof(real) == 8) ? 8 : 4;
    stride = (stride + align - 1) / align * align;
    s->store = ag_data_buffer_new(t->rows, (size_t)stride);
    fill_field(&s->x, s->store->data, stride, &x, t->rows);
    if (s->has_y) fill_field(&s->y, s->store->data, stride, &y, t->rows);
    return s;
}

/* ---- from tensors and functions ------------------------------------------------------------------------ */

static data_field tensor_field(const char *at, ag_tensor **kept, ag_tensor *t, const char *name)
{
    if (t->ndim < 1 || t->shape[0] < 1) {
        char buf[96];
        ag_fail(at, "data_from_tensors: %s is %s; its first axis counts the samples, at least one", name,
                ag_describe(t, buf, sizeof buf));
    }
    AG_SCOPE;
    AG_NO_GRAD;
    t = ag_to_(at, t, AG_CPU);
    if (!ag_is_contiguous(t)) {
        ag_tensor *c = ag_empty_(at, t->dtype, ag_shape_of(t));
        ag_to_host_(at, t, t->dtype, c->data);
        t = c;
    }
    *kept = ag_retain(t);
    data_field f = { .dtype = t->dtype, .count = 1, .base = t->data };
    f.shape.ndim = t->ndim - 1;
    for (int k = 1; k < t->ndim; k++) f.count *= f.shape.dim[k - 1] = t->shape[k];
    f.stride = ag_data_field_bytes(&f);
    return f;
}

data_set *ag_data_from_tensors_(const char *at, ag_tensor *x, ag_tensor *y)
{
    if (y && (y->ndim < 1 || x->ndim < 1 || x->shape[0] != y->shape[0])) {
        char a[96], b[96];
        ag_fail(at, "data_from_tensors: x is %s, y is %s; their first axes count the same samples",
                ag_describe(x, a, sizeof a), ag_describe(y, b, sizeof b));
    }
    data_set *s = new_set(x->ndim ? x->shape[0] : 0);
    s->x = tensor_field(at, &s->tensor[0], x, "x");
    s->has_y = y != NULL;
    if (y) s->y = tensor_field(at, &s->tensor[1], y, "y");
    return s;
}

static data_field shaped_field(const char *at, ag_dtype dtype, ag_shape shape)
{
    data_field f = { .dtype = dtype, .shape = shape, .count = 1 };
    if (shape.ndim >= AG_MAX_DIMS)
        ag_fail(at, "data_from_function: samples of %d axes; at most %d", shape.ndim, AG_MAX_DIMS - 1);
    for (int k = 0; k < shape.ndim; k++) {
        if (shape.dim[k] < 1)
            ag_fail(at, "data_from_function: axis %d of a sample has size %" PRId64, k, shape.dim[k]);
        f.count = ag_mul_size(at, f.count, shape.dim[k]);
    }
    return f;
}

data_set *ag_data_from_function_(const char *at, int64_t n, data_get_fn get, data_function_opts opts)
{
    if (n < 1) ag_fail(at, "data_from_function: %" PRId64 " samples; at least one is wanted", n);
    data_set *s = new_set(n);
    s->x = shaped_field(at, opts.x_dtype, opts.x.ndim ? opts.x : AG_SHAPE(1));
    s->has_y = opts.has_y;
    if (s->has_y) s->y = shaped_field(at, opts.y_dtype, opts.y);
    s->get = get;
    s->arg = opts.arg;
    return s;
}

/* ---- parts of a set ------------------------------------------------------------------------------------ */

enum { COMPACT = 64 };      /* records up to a cache line are copied, so that drawing one is one access */

data_set *ag_data_subset_(const char *at, data_set *set, const int64_t *rows, int64_t n)
{
    data_set *s = ag_data_subset_make(at, set, rows, n);
    ag_defer(ag_data_set_drop, s);
    return s;
}

data_set *ag_data_subset_make(const char *at, const data_set *set, const int64_t *rows, int64_t n)
{
    if (n < 1)
        ag_fail(at, "data_subset: an empty part; give at least one of the %" PRId64 " samples", set->n);
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= set->n)
            ag_fail(at, "data_subset: sample %" PRId64 " of a set of %" PRId64 ", 0 .. %" PRId64, rows[i],
                    set->n, set->n - 1);
    data_set *s = ag_alloc(1, sizeof *s);
    s->n = n;
    s->x = set->x;
    s->y = set->y;
    s->has_y = set->has_y;
    s->get = set->get;
    s->arg = set->arg;
    s->refresh = set->refresh;
    s->pack = set->pack, s->pictures = set->pictures;
    s->picture_width = set->picture_width, s->picture_height = set->picture_height;
    s->rows = ag_data_buffer_new(n, sizeof(int64_t));
    int64_t *to = s->rows->data;
    for (int64_t i = 0; i < n; i++) to[i] = ag_data_source_row(set, rows[i]);
    if (set->store && set->x.stride <= COMPACT) {
        const char *from = set->store->data;
        const size_t size = (size_t)set->x.stride;
        s->store = ag_data_buffer_new(n, size);
        char *store = s->store->data;
        for (int64_t i = 0; i < n; i++) memcpy(store + (size_t)i * size, from + (size_t)rows[i] * size, size);
        s->x.base = store + (set->x.base - from);
        if (s->has_y) s->y.base = store + (set->y.base - from);
        return s;
    }
    s->indirect = true;
    if (set->store) s->store = ag_data_buffer_retain(set->store);
    for (int k = 0; k < 2; k++) if (set->tensor[k]) s->tensor[k] = ag_retain(set->tensor[k]);
    return s;
}
