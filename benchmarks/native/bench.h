#pragma once

#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"
#include "limits.h"

namespace dlcore::bench {

/// What a case is measured against.
enum class Yardstick {
  fma,        ///< operations against the multiply-add peak
  fma_f64,    ///< the same of float64
  bandwidth,  ///< bytes against a copy of an array of the same size (streaming past the caches)
  read,       ///< bytes against reading memory
  none,       ///< the time alone
};

/// Another library that does the same work; nobody, where `run` is empty.
struct Peer {
  std::string name, way;  ///< as in "oneDNN 3.2.0", and which of its ways to do it
  std::function<double(Index calls)> run;
};

/// A case with its data.
struct Prepared {
  /// Compares with the reference kernels; empty where all is right, else what is not.
  std::function<std::string()> check;
  /// Does the work `calls` times and returns the seconds it took.
  std::function<double(Index calls)> run;
  Peer peer = {};
};

struct Case {
  std::string name;
  int threads = 1;
  Yardstick yardstick = Yardstick::none;
  double work = 0;      ///< operations or bytes of one call
  Index bytes = 0;      ///< bandwidth: size of the array it copies
  double examples = 0;  ///< of one call, where it trains or predicts
  std::function<Prepared()> prepare;
};

/// All cases for these kernels, each with one thread and those that can use more with `threads`.
std::vector<Case> all_cases(const Kernels& kernels, const std::vector<int>& threads);
void add_product_cases(const Kernels& kernels, const std::vector<int>& threads,
                       std::vector<Case>* cases);
void add_elementwise_cases(const Kernels& kernels, const std::vector<int>& threads,
                           std::vector<Case>* cases);
void add_step_cases(const Kernels& kernels, const std::vector<int>& threads,
                    std::vector<Case>* cases);

/// Times calls of f.
template <class F>
std::function<double(Index)> repeated(F f) {
  return [f](Index calls) {
    const double begin = now();
    for (Index i = 0; i < calls; ++i) f();
    return now() - begin;
  };
}

/// What products and steps of T are measured against.
template <class T>
inline constexpr Yardstick kPeak = sizeof(T) == sizeof(float) ? Yardstick::fma : Yardstick::fma_f64;
/// Ends the names of float64's cases.
template <class T>
inline constexpr const char* kSuffix = sizeof(T) == sizeof(double) ? "/f64" : "";

/// Distance of 1 to the next number.
template <class T>
inline constexpr double kEps = std::numeric_limits<T>::epsilon();

/// n numbers that are multiples of 1/32 in [-limit, limit]: products of two are multiples of 2^-10,
/// so that a sum of 4096 of them is exact in float32 in any order, and results can be compared
/// for equality.
template <class T = float>
Buffer<T> grid(Index n, std::uint64_t seed, std::type_identity_t<T> limit = 1);

/// Says where two arrays differ by more than relative * |expected| + absolute; else empty.
template <class T>
std::string compare(const T* found, const T* expected, Index n, double relative, double absolute,
                    const char* what = "value");

}  // namespace dlcore::bench
