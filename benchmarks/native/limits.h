#pragma once

#include "buffer.h"
#include "kernels/kernels.h"

namespace dlcore::bench {

double now();

/// Large enough that no cache holds it: bytes of one array where memory itself is measured.
inline constexpr Index kMemoryBytes = Index{256} << 20;

/// What the machine can do at most, measured by loops that do nothing else. Each call is one burst
/// of about a millisecond on `threads` threads that start together, so that a burst can stand
/// beside every repetition of a case and drift of the clock falls out of their ratio.
class Limits {
 public:
  /// `kernels` names the instruction set; the reference is measured against the best of this CPU.
  explicit Limits(const Kernels& kernels);

  /// FLOP/s of independent multiply-add chains in registers, of float32 and of float64.
  double fma(int threads) const;
  double fma_f64(int threads) const;
  /// Bytes/s of summing an array of this many bytes.
  double read(int threads, Index bytes = kMemoryBytes);
  /// Bytes/s, read and written together, of copying an array of this many bytes.
  double copy(int threads, Index bytes = kMemoryBytes);
  /// The same, stored past the caches.
  double streaming_copy(int threads, Index bytes = kMemoryBytes);

  const char* name() const { return loops_.name; }

  /// The loops of one instruction set.
  struct Loops {
    const char* name;
    double (*fma)(Index iterations);  ///< returns the operations done
    double (*fma_f64)(Index iterations);
    float (*read)(const float* x, Index n);
    void (*copy)(const float* x, float* y, Index n);
    void (*streaming_copy)(const float* x, float* y, Index n);
  };

 private:
  template <class F>
  double over_array(int threads, Index bytes, Index bytes_touched, F work);

  Loops loops_;
  Buffer<float> from_, to_;
};

}  // namespace dlcore::bench
