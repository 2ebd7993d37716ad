#define DLCORE_VECTOR_BYTES 64
#include "kernels/products-inl.h"

namespace dlcore {
namespace {

/// An element is a pair of bfloat16 in the bits of a float: both products of a pair go into the
/// sum.
struct Pairs {
  static constexpr Index kTerms = 2;
  template <class T>
  static DLCORE_INLINE Vec<float> add(Vec<float> a, Vec<float> b, Vec<float> sum) {
    return _mm512_dpbf16_ps(sum, bit_cast<__m512bh>(a), bit_cast<__m512bh>(b));
  }
};

void round_rows(const float* x, Index ldx, float* y, Index ldy, Index m, Index n) {
  constexpr Index kLane = kLanes<float>;
  const Index pairs = (n + 1) / 2;
  for (Index i = 0; i < m; ++i) {
    const float* row = x + i * ldx;
    for (Index j = 0; j < pairs; j += kLane) {
      const Index first = smaller(kLane, n - 2 * j), second = smaller(kLane, n - 2 * j - kLane);
      const Vec<float> low = load_partial(row + 2 * j, first, 0.0f);
      const Vec<float> high =
          second > 0 ? load_partial(row + 2 * j + kLane, second, 0.0f) : Vec<float>{};
      store_partial(y + i * ldy + j, bit_cast<Vec<float>>(_mm512_cvtne2ps_pbh(high, low)),
                    smaller(kLane, pairs - j));
    }
  }
}

/// bfloat16 in the low half of each lane.
DLCORE_INLINE __m512i rounded(Vec<float> v) {
  return _mm512_cvtepu16_epi32(bit_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}

void round_row_pairs(const float* x, Index ldx, float* y, Index ldy, Index m, Index n) {
  for (Index i = 0; i < m; i += 2) {
    for (Index j = 0; j < n; j += kLanes<float>) {
      const Vec<float> first = load(x + i * ldx + j);
      const Vec<float> second = i + 1 < m ? load(x + (i + 1) * ldx + j) : Vec<float>{};
      const __m512i pair = _mm512_or_si512(rounded(first), _mm512_slli_epi32(rounded(second), 16));
      store(y + i / 2 * ldy + j, bit_cast<Vec<float>>(pair));
    }
  }
}

}  // namespace
}  // namespace dlcore

const dlcore::Bf16Kernels dlcore::kAvx512Bf16{
    .name = "avx512_bf16",
    .round_rows = round_rows,
    .round_row_pairs = round_row_pairs,
    .dense_forward = dense_forward<float, Pairs>,
    .dense_input_gradient = dense_input_gradient<float, Pairs>,
    .dense_input_gradient_transposed = dense_input_gradient_transposed<float, Pairs>,
    .dense_weight_gradient = dense_weight_gradient<float, Pairs>,
    .dense_weight_update = dense_weight_update<float, Pairs>};
