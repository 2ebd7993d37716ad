// Products of one warp in the population kernel: c[m,n] += sum_k a[m,k] b[n,k], where c is kept as
// tiles of 16 x 8 in the registers of the warp's lanes and a and b lie in shared memory. Lane
// 4 g + t has the elements (g, 2t), (g, 2t + 1), (g + 8, 2t) and (g + 8, 2t + 1) of a tile, as
// tensor cores want it; the plain version keeps the same places. Included by population.cu after
// device.h.

#pragma once

namespace dlcore::cuda {
namespace {

/// A factor in shared memory, element (i, k) at p[i * ld + k], or at p[k * ld + i] if `by_k`.
template <bool by_k>
struct Factor {
  const float* p;
  int ld;

  __device__ Factor from(int i, int k) const { return {p + (by_k ? k * ld + i : i * ld + k), ld}; }
  __device__ float operator()(int i, int k) const { return p[by_k ? k * ld + i : i * ld + k]; }
};

/// Four neighbours along k.
__device__ __forceinline__ void load_four(const Factor<false>& f, int i, float (&v)[4]) {
  const float4 four = *reinterpret_cast<const float4*>(f.p + i * f.ld);
  v[0] = four.x;
  v[1] = four.y;
  v[2] = four.z;
  v[3] = four.w;
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
    const float2 two = *reinterpret_cast<const float2*>(f.p + j * f.ld + i);
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

/// A float32 in tf32's 11 bits, ties away from zero: what the tensor cores take.
__device__ __forceinline__ float to_tf32(float x) {
#ifdef DLCORE_EMULATE
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x;
  return __uint_as_float((bits + 0x1000u) & ~0x1fffu);
#else
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#endif
}

/// c += a b^T for one tile, summed index 8. Lane 4 g + t gives a[g][t], a[g + 8][t], a[g][t + 4],
/// a[g + 8][t + 4] and b[g][t], b[g][t + 4].
__device__ __forceinline__ void multiply_tile(float (&c)[4], const float (&a)[4],
                                              const float (&b)[2]) {
#ifdef DLCORE_EMULATE
  struct Parts {
    float a[4], b[2];
  };
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
  const Parts mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const float4 sum = hostsim::exchange(mine, [&](auto of) {
    float s[4] = {c[0], c[1], c[2], c[3]};
    for (int k = 0; k < 8; ++k) {
      const Parts row = of(4 * g + k % 4);
      const Parts columns[] = {of(8 * t + k % 4), of(8 * t + 4 + k % 4)};
      for (int i = 0; i < 4; ++i) {
        s[i] = __fmaf_rn(row.a[k / 4 * 2 + i / 2], columns[i % 2].b[k / 4], s[i]);
      }
    }
    return make_float4(s[0], s[1], s[2], s[3]);
  });
  c[0] = sum.x;
  c[1] = sum.y;
  c[2] = sum.z;
  c[3] = sum.w;
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

/// Factors rounded to tf32, sums in float32, by the tensor cores.
struct TensorTiles {
  template <bool whole, int kM, int kN, bool a_by_k, bool b_by_k>
  static __device__ void add(float (&c)[kM][kN][4], Factor<a_by_k> a, Factor<b_by_k> b, int count,
                             int m_tiles, int n_tiles) {
    const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
    for (int k = 0; k < count; k += 8) {
      const Factor<a_by_k> ak = a.from(g, k + t);
      const Factor<b_by_k> bk = b.from(g, k + t);
      float rows[kM][4] = {};
#pragma unroll
      for (int i = 0; i < kM; ++i) {
        if (!whole && i >= m_tiles) continue;
        rows[i][0] = to_tf32(ak(16 * i, 0));
        rows[i][1] = to_tf32(ak(16 * i + 8, 0));
        rows[i][2] = to_tf32(ak(16 * i, 4));
        rows[i][3] = to_tf32(ak(16 * i + 8, 4));
      }
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if (!whole && j >= n_tiles) continue;
        const float columns[2] = {to_tf32(bk(8 * j, 0)), to_tf32(bk(8 * j, 4))};
#pragma unroll
        for (int i = 0; i < kM; ++i) {
          if (whole || i < m_tiles) multiply_tile(c[i][j], rows[i], columns);
        }
      }
    }
  }
};

}  // namespace
}  // namespace dlcore::cuda
