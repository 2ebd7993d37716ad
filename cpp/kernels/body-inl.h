// Every kernel but the products, written once over the vector width, and the table of one
// instruction set. Each instruction set includes this in a file of its own.

#pragma once

#include "kernels/products-inl.h"
#include "random.h"

namespace dlcore {
namespace {

// Results of this size no longer fit the second-level cache: stored past the caches, which saves
// reading them first.
inline constexpr Index kStreamBytes = 1 << 20;

template <class T>
inline constexpr Index kPrefetchAhead = 2048 / static_cast<Index>(sizeof(T));

/// y[i] = f(x[i], ...); y may be one of x. f takes N vectors at once where N is above 1, and single
/// ones too.
template <int N = 1, class T, class F, class... X>
DLCORE_INLINE void map(Index n, T* y, F f, const X*... x) {
  constexpr Index kStep = kLanes<T>;
  if (n < kStep) {
    if (n > 0) store_partial(y, f(load_partial(x, n, T{0})...), n);
    return;
  }
  // The ends overlap what lies between them, so they are computed first and stored last. Whole
  // vectors in between lie where a vector of y may: a store across two cache lines is two.
  const Vec<T> first = f(load(x)...), last = f(load(x + (n - kStep))...);
  Index i =
      (-reinterpret_cast<intptr_t>(y) & (DLCORE_VECTOR_BYTES - 1)) / static_cast<Index>(sizeof(T));
  const auto loop = [&](auto put) __attribute__((always_inline)) {
    if constexpr (N > 1) {
      for (; i + N * kStep <= n; i += N * kStep) {
        const auto together = [&](const T* p) __attribute__((always_inline)) {
          Several<Vec<T>, N> v;
#pragma GCC unroll 8
          for (int j = 0; j < N; ++j) v.v[j] = load(p + j * kStep);
          return v;
        };
        const Several<Vec<T>, N> result = f(together(x + i)...);
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) put(y + i + j * kStep, result.v[j]);
      }
    }
    for (; i + kStep <= n; i += kStep) put(y + i, f(load(x + i)...));
  };
  if (n * static_cast<Index>(sizeof(T)) >= kStreamBytes && ((y != x) && ...)) {
    loop([&](T* p, Vec<T> v) __attribute__((always_inline)) {
      // Asked for ahead where the hardware does not follow well: two streams of reads beside one of
      // stores, and reads of several vectors with much work between them.
      if constexpr (N > 1 || sizeof...(x) > 1) {
        (__builtin_prefetch(x + (p - y) + kPrefetchAhead<T>), ...);
      }
      stream(p, v);
    });
    stream_fence();
  } else {
    loop([](T* p, Vec<T> v) __attribute__((always_inline)) { store(p, v); });
  }
  store(y, first);
  store(y + (n - kStep), last);
}

template <class T>
void add_elements(const T* x, T* y, Index n) {
  map(n, y, [](Vec<T> a, Vec<T> b) { return a + b; }, x, static_cast<const T*>(y));
}

/// Calls f.template operator()<A>() for the activation chosen at run time.
template <class F>
DLCORE_INLINE void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::identity: return f.template operator()<Activation::identity>();
    case Activation::relu: return f.template operator()<Activation::relu>();
    case Activation::leaky_relu: return f.template operator()<Activation::leaky_relu>();
    case Activation::sigmoid: return f.template operator()<Activation::sigmoid>();
    case Activation::tanh: return f.template operator()<Activation::tanh>();
    case Activation::gelu: return f.template operator()<Activation::gelu>();
    case Activation::gelu_tanh: return f.template operator()<Activation::gelu_tanh>();
    case Activation::silu: return f.template operator()<Activation::silu>();
    case Activation::softplus: return f.template operator()<Activation::softplus>();
  }
}

template <class T>
void activation_forward(Activation activation, T alpha, const T* x, T* y, Index n) {
  with_activation(activation, [&]<Activation A>() {
    if constexpr (A == Activation::sigmoid && sizeof(T) == 4) {
      map<4>(n, y, [](auto v) __attribute__((always_inline)) { return sigmoid_single(v); }, x);
    } else {
      const Vec<T> slope = splat(alpha);
      map(n, y, [slope](Vec<T> v) { return activate<A, T>(v, slope); }, x);
    }
  });
}

