// Activations, losses of single elements and optimizer updates, each formula written once. V stands
// for what one call works on: a vector of float or double here, a single float on a GPU, where
// Vec<T> is T. The first part holds everything that depends on V beyond fma, sqrt, bit_cast,
// + - * / and `comparison ? a : b`; no formula below it knows how wide V is. cuda/scalar-inl.h
// takes its place where DLCORE_SCALAR is defined. Included after vector-inl.h by each instruction
// set, so the same rule holds: no standard header.
//
// Float32 has formulas of its own, with the errors of the table at activate(). Float64 calls the C
// library lane by lane: it serves to check, where speed is second.

#pragma once

#include "kernels/kernels.h"
#ifdef DLCORE_SCALAR
#include "scalar-inl.h"
#else
#include "kernels/vector-inl.h"
#endif

namespace dlcore {
namespace {

#ifndef DLCORE_SCALAR

// ---- What depends on V --------------------------------------------------------------------------

/// Result of a comparison of two V, as bits.
template <class V>
using BitsOf = decltype(V{} < V{});

template <class V, class S>
DLCORE_INLINE V constant(S s) {
  return s - V{};
}

template <class V>
DLCORE_INLINE V abs(V x) {
  return bit_cast<V>(bit_cast<BitsOf<V>>(x) & ~bit_cast<BitsOf<V>>(-V{}));
}

/// |magnitude| with the sign of `sign`.
template <class V>
DLCORE_INLINE V copysign(V magnitude, V sign) {
  const BitsOf<V> mask = bit_cast<BitsOf<V>>(-V{});
  return bit_cast<V>((bit_cast<BitsOf<V>>(magnitude) & ~mask) | (bit_cast<BitsOf<V>>(sign) & mask));
}

/// The smaller and the larger of x and a limit; NaN in x stays. x86 returns the second argument
/// then. (GCC 12 makes two instructions of a comparison, by way of a mask register.)
DLCORE_INLINE Vec<float> at_most(Vec<float> x, Vec<float> limit) {
#if DLCORE_VECTOR_BYTES == 64
  return _mm512_maskz_min_ps(0xffff, limit, x);
#elif DLCORE_VECTOR_BYTES == 32
  return _mm256_min_ps(limit, x);
#else
  return vminq_f32(x, limit);
#endif
}
DLCORE_INLINE Vec<float> at_least(Vec<float> x, Vec<float> limit) {
#if DLCORE_VECTOR_BYTES == 64
  return _mm512_maskz_max_ps(0xffff, limit, x);
#elif DLCORE_VECTOR_BYTES == 32
  return _mm256_max_ps(limit, x);
#else
  return vmaxq_f32(x, limit);
#endif
}
DLCORE_INLINE Vec<double> at_most(Vec<double> x, Vec<double> limit) {
  return limit < x ? limit : x;
}
DLCORE_INLINE Vec<double> at_least(Vec<double> x, Vec<double> limit) {
  return limit > x ? limit : x;
}

/// 2^(i - 127) for a float32 whose last bits hold the integer i in 0..255 (see kRound).
template <class V>
DLCORE_INLINE V power_of_two(V shifted) {
  return bit_cast<V>(bit_cast<BitsOf<V>>(shifted) << 23);
}

/// x = mantissa * 2^exponent with the mantissa in [sqrt(1/2), sqrt(2)), for normal float32 x > 0.
template <class V>
DLCORE_INLINE V split(V x, V& exponent) {
  const BitsOf<V> bits = bit_cast<BitsOf<V>>(x);
  const BitsOf<V> e = (bits - 0x3f3504f3) >> 23;
  exponent = __builtin_convertvector(e, V);
  return bit_cast<V>(bits - (e << 23));
}

/// A few vectors worked on together, operation by operation, so that while one waits the others go
/// on. One after the other, a processor would have to look farther ahead than it can.
template <class V, int N>
struct Several {
  V v[N];
};

/// f of the first of each, the second of each, ...
template <class F, class V, int N, class... More>
DLCORE_INLINE Several<V, N> each(F f, const Several<V, N>& a, const More&... more) {
  Several<V, N> result;
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) result.v[i] = f(a.v[i], more.v[i]...);
  return result;
}

#define DLCORE_EACH(op)                                                                \
  template <class V, int N>                                                            \
  DLCORE_INLINE Several<V, N> operator op(Several<V, N> a, Several<V, N> b) {          \
    return each([](V x, V y) __attribute__((always_inline)) { return x op y; }, a, b); \
  }                                                                                    \
  template <class V, int N>                                                            \
  DLCORE_INLINE Several<V, N> operator op(Several<V, N> a, float b) {                  \
    return each([b](V x) __attribute__((always_inline)) { return x op b; }, a);        \
  }                                                                                    \
  template <class V, int N>                                                            \
  DLCORE_INLINE Several<V, N> operator op(float a, Several<V, N> b) {                  \
    return each([a](V x) __attribute__((always_inline)) { return a op x; }, b);        \
  }
DLCORE_EACH(+)
DLCORE_EACH(-)
DLCORE_EACH(*)
DLCORE_EACH(/)
#undef DLCORE_EACH
template <class V, int N>
DLCORE_INLINE Several<V, N> operator-(Several<V, N> a) {
  return each([](V x) __attribute__((always_inline)) { return -x; }, a);
}
template <class V, int N>
DLCORE_INLINE Several<V, N> fma(Several<V, N> a, Several<V, N> b, Several<V, N> c) {
  return each([](V x, V y, V z) __attribute__((always_inline)) { return fma(x, y, z); }, a, b, c);
}
template <class V, int N>
DLCORE_INLINE Several<V, N> at_most(Several<V, N> x, Several<V, N> limit) {
  return each([](V a, V b) __attribute__((always_inline)) { return at_most(a, b); }, x, limit);
}
template <class V, int N>
DLCORE_INLINE Several<V, N> at_least(Several<V, N> x, Several<V, N> limit) {
  return each([](V a, V b) __attribute__((always_inline)) { return at_least(a, b); }, x, limit);
}
template <class V, int N>
DLCORE_INLINE Several<V, N> power_of_two(Several<V, N> shifted) {
  return each([](V x) __attribute__((always_inline)) { return power_of_two(x); }, shifted);
}

/// f of each lane; how float64 reaches the C library.
template <class F>
DLCORE_INLINE Vec<double> each_lane(Vec<double> x, F f) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = f(x[i]);
  return x;
}

