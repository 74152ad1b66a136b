/* cuda/emulate_cudnn_fused.cpp - graphs of several operations, one after the other; what passes between them is rounded to the
 * type that it was given. */
#include "cuda/emulate_cudnn.h"

namespace ag_emulate_dnn {
namespace {

struct machine {
    std::map<int64_t, std::vector<float>> passing;
    std::map<int64_t, void *> memory;
    std::map<int64_t, float> values;
    bool broken;

    float load(const tensor &t, int64_t at)
    {
        if (t.by_value) return values.at(t.id);
        if (memory.count(t.id))
            return t.type == AG_DNN_BF16 ? ag_load(((ag_bf16 *)memory[t.id])[at]) : ((float *)memory[t.id])[at];
        return passing.at(t.id).at((size_t)at);
    }

    void store(const tensor &t, int64_t at, float v)
    {
        ag_bf16 rounded;
        ag_store(&rounded, v);
        if (broken) v = NAN, ag_store(&rounded, v);
        if (t.passing && t.type == AG_DNN_BF16) v = ag_load(rounded);
        if (t.passing) passing[t.id].at((size_t)at) = v;
        else if (t.type == AG_DNN_BF16) ((ag_bf16 *)memory[t.id])[at] = rounded;
        else ((float *)memory[t.id])[at] = v;
    }
};

/* f(index) of every element of a tensor */
template <class F> void each(const tensor &t, F f)
{
    int64_t i[4];
    for (i[0] = 0; i[0] < t.size[0]; i[0]++)
        for (i[1] = 0; i[1] < t.size[1]; i[1]++)
            for (i[2] = 0; i[2] < t.size[2]; i[2]++)
                for (i[3] = 0; i[3] < t.size[3]; i[3]++) f(i);
}

/* Axes of size 1 are broadcast. */
int64_t at(const tensor &t, const int64_t *i)
{
    int64_t sum = 0;
    for (int a = 0; a < 4; a++) sum += t.size[a] == 1 ? 0 : i[a] * t.stride[a];
    return sum;
}

void multiply(machine &m, const operation &o)
{
    each(o.y, [&](const int64_t *i) {
        float sum = 0;
        for (int64_t k = 0; k < o.x.size[3]; k++)
            sum += m.load(o.x, place(o.x, i[0], i[1], i[2], k)) * m.load(o.z, place(o.z, i[0], i[1], k, i[3]));
        m.store(o.y, at(o.y, i), sum);
    });
}

float compute(int mode, float x, float z)
{
    switch (mode) {
    case AG_DNN_ADD: return x + z;
    case AG_DNN_MUL: return x * z;
    case AG_DNN_DIV: return x / z;
    case AG_DNN_SUB: return x - z;
    case AG_DNN_EXP: return expf(x);
    case AG_DNN_LOG: return logf(x);
    default: return NAN;
    }
}

void reduce(machine &m, const operation &o)
{
    std::vector<float> sum((size_t)elements(o.y), o.mode == AG_DNN_MAX_OF ? -INFINITY : 0);
    tensor dense = o.y;
    for (int a = 3, stride = 1; a >= 0; a--) dense.stride[a] = stride, stride *= (int)dense.size[a];
    each(o.x, [&](const int64_t *i) {
        float &s = sum[(size_t)at(dense, i)];
        const float v = m.load(o.x, at(o.x, i));
        s = o.mode == AG_DNN_MAX_OF ? std::max(s, v) : s + v;
    });
    each(o.y, [&](const int64_t *i) { m.store(o.y, at(o.y, i), sum[(size_t)at(dense, i)]); });
}

/* The same memory with other sizes; a passing one takes its own type. */
void reshape(machine &m, const operation &o)
{
    if (!o.x.passing) m.memory[o.y.id] = m.memory[o.x.id];
    else
        for (int64_t i = 0; i < elements(o.y); i++) m.store(o.y, i, m.load(o.x, i));
}

} // namespace

void run_fused(const std::vector<operation> &list, std::map<int64_t, void *> memory, const std::map<int64_t, float> &values,
               bool broken)
{
    machine m = { {}, memory, values, broken };
    for (const operation &o : list) {
        if (o.y.passing) m.passing[o.y.id] = std::vector<float>((size_t)elements(o.y), NAN);
        if (o.type == AG_DNN_MATMUL_OF) multiply(m, o);
        else if (o.type == AG_DNN_REDUCTION_OF) reduce(m, o);
        else if (o.type == AG_DNN_RESHAPE_OF) reshape(m, o);
        else
            each(o.y, [&](const int64_t *i) {
                const float x = m.load(o.x, at(o.x, i)), z = o.binary ? m.load(o.z, at(o.z, i)) : 0;
                m.store(o.y, at(o.y, i), compute(o.mode, x, z));
            });
    }
}

} // namespace ag_emulate_dnn