template <class T>
void activation_backward(Activation activation, T alpha, const T* dy, const T* saved, T* dx,
                         Index n) {
  with_activation(activation, [&]<Activation A>() {
    const Vec<T> slope = splat(alpha);
    map(
        n, dx, [slope](Vec<T> d, Vec<T> s) { return activate_backward<A, T>(d, s, slope); }, dy,
        saved);
  });
}

// --- Rows ---------------------------------------------------------------------------------------

template <class T>
DLCORE_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <class T>
DLCORE_INLINE T row_max(const T* x, Index n) {
  const T lowest = -__builtin_inf();
  Vec<T> best = splat(lowest);
  Index j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) best = larger<T>(load(x + j), best);
  if (j < n) best = larger<T>(load_partial(x + j, n - j, lowest), best);
  return max_lanes<T>(best);
}

/// How many of x[0..n) are at least `bound`; no branch depends on the data.
template <class T>
DLCORE_INLINE T row_count_at_least(const T* x, T bound, Index n) {
  const Vec<T> limit = splat(bound), one = splat(T{1});
  const T lowest = -__builtin_inf();
  Vec<T> count = {};
  Index j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) count += load(x + j) >= limit ? one : Vec<T>{};
  count += load_partial(x + j, n - j, lowest) >= limit ? one : Vec<T>{};
  return sum_lanes<T>(count);
}

/// y = exp(x - max) where y is not null, and the sum.
template <class T>
DLCORE_INLINE T row_exp(const T* x, T max, T* y, Index n) {
  const Vec<T> shift = splat(max);
  Vec<T> sum = {};
  Index j = 0;
  for (; j + kLanes<T> <= n; j += kLanes<T>) {
    const Vec<T> e = exp<T>(load(x + j) - shift);
    if (y != nullptr) store(y + j, e);
    sum += e;
  }
  if (j < n) {
    const T lowest = -__builtin_inf();
    const Vec<T> e = exp<T>(load_partial(x + j, n - j, lowest) - shift);
    if (y != nullptr) store_partial(y + j, e, n - j);
    sum += e;
  }
  return sum_lanes<T>(sum);
}

template <class T>
DLCORE_INLINE void scale_row(T* y, T factor, Index n) {
  const Vec<T> s = splat(factor);
  map(n, y, [s](Vec<T> v) { return v * s; }, static_cast<const T*>(y));
}

// Rows of at most so many classes are worked through a vector of rows at a time, class by class:
// what a row by itself costs is its sums and maxima over lanes, one waiting for the other.
inline constexpr Index kFewClasses = 64;

/// kLanes<T> rows of n <= kFewClasses columns, transposed: one vector a column.
template <class T>
struct Columns {
  static constexpr Index kRows = kLanes<T>;

  /// Rows past `rows` are zero.
  void load_from(const T* x, Index ldx, Index rows, Index n) {
    alignas(64) T block[kRows * kRows];
    for (Index j = 0; j < n; j += kRows) {
      const Index count = smaller(kRows, n - j);
      for (Index r = 0; r < kRows; ++r) {
        const T* row = x + r * ldx + j;
        store(block + r * kRows, r >= rows        ? Vec<T>{}
                                 : count == kRows ? load(row)
                                                  : load_partial(row, count, T{0}));
      }
      transpose_block(block, kRows, values + j * kRows, kRows);
    }
  }
  void store_to(T* y, Index ldy, Index rows, Index n) const {
    alignas(64) T block[kRows * kRows];
    for (Index j = 0; j < n; j += kRows) {
      const Index count = smaller(kRows, n - j);
      transpose_block(values + j * kRows, kRows, block, kRows);
      for (Index r = 0; r < rows; ++r) {
        const Vec<T> row = load(block + r * kRows);
        count == kRows ? store(y + r * ldy + j, row) : store_partial(y + r * ldy + j, row, count);
      }
    }
  }
  Vec<T> column(Index j) const { return load(values + j * kRows); }
  void set(Index j, Vec<T> v) { store(values + j * kRows, v); }