#endif  // DLCORE_SCALAR

// ---- Exponential and logarithm in float32 -------------------------------------------------------

/// Adding 1.5 * 2^23 + 127 to a float rounds it to an integer n and leaves n + 127, the exponent
/// bits of 2^n, in its last bits.
inline constexpr float kRound = 12582912.0f + 127.0f;

/// Results down to the subnormals are scaled in two steps, 2^(n + 40) and this, so that both
/// factors are normal and the result is rounded once.
inline constexpr float kDown = 0x1p-40f;

/// e^(s (x + low)) = 2^(s n) (1 + head + tail).
template <class V>
struct Exponential {
  V shifted;  ///< n + round
  V head;     ///< s (x - n ln 2), exact
  V tail;     ///< at most 0.08
};

/// For |x| <= 120, s = +1 or -1, and `round` kRound plus an offset.
///
/// e^r = 1 + r + r^2 q(r) on |r| <= 0.34666, q of degree 5 by Sollya's fpminimax for the least
/// relative error of e^r - 1: 0.008 * 2^-24 (degree 4: 0.24, and 1.02 ulp in tanh). ln 2 is split
/// in two, the first part with 21 bits, so that its product with n and the difference to x are
/// exact: what is rounded is small, the tail.
template <int s, class V>
DLCORE_INLINE Exponential<V> exponential(V x, V low, V round) {
  const V shifted = fma(x, constant<V>(0x1.715476p+0f), round);
  const V n = shifted - round;
  V head, rest;
  if constexpr (s > 0) {
    head = fma(n, constant<V>(-0x1.62e43p-1f), x);
    rest = fma(n, constant<V>(0x1.05c61p-29f), low);
  } else {
    head = fma(n, constant<V>(0x1.62e43p-1f), -x);
    rest = fma(n, constant<V>(-0x1.05c61p-29f), -low);
  }
  const V r = head + rest;
  const V r2 = r * r;
  // In pairs, for a shorter chain of operations that wait for each other.
  V q = fma(r, constant<V>(0x1.9e0c12p-13f), constant<V>(0x1.6d436ep-10f));
  q = fma(r2, q, fma(r, constant<V>(0x1.111306p-7f), constant<V>(0x1.5554fp-5f)));
  q = fma(r2, q, fma(r, constant<V>(0x1.555554p-3f), constant<V>(0.5f)));
  return {shifted, head, fma(r2, q, rest)};
}

/// e^x
template <class V>
DLCORE_INLINE V exp_single(V x) {
  x = at_least(at_most(x, constant<V>(89.0f)), constant<V>(-105.0f));
  const auto small = x < 0.0f;
  const V round = small ? constant<V>(kRound + 40.0f) : constant<V>(kRound - 40.0f);
  const Exponential<V> e = exponential<1>(x, V{}, round);
  const V scale = small ? constant<V>(kDown) : constant<V>(1 / kDown);
  return (1.0f + (e.head + e.tail)) * power_of_two(e.shifted) * scale;
}

