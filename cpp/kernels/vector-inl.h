// Vectors of DLCORE_VECTOR_BYTES bytes in the compiler's vector extension, and the few operations
// that extension lacks. Included by body-inl.h only, once per instruction set; no include guard
// against a second width is needed because every instruction set is a file of its own. No standard
// header with inline functions may come in here (see select.cpp).

#pragma once

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace dlcore {
namespace {

template <class T>
struct VectorTypes;
template <>
struct VectorTypes<float> {
  typedef float Vec __attribute__((vector_size(DLCORE_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(DLCORE_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Mask __attribute__((vector_size(DLCORE_VECTOR_BYTES)));
};
template <>
struct VectorTypes<double> {
  typedef double Vec __attribute__((vector_size(DLCORE_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(DLCORE_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Mask __attribute__((vector_size(DLCORE_VECTOR_BYTES)));
};

/// Vector of T; comparisons give Mask<T> (all bits set or none) and `mask ? a : b` selects lanes.
template <class T>
using Vec = typename VectorTypes<T>::Vec;
template <class T>
using Mask = typename VectorTypes<T>::Mask;

template <class T>
inline constexpr int kLanes = DLCORE_VECTOR_BYTES / static_cast<int>(sizeof(T));

#define DLCORE_INLINE inline __attribute__((always_inline))

template <class T>
DLCORE_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorTypes<T>::Unaligned*>(p);
}

template <class T>
DLCORE_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorTypes<T>::Unaligned*>(p) = v;
}

/// Store past the caches; p is aligned to the vector.
template <class T>
DLCORE_INLINE void stream(T* p, Vec<T> v) {
#if DLCORE_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    _mm512_stream_ps(p, v);
  } else {
    _mm512_stream_pd(p, v);
  }
#elif DLCORE_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) {
    _mm256_stream_ps(p, v);
  } else {
    _mm256_stream_pd(p, v);
  }
#else
  store(p, v);
#endif
}

/// Orders streaming stores before what follows.
DLCORE_INLINE void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T>
DLCORE_INLINE Vec<T> splat(T s) {
  return s - Vec<T>{};
}

/// a * b + c with one rounding. Contraction is off everywhere (CMakeLists.txt), so that two
/// loops over the same formula round alike; this is the only way to a fused operation.
DLCORE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if DLCORE_VECTOR_BYTES == 64
  return _mm512_fmadd_ps(a, b, c);
#elif DLCORE_VECTOR_BYTES == 32
  return _mm256_fmadd_ps(a, b, c);
#else
  return vfmaq_f32(c, a, b);
#endif
}
DLCORE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if DLCORE_VECTOR_BYTES == 64
  return _mm512_fmadd_pd(a, b, c);
#elif DLCORE_VECTOR_BYTES == 32
  return _mm256_fmadd_pd(a, b, c);
#else
  return vfmaq_f64(c, a, b);
#endif
}

DLCORE_INLINE Vec<float> sqrt(Vec<float> a) {
#if DLCORE_VECTOR_BYTES == 64
  return _mm512_sqrt_ps(a);
#elif DLCORE_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(a);
#else
  return vsqrtq_f32(a);
#endif
}
DLCORE_INLINE Vec<double> sqrt(Vec<double> a) {
#if DLCORE_VECTOR_BYTES == 64
  return _mm512_sqrt_pd(a);
#elif DLCORE_VECTOR_BYTES == 32
  return _mm256_sqrt_pd(a);
#else
  return vsqrtq_f64(a);
#endif
}

/// Bits of a vector as another vector type of the same size.
template <class To, class From>
DLCORE_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  return reinterpret_cast<To>(from);
}

/// Lanes i and i ^ step change places.
template <class T>
DLCORE_INLINE Vec<T> swap_lanes(Vec<T> v, int step) {
#ifdef __clang__
  Vec<T> swapped;
  for (int i = 0; i < kLanes<T>; ++i) swapped[i] = v[i ^ step];
  return swapped;
#else
  Mask<T> from;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) from[i] = i ^ step;
  return __builtin_shuffle(v, from);
#endif
}

/// Sum of the lanes, by halves: the same bits at every call, but not the same at every width.
template <class T>
DLCORE_INLINE T sum_lanes(Vec<T> v) {
#pragma GCC unroll 4
  for (int step = kLanes<T> / 2; step > 0; step /= 2) v += swap_lanes<T>(v, step);
  return v[0];
}

/// Swaps the off-diagonal runs of `step` lanes of two rows: one stage of a transposition.
template <class T>
DLCORE_INLINE void exchange(Vec<T>& a, Vec<T>& b, int step) {
  Vec<T> low, high;
#ifdef __clang__
  for (int i = 0; i < kLanes<T>; ++i) {
    low[i] = (i & step) != 0 ? b[i - step] : a[i];
    high[i] = (i & step) != 0 ? b[i] : a[i + step];
  }
#else
  Mask<T> from_low, from_high;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    from_low[i] = (i & step) != 0 ? kLanes<T> + i - step : i;
    from_high[i] = (i & step) != 0 ? kLanes<T> + i : i + step;
  }
  low = __builtin_shuffle(a, b, from_low);
  high = __builtin_shuffle(a, b, from_high);
#endif
  a = low;
  b = high;
}

/// Elements 0 and 1 of p in turn.
DLCORE_INLINE Vec<float> splat_pair(const float* p) {
  double both;
  __builtin_memcpy(&both, p, sizeof(both));
  return bit_cast<Vec<float>>(splat(both));
}

/// xt[j,i] = x[i,j] for kLanes<T> rows and columns.
template <class T>
DLCORE_INLINE void transpose_block(const T* x, Index ldx, T* xt, Index ldt) {
  constexpr int kSide = kLanes<T>;
  Vec<T> row[kSide];
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) row[i] = load(x + i * ldx);
#if DLCORE_VECTOR_BYTES == 64
  // Shuffles without a vector of indices: three times as fast as the stages below.
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  // Lane l, of 16 bytes, of quad[kQuad g + c] is column kQuad l + c of kQuad rows from kQuad g on.
  constexpr int kQuad = kSide / 4;
  __m512 quad[kSide];
  if constexpr (sizeof(T) == 4) {
    __m512 pair[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      pair[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
      pair[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      quad[i] = low(pair[i], pair[i + 2]);
      quad[i + 1] = high(pair[i], pair[i + 2]);
      quad[i + 2] = low(pair[i + 1], pair[i + 3]);
      quad[i + 3] = high(pair[i + 1], pair[i + 3]);
    }
  } else {
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      const __m512 first = _mm512_castpd_ps(row[i]), second = _mm512_castpd_ps(row[i + 1]);
      quad[i] = low(first, second);
      quad[i + 1] = high(first, second);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kQuad; ++c) {
    const __m512* q = quad + c;
    const __m512 even0 = _mm512_shuffle_f32x4(q[0], q[kQuad], 0x88);
    const __m512 odd0 = _mm512_shuffle_f32x4(q[0], q[kQuad], 0xdd);
    const __m512 even1 = _mm512_shuffle_f32x4(q[2 * kQuad], q[3 * kQuad], 0x88);
    const __m512 odd1 = _mm512_shuffle_f32x4(q[2 * kQuad], q[3 * kQuad], 0xdd);
    const auto put = [&](int l, __m512 v) {
      store(xt + (kQuad * l + c) * ldt, bit_cast<Vec<T>>(v));
    };
    put(0, _mm512_shuffle_f32x4(even0, even1, 0x88));
    put(1, _mm512_shuffle_f32x4(odd0, odd1, 0x88));
    put(2, _mm512_shuffle_f32x4(even0, even1, 0xdd));
    put(3, _mm512_shuffle_f32x4(odd0, odd1, 0xdd));
  }
#else
#pragma GCC unroll 4
  for (int step = 1; step < kSide; step *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      if ((i & step) == 0) exchange<T>(row[i], row[i + step], step);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSide; ++i) store(xt + i * ldt, row[i]);
#endif
}

/// Even and odd units of two vectors, those of a first, then those of b: of elements within each 16
/// bytes where `within`, else of 16 bytes in the whole vector.
template <class T>
DLCORE_INLINE void separate(Vec<T> a, Vec<T> b, bool within, Vec<T>& even, Vec<T>& odd) {
  constexpr int kQuad = 16 / static_cast<int>(sizeof(T));
  const int unit = within ? 1 : kQuad, group = within ? kQuad : kLanes<T>;
  // Where lane i of the even units lies among the lanes of both.
  const auto from = [=](int i) {
    const int place = i % group;
    return i - place + (place < group / 2 ? 0 : kLanes<T>)+place % (group / 2) / unit * 2 * unit +
           i % unit;
  };
#ifdef __clang__
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    const int f = from(i);
    even[i] = f < kLanes<T> ? a[f] : b[f - kLanes<T>];
    odd[i] = f < kLanes<T> ? a[f + unit] : b[f + unit - kLanes<T>];
  }
#else
  Mask<T> evens, odds;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    evens[i] = from(i);
    odds[i] = from(i) + unit;
  }
  even = __builtin_shuffle(a, b, evens);
  odd = __builtin_shuffle(a, b, odds);
#endif
}