  /// Largest of each row.
  Vec<T> max(Index n) const {
    Vec<T> best = splat(static_cast<T>(-__builtin_inf()));
    for (Index j = 0; j < n; ++j) best = larger<T>(column(j), best);
    return best;
  }
  /// Each column becomes exp(column - shift); returns the sums of the rows.
  Vec<T> exponentials(Vec<T> shift, Index n) {
    Vec<T> sum = {};
    for (Index j = 0; j < n; ++j) {
      const Vec<T> e = exp<T>(column(j) - shift);
      set(j, e);
      sum += e;
    }
    return sum;
  }

  alignas(64) T values[kFewClasses * kRows];
};

template <class T>
void softmax_of_few(const T* x, Index ldx, T* y, Index ldy, Index m, Index n) {
  Columns<T> columns;
  for (Index i = 0; i < m; i += kLanes<T>) {
    const Index rows = smaller(kLanes<T>, m - i);
    columns.load_from(x + i * ldx, ldx, rows, n);
    const Vec<T> factor = splat(T{1}) / columns.exponentials(columns.max(n), n);
    for (Index j = 0; j < n; ++j) columns.set(j, columns.column(j) * factor);
    columns.store_to(y + i * ldy, ldy, rows, n);
  }
}

template <class T>
void softmax(const T* x, Index ldx, T* y, Index ldy, Index m, Index n) {
  if (n <= kFewClasses) return softmax_of_few(x, ldx, y, ldy, m, n);
  for (Index i = 0; i < m; ++i) {
    T* row = y + i * ldy;
    scale_row(row, T{1} / row_exp(x + i * ldx, row_max(x + i * ldx, n), row, n), n);
  }
}

template <class T>
void cross_entropy_of_few(const T* x, Index ldx, const Index* labels, const T* weight, T* loss,
                          T* correct, T* dx, Index lddx, Index m, Index n) {
  Columns<T> columns;
  const Vec<T> one = splat(T{1});
  for (Index i = 0; i < m; i += kLanes<T>) {
    const Index rows = smaller(kLanes<T>, m - i);
    columns.load_from(x + i * ldx, ldx, rows, n);
    const Vec<T> max = columns.max(n);
    // Numbers of classes as T: exact, and no mask need be of another width.
    alignas(64) T numbers[kLanes<T>] = {};
    for (Index r = 0; r < rows; ++r) numbers[r] = static_cast<T>(labels[i + r]);
    const Vec<T> label = load(numbers), none = splat(T{-1});
    Vec<T> logit = {}, answer = none;
    for (Index j = 0; j < n; ++j) {
      const Vec<T> v = columns.column(j), number = splat(static_cast<T>(j));
      logit = label == number ? v : logit;
      // The first of equal largest logits counts as the answer; a NaN is never right.
      answer = ((v >= max) & (answer == none)) ? number : answer;
    }
    const Vec<T> sum = columns.exponentials(max, n);
    store_partial(correct + i, answer == label ? one : Vec<T>{}, rows);
    store_partial(loss + i, max - logit + log<T>(sum), rows);
    if (dx == nullptr) continue;
    const Vec<T> share = load_partial(weight + i, rows, T{0}), factor = share / sum;
    for (Index j = 0; j < n; ++j) {
      const Vec<T> gradient = columns.column(j) * factor;
      columns.set(j, label == splat(static_cast<T>(j)) ? gradient - share : gradient);
    }
    columns.store_to(dx + i * lddx, lddx, rows, n);
  }
}

template <class T>
void cross_entropy(const T* x, Index ldx, const Index* labels, const T* weight, T* loss, T* correct,
                   T* dx, Index lddx, Index m, Index n) {
  if (n <= kFewClasses) {
    return cross_entropy_of_few(x, ldx, labels, weight, loss, correct, dx, lddx, m, n);
  }
  // The logarithm of a whole vector of rows at a time.
  for (Index i0 = 0; i0 < m; i0 += kLanes<T>) {
    const Index rows = smaller(kLanes<T>, m - i0);
    Vec<T> sums = splat(T{1}), distance = {};
    for (Index r = 0; r < rows; ++r) {
      const Index i = i0 + r, label = labels[i];
      const T* row = x + i * ldx;
      const T max = row_max(row, n);
      T* gradient = dx == nullptr ? nullptr : dx + i * lddx;
      const T sum = row_exp(row, max, gradient, n);
      // The first of equal largest logits counts as the answer; a NaN is never right.
      const bool right = row[label] >= max && row_count_at_least(row, max, label) == T{0};
      correct[i] = right ? T{1} : T{0};
      sums[r] = sum;
      distance[r] = max - row[label];
      if (gradient != nullptr) {
        scale_row(gradient, weight[i] / sum, n);
        gradient[label] -= weight[i];
      }
    }
    store_partial(loss + i0, distance + log<T>(sums), rows);
  }
}