/// high + low = e^x - 1 for x in [-16.98, 0], where 2^n - 1 is exact.
template <class V>
DLCORE_INLINE V expm1_single(V x, V& low) {
  const Exponential<V> e = exponential<1>(x, V{}, constant<V>(kRound));
  const V power = power_of_two(e.shifted);
  const V first = power - 1.0f;
  const V high = fma(power, e.head, first);
  low = fma(power, e.tail, fma(power, e.head, first - high));
  return high;
}

/// log(1 + f) - f for f in [sqrt(1/2) - 1, sqrt(2) - 1]; `extra` is added before rounding.
///
/// log(1 + f) = f - f^2/2 + f^3 p(f), p of degree 7 by Sollya's fpminimax, relative error
/// 0.14 * 2^-24.
template <class V>
DLCORE_INLINE V log1p_tail(V f, V extra) {
  V p = fma(f, constant<V>(-0x1.2a6f78p-4f), constant<V>(0x1.015974p-3f));
  p = fma(f, p, constant<V>(-0x1.0e96ccp-3f));
  p = fma(f, p, constant<V>(0x1.239ce2p-3f));
  p = fma(f, p, constant<V>(-0x1.5466fep-3f));
  p = fma(f, p, constant<V>(0x1.99944ep-3f));
  p = fma(f, p, constant<V>(-0x1.000234p-2f));
  p = fma(f, p, constant<V>(0x1.55557p-2f));
  return fma(f * f, fma(f, p, constant<V>(-0.5f)), extra);
}

/// n ln 2 + log(1 + f) for an integer n.
template <class V>
DLCORE_INLINE V log_sum(V n, V f) {
  const V tail = log1p_tail(f, n * -0x1.05c61p-29f);
  const V first = n * 0x1.62e43p-1f;
  const V high = first + f;
  return high + (tail + (f - (high - first)));
}

/// log x
template <class V>
DLCORE_INLINE V log_single(V x) {
  const auto subnormal = x < 0x1p-126f;
  V n;
  const V mantissa = split(subnormal ? x * 0x1p24f : x, n);
  V y = log_sum(subnormal ? n - 24.0f : n, mantissa - 1.0f);
  y = x > 0.0f ? y : constant<V>(-__builtin_inff());
  y = x < 0.0f ? constant<V>(__builtin_nanf("")) : y;
  return x < __builtin_inff() ? y : x;  // infinity and NaN
}

/// log(1 + x)
template <class V>
DLCORE_INLINE V log1p_single(V x) {
  // What 1 + x loses by rounding is added to the mantissa; above 2^40 it is nothing.
  const V u = 1.0f + x;
  const V lost = x < 1.0f ? x - (u - 1.0f) : 1.0f - (u - x);
  V n;
  const V mantissa = split(u, n);
  const V inverse = power_of_two(kRound - at_most(n, constant<V>(40.0f)));
  V y = log_sum(n, fma(lost, inverse, mantissa - 1.0f));
  y = x > -1.0f ? y : constant<V>(-__builtin_inff());
  y = x < -1.0f ? constant<V>(__builtin_nanf("")) : y;
  return x < __builtin_inff() ? y : x;
}

/// log(1 + e^-|x|)
template <class V>
DLCORE_INLINE V softplus_tail_single(V x) {
  const V a = at_least(-abs(x), constant<V>(-110.0f));
  const Exponential<V> p = exponential<1>(a, V{}, constant<V>(kRound + 40.0f));
  const V e = (1.0f + (p.head + p.tail)) * power_of_two(p.shifted) * kDown;
  // 1 + e lies in [1, 2]: log(1 + e) or log 2 + log((1 + e) / 2).
  const auto large = e > 0x1.a82798p-2f;
  const V f = large ? fma(e, constant<V>(0.5f), constant<V>(-0.5f)) : e;
  const V tail = log1p_tail(f, large ? constant<V>(-0x1.05c61p-29f) : V{});
  return (large ? constant<V>(0x1.62e43p-1f) : V{}) + (f + tail);
}

// ---- Activations in float32 ---------------------------------------------------------------------

/// The logistic function of x + low and what its relatives need.
template <class V>
struct Logistic {
  V value;  ///< sigmoid * 2^40 / power
  V power;  ///< 2^(n + 40)
  V other;  ///< sigmoid(-x)
};

