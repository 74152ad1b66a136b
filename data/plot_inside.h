/* data/plot_inside.h - what the files that draw share. Not part of the public interface. */
#ifndef AG_PLOT_INSIDE_H
#define AG_PLOT_INSIDE_H
#include "core/base.h"

#ifdef AG_HAVE_CAIRO
#include <cairo.h>
typedef struct { cairo_surface_t *surface; cairo_t *c; int width, height; } ag_picture;
ag_picture *ag_picture_new(const char *at, int width, int height);     /* white, in the innermost scope */
/* One line; anchor: which part of it lies left of x, 0 to 1. */
void ag_picture_text(const ag_picture *p, double x, double y, double anchor, const char *s);
void ag_picture_finish(const char *at, const char *path, const ag_picture *p);     /* writes the PNG */
#else
void ag_plot_absent(const char *at, const char *path) AG_NORETURN;
#endif

#endif
