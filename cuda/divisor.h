#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "device.h"

namespace dlcore::cuda {

/// Where an element of a matrix without gaps lies.
struct Place {
  Index row, column;
};

/// Division by a number that is known when a kernel is started, for indices from 0: below 2^32 a
/// multiplication and a shift (Granlund and Montgomery, PLDI 1994, section 4), where nvcc's
/// division takes some twenty instructions, a reciprocal and two conversions among them.
class Divisor {
 public:
  /// By n of at least 1; by less only where nothing is divided.
  explicit Divisor(Index n) : n_(std::max<Index>(n, 1)) {
    const auto d = static_cast<std::uint64_t>(n_);
    if (d >> 32 != 0) {
      shift_ = 32;  // every quotient of 32 bits is 0
      return;
    }
    shift_ = static_cast<std::uint32_t>(std::bit_width(d - 1));
    factor_ = static_cast<std::uint32_t>((((std::uint64_t{1} << shift_) - d) << 32) / d + 1);
  }

  __device__ __forceinline__ Index value() const { return n_; }
  __device__ __forceinline__ Index quotient(Index i) const {
    if (i >> 32 != 0) return i / n_;
    const auto word = static_cast<std::uint32_t>(i);
    return static_cast<Index>((std::uint64_t{__umulhi(word, factor_)} + word) >> shift_);
  }
  /// Row and column of element i where a row has as many.
  __device__ __forceinline__ Place split(Index i) const {
    const Index row = quotient(i);
    return {row, i - row * n_};
  }

 private:
  Index n_;
  std::uint32_t factor_ = 0, shift_ = 0;
};

}  // namespace dlcore::cuda