/// For x in [-113, 60]. With e^-x = 2^-n p, sigmoid = 2^n / (2^n + p): one formula for both signs,
/// and 2^n scales the quotient at the end, so results fade into the subnormals with one rounding.
/// The denominator's rounding errors are collected in `low` and enter the Newton step that follows
/// the division; without the step sigmoid had 1.5 ulp.
template <class V>
DLCORE_INLINE Logistic<V> logistic(V x, V x_low) {
  const Exponential<V> p = exponential<-1>(x, x_low, constant<V>(kRound + 40.0f));
  const V power = power_of_two(p.shifted);
  const V k = power * kDown;
  const V first = k + 1.0f;
  const V high = first + p.head;
  const V low = (p.head - (high - first)) + (k - (first - 1.0f)) + p.tail;
  const V r = 1.0f / (high + low);
  const V error = fma(-low, r, fma(-high, r, constant<V>(1.0f)));
  const V value = fma(r, error, r);
  return {value, power, (1.0f + (p.head + p.tail)) * value};
}

/// The same for sigmoid alone, with fewer operations. Of 1 + k + s, where k = 2^n and p = 1 + s,
/// the sum's rounding error enters the Newton step; s itself is off by 2^-26 twice, from r and its
/// own rounding, of which 0.97 ulp are left in all.
///
/// e^r = 1 + r + r^2 q(r), q of degree 4: a minimax fit of the error times e^-r, 2^-28.3, because
/// the error counts most where e^r is smallest.
template <class V>
DLCORE_INLINE V sigmoid_single(V x) {
  x = at_least(at_most(x, constant<V>(20.0f)), constant<V>(-110.0f));
  const V shifted = fma(x, constant<V>(0x1.715476p+0f), constant<V>(kRound + 40.0f));
  const V n = shifted - (kRound + 40.0f);
  const V k = power_of_two(shifted) * kDown;
  // r = n ln 2 - x
  const V r = fma(n, constant<V>(-0x1.05c61p-29f), fma(n, constant<V>(0x1.62e43p-1f), -x));
  const V r2 = r * r;
  const V high = fma(r, constant<V>(0x1.12399ep-7f), constant<V>(0x1.5558aep-5f));
  const V low = fma(r, constant<V>(0x1.555492p-3f), constant<V>(0x1.fffffcp-2f));
  const V s = fma(r2, fma(r2, fma(r2, constant<V>(0x1.6a51d4p-10f), high), low), r);
  const V sum = (1.0f + k) + s;
  // k - (sum - 1) is exact but for k below 2^-25, where little of k is left in the sum.
  const V lost = (k - (sum - 1.0f)) + s;
  const V y = 1.0f / sum;
  const V error = fma(-lost, y, fma(-sum, y, constant<V>(1.0f)));
  return fma(y, error, y) * k;
}

/// tanh |x| = -expm1(-2|x|) / (2 + expm1(-2|x|)), with a Newton step as in logistic().
template <class V>
DLCORE_INLINE V tanh_single(V x) {
  const V a = abs(x);
  V low;
  const V high = expm1_single(at_least(a * -2.0f, constant<V>(-16.98f)), low);
  const V sum = 2.0f + high;
  const V sum_low = (high - (sum - 2.0f)) + low;
  const V r = 1.0f / (sum + sum_low);
  const V y = (high + low) * r;
  const V error = fma(-sum_low, y, fma(-sum, y, high)) + low;
  return copysign(a > 9.02f ? constant<V>(1.0f) : fma(error, r, y), x);
}

/// The normal distribution's tail P(Z > a) = e^(-a^2/2) N(a) / D(a), a = |x|.
template <class V>
struct NormalTail {
  V a;       ///< |x|, at most 14.75, where gelu and its derivative have reached their limits
  V n;       ///< N(a)
  V an;      ///< a N(a), rounded once
  V d;       ///< D(a)
  V excess;  ///< e^(-a^2/2) * 2^40 / power - 1
  V power;
};

