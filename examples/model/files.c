/* files.c - files of named tensors: converted to safetensors, and compared. */
#include <math.h>
#include <string.h>
#include "core/weights.h"
#include "model.h"

/* ---- convert ------------------------------------------------------------------------------------------- */

static int64_t not_finite(const ag_tensor *t)
{
    int64_t n = 0;
    if (t->dtype != AG_F32 && t->dtype != AG_BF16) return 0;
    const ag_tensor *wide = ag_cast((ag_tensor *)(uintptr_t)t, AG_F32);
    for (int64_t i = 0; i < ag_numel(t); i++) n += !isfinite(((const real *)wide->data)[i]);
    return n;
}

static bool is_buffer(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && (!strcmp(dot, ".running_mean") || !strcmp(dot, ".running_var") || !strcmp(dot, ".num_batches_tracked"));
}

/* --as: the model's names instead of the file's. Both list parameters in the order of the computation, and so buffers. */
static void rename_as(const options *o, ag_named *all, int64_t n)
{
    nn_module *net = model_create(o->as, .classes = o->classes);
    const int64_t wanted = nn_named_count(net);
    ag_named *named = ag_alloc(wanted, sizeof *named);
    ag_defer(ag_free, named);
    nn_to_named(net, named);
    if (n != wanted) ag_fail(NULL, "%s: %" PRId64 " tensors; %s has %" PRId64, o->line.argument[0], n, o->as, wanted);
    for (int buffers = 0; buffers < 2; buffers++)
        for (int64_t i = 0, k = 0; i < n; i++) {
            char a[96], b[96];
            if (is_buffer(all[i].name) != buffers) continue;
            while (k < n && is_buffer(named[k].name) != buffers) k++;
            const bool fits = k < n && ag_numel(all[i].tensor) == ag_numel(named[k].tensor) &&
                              all[i].tensor->ndim == named[k].tensor->ndim;
            if (!fits)
                ag_fail(NULL, "%s: tensor '%s' is %s, where %s has '%s', %s", o->line.argument[0], all[i].name,
                        ag_describe(all[i].tensor, a, sizeof a), o->as, k < n ? named[k].name : "no more",
                        k < n ? ag_describe(named[k].tensor, b, sizeof b) : "");
            all[i].name = named[k++].name;
        }
}

int convert(const options *o)
{
    const char *from = o->line.argument[0], *to = o->line.argument[1];
    const ag_weights w = ag_weights_open_(NULL, from);
    const int64_t n = ag_weights_count(w);
    char commas[32];
    int64_t numbers = 0, size = 0;
    ag_named *all = ag_alloc(n, sizeof *all);
    ag_defer(ag_free, all);
    for (int64_t i = 0; i < n; i++) {
        all[i] = (ag_named){ ag_weights_name(w, i), ag_weights_get_(NULL, w, ag_weights_name(w, i)) };
        const int64_t bad = o->finite ? not_finite(all[i].tensor) : 0;
        if (bad) ag_fail(NULL, "%s: %" PRId64 " numbers of tensor '%s' are NaN or infinite", from, bad, all[i].name);
        numbers += ag_numel(all[i].tensor);
        size += ag_numel(all[i].tensor) * (int64_t)ag_dtype_size(all[i].tensor->dtype);
    }
    if (o->as) rename_as(o, all, n);
    ag_safetensors_save_(NULL, to, n, all, 0, NULL);
    const char *choice = ag_weights_choice(w);
    printf("%s: %" PRId64 " tensors%s%s, %s numbers, %.1f MB\n", to, n, *choice ? " of " : "", choice,
           with_commas(numbers, commas), (double)size / 1e6);
    return 0;
}

/* ---- diff ---------------------------------------------------------------------------------------------- */

typedef struct { int64_t compared, differ, only_a, only_b, other_shape; double worst; const char *worst_name; } tally;

