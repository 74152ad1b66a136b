/* cuda/mma.h - products of 16 x 16 bf16 tiles by a warp, with f32 sums: CUDA's nvcuda::wmma, and what stands for it in the
 * emulation. There a lane has all of an operand and 8 elements of a sum; nothing waits for other lanes. */
#ifndef AG_CUDA_MMA_H
#define AG_CUDA_MMA_H
#include "cuda/cuda.h"

enum { MMA = 16 };

#ifndef AG_EMULATE
#include <mma.h>
typedef __nv_bfloat16 mma_element;
#else
#include <type_traits>
typedef ag_bf16 mma_element;
namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment { float v[MMA][MMA]; };
template <int M, int N, int K> struct fragment<accumulator, M, N, K, float> { float v[8]; };

static inline int own_row(void) { return (int)ag_emulate_lane() / 2; }
static inline int own_column(int i) { return (int)ag_emulate_lane() % 2 * 8 + i; }

template <class Use, int M, int N, int K, class T, class Layout>
static inline void load_matrix_sync(fragment<Use, M, N, K, T, Layout> &f, const T *p, unsigned pitch)
{
    const bool rows = std::is_same<Layout, row_major>::value;
    for (unsigned r = 0; r < MMA; r++)
        for (unsigned c = 0; c < MMA; c++) f.v[r][c] = ag_load(rows ? p[r * pitch + c] : p[c * pitch + r]);
}

template <int M, int N, int K> static inline void fill_fragment(fragment<accumulator, M, N, K, float> &f, float value)
{
    for (float &v : f.v) v = value;
}

template <int M, int N, int K, class A, class B>
static inline void mma_sync(fragment<accumulator, M, N, K, float> &d, const A &a, const B &b,
                            const fragment<accumulator, M, N, K, float> &c)
{
    for (int i = 0; i < 8; i++) {
        float sum = c.v[i];
        for (int k = 0; k < MMA; k++) sum += a.v[own_row()][k] * b.v[k][own_column(i)];
        d.v[i] = sum;
    }
}

template <int M, int N, int K>
static inline void store_matrix_sync(float *p, const fragment<accumulator, M, N, K, float> &f, unsigned pitch, layout_t layout)
{
    for (int i = 0; i < 8; i++) {
        const unsigned r = (unsigned)own_row(), c = (unsigned)own_column(i);
        p[layout == mem_row_major ? r * pitch + c : c * pitch + r] = f.v[i];
    }
}
} // namespace wmma
} // namespace nvcuda
#endif

typedef nvcuda::wmma::fragment<nvcuda::wmma::accumulator, MMA, MMA, MMA, float> mma_sum;
template <class Layout> using mma_a = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, MMA, MMA, MMA, mma_element, Layout>;
template <class Layout> using mma_b = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, MMA, MMA, MMA, mma_element, Layout>;
typedef nvcuda::wmma::row_major mma_rows;
typedef nvcuda::wmma::col_major mma_columns;

#endif