/// N = 1/2 + n1 a + ... + n4 a^4 and D = 1 + c a N + m1 a + ... + m4 a^4 on [0, 14.75]: a rational
/// Remez fit of the least relative error, its coefficients rounded one after the other with the
/// rest fitted again; 0.12 * 2^-24. All are positive, so that no sum cancels, and c a N is nearly
/// all of D for large a, where N / D tends to 1 / (sqrt(2 pi) a), so that the error of N falls out.
/// N and D as plain polynomials gave 4.7 ulp in gelu instead of 3.4, a polynomial of degree 9 in
/// (a - 4.25) / (a + 4.25) more than 6; gathering what the last steps lose, as logistic() does,
/// gives 2.1 and costs a third more time.
template <class V>
DLCORE_INLINE NormalTail<V> normal_tail(V x) {
  const V a = at_most(abs(x), constant<V>(14.75f));
  const V square = a * a;
  const V square_low = fma(a, a, -square);
  const Exponential<V> e =
      exponential<1>(square * -0.5f, square_low * -0.5f, constant<V>(kRound + 40.0f));
  const V n = fma(square, fma(a, constant<V>(0x1.0cebdp-8f), constant<V>(0x1.4c48d8p-5f)),
                  fma(a, constant<V>(0x1.76e182p-3f), constant<V>(0x1.c09772p-2f)));
  const V m = fma(square, fma(a, constant<V>(0x1.fcbf8ap-18f), constant<V>(0x1.4c50bp-7f)),
                  fma(a, constant<V>(0x1.a8bd48p-4f), constant<V>(0x1.aed69ep-2f)));
  const V an = fma(square, n, a * 0.5f);
  const V d = 1.0f + fma(an, constant<V>(0x1.40d84p+1f), a * m);
  return {a, fma(a, n, constant<V>(0.5f)), an, d, e.head + e.tail, power_of_two(e.shifted)};
}

/// x Phi(x) = max(x, 0) - |x| P(Z > |x|)
template <class V>
DLCORE_INLINE V gelu_single(V x) {
  const NormalTail<V> t = normal_tail(x);
  return at_least(x, V{}) - fma(t.an, t.excess, t.an) / t.d * t.power * kDown;
}

/// Phi(x) + x phi(x): for x < 0 e^(-x^2/2) (N / D - |x| / sqrt(2 pi)), and one minus that of -x
/// for x > 0.
template <class V>
DLCORE_INLINE V gelu_derivative_single(V x) {
  const NormalTail<V> t = normal_tail(x);
  const V factor = fma(t.a, constant<V>(-0x1.988454p-2f), t.n / t.d);
  const V y = fma(factor, t.excess, factor) * t.power * kDown;
  return x < 0.0f ? y : 1.0f - y;
}

template <class V>
DLCORE_INLINE V silu_single(V x) {
  const V a = at_least(at_most(x, constant<V>(20.0f)), constant<V>(-110.0f));
  const Logistic<V> s = logistic(a, V{});
  return x > 20.0f ? x : a * s.value * s.power * kDown;
}

template <class V>
DLCORE_INLINE V silu_derivative_single(V x) {
  x = at_least(at_most(x, constant<V>(20.0f)), constant<V>(-110.0f));
  const Logistic<V> s = logistic(x, V{});
  return s.value * fma(x, s.other, constant<V>(1.0f)) * s.power * kDown;
}

/// high + low = 2 sqrt(2/pi) (x + 0.044715 x^3): gelu_tanh(x) = x sigmoid(high + low). Down to
/// x = -11 the argument reaches -112, and an error in it is a relative error of the result, hence
/// two parts. The constant term has 20 bits, so that its difference to the sum is exact.
template <class V>
DLCORE_INLINE V gelu_tanh_argument(V x, V& low) {
  const V square = x * x;
  const V square_low = fma(x, x, -square);
  const V cubic = constant<V>(0x1.2444f2p-4f);
  const V factor = fma(cubic, square, constant<V>(0x1.98845p+0f));
  V factor_low = fma(cubic, square, 0x1.98845p+0f - factor);
  factor_low = fma(cubic, square_low, factor_low);
  factor_low = fma(square, constant<V>(0x1.49b16ap-29f), factor_low) + 0x1.9ea1b2p-23f;
  const V high = x * factor;
  low = fma(x, factor_low, fma(x, factor, -high));
  return high;
}

template <class V>
DLCORE_INLINE V gelu_tanh_single(V x) {
  const V a = at_least(at_most(x, constant<V>(6.0f)), constant<V>(-11.0f));
  V low;
  const V high = gelu_tanh_argument(a, low);
  const Logistic<V> s = logistic(high, low);
  return x > 6.0f ? x : a * s.value * s.power * kDown;
}

template <class V>
DLCORE_INLINE V gelu_tanh_derivative_single(V x) {
  x = at_least(at_most(x, constant<V>(6.0f)), constant<V>(-11.0f));
  V low;
  const V high = gelu_tanh_argument(x, low);
  const V slope = fma(x * x, constant<V>(3 * 0x1.2444f2p-4f), constant<V>(0x1.988454p+0f));
  const Logistic<V> s = logistic(high, low);
  return s.value * fma(x * slope, s.other, constant<V>(1.0f)) * s.power * kDown;
}

/// 1 - e^-y for y >= 0, the derivative of softplus by its result.
template <class V>
DLCORE_INLINE V softplus_derivative_single(V y) {
  V low;
  const V high = expm1_single(at_least(-y, constant<V>(-16.98f)), low);
  return y > 17.33f ? constant<V>(1.0f) : 0.0f - (high + low);
}

