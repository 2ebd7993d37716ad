// Products of one warp in the population kernel: c[m,n] += sum_k a[m,k] b[n,k], where c is kept as
// tiles of 16 x 8 in the registers of the warp's lanes and a and b lie in shared memory. Lane
// 4 g + t has the elements (g, 2t), (g, 2t + 1), (g + 8, 2t) and (g + 8, 2t + 1) of a tile, as
// tensor cores want it; the plain version keeps the same places. Included by population.cu after
// device.h.

#pragma once

namespace dlcore::cuda {
namespace {

/// A factor in shared memory, element (i, k) at [at + i * ld + k], or at [at + k * ld + i] if
/// `by_k`. Its place is a number and no pointer, so that the compiler knows what it loads from.
template <bool by_k>
struct Factor {
  int at, ld;

  __device__ Factor from(int i, int k) const { return {at + (by_k ? k * ld + i : i * ld + k), ld}; }
  __device__ const float* element(int i, int k) const {
    DLCORE_SHARED_DYNAMIC(float, shared);
    return shared + from(i, k).at;
  }
  __device__ float operator()(int i, int k) const { return *element(i, k); }
};

__device__ __forceinline__ void load_four(const float* p, float (&v)[4]) {
  const float4 four = *reinterpret_cast<const float4*>(p);
  v[0] = four.x;
  v[1] = four.y;
  v[2] = four.z;
  v[3] = four.w;
}

/// Four neighbours along k.
__device__ __forceinline__ void load_four(const Factor<false>& f, int i, float (&v)[4]) {
  load_four(f.element(i, 0), v);
}
__device__ __forceinline__ void load_four(const Factor<true>& f, int i, float (&v)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = f(i, j);
}

/// The same of rows i and i + 1, i even.
__device__ __forceinline__ void load_pair(const Factor<false>& f, int i, float (&v)[2][4]) {
  load_four(f, i, v[0]);
  load_four(f, i + 1, v[1]);
}
__device__ __forceinline__ void load_pair(const Factor<true>& f, int i, float (&v)[2][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 two = *reinterpret_cast<const float2*>(f.element(i, j));
    v[0][j] = two.x;
    v[1][j] = two.y;
  }
}

/// Float32 throughout, each element one chain over k.
struct PlainTiles {
  /// Adds the products of k .. k + count, a multiple of 8. The first `m_tiles` and `n_tiles` tiles
  /// exist; `whole` says that these are all.
  template <bool whole, int kM, int kN, bool a_by_k, bool b_by_k>
  static __device__ void add(float (&c)[kM][kN][4], Factor<a_by_k> a, Factor<b_by_k> b, int count,
                             int m_tiles, int n_tiles) {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    for (int k = 0; k < count; k += 4) {
      const Factor<a_by_k> ak = a.from(g, k);
      const Factor<b_by_k> bk = b.from(2 * t, k);
      float rows[kM][2][4] = {};
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        if (!whole && i >= m_tiles) continue;
        load_four(ak, 16 * i, rows[i][0]);
        load_four(ak, 16 * i + 8, rows[i][1]);
      }
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if (!whole && j >= n_tiles) continue;
        float columns[2][4];
        load_pair(bk, 8 * j, columns);
#pragma unroll
        for (int s = 0; s < 4; ++s) {
#pragma unroll
          for (int i = 0; i < kM; ++i) {
            float(&tile)[4] = c[i][j];
            tile[0] = __fmaf_rn(rows[i][0][s], columns[0][s], tile[0]);
            tile[1] = __fmaf_rn(rows[i][0][s], columns[1][s], tile[1]);
            tile[2] = __fmaf_rn(rows[i][1][s], columns[0][s], tile[2]);
            tile[3] = __fmaf_rn(rows[i][1][s], columns[1][s], tile[3]);
          }
        }
      }
    }
  }
};

/// What the tensor cores multiply: numbers in tf32's 11 bits, ties rounded away from zero.
struct Tf32 {
  static constexpr int kDepth = 8;  ///< summed index of one instruction

  /// What lane t has of columns k to k + 3, where f is the factor from column k + t on.
  template <bool by_k>
  static __device__ __forceinline__ unsigned part(const Factor<by_k>& f, int i) {
#ifdef DLCORE_EMULATE
    const unsigned bits = __float_as_uint(f(i, 0));
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
#else
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(f(i, 0)));
    return bits;
#endif
  }