template <class T>
DLCORE_INLINE Vec<T> add_neighbours(Vec<T> a, Vec<T> b, bool within) {
  Vec<T> even, odd;
  separate<T>(a, b, within, even, odd);
  return even + odd;
}

/// Lane r, counted modulo R, is a part of the sum over the lanes of v[r].
template <class T, int R>
DLCORE_INLINE Vec<T> fold(const Vec<T>* v) {
  if constexpr (R == 1) {
    return v[0];
  } else {
    return add_neighbours<T>(fold<T, R / 2>(v), fold<T, R / 2>(v + R / 2), R * sizeof(T) <= 16);
  }
}

/// Lane r, counted modulo R, is the sum over the lanes of v[r]: the same bits for any R.
template <class T, int R>
DLCORE_INLINE Vec<T> sums_of_lanes(const Vec<T>* v) {
  Vec<T> total = fold<T, R>(v);
#pragma GCC unroll 4
  for (int step = 2 * R; step <= kLanes<T>; step *= 2) {
    total = add_neighbours<T>(total, total, step * sizeof(T) <= 16);
  }
  return total;
}

/// Lane r of total[e] is the sum of lanes 2 e and 2 e + 1 of v[r], for 16 vectors of 16 lanes.
template <class T>
DLCORE_INLINE void add_and_turn_pairs(const Vec<T>* v, Vec<T>* total) {
  static_assert(kLanes<T> == 16);
  // Quad q of some[h][g]: inputs 4 g .. 4 g + 3 of example 2 q + h.
  Vec<T> some[2][4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    separate<T>(add_neighbours<T>(v[4 * g], v[4 * g + 1], true),
                add_neighbours<T>(v[4 * g + 2], v[4 * g + 3], true), true, some[0][g], some[1][g]);
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    Vec<T> even[2], odd[2];
    separate<T>(some[h][0], some[h][1], false, even[0], odd[0]);
    separate<T>(some[h][2], some[h][3], false, even[1], odd[1]);
    separate<T>(even[0], even[1], false, total[h], total[4 + h]);
    separate<T>(odd[0], odd[1], false, total[2 + h], total[6 + h]);
  }
}

/// Largest lane; a NaN may count or not.
template <class T>
DLCORE_INLINE T max_lanes(Vec<T> v) {
#pragma GCC unroll 4
  for (int step = kLanes<T> / 2; step > 0; step /= 2) {
    const Vec<T> other = swap_lanes<T>(v, step);
    v = v > other ? v : other;
  }
  return v[0];
}

/// First `count` elements of a vector, the rest `fill`; nothing past them is read.
template <class T>
DLCORE_INLINE Vec<T> load_partial(const T* p, int64_t count, T fill) {
  Vec<T> v = splat(fill);
#if DLCORE_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    return _mm512_mask_loadu_ps(v, static_cast<__mmask16>((1u << count) - 1), p);
  } else {
    return _mm512_mask_loadu_pd(v, static_cast<__mmask8>((1u << count) - 1), p);
  }
#else
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}

template <class T>
DLCORE_INLINE void store_partial(T* p, Vec<T> v, int64_t count) {
#if DLCORE_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), v);
  }
#else
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
#endif
}

}  // namespace
}  // namespace dlcore