// ---- For both element types ---------------------------------------------------------------------

template <class T>
DLCORE_INLINE Vec<T> exp(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return exp_single(x);
  } else {
    return each_lane(x, [](double a) { return __builtin_exp(a); });
  }
}

template <class T>
DLCORE_INLINE Vec<T> log(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return log_single(x);
  } else {
    return each_lane(x, [](double a) { return __builtin_log(a); });
  }
}

template <class T>
DLCORE_INLINE Vec<T> log1p(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return log1p_single(x);
  } else {
    return each_lane(x, [](double a) { return __builtin_log1p(a); });
  }
}

template <class T>
DLCORE_INLINE Vec<T> tanh(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return tanh_single(x);
  } else {
    return each_lane(x, [](double a) { return __builtin_tanh(a); });
  }
}

template <class T>
DLCORE_INLINE Vec<T> sigmoid(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return sigmoid_single(x);
  } else {
    const Vec<T> e = exp<T>(-abs(x));
    return (x < 0.0 ? e : constant<Vec<T>>(1.0)) / (1.0 + e);
  }
}

/// log(1 + e^-|x|)
template <class T>
DLCORE_INLINE Vec<T> softplus_tail(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return softplus_tail_single(x);
  } else {
    return log1p<T>(exp<T>(-abs(x)));
  }
}

template <class T>
DLCORE_INLINE Vec<T> softplus(Vec<T> x) {
  return at_least(x, Vec<T>{}) + softplus_tail<T>(x);
}

/// gelu and its derivative share the tail P(Z > |x|) of the normal distribution and its density.
/// The argument |x| / sqrt(2) and the square are split as in float32.
template <class V>
DLCORE_INLINE V normal_tail_double(V a, V& density) {
  const V root_half = constant<V>(0x1.6a09e667f3bcdp-1);
  const V high = a * root_half;
  const V low = fma(a, root_half, -high) + a * -0x1.bdd3413b26456p-55;
  const V square = a * a;
  const V square_low = fma(a, a, -square);
  V gauss = exp<double>(square * -0.5);
  gauss = fma(gauss, square_low * -0.5, gauss);
  density = gauss * 0x1.9884533d43651p-2;
  const V erfc = each_lane(high, [](double z) { return __builtin_erfc(z); });
  return 0.5 * fma(gauss, low * -0x1.20dd750429b6dp+0, erfc);  // erfc' = -2 / sqrt(pi) e^-z^2
}

template <class T>
DLCORE_INLINE Vec<T> gelu(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return gelu_single(x);
  } else {
    const Vec<T> a = at_most(abs(x), constant<Vec<T>>(40.0));
    Vec<T> density;
    return at_least(x, Vec<T>{}) - a * normal_tail_double(a, density);
  }
}

template <class T>
DLCORE_INLINE Vec<T> gelu_derivative(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return gelu_derivative_single(x);
  } else {
    const Vec<T> a = at_most(abs(x), constant<Vec<T>>(40.0));
    Vec<T> density;
    const Vec<T> tail = normal_tail_double(a, density);
    const Vec<T> y = fma(-a, density, tail);
    return x < 0.0 ? y : 1.0 - y;
  }
}

template <class T>
DLCORE_INLINE Vec<T> silu(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return silu_single(x);
  } else {
    return at_least(x, constant<Vec<T>>(-800.0)) * sigmoid<T>(x);
  }
}

template <class T>
DLCORE_INLINE Vec<T> silu_derivative(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return silu_derivative_single(x);
  } else {
    x = at_least(at_most(x, constant<Vec<T>>(800.0)), constant<Vec<T>>(-800.0));
    return sigmoid<T>(x) * fma(x, sigmoid<T>(-x), constant<Vec<T>>(1.0));
  }
}

/// sigmoid of gelu_tanh's argument 2 sqrt(2/pi) (x + 0.044715 x^3), split as in float32, and of its
/// negative.
template <class V>
DLCORE_INLINE V gelu_tanh_gate_double(V x, V& other) {
  const V square = x * x;
  const V square_low = fma(x, x, -square);
  const V cubic = constant<V>(0x1.2444f2a4d8b4bp-4);
  const V factor = fma(cubic, square, constant<V>(0x1.9884533d436p+0));
  V factor_low = fma(cubic, square, 0x1.9884533d436p+0 - factor);
  factor_low = fma(cubic, square_low, factor_low);
  factor_low = fma(square, constant<V>(-0x1.6c843a29d1c7p-61), factor_low) + 0x1.42343f2cf1403p-46;
  const V high = x * factor;
  const V low = fma(x, factor_low, fma(x, factor, -high));
  const V gate = sigmoid<double>(high);
  other = sigmoid<double>(-high);
  other = fma(-low * gate, other, other);
  return fma(low * other, gate, gate);
}

