/* cuda/vector.h - several neighbouring elements loaded and stored at once: 16 bytes a thread use the memory's full width. */
#ifndef AG_CUDA_VECTOR_H
#define AG_CUDA_VECTOR_H
#include "cuda/rows.h"

/* Element i * N of p onwards. */
template <int N, class T> static __device__ inline ag_pack<T, N> ag_get(const T *p, int64_t i)
{
    return ((const ag_pack<T, N> *)p)[i];
}

template <int N, class T> static __device__ inline void ag_put(T *p, int64_t i, ag_pack<T, N> v)
{
    ((ag_pack<T, N> *)p)[i] = v;
}

/* Whether rows of n elements at these places (NULL: none) can be read 16 bytes at a time. */
template <class T> static inline bool ag_wide(int64_t n, const T *a, const void *b = nullptr, const void *c = nullptr,
                                              const void *d = nullptr)
{
    const uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d;
    return n % (int64_t)(16 / sizeof(T)) == 0 && bits % 16 == 0;
}

/* Runs what follows with T as the type of elements. */
#define AG_TYPED(dtype, T, ...) \
    do { \
        if ((dtype) == AG_BF16) { typedef ag_bf16 T; __VA_ARGS__; } \
        else { typedef float T; __VA_ARGS__; } \
    } while (0)

#endif
