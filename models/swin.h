/* models/swin.h - what both versions of Swin Transformer share: stages of windows, every one of half the side. */
#ifndef AG_MODELS_SWIN_H
#define AG_MODELS_SWIN_H
#include "models/transformer.h"
AG_BEGIN_DECLS

enum { SWIN_STAGES = 4 };

/* Of the attention of one block: windows of window x window tokens on a map of side x side, cut after a shift. */
typedef struct { int64_t width, heads, side, window, shift, pretrained_window; } swin_windows;

typedef struct {
    int64_t width, heads, window, depths[SWIN_STAGES];      /* width and heads of the first stage double with each */
    int64_t pretrained_windows[SWIN_STAGES];
    nn_module *(*block)(const char *at, const swin_windows *w, double drop_path);
    nn_module *(*merge)(const char *at, int64_t width);
} swin_config;

#define SWIN_ROW(name_, size_, config_) \
    { .name = name_, .size = size_, .fixed_size = true, .multiple = 32, MODEL_IMAGENET, .first = "patch_embed.proj", \
      .head = "head.fc", .create = ag_swin_create, .config = &config_ },
nn_module *ag_swin_create(const char *at, const model_info *info, model_opts opts) AG_PURE;

/* [N, H, W, C] -> [N, H / 2, W / 2, 4 C]: of each 2 x 2 tokens the left column, then the right one. */
ag_tensor *ag_swin_gather(const char *at, ag_tensor *x) AG_PURE;
/* The mask of the attention m, kept with it: [windows, 1, L, L], -100 for tokens that the cyclic shift brought together from
 * opposite edges. NULL without a shift. */
ag_tensor *ag_swin_mask(nn_module *m, const swin_windows *w);
/* Attention inside the windows of qkv [N, H, W, 3 C] -> [N, H, W, C]. */
ag_tensor *ag_swin_attention(const char *at, const swin_windows *w, ag_tensor *qkv, ag_attention_opts opts) AG_PURE;

AG_END_DECLS
#endif