static bool same_shape(ag_shape a, ag_shape b)
{
    bool same = a.ndim == b.ndim;
    for (int i = 0; same && i < a.ndim; i++) same = a.dim[i] == b.dim[i];
    return same;
}

/* The largest |a - b|, and into *size the largest |a| or |b|. NaN equals NaN and is infinitely far from all else. */
static double distance(ag_tensor *a, ag_tensor *b, double *size)
{
    double most = 0;
    const real *p = ag_cast(a, AG_F32)->data, *q = ag_cast(b, AG_F32)->data;
    *size = 0;
    for (int64_t i = 0; i < ag_numel(a); i++) {
        const double x = p[i], y = q[i];
        const bool same = x == y || (isnan(x) && isnan(y));
        if (!same) most = fmax(most, isfinite(x - y) ? fabs(x - y) : INFINITY);
        if (isfinite(x) && fabs(x) > *size) *size = fabs(x);
        if (isfinite(y) && fabs(y) > *size) *size = fabs(y);
    }
    return most;
}

static void print_shape(const char *what, ag_shape s)
{
    ag_tensor t = { .ndim = s.ndim };
    char text[128];
    for (int i = 0; i < s.ndim; i++) t.shape[i] = s.dim[i];
    printf("%s%s", what, strchr(ag_describe(&t, text, sizeof text), '['));
}

static void compare(const options *o, ag_weights a, ag_weights b, const char *name, tally *t)
{
    AG_SCOPE;
    double size;
    const ag_shape p = ag_weights_shape(a, name), q = ag_weights_shape(b, name);
    if (!same_shape(p, q)) {
        t->other_shape++;
        printf(o->tsv ? "%s\tshape" : "%-40s is of another shape: ", name);
        print_shape(o->tsv ? "\t" : "", p);
        print_shape(o->tsv ? "\t" : " and ", q);
        printf("\n");
        return;
    }
    const double d = distance(ag_weights_get_(NULL, a, name), ag_weights_get_(NULL, b, name), &size);
    const double relative = d > 0 ? d / size : 0;
    const bool differs = d > o->tolerance * size;
    t->compared++, t->differ += differs;
    if (relative > t->worst) t->worst = relative, t->worst_name = name;
    if (o->tsv) printf("%s\t%s\t%.9g\t%.9g\t%.3e\n", name, differs ? "differs" : "same", size, d, relative);
    else if (differs) printf("%-40s differs by %.3g of %.3g, relatively %.2e\n", name, d, size, relative);
}

static void one_sided(const options *o, const char *name, const char *file, const char *side)
{
    if (o->tsv) printf("%s\tonly in %s\n", name, side);
    else printf("%-40s is only in %s\n", name, file);
}

int diff(const options *o)
{
    const ag_weights a = ag_weights_open_(NULL, o->line.argument[0]), b = ag_weights_open_(NULL, o->line.argument[1]);
    tally t = { 0 };
    for (int64_t i = 0; i < ag_weights_count(a); i++) {
        const char *name = ag_weights_name(a, i);
        if (ag_weights_has(b, name)) compare(o, a, b, name, &t);
        else t.only_a++, one_sided(o, name, o->line.argument[0], "A");
    }
    for (int64_t i = 0; i < ag_weights_count(b); i++)
        if (!ag_weights_has(a, ag_weights_name(b, i)))
            t.only_b++, one_sided(o, ag_weights_name(b, i), o->line.argument[1], "B");
    if (!o->tsv) {
        printf("%" PRId64 " tensors compared, %" PRId64 " differ", t.compared, t.differ);
        if (t.worst_name) printf(" (most, relatively %.2e, '%s')", t.worst, t.worst_name);
        printf("; %" PRId64 " of another shape, %" PRId64 " only in A, %" PRId64 " only in B\n", t.other_shape, t.only_a,
               t.only_b);
    }
    return t.differ || t.other_shape || t.only_a || t.only_b;
}
