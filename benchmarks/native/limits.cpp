// Floors of the machine. The loops use target attributes and not flags of the file, so that this
// file runs on any CPU; kernels/select.cpp says which of them may be called.

#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/select.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace dlcore::bench {
namespace {

// A chain waits four or five cycles for its last sum and a core has two units (four on some ARM
// cores): more chains than the product of both, fewer than registers.
constexpr int kChains = 12;
constexpr Index kFmaIterations = 400'000;
constexpr double kBurstSeconds = 1e-3;
// Turns of a waiting loop before it leaves the CPU to a thread that has none.
constexpr int kSpins = 100'000;
// Both arrays of a copy begin on a page: without this a load would wait for the store 4 KiB away.
constexpr Index kApart = 1040;
volatile float sink;

#if defined(__x86_64__)

__attribute__((target("avx512f"))) inline __m512 multiply_add(__m512 x, __m512 a, __m512 b) {
  return _mm512_fmadd_ps(x, a, b);
}
__attribute__((target("avx512f"))) inline __m512d multiply_add(__m512d x, __m512d a, __m512d b) {
  return _mm512_fmadd_pd(x, a, b);
}

template <class T>
__attribute__((target("avx512f"))) double fma_avx512(Index iterations) {
  typedef T Vector __attribute__((vector_size(64)));
  Vector sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = Vector{} + static_cast<T>(c);
  Vector a = Vector{} + T(0.5), b = Vector{} + T(1);
  for (Index i = 0; i < iterations; ++i) {
    asm volatile("" : "+v"(a), "+v"(b));  // what the compiler does not know it cannot work out
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = multiply_add(sum[c], a, b);
  }
  for (int c = 1; c < kChains; ++c) sum[0] += sum[c];
  sink = static_cast<float>(sum[0][0]);
  return 2.0 * (sizeof(Vector) / sizeof(T)) * kChains * static_cast<double>(iterations);
}

__attribute__((target("avx512f"))) float read_avx512(const float* x, Index n) {
  __m512 sum[8] = {};
  Index i = 0;
  for (; i + 128 <= n; i += 128) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) sum[s] = _mm512_add_ps(sum[s], _mm512_loadu_ps(x + i + 16 * s));
  }
  for (int s = 1; s < 8; ++s) sum[0] = _mm512_add_ps(sum[0], sum[s]);
  return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) void copy_avx512(const float* x, float* y, Index n) {
#pragma GCC unroll 4
  for (Index i = 0; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, _mm512_loadu_ps(x + i));
}

__attribute__((target("avx512f"))) void stream_avx512(const float* x, float* y, Index n) {
  for (Index i = 0; i + 16 <= n; i += 16) _mm512_stream_ps(y + i, _mm512_loadu_ps(x + i));
  _mm_sfence();
}

__attribute__((target("avx2,fma"))) inline __m256 multiply_add(__m256 x, __m256 a, __m256 b) {
  return _mm256_fmadd_ps(x, a, b);
}
__attribute__((target("avx2,fma"))) inline __m256d multiply_add(__m256d x, __m256d a, __m256d b) {
  return _mm256_fmadd_pd(x, a, b);
}

template <class T>
__attribute__((target("avx2,fma"))) double fma_avx2(Index iterations) {
  typedef T Vector __attribute__((vector_size(32)));
  Vector sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = Vector{} + static_cast<T>(c);
  Vector a = Vector{} + T(0.5), b = Vector{} + T(1);
  for (Index i = 0; i < iterations; ++i) {
    asm volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = multiply_add(sum[c], a, b);
  }
  for (int c = 1; c < kChains; ++c) sum[0] += sum[c];
  sink = static_cast<float>(sum[0][0]);
  return 2.0 * (sizeof(Vector) / sizeof(T)) * kChains * static_cast<double>(iterations);
}

__attribute__((target("avx2"))) float read_avx2(const float* x, Index n) {
  __m256 sum[8] = {};
  for (Index i = 0; i + 64 <= n; i += 64) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) sum[s] = _mm256_add_ps(sum[s], _mm256_loadu_ps(x + i + 8 * s));
  }
  for (int s = 1; s < 8; ++s) sum[0] = _mm256_add_ps(sum[0], sum[s]);
  return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx2"))) void copy_avx2(const float* x, float* y, Index n) {
#pragma GCC unroll 4
  for (Index i = 0; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_loadu_ps(x + i));
}

__attribute__((target("avx2"))) void stream_avx2(const float* x, float* y, Index n) {
  for (Index i = 0; i + 8 <= n; i += 8) _mm256_stream_ps(y + i, _mm256_loadu_ps(x + i));
  _mm_sfence();
}

#elif defined(__aarch64__)

inline float32x4_t multiply_add(float32x4_t x, float32x4_t a) { return vfmaq_f32(x, a, a); }
inline float64x2_t multiply_add(float64x2_t x, float64x2_t a) { return vfmaq_f64(x, a, a); }

template <class T>
double fma_neon(Index iterations) {
  constexpr int kMore = 20;
  typedef T Vector __attribute__((vector_size(16)));
  Vector sum[kMore];
  for (int c = 0; c < kMore; ++c) sum[c] = Vector{} + static_cast<T>(c);
  Vector a = Vector{} + T(0.5);
  for (Index i = 0; i < iterations; ++i) {
    asm volatile("" : "+w"(a));
    // The accumulator is the addend: halving it would take a move.
#pragma GCC unroll 32
    for (int c = 0; c < kMore; ++c) sum[c] = multiply_add(sum[c], a);
  }
  for (int c = 1; c < kMore; ++c) sum[0] += sum[c];
  sink = static_cast<float>(sum[0][0]);
  return 2.0 * (sizeof(Vector) / sizeof(T)) * kMore * static_cast<double>(iterations);
}

