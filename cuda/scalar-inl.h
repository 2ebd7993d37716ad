// What kernels/functors.h needs of V where a thread works on one number: Vec<T> is T. Included by
// functors.h where DLCORE_SCALAR is defined, after device.h. The formulas then round as they do on
// the CPU, because contraction is off (-fmad=false) and division and square root are exact.

#pragma once

#include "kernels/kernels.h"

#define DLCORE_INLINE __device__ __forceinline__

namespace dlcore {
namespace {

template <class T>
using Vec = T;

template <class V, class S>
DLCORE_INLINE V constant(S s) {
  return static_cast<V>(s);
}

DLCORE_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DLCORE_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
DLCORE_INLINE float sqrt(float a) { return __builtin_sqrtf(a); }
DLCORE_INLINE double sqrt(double a) { return __builtin_sqrt(a); }
DLCORE_INLINE float abs(float x) { return __builtin_fabsf(x); }
DLCORE_INLINE double abs(double x) { return __builtin_fabs(x); }
DLCORE_INLINE float copysign(float magnitude, float sign) {
  return __builtin_copysignf(magnitude, sign);
}

/// The smaller and the larger of x and a limit; NaN in x stays.
template <class V>
DLCORE_INLINE V at_most(V x, V limit) {
  return limit < x ? limit : x;
}
template <class V>
DLCORE_INLINE V at_least(V x, V limit) {
  return limit > x ? limit : x;
}

/// 2^(i - 127) for a float32 whose last bits hold the integer i in 0..255.
DLCORE_INLINE float power_of_two(float shifted) {
  return __uint_as_float(__float_as_uint(shifted) << 23);
}

/// x = mantissa * 2^exponent with the mantissa in [sqrt(1/2), sqrt(2)), for normal float32 x > 0.
DLCORE_INLINE float split(float x, float& exponent) {
  const int bits = static_cast<int>(__float_as_uint(x));
  const int e = (bits - 0x3f3504f3) >> 23;
  exponent = static_cast<float>(e);
  return __uint_as_float(static_cast<unsigned>(bits - (e << 23)));
}

template <class F>
DLCORE_INLINE double each_lane(double x, F f) {
  return f(x);
}

}  // namespace
}  // namespace dlcore