template <class T>
DLCORE_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return gelu_tanh_single(x);
  } else {
    const Vec<T> a = at_least(at_most(x, constant<Vec<T>>(30.0)), constant<Vec<T>>(-30.0));
    Vec<T> other;
    const Vec<T> y = a * gelu_tanh_gate_double(a, other);
    return x > 30.0 ? x : y;
  }
}

template <class T>
DLCORE_INLINE Vec<T> gelu_tanh_derivative(Vec<T> x) {
  if constexpr (sizeof(T) == 4) {
    return gelu_tanh_derivative_single(x);
  } else {
    x = at_least(at_most(x, constant<Vec<T>>(30.0)), constant<Vec<T>>(-30.0));
    const Vec<T> slope =
        fma(x * x, constant<Vec<T>>(0x1.b6676bf7450fp-3), constant<Vec<T>>(0x1.9884533d43651p+0));
    Vec<T> other;
    const Vec<T> gate = gelu_tanh_gate_double(x, other);
    return gate * fma(x * slope, other, constant<Vec<T>>(1.0));
  }
}

template <class T>
DLCORE_INLINE Vec<T> softplus_derivative(Vec<T> y) {
  if constexpr (sizeof(T) == 4) {
    return softplus_derivative_single(y);
  } else {
    return each_lane(y, [](double a) { return -__builtin_expm1(-a); });
  }
}

/// y = activation(x). NaN stays NaN, and the infinities give the limits, for derivatives too.
///
/// Largest errors in float32, AVX-512 and AVX2 alike (the same bits), against double precision, in
/// ulp of the true result down to the smallest subnormal; every argument was tried for the first
/// four, every one in 2^-20 <= |x| < 2^8 and every 61st of the others for the rest:
///
///   sigmoid 0.97, tanh 0.94, exp 0.86, log 1.02, log1p 1.5, silu 1.5, gelu_tanh 1.5,
///   softplus 1.8, gelu 3.4
///
/// Derivatives cross zero, so two bounds, in units of 2^-23 absolute and in ulp farther away:
///
///   gelu'       1.1, and 3.5 ulp outside -1.5 < x < -0.3
///   gelu_tanh'  1.7, and 6.8 ulp outside -1.5 < x < -0.3
///   silu'       1.5, and 4.7 ulp outside -2.5 < x < -0.6
///   softplus'   0.88 ulp of 1 - e^-y
///
/// Float64: 4 ulp on samples against long double, with glibc 2.36.
template <Activation A, class T>
DLCORE_INLINE Vec<T> activate(Vec<T> x, Vec<T> alpha) {
  if constexpr (A == Activation::relu) {
    return x < T(0) ? Vec<T>{} : x;
  } else if constexpr (A == Activation::leaky_relu) {
    return x < T(0) ? x * alpha : x;
  } else if constexpr (A == Activation::sigmoid) {
    return sigmoid<T>(x);
  } else if constexpr (A == Activation::tanh) {
    return tanh<T>(x);
  } else if constexpr (A == Activation::gelu) {
    return gelu<T>(x);
  } else if constexpr (A == Activation::gelu_tanh) {
    return gelu_tanh<T>(x);
  } else if constexpr (A == Activation::silu) {
    return silu<T>(x);
  } else if constexpr (A == Activation::softplus) {
    return softplus<T>(x);
  } else {
    return x;
  }
}

/// dx = dy * activation'(x), where saved is the result y or, for gelu, gelu_tanh and silu, x (see
/// gradient_from_result).
template <Activation A, class T>
DLCORE_INLINE Vec<T> activate_backward(Vec<T> dy, Vec<T> saved, Vec<T> alpha) {
  if constexpr (A == Activation::relu) {
    return saved > T(0) ? dy : at_least(saved, Vec<T>{});  // NaN stays here too
  } else if constexpr (A == Activation::leaky_relu) {
    return saved > T(0) ? dy : (saved <= T(0) ? dy * alpha : saved);
  } else if constexpr (A == Activation::sigmoid) {
    return dy * (saved * (T(1) - saved));
  } else if constexpr (A == Activation::tanh) {
    return dy * fma(-saved, saved, constant<Vec<T>>(T(1)));
  } else if constexpr (A == Activation::gelu) {
    return dy * gelu_derivative<T>(saved);
  } else if constexpr (A == Activation::gelu_tanh) {
    return dy * gelu_tanh_derivative<T>(saved);
  } else if constexpr (A == Activation::silu) {
    return dy * silu_derivative<T>(saved);
  } else if constexpr (A == Activation::softplus) {
    return dy * softplus_derivative<T>(saved);
  } else {
    return dy;
  }
}

