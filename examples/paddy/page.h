/* page.h - an HTML page in one file: text, pictures, curves. */
#ifndef PADDY_PAGE_H
#define PADDY_PAGE_H
#include "data/image.h"

typedef struct page page;
/* Written atomically by page_end; until then the old file stands. */
page *page_begin(const char *command, const char *path, const char *title);
void page_end(page *p);
void page_print(page *p, const char *fmt, ...) AG_PRINTF(2, 3);        /* as it is: markup */
void page_text(page *p, const char *text);                              /* with & < > " escaped */
void page_image(page *p, const data_image *image);                      /* as a JPEG inside the page */
/* At most `side` both ways. A file that cannot be read is a grey square. In the innermost scope. */
data_image page_thumbnail(const char *path, int64_t side);
/* Of a table of epochs (learner_opts.log) the losses, and the columns that end with "error", as two drawings. */
void page_curves(page *p, const char *csv);

#endif