template <class T, ElementLoss L>
void element_loss_of(T delta, const T* x, Index ldx, const T* target, Index ldt, const T* weight,
                     T* loss, T* dx, Index lddx, Index m, Index n) {
  const Vec<T> limit = splat(delta);
  for (Index i = 0; i < m; ++i) {
    const Vec<T> scale = splat(weight[i]);
    Vec<T> sum = {};
    for (Index j = 0; j < n; j += kLanes<T>) {
      const Index count = smaller(kLanes<T>, n - j);
      // Lanes past the end: loss 0 is added by the select below.
      const Vec<T> p = load_partial(x + i * ldx + j, count, T{0});
      const Vec<T> t = load_partial(target + i * ldt + j, count, T{0});
      Vec<T> value = element_value<L, T>(p, t, limit);
      for (Index lane = count; lane < kLanes<T>; ++lane) value[lane] = T{0};
      sum += value;
      if (dx != nullptr) {
        store_partial(dx + i * lddx + j, element_gradient<L, T>(p, t, limit) * scale, count);
      }
    }
    loss[i] = sum_lanes<T>(sum);
  }
}

template <class T>
void element_loss(ElementLoss kind, T delta, const T* x, Index ldx, const T* target, Index ldt,
                  const T* weight, T* loss, T* dx, Index lddx, Index m, Index n) {
  switch (kind) {
    case ElementLoss::binary_cross_entropy:
      return element_loss_of<T, ElementLoss::binary_cross_entropy>(delta, x, ldx, target, ldt,
                                                                   weight, loss, dx, lddx, m, n);
    case ElementLoss::mse:
      return element_loss_of<T, ElementLoss::mse>(delta, x, ldx, target, ldt, weight, loss, dx,
                                                  lddx, m, n);
    case ElementLoss::huber:
      return element_loss_of<T, ElementLoss::huber>(delta, x, ldx, target, ldt, weight, loss, dx,
                                                    lddx, m, n);
  }
}

/// Sums of V vectors of columns, side by side: one alone waits for its last addition at every row.
template <class T, int V>
DLCORE_INLINE void sum_columns(const T* dy, Index ld, T* db, Index m) {
  Vec<T> sum[V] = {};
  for (Index i = 0; i < m; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[v] += load(dy + i * ld + v * kLanes<T>);
  }
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) store(db + v * kLanes<T>, sum[v]);
}

template <class T>
void column_sums(const T* dy, Index ld, T* db, Index m, Index n) {
  Index j = 0;
  for (; j + 8 * kLanes<T> <= n; j += 8 * kLanes<T>) sum_columns<T, 8>(dy + j, ld, db + j, m);
  for (; j + 2 * kLanes<T> <= n; j += 2 * kLanes<T>) sum_columns<T, 2>(dy + j, ld, db + j, m);
  if (j + kLanes<T> <= n) {
    sum_columns<T, 1>(dy + j, ld, db + j, m);
    j += kLanes<T>;
  }
  if (j < n) {
    Vec<T> sum = {};
    for (Index i = 0; i < m; ++i) sum += load_partial(dy + i * ld + j, n - j, T{0});
    store_partial(db + j, sum, n - j);
  }
}

// --- Transposition ------------------------------------------------------------------------------

template <class T>
void transpose(const T* x, Index ldx, T* xt, Index ldt, Index m, Index n, Index m_padded) {
  constexpr Index kSide = kLanes<T>;
  const Index m_whole = m / kSide * kSide, n_whole = n / kSide * kSide;
  for (Index i = 0; i < m_whole; i += kSide) {
    for (Index j = 0; j < n_whole; j += kSide) {
      transpose_block(x + i * ldx + j, ldx, xt + j * ldt + i, ldt);
    }
    for (Index j = n_whole; j < n; ++j) {
      for (Index r = i; r < i + kSide; ++r) xt[j * ldt + r] = x[r * ldx + j];
    }
  }
  for (Index j = 0; j < n; ++j) {
    for (Index i = m_whole; i < m; ++i) xt[j * ldt + i] = x[i * ldx + j];
    for (Index i = m; i < m_padded; ++i) xt[j * ldt + i] = T{0};
  }
}

