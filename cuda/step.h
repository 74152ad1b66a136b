/* cuda/step.h - the state of a training step on the device (ag_device_graphs, core/device.h). */
#ifndef AG_CUDA_STEP_H
#define AG_CUDA_STEP_H

typedef struct ag_step_state {
    float loss, clip;           /* clip: what gradients are multiplied with */
    int bad;                    /* a loss was no number: the weights stay as they are */
} ag_step_state;

#ifdef __cplusplus
extern "C"
#endif
ag_step_state *ag_cuda_step_state(void);

#endif
