/* nn/module.h - inside of nn/. */
#ifndef AG_NN_MODULE_H
#define AG_NN_MODULE_H
#include "nn/nn.h"

typedef enum { NN_SLOT_CHILD, NN_SLOT_PARAM, NN_SLOT_BUFFER } nn_slot_kind;
struct nn_slot {
    nn_slot_kind kind;
    char *name, *path;          /* path: of a tensor, from the root; it is t->name */
    nn_module *child;
    ag_tensor *tensor;
};

/* Calls visit(arg, module, slot) for every tensor of one kind below m; stops, returning true, when it returns true. */
typedef bool (*nn_visit_fn)(void *arg, const nn_module *owner, const struct nn_slot *slot);
bool ag_nn_each(const nn_module *m, nn_slot_kind kind, nn_visit_fn visit, void *arg);

/* "blocks.0.fc1" of a module into buf; "" for a root. */
char *ag_nn_path(const nn_module *m, char *buf, size_t size);

/* While set, nn_call tells it every module's result. */
extern _Thread_local void (*ag_nn_observer)(void *arg, const nn_module *m, const ag_tensor *y);
extern _Thread_local void *ag_nn_observer_arg;

#endif
