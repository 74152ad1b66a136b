/* data/plot.h - pictures of numbers, as PNG, drawn with cairo. A build without cairo fails, saying so. Files are replaced
 * atomically. */
#ifndef AG_PLOT_H
#define AG_PLOT_H
#include "core/base.h"
AG_BEGIN_DECLS

typedef struct { double x; const char *label; } data_plot_mark;
typedef struct {
    AG_NAMED_OPTIONS;
    const char *title, *x, *y;          /* of the picture and its axes */
    bool log_x;
    const data_plot_mark *marks;        /* vertical lines with a label */
    int n_marks;
} data_plot_opts;

/* A line through n points. With .log_x all x must be positive. */
#define data_plot_curve(path, n, xs, ...) \
    ag_data_plot_curve_(AG_HERE, path, n, xs, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_opts, __VA_ARGS__))
void ag_data_plot_curve_(const char *at, const char *path, int64_t n, const double *x, const double *y, data_plot_opts opts);

/* n points with labels, which are moved until they do not overlap; one for which there is no room is left out. */
#define data_plot_scatter(path, n, xs, ys, ...) \
    ag_data_plot_scatter_(AG_HERE, path, n, xs, ys, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_opts, __VA_ARGS__))
void ag_data_plot_scatter_(const char *at, const char *path, int64_t n, const double *x, const double *y,
                           const char *const *labels, data_plot_opts opts);

AG_END_DECLS
#endif
