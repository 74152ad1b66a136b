/* core/safetensors.h - named tensors in a file: https://github.com/huggingface/safetensors, all ten invariants of its
 * reference validator checked on reading; written atomically, keys in the order given. */
#ifndef AG_SAFETENSORS_H
#define AG_SAFETENSORS_H
#include "core/tensor.h"
AG_BEGIN_DECLS

typedef struct { const char *key, *value; } ag_meta;                /* __metadata__: strings to strings */
typedef struct { const char *name; ag_tensor *tensor; } ag_named;

/* A file opened for reading, in the innermost scope; tensor bytes stay mapped until they are asked for. */
typedef struct ag_safetensors ag_safetensors;
ag_safetensors *ag_safetensors_open_(const char *at, const char *path);
#define ag_safetensors_open(path) ag_safetensors_open_(AG_HERE, path)
const char *ag_safetensors_path(const ag_safetensors *f);
int64_t ag_safetensors_count(const ag_safetensors *f);
const char *ag_safetensors_name(const ag_safetensors *f, int64_t i);        /* in file order */
const char *ag_safetensors_meta(const ag_safetensors *f, const char *key);  /* NULL if absent */
bool ag_safetensors_has(const ag_safetensors *f, const char *name);
/* Shape and dtype without the data. F64 and F16 are read as f32 (F16 exactly), BOOL as u8, I8, I16 and U16 as i32, U32 as
 * i64; dtype fails where there is no counterpart. */
ag_shape ag_safetensors_shape(const ag_safetensors *f, const char *name);
ag_dtype ag_safetensors_dtype(const ag_safetensors *f, const char *name);
/* A new tensor on the CPU in the innermost scope. Fails if absent, naming the nearest name. */
ag_tensor *ag_safetensors_get_(const char *at, const ag_safetensors *f, const char *name) AG_PURE;
#define ag_safetensors_get(f, name) ag_safetensors_get_(AG_HERE, f, name)

void ag_safetensors_save_(const char *at, const char *path, int64_t n, const ag_named *tensors,
                          int64_t n_meta, const ag_meta *meta);
#define ag_safetensors_save(path, n, tensors, n_meta, meta) \
    ag_safetensors_save_(AG_HERE, path, n, tensors, n_meta, meta)

AG_END_DECLS
#endif