// ---- Losses of single elements ------------------------------------------------------------------

/// binary_cross_entropy: log(1 + e^x) - x t, x the logit; mse: r^2, r = x - t; huber: r^2 / 2 for
/// |r| <= delta, else delta (|r| - delta / 2).
template <ElementLoss L, class T>
DLCORE_INLINE Vec<T> element_value(Vec<T> x, Vec<T> target, Vec<T> delta) {
  if constexpr (L == ElementLoss::binary_cross_entropy) {
    // With max(x, 0) taken out nothing overflows, and for t in [0, 1] nothing cancels.
    return fma(-x, target, at_least(x, Vec<T>{})) + softplus_tail<T>(x);
  } else {
    const Vec<T> r = x - target;
    if constexpr (L == ElementLoss::mse) {
      return r * r;
    } else {
      const Vec<T> a = abs(r);
      return a > delta ? delta * fma(delta, constant<Vec<T>>(T(-0.5)), a) : T(0.5) * a * a;
    }
  }
}

/// Derivative of the same by x.
template <ElementLoss L, class T>
DLCORE_INLINE Vec<T> element_gradient(Vec<T> x, Vec<T> target, Vec<T> delta) {
  if constexpr (L == ElementLoss::binary_cross_entropy) {
    return sigmoid<T>(x) - target;
  } else {
    const Vec<T> r = x - target;
    return L == ElementLoss::mse ? r + r : at_least(at_most(r, delta), -delta);
  }
}

// ---- Optimizers ---------------------------------------------------------------------------------

/// The gradient as the rules see it: clipped, with the decay that acts through it.
template <class T>
DLCORE_INLINE Vec<T> scaled_gradient(const Update<T>& update, Vec<T> w, Vec<T> g) {
  return fma(w, constant<Vec<T>>(update.weight_decay), g * update.gradient_scale);
}

/// w -= learning_rate (g + weight_decay w)
template <class T>
DLCORE_INLINE void update_sgd(const Update<T>& update, Vec<T>& w, Vec<T> g) {
  w = fma(scaled_gradient(update, w, g), constant<Vec<T>>(-update.learning_rate), w);
}

/// v, or 0 where it is subnormal. What an optimizer remembers of a weight whose gradient stays 0
/// (of a dead unit, or an input that is always 0) shrinks by a factor a step and would end there,
/// where a processor takes many times as long: half the speed of Adam on 784-32-10.
template <class T>
DLCORE_INLINE Vec<T> normal_or_zero(Vec<T> v) {
  const Vec<T> smallest = constant<Vec<T>>(sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022));
  return abs(v) < smallest ? Vec<T>{} : v;
}

/// v = momentum v + g; w -= learning_rate v, or, nesterov, learning_rate (g + momentum v).
template <class T>
DLCORE_INLINE void update_momentum(const Update<T>& update, Vec<T>& w, Vec<T> g, Vec<T>& velocity) {
  const Vec<T> momentum = constant<Vec<T>>(update.momentum);
  g = scaled_gradient(update, w, g);
  velocity = normal_or_zero<T>(fma(velocity, momentum, g));
  const Vec<T> step = update.nesterov ? fma(velocity, momentum, g) : velocity;
  w = fma(step, constant<Vec<T>>(-update.learning_rate), w);
}

/// m += (1 - beta1) (g - m); v += (1 - beta2) (g^2 - v);
/// w -= learning_rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + epsilon).
/// Decoupled (AdamW), the decay shrinks w before the step; otherwise it enters g.
template <bool decoupled, class T>
DLCORE_INLINE void update_adam(const Update<T>& update, Vec<T>& w, Vec<T> g, Vec<T>& m, Vec<T>& v) {
  if constexpr (decoupled) {
    g = g * update.gradient_scale;
    w = fma(w, constant<Vec<T>>(-update.decay), w);
  } else {
    g = scaled_gradient(update, w, g);
  }
  m = normal_or_zero<T>(fma(g - m, constant<Vec<T>>(update.complement1), m));
  v = normal_or_zero<T>(fma(fma(g, g, -v), constant<Vec<T>>(update.complement2), v));
  const Vec<T> root =
      fma(sqrt(v), constant<Vec<T>>(update.inverse_root), constant<Vec<T>>(update.epsilon));
  w = fma(m / root, constant<Vec<T>>(-update.step_size), w);
}

}  // namespace
}  // namespace dlcore
