/* ops/conv_ways.h - the ways to do the products of ops/conv.h; ops/conv_kernel.c chooses. */
#ifndef AG_CONV_WAYS_H
#define AG_CONV_WAYS_H
#include "ops/conv.h"

/* As products of patches. (ops/conv_patches.c) */
void ag_patches_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                        ag_activation activation, void *y, bool add);
void ag_patches_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add);
void ag_patches_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add);
void ag_patches_prepare(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool back);
int64_t ag_patches_forward_workspace(const ag_conv *c);
int64_t ag_patches_input_workspace(const ag_conv *c);
int64_t ag_patches_weight_workspace(const ag_conv *c);

/* Directly, by oneDNN. Whether it takes c (as far as geometry tells) and whether it did: false before anything was done. */
bool ag_direct_fits(const ag_conv *c);
bool ag_direct_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                       ag_activation activation, void *y, bool add);
bool ag_direct_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add);
bool ag_direct_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add);
int64_t ag_direct_forward_workspace(const ag_conv *c);
int64_t ag_direct_input_workspace(const ag_conv *c);
int64_t ag_direct_weight_workspace(const ag_conv *c);

/* ---- oneDNN on the calling thread (ops/onednn_conv.c) -------------------------------------------------- */

bool ag_onednn_there(void);         /* in this build */
typedef enum { AG_CONV_FORWARD, AG_CONV_INPUT, AG_CONV_WEIGHTS } ag_conv_way;
/* The activation is c->at's. The way says which of x, weight and y is written; x and y may be their gradients. */
bool ag_onednn_conv(const ag_conv *c, ag_conv_way way, const void *x, const void *weight, const real *bias, const void *y,
                    bool add);
/* The form of the weight it takes (or gives): its bytes and a hash of its layout. False where there is no fast kernel. */
bool ag_onednn_conv_form(const ag_conv *c, ag_conv_way way, bool bias, bool add, int64_t *bytes, uint64_t *form);
/* Output channels first .. first + count (all, or multiples of AG_CONV_PANEL without groups) of [out, in / groups, kh, kw]
 * into that form; from the form of AG_CONV_WEIGHTS back, or added. */
enum { AG_CONV_PANEL = 192 };
bool ag_onednn_conv_pack(const ag_conv *c, ag_conv_way way, bool bias, int64_t first, int64_t count, const real *from, void *to);
bool ag_onednn_conv_unpack(const ag_conv *c, const void *from, real *to, bool add);

#endif
