/* nn/module.h - inside of nn/. */
#ifndef AG_NN_MODULE_H
#define AG_NN_MODULE_H
#include "core/weights.h"
#include "nn/nn.h"

/* Hidden: a tensor that ends with the module and is no part of its state. */
typedef enum { NN_SLOT_CHILD, NN_SLOT_PARAM, NN_SLOT_BUFFER, NN_SLOT_HIDDEN } nn_slot_kind;
struct nn_slot {
    nn_slot_kind kind;
    char *name, *path;          /* path: of a tensor, from the root; it is t->name */
    nn_module *child;
    ag_tensor *tensor;
};

/* Calls visit(arg, module, slot) for every tensor of one kind below m; stops, returning true, when it returns true. */
typedef bool (*nn_visit_fn)(void *arg, const nn_module *owner, const struct nn_slot *slot);
bool ag_nn_each(const nn_module *m, nn_slot_kind kind, nn_visit_fn visit, void *arg);

/* nn_load from an open file, whose names begin with `prefix`. */
void ag_nn_load_weights(const char *at, nn_module *m, ag_weights file, const char *prefix, nn_load_opts opts);

/* "blocks.0.fc1" of a module into buf; "" for a root. */
char *ag_nn_path(const nn_module *m, char *buf, size_t size);
/* The same as a string that stays. */
const char *ag_nn_label(nn_module *m);

ag_tensor *ag_nn_hidden_(const char *at, nn_module *m, const char *name, ag_tensor *t);

/* nn_call with another function than m's own: for layers that do more than theirs in one op. */
typedef ag_tensor *(*nn_run_fn)(nn_module *m, ag_tensor *x, const void *arg);
ag_tensor *ag_nn_run(nn_module *m, ag_tensor *x, nn_run_fn fn, const void *arg);

/* Modules begin .. end of a sequential. */
ag_tensor *ag_nn_call_range(nn_module *sequential, int begin, int end, ag_tensor *x);

/* Until the scope ends, every module of net is in training (or not). */
ag_scope ag_nn_mode_begin(nn_module *net, bool training);

/* While set, nn_call tells it every module's result. */
extern _Thread_local void (*ag_nn_observer)(void *arg, const nn_module *m, const ag_tensor *y);
extern _Thread_local void *ag_nn_observer_arg;

#endif