// --- Conversion of data -------------------------------------------------------------------------

/// The value of an IEEE half: exact in float, subnormals included.
DLCORE_INLINE float half_value(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinity and NaN keep their payload
    return __builtin_bit_cast(float, sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
  }
  // As a float of the same bits the exponent is 112 too small; the product is exact.
  const float value = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, value));
}

/// Loads kLanes<T> elements of type From as T.
template <class T, class From>
DLCORE_INLINE Vec<T> load_as(const From* p) {
  typedef From Small __attribute__((vector_size(sizeof(From) * kLanes<T>), aligned(1), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Small*>(p), Vec<T>);
}

/// Bytes, which compilers widen in four times as many steps as it takes.
template <class T>
DLCORE_INLINE Vec<T> load_as(const uint8_t* p) {
#if DLCORE_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  } else {
    return _mm512_cvtepi32_pd(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
#elif DLCORE_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  } else {
    return load_as<T, uint8_t>(p);
  }
#else
  return load_as<T, uint8_t>(p);
#endif
}

/// A half on the way to T.
struct Half {
  uint16_t bits;
};

template <class T>
DLCORE_INLINE Vec<T> load_as(const Half* p) {
#if DLCORE_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  } else {
    return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
#elif DLCORE_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  } else {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
#else
  Vec<T> v;
  for (int i = 0; i < kLanes<T>; ++i) v[i] = half_value(p[i].bits);
  return v;
#endif
}

template <class From>
DLCORE_INLINE From value_of(From v) {
  return v;
}
DLCORE_INLINE float value_of(Half v) { return half_value(v.bits); }

/// `Checked` or not: whether a result may be anything but finite.
template <bool Checked, class T, class From>
DLCORE_INLINE bool convert(const From* x, T scale, T* y, Index k) {
  constexpr int kSums = 4;  // one alone waits for its last addition at every vector
  const Vec<T> factor = splat(scale);
  Vec<T> zeros[kSums] = {};  // 0 * y is 0 for finite y and NaN otherwise
  const auto convert_vector = [&](Index j, int sum) {
    const Vec<T> v = load_as<T>(x + j) * factor;
    store(y + j, v);
    if constexpr (Checked) zeros[sum] = fma(v, Vec<T>{}, zeros[sum]);
  };
  Index j = 0;
  for (; j + kSums * kLanes<T> <= k; j += kSums * kLanes<T>) {
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s) convert_vector(j + s * kLanes<T>, s);
  }
  for (; j + kLanes<T> <= k; j += kLanes<T>) convert_vector(j, 0);
  T zero = Checked ? sum_lanes<T>((zeros[0] + zeros[1]) + (zeros[2] + zeros[3])) : T{0};
  for (; j < k; ++j) {
    y[j] = static_cast<T>(value_of(x[j])) * scale;
    zero += y[j] * T{0};
  }
  return zero == T{0};
}

template <class T>
bool convert_row(const void* x, DType dtype, T scale, T* y, Index k) {
  switch (dtype) {
    case DType::float32: return convert<true>(static_cast<const float*>(x), scale, y, k);
    case DType::float64: return convert<true>(static_cast<const double*>(x), scale, y, k);
    case DType::float16: return convert<true>(static_cast<const Half*>(x), scale, y, k);
    case DType::uint8: {
      const auto* bytes = static_cast<const uint8_t*>(x);
      // Only a scale that overflows makes a byte anything but finite.
      return T{255} * scale * T{0} == T{0} ? convert<false>(bytes, scale, y, k)
                                           : convert<true>(bytes, scale, y, k);
    }
  }
  return false;
}

