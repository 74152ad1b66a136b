/* ops/explain.c - cross-entropy by numbers, as a spreadsheet would have it. */
#include <math.h>
#include <stdio.h>
#include "core/memory.h"
#include "ops/ops.h"

typedef struct { const real *x; int64_t classes, target; double largest, sum; } row;

/* exp(x - largest): the sum does not overflow, and softmax is the same. */
static double power(const row *r, int64_t c)
{
    return exp((double)r->x[c] - r->largest);
}

static double print_class(const row *r, int64_t c, const char *const *names)
{
    const double p = power(r, c) / r->sum, product = c == r->target ? -log(p) : 0;
    char number[24];
    snprintf(number, sizeof number, "%" PRId64, c);
    printf("%-26.26s%10.4f%12.4f%10.4f%9d%13.4f\n", names ? names[c] : number, (double)r->x[c], exp((double)r->x[c]), p,
           c == r->target, product);
    return product;
}

static double print_table(row *r, const char *const *names)
{
    double loss = 0, plain = 0;
    r->largest = -INFINITY, r->sum = 0;
    for (int64_t c = 0; c < r->classes; c++) r->largest = fmax(r->largest, (double)r->x[c]);
    for (int64_t c = 0; c < r->classes; c++) r->sum += power(r, c), plain += exp((double)r->x[c]);
    printf("%-26s%10s%12s%10s%9s%13s\n", "class", "output", "exp", "softmax", "target", "-t log(p)");
    for (int64_t c = 0; c < r->classes; c++) loss += print_class(r, c, names);
    printf("%-26s%10s%12.4f%10.4f%9d%13.4f\n", "sum", "", plain, 1.0, 1, loss);
    return loss;
}

double ag_explain_cross_entropy_(const char *at, ag_tensor *logits, ag_tensor *target, ag_explain_opts o)
{
    AG_SCOPE;
    AG_NO_GRAD;
    const bool one = logits->ndim == 1;
    const int64_t classes = logits->ndim ? logits->shape[logits->ndim - 1] : 0;
    ag_tensor *x = ag_contiguous_(at, ag_to(ag_cast_(at, logits, AG_F32), AG_CPU));
    ag_tensor *t = ag_contiguous_(at, ag_to(ag_cast_(at, target, AG_I64), AG_CPU));
    char a[96], b[96];
    if (logits->ndim < 1 || logits->ndim > 2 || ag_numel(t) != (one ? 1 : logits->shape[0]) || !classes)
        ag_fail(at, "ag_explain_cross_entropy: logits [C] and one class, or [N, C] and [N]; got %s and %s",
                ag_describe(logits, a, sizeof a), ag_describe(target, b, sizeof b));
    double sum = 0;
    const int64_t n = ag_numel(t);
    for (int64_t i = 0; i < n; i++) {
        row r = { .x = (const real *)x->data + i * classes, .classes = classes, .target = ((const int64_t *)t->data)[i] };
        if (r.target < 0 || r.target >= classes)
            ag_fail(at, "ag_explain_cross_entropy: target[%" PRId64 "] is class %" PRId64 " of %" PRId64, i, r.target, classes);
        if (!one) printf("%srow %" PRId64 "\n", i ? "\n" : "", i);
        sum += print_table(&r, o.names);
    }
    if (!one) printf("\nloss, the mean of %" PRId64 " rows: %.4f\n", n, sum / (double)n);
    return sum / (double)n;
}
