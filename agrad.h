/* agrad.h - the front door. Read the headers it includes in this order. */
#ifndef AGRAD_H
#define AGRAD_H
#include "core/base.h"
#include "core/tensor.h"
#include "core/random.h"
#include "core/memory.h"
#include "core/weights.h"
#include "ops/ops.h"
#include "ops/vision.h"
#include "nn/nn.h"
#include "nn/vision.h"
#include "nn/plan.h"
#include "data/data.h"
#include "data/image.h"
#include "data/transform.h"
#include "data/block.h"
#include "optim/optim.h"
#include "optim/schedule.h"
#include "optim/learner.h"
#include "models/models.h"
#include "models/vision.h"
#include "models/vision_learner.h"
#endif