template <class T>
double sum_squares(const T* x, Index n) {
  constexpr int kDoubles = kLanes<double>;
  Vec<double> sum[4] = {};
  Index i = 0;
  for (; i + 4 * kDoubles <= n; i += 4 * kDoubles) {
    for (int s = 0; s < 4; ++s) {
      const Vec<double> v = load_as<double>(x + i + s * kDoubles);
      sum[s] = fma(v, v, sum[s]);
    }
  }
  double total = sum_lanes<double>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

// --- Dropout ------------------------------------------------------------------------------------

using Words = Mask<double>;  // 64-bit lanes

/// Product of the low 32 bits of each lane.
DLCORE_INLINE Words multiply_low(Words a, Words b) {
#if DLCORE_VECTOR_BYTES == 64
  return bit_cast<Words>(_mm512_mul_epu32(bit_cast<__m512i>(a), bit_cast<__m512i>(b)));
#elif DLCORE_VECTOR_BYTES == 32
  return bit_cast<Words>(_mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(b)));
#else
  return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

inline constexpr int kBlocks = kLanes<double>;  // Philox blocks made at once

/// Words of blocks index .. index + kBlocks - 1 of the dropout stream (random.h has the plain
/// form).
DLCORE_INLINE void dropout_words(uint64_t seed, uint64_t step, uint32_t layer, uint64_t index,
                                 uint32_t* words) {
  const Words low = Words{} + 0xffffffff;
  Words c0, c1;
  for (int i = 0; i < kBlocks; ++i) {
    const uint64_t block = index + static_cast<uint64_t>(i);
    c0[i] = static_cast<int64_t>(block & 0xffffffff);
    c1[i] = static_cast<int64_t>((block >> 32 & 0xffffff) |
                                 static_cast<uint64_t>(philox::Purpose::dropout) << 24);
  }
  Words c2 = Words{} + static_cast<int64_t>(step & 0xffffffff);
  Words c3 = Words{} + static_cast<int64_t>((step >> 32 & 0xffff) | uint64_t{layer} << 16);
  c3 &= low;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const Words multiplier0 = Words{} + int64_t{philox::kMultiplier0};
  const Words multiplier1 = Words{} + int64_t{philox::kMultiplier1};
  for (int round = 0; round < philox::kRounds; ++round) {
    const Words product0 = multiply_low(multiplier0, c0), product1 = multiply_low(multiplier1, c2);
    const Words next0 = (product1 >> 32 & low) ^ c1 ^ (Words{} + int64_t{key0});
    const Words next2 = (product0 >> 32 & low) ^ c3 ^ (Words{} + int64_t{key1});
    c1 = product1 & low;
    c3 = product0 & low;
    c0 = next0;
    c2 = next2;
    key0 += philox::kWeyl0;
    key1 += philox::kWeyl1;
  }
  for (int i = 0; i < kBlocks; ++i) {
    words[4 * i] = static_cast<uint32_t>(c0[i]);
    words[4 * i + 1] = static_cast<uint32_t>(c1[i]);
    words[4 * i + 2] = static_cast<uint32_t>(c2[i]);
    words[4 * i + 3] = static_cast<uint32_t>(c3[i]);
  }
}

template <class T>
void dropout(const T* x, T* y, uint32_t threshold, T scale, uint64_t seed, uint64_t step,
             uint32_t layer, Index first, Index n) {
  uint32_t words[4 * kBlocks];
  Index i = 0;
  while (i < n) {
    const uint64_t block = static_cast<uint64_t>(first + i) / 4;
    dropout_words(seed, step, layer, block, words);
    const Index skip = (first + i) % 4;
    const Index count = smaller(4 * kBlocks - skip, n - i);
    for (Index j = 0; j < count; ++j) {
      y[i + j] = words[skip + j] >= threshold ? x[i + j] * scale : T{0};
    }
    i += count;
  }
}

template <class T>
constexpr KernelsOf<T> table() {
  return {.convert_row = convert_row<T>,
          .dense_forward = dense_forward<T, Single>,
          .dense_finish = dense_finish<T>,
          .dense_input_gradient = dense_input_gradient<T, Single>,
          .dense_input_gradient_transposed = dense_input_gradient_transposed<T, Single>,
          .dense_weight_gradient = dense_weight_gradient<T, Single>,
          .dense_weight_update = dense_weight_update<T, Single>,
          .column_sums = column_sums<T>,
          .transpose = transpose<T>,
          .activation_forward = activation_forward<T>,
          .activation_backward = activation_backward<T>,
          .softmax = softmax<T>,
          .cross_entropy = cross_entropy<T>,
          .element_loss = element_loss<T>,
          .update = update_elements<T>,
          .add = add_elements<T>,
          .sum_squares = sum_squares<T>,
          .dropout = dropout<T>};
}

}  // namespace
}  // namespace dlcore
