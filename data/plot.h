/* data/plot.h - pictures of numbers, as PNG, drawn with cairo. A build without cairo fails, saying so. Files are replaced
 * atomically. */
#ifndef AG_PLOT_H
#define AG_PLOT_H
#include "data/image.h"
AG_BEGIN_DECLS

typedef struct { double x; const char *label; } data_plot_mark;
typedef struct {
    AG_NAMED_OPTIONS;
    const char *title, *x, *y;          /* of the picture and its axes */
    bool log_x;
    const data_plot_mark *marks;        /* vertical lines with a label */
    int n_marks;
} data_plot_opts;

#define data_plot_available ag_data_plot_available
bool ag_data_plot_available(void);      /* whether this build draws */

/* Lines through points, n of them, with a legend where they have names. Values that are not finite are left out. With
 * .log_x all x must be positive. */
typedef struct { const char *name; int64_t n; const double *x, *y; } data_plot_series;
#define data_plot_curves(path, n, ...) \
    ag_data_plot_curves_(AG_HERE, path, n, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_opts, __VA_ARGS__))
void ag_data_plot_curves_(const char *at, const char *path, int n, const data_plot_series *series, data_plot_opts opts);
/* One line through n points. */
#define data_plot_curve(path, n, xs, ...) \
    ag_data_plot_curve_(AG_HERE, path, n, xs, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_opts, __VA_ARGS__))
static inline void ag_data_plot_curve_(const char *at, const char *path, int64_t n, const double *x, const double *y,
                                       data_plot_opts opts)
{
    const data_plot_series one = { 0, n, x, y };
    ag_data_plot_curves_(at, path, 1, &one, opts);
}

/* n points with labels, which are moved until they do not overlap; one for which there is no room is left out. */
#define data_plot_scatter(path, n, xs, ys, ...) \
    ag_data_plot_scatter_(AG_HERE, path, n, xs, ys, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_opts, __VA_ARGS__))
void ag_data_plot_scatter_(const char *at, const char *path, int64_t n, const double *x, const double *y,
                           const char *const *labels, data_plot_opts opts);

/* Pictures side by side, row by row, each with a caption of up to three lines below it, which is cut where it does not fit;
 * .wrong ones in red. image: [height, width, 3] RGB.
 *   .columns  default: about as many as rows       .cell  the side of a picture in points (224); others are scaled to fit */
typedef struct { const data_image *image; const char *caption; bool wrong; } data_plot_picture;
typedef struct { AG_NAMED_OPTIONS; const char *title; int columns, cell; } data_plot_grid_opts;
#define data_plot_grid(path, n, ...) \
    ag_data_plot_grid_(AG_HERE, path, n, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_grid_opts, __VA_ARGS__))
void ag_data_plot_grid_(const char *at, const char *path, int n, const data_plot_picture *pictures, data_plot_grid_opts opts);

/* count [n, n]: how often class i (rows: actual) was taken for class j (columns: predicted), shaded by its share of the row.
 * Names of classes left and below. .title (fastai's plot_confusion_matrix) */
typedef struct { AG_NAMED_OPTIONS; const char *title; } data_plot_confusion_opts;
#define data_plot_confusion(path, n, count, ...) \
    ag_data_plot_confusion_(AG_HERE, path, n, count, AG_HEAD(__VA_ARGS__), AG_OPTS(data_plot_confusion_opts, __VA_ARGS__))
void ag_data_plot_confusion_(const char *at, const char *path, int n, const int64_t *count, const char *const *names,
                             data_plot_confusion_opts opts);

AG_END_DECLS
#endif