#ifdef DLCORE_EMULATE
  static float value(unsigned part, int) { return __uint_as_float(part); }
#else
  static __device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
};

/// The same of bfloat16, two numbers to a part, ties rounded to even.
struct Bfloat16 {
  static constexpr int kDepth = 16;

  /// Columns k to k + 7. The tensor cores take the pair for columns 2 t and 2 t + 1, but to a sum
  /// it is all the same which columns are meant if both factors mean the same; those 4 apart lie
  /// in other banks.
  template <bool by_k>
  static __device__ __forceinline__ unsigned part(const Factor<by_k>& f, int i) {
    const float low = f(i, 0), high = f(i, 4);
#ifdef DLCORE_EMULATE
    return to_storage<Bf16>(low).bits | static_cast<unsigned>(to_storage<Bf16>(high).bits) << 16;
#else
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
  }

#ifdef DLCORE_EMULATE
  static float value(unsigned part, int i) {
    return __uint_as_float(i == 0 ? part << 16 : part & 0xffff0000u);
  }
#else
  static __device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
};

/// c += a b^T for one tile. Lane 4 g + t gives the parts t of row g, of row g + 8, and of both in
/// the second half of the summed index, and of b the parts t of row g in both halves.
template <class Format>
__device__ __forceinline__ void multiply_tile(float (&c)[4], const unsigned (&a)[4],
                                              const unsigned (&b)[2]) {
#ifdef DLCORE_EMULATE
  struct Parts {
    unsigned a[4], b[2];
  };
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
  const Parts mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const float4 sum = hostsim::exchange(mine, [&](auto of) {
    constexpr int kNumbers = Format::kDepth / 8;  // to a part
    float s[4] = {c[0], c[1], c[2], c[3]};
    for (int k = 0; k < Format::kDepth; ++k) {
      const int half = k / (4 * kNumbers), lane = k / kNumbers % 4, number = k % kNumbers;
      const Parts row = of(4 * g + lane);
      const Parts columns[] = {of(8 * t + lane), of(8 * t + 4 + lane)};
      for (int i = 0; i < 4; ++i) {
        s[i] = __fmaf_rn(Format::value(row.a[half * 2 + i / 2], number),
                         Format::value(columns[i % 2].b[half], number), s[i]);
      }
    }
    return make_float4(s[0], s[1], s[2], s[3]);
  });
  c[0] = sum.x;
  c[1] = sum.y;
  c[2] = sum.z;
  c[3] = sum.w;
#else
  Format::multiply(c, a, b);
#endif
}

/// Factors rounded to a format, sums in float32, by the tensor cores.
template <class Format>
struct TensorTiles {
  template <bool whole, int kM, int kN, bool a_by_k, bool b_by_k>
  static __device__ void add(float (&c)[kM][kN][4], Factor<a_by_k> a, Factor<b_by_k> b, int count,
                             int m_tiles, int n_tiles) {
    constexpr int kHalf = Format::kDepth / 2;
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    for (int k = 0; k < count; k += Format::kDepth) {
      // A multiple of 8 may end within what one instruction sums; the rest then counts as zero.
      const bool both = Format::kDepth == 8 || k + kHalf < count;
      const Factor<a_by_k> a_first = a.from(g, k + t), a_second = a.from(g, k + t + kHalf);
      const Factor<b_by_k> b_first = b.from(g, k + t), b_second = b.from(g, k + t + kHalf);
      unsigned rows[kM][4] = {};
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        if (!whole && i >= m_tiles) continue;
        rows[i][0] = Format::part(a_first, 16 * i);
        rows[i][1] = Format::part(a_first, 16 * i + 8);
        if (!both) continue;
        rows[i][2] = Format::part(a_second, 16 * i);
        rows[i][3] = Format::part(a_second, 16 * i + 8);
      }
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if (!whole && j >= n_tiles) continue;
        const unsigned columns[2] = {Format::part(b_first, 8 * j),
                                     both ? Format::part(b_second, 8 * j) : 0u};
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          if (whole || i < m_tiles) multiply_tile<Format>(c[i][j], rows[i], columns);
        }
      }
    }
  }
};

}  // namespace
}  // namespace dlcore::cuda
