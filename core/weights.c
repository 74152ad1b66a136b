#include "core/weights.h"
#include <string.h>
#include "core/io.h"

/* A safetensors file has '{' behind the eight bytes of its header's length; no archive and no pickle has. */
static bool is_checkpoint(const char *at, const char *path)
{
    AG_SCOPE;
    const ag_bytes b = ag_read_file_(at, path);
    if (b.size < 4 || (b.size > 8 && b.data[8] == '{')) return false;
    const bool tar = b.size > 262 && !memcmp(b.data + 257, "ustar", 5), pickle = (unsigned char)b.data[0] == 0x80;
    return tar || pickle || !memcmp(b.data, "PK\3\4", 4);
}

ag_weights ag_weights_open_(const char *at, const char *path)
{
    if (is_checkpoint(at, path)) return (ag_weights){ .pth = ag_pth_open_(at, path) };
    return (ag_weights){ .safetensors = ag_safetensors_open_(at, path) };
}

const char *ag_weights_path(ag_weights w)
{
    return w.pth ? ag_pth_path(w.pth) : ag_safetensors_path(w.safetensors);
}

const char *ag_weights_choice(ag_weights w)
{
    return w.pth ? ag_pth_choice(w.pth) : "";
}

int64_t ag_weights_count(ag_weights w)
{
    return w.pth ? ag_pth_count(w.pth) : ag_safetensors_count(w.safetensors);
}

const char *ag_weights_name(ag_weights w, int64_t i)
{
    return w.pth ? ag_pth_name(w.pth, i) : ag_safetensors_name(w.safetensors, i);
}

bool ag_weights_has(ag_weights w, const char *name)
{
    return w.pth ? ag_pth_has(w.pth, name) : ag_safetensors_has(w.safetensors, name);
}

ag_shape ag_weights_shape(ag_weights w, const char *name)
{
    return w.pth ? ag_pth_shape(w.pth, name) : ag_safetensors_shape(w.safetensors, name);
}

ag_dtype ag_weights_dtype(ag_weights w, const char *name)
{
    return w.pth ? ag_pth_dtype(w.pth, name) : ag_safetensors_dtype(w.safetensors, name);
}

ag_tensor *ag_weights_get_(const char *at, ag_weights w, const char *name)
{
    return w.pth ? ag_pth_get_(at, w.pth, name) : ag_safetensors_get_(at, w.safetensors, name);
}
