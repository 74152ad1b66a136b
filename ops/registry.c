#include "ops/registry.h"

#define AG_OP_ADDRESS(name) &ag_op_##name,
#define AG_UNARY(name, y, dx, domain) AG_OP_ADDRESS(name)
#define AG_UNARY1 AG_UNARY
#define AG_UNARY2 AG_UNARY
#define AG_BINARY(name, y, da, db, domain) AG_OP_ADDRESS(name)
#define AG_COMPARE(name, y) AG_OP_ADDRESS(name)

const ag_op *const ag_ops[] = {
#include "ops/elementwise.def"
    AG_OTHER_OPS(AG_OP_ADDRESS)
    NULL
};