float read_neon(const float* x, Index n) {
  float32x4_t sum[8] = {};
  for (Index i = 0; i + 32 <= n; i += 32) {
    for (int s = 0; s < 8; ++s) sum[s] = vaddq_f32(sum[s], vld1q_f32(x + i + 4 * s));
  }
  for (int s = 1; s < 8; ++s) sum[0] = vaddq_f32(sum[0], sum[s]);
  return vgetq_lane_f32(sum[0], 0);
}

void copy_neon(const float* x, float* y, Index n) {
  for (Index i = 0; i + 4 <= n; i += 4) vst1q_f32(y + i, vld1q_f32(x + i));
}

#endif

// Plain C++, for a CPU that none of the above is for.
template <class T>
double fma_plain(Index iterations) {
  T sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = static_cast<T>(c);
  T a = T(0.5);
  for (Index i = 0; i < iterations; ++i) {
    asm volatile("" : "+m"(a));
    for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * a + 1;
  }
  for (int c = 0; c < kChains; ++c) sink = static_cast<float>(sum[c]);
  return 2.0 * kChains * static_cast<double>(iterations);
}

float read_plain(const float* x, Index n) {
  float sum[16] = {};
  for (Index i = 0; i + 16 <= n; i += 16) {
    for (int s = 0; s < 16; ++s) sum[s] += x[i + s];
  }
  return sum[0] + sum[15];
}

void copy_plain(const float* x, float* y, Index n) {
  std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(float));
}

Limits::Loops loops_of(const Kernels& kernels) {
#if defined(__x86_64__)
  const Limits::Loops known[] = {
    {"avx512", fma_avx512<float>, fma_avx512<double>, read_avx512, copy_avx512, stream_avx512},
    {"avx2", fma_avx2<float>, fma_avx2<double>, read_avx2, copy_avx2, stream_avx2},
#elif defined(__aarch64__)
  const Limits::Loops known[] = {
    {"neon", fma_neon<float>, fma_neon<double>, read_neon, copy_neon, copy_neon},
#else
  const Limits::Loops known[] = {
#endif
    {"reference", fma_plain<float>, fma_plain<double>, read_plain, copy_plain, copy_plain}
  };
  const bool best = std::strcmp(kernels.name, kReference.name) == 0;
  const Kernels& wanted = best ? *available_kernels().front() : kernels;
  for (const Limits::Loops& loops : known) {
    if (std::strcmp(loops.name, wanted.name) == 0) return loops;
  }
  return known[std::size(known) - 1];
}

/// Runs work(thread), which returns an amount, on threads that start together: all of it by the
/// time from the first beginning to the last end. (A sum of the threads' own rates would count what
/// one reaches while the others wait or have ended: memory gives one thread most of what it gives
/// two.)
template <class F>
double together(int threads, F work) {
  std::atomic<int> waiting{threads};
  struct Run {
    double begin, end, amount;
  };
  std::vector<Run> runs(static_cast<std::size_t>(threads));
  const auto one = [&](int thread) {
    // Spinning: threads that a barrier wakes begin tens of microseconds apart.
    waiting.fetch_sub(1);
    for (int spin = 0; waiting.load() > 0; ++spin) {
      if (spin > kSpins) std::this_thread::yield();
    }
    Run& run = runs[static_cast<std::size_t>(thread)];
    run.begin = now();
    run.amount = work(thread);
    run.end = now();
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(one, thread);
  one(0);
  for (std::thread& other : others) other.join();
  Run all = runs[0];
  for (std::size_t i = 1; i < runs.size(); ++i) {
    all.begin = std::min(all.begin, runs[i].begin);
    all.end = std::max(all.end, runs[i].end);
    all.amount += runs[i].amount;
  }
  return all.amount / (all.end - all.begin);
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Limits::Limits(const Kernels& kernels)
    : loops_(loops_of(kernels)), from_(kMemoryBytes / 4), to_(kMemoryBytes / 4 + kApart) {}

double Limits::fma(int threads) const {
  return together(threads, [&](int) { return loops_.fma(kFmaIterations); });
}

double Limits::fma_f64(int threads) const {
  return together(threads, [&](int) { return loops_.fma_f64(kFmaIterations); });
}

/// Each thread has its run of the array and repeats it until the burst is long enough.
template <class F>
double Limits::over_array(int threads, Index bytes, Index bytes_touched, F work) {
  const Index n = std::min(bytes, kMemoryBytes) / 4, run = n / threads / 16 * 16;
  // About 10 GB/s a core at the worst; an array past the caches is walked once.
  const auto turns = std::max<Index>(
      1, static_cast<Index>(kBurstSeconds * 2e10) / std::max<Index>(1, run * bytes_touched));
  return together(threads, [&](int thread) {
    for (Index turn = 0; turn < turns; ++turn) work(thread * run, run);
    return static_cast<double>(turns * run * bytes_touched);
  });
}

double Limits::read(int threads, Index bytes) {
  return over_array(threads, bytes, 4, [&](Index begin, Index n) {
    const float* x = from_.data() + begin;
    asm volatile("" : "+r"(x) : : "memory");  // every turn reads again
    sink = loops_.read(x, n);
  });
}

double Limits::copy(int threads, Index bytes) {
  return over_array(threads, bytes, 8, [&](Index begin, Index n) {
    loops_.copy(from_.data() + begin, to_.data() + kApart + begin, n);
  });
}

double Limits::streaming_copy(int threads, Index bytes) {
  return over_array(threads, bytes, 8, [&](Index begin, Index n) {
    loops_.streaming_copy(from_.data() + begin, to_.data() + kApart + begin, n);
  });
}

}  // namespace dlcore::bench
