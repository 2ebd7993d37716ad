#include <algorithm>

#include "device.h"

#define DLCORE_SCALAR
#include "kernels/functors.h"
#include "launches.h"

namespace dlcore::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kColumns = 32, kLines = 8;  // a block of column_sums
constexpr Index kChunkRows = 256;              // at least, for one block of it
constexpr Index kMostChunks = 64;
constexpr Index kPiece = Index{1} << 13;  // elements of one partial sum of the norm

Index chunks_of(Index m) { return std::clamp<Index>(m / kChunkRows, 1, kMostChunks); }

/// Sums of 32 columns over one chunk of rows: eight lines of threads, then the lines in order.
template <class S>
__global__ void column_sums_kernel(const S* dy, Index ld, float* sums, Index stride, Index m,
                                   Index n, Index chunks, int add) {
  DLCORE_SHARED(float, lines, kColumns* kLines);
  const Index g = network_of_block();
  dy += g * m * ld;
  const Index j = static_cast<Index>(blockIdx.x) * kColumns + threadIdx.x;
  const Index begin = m * blockIdx.y / chunks, end = m * (blockIdx.y + 1) / chunks;
  float sum = 0;
  if (j < n) {
    for (Index i = begin + threadIdx.y; i < end; i += kLines) sum += to_float(dy[i * ld + j]);
  }
  lines[threadIdx.y * kColumns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || j >= n) return;
  for (unsigned line = 1; line < kLines; ++line) sum += lines[line * kColumns + threadIdx.x];
  float* to = sums + g * stride + static_cast<Index>(blockIdx.y) * n + j;
  *to = add != 0 ? *to + sum : sum;
}

/// The chunks' sums, in order.
__global__ void add_chunks_kernel(const float* sums, float* db, Index stride, Index n, Index chunks,
                                  int add) {
  const Index j = grid_index(), g = network_of_block();
  if (j >= n) return;
  sums += g * chunks * n;
  db += g * stride;
  float sum = add != 0 ? db[j] : 0.0f;
  for (Index c = 0; c < chunks; ++c) sum += sums[c * n + j];
  db[j] = sum;
}

/// Sum of all threads' values, for thread 0 alone.
__device__ double block_sum(double* shared, double value) {
  shared[threadIdx.x] = value;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? shared[0] : 0.0;
}

__global__ void squares_kernel(const float* x, Index n, double* sums) {
  DLCORE_SHARED(double, shared, kThreads);
  const Index g = network_of_block();
  x += g * n;
  const Index begin = blockIdx.x * kPiece, end = begin + kPiece < n ? begin + kPiece : n;
  double sum = 0;
  for (Index i = begin + threadIdx.x; i < end; i += kThreads) {
    const auto value = static_cast<double>(x[i]);
    sum += value * value;
  }
  sum = block_sum(shared, sum);
  if (threadIdx.x == 0) sums[g * gridDim.x + blockIdx.x] = sum;
}

/// One block a network.
__device__ double sum_pieces(double* shared, const double* sums, Index count) {
  sums += network_of_block() * count;
  double sum = 0;
  for (Index i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  return block_sum(shared, sum);
}

__global__ void sum_kernel(const double* sums, Index count, double* result) {
  DLCORE_SHARED(double, shared, kThreads);
  const double sum = sum_pieces(shared, sums, count);
  if (threadIdx.x == 0) result[network_of_block()] = sum;
}

__global__ void clip_kernel(Step step, const double* sums, Index count, double clip_norm) {
  DLCORE_SHARED(double, shared, kThreads);
  const double sum = sum_pieces(shared, sums, count);
  if (threadIdx.x != 0) return;
  const double factor = clip_norm / (sqrt(sum) + 1e-6);
  step.state[network_of_block()].gradient_scale = static_cast<float>(factor < 1.0 ? factor : 1.0);
}

__global__ void scale_kernel(Step step, float* x, Index n) {
  const float factor = step.state[network_of_block()].gradient_scale;
  x += network_of_block() * n;
  for (Index i = grid_index(); i < n; i += grid_size()) x[i] *= factor;
}

enum class Kind { sgd, momentum, adam, adamw };

struct alignas(16) Four {
  float value[4];
};
struct alignas(8) FourBf16 {
  Bf16 value[4];
};

template <Kind K>
__device__ void step_element(const Update<float>& u, float& w, float g, float& s1, float& s2) {
  if constexpr (K == Kind::sgd) {
    update_sgd<float>(u, w, g);
  } else if constexpr (K == Kind::momentum) {
    update_momentum<float>(u, w, g, s1);
  } else {
    update_adam<K == Kind::adamw, float>(u, w, g, s1, s2);
  }
}

/// Four elements a thread; n is a multiple of four.
template <Kind K>
__global__ void update_kernel(Step step, float* w, const float* dw, float* state1, float* state2,
                              Bf16* copy, Index n) {
  const Index g = network_of_block();
  const StepInput& input = input_of(step, g, 1);
  if (step.state[g].stopped != 0 || input.rows == 0) return;
  Update<float> u = input.update;
  u.gradient_scale = step.state[g].gradient_scale;
  for (Index j = grid_index(); j < n / 4; j += grid_size()) {
    const Index i = g * (n / 4) + j;
    Four values = reinterpret_cast<Four*>(w)[i], s1{}, s2{};
    const Four slope = reinterpret_cast<const Four*>(dw)[i];
    if constexpr (K != Kind::sgd) s1 = reinterpret_cast<Four*>(state1)[i];
    if constexpr (K == Kind::adam || K == Kind::adamw) s2 = reinterpret_cast<Four*>(state2)[i];
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      step_element<K>(u, values.value[l], slope.value[l], s1.value[l], s2.value[l]);
    }
    reinterpret_cast<Four*>(w)[i] = values;
    if constexpr (K != Kind::sgd) reinterpret_cast<Four*>(state1)[i] = s1;
    if constexpr (K == Kind::adam || K == Kind::adamw) reinterpret_cast<Four*>(state2)[i] = s2;
    if (copy != nullptr) {
      FourBf16 rounded;
#pragma unroll
      for (int l = 0; l < 4; ++l) rounded.value[l] = to_storage<Bf16>(values.value[l]);
      reinterpret_cast<FourBf16*>(copy)[i] = rounded;
    }
  }
}

template <Kind K>
__global__ void update_plain_kernel(Update<float> u, float* w, const float* dw, float* state1,
                                    float* state2, Index n) {
  for (Index i = grid_index(); i < n; i += grid_size()) {
    float s1 = K == Kind::sgd ? 0.0f : state1[i];
    float s2 = K == Kind::adam || K == Kind::adamw ? state2[i] : 0.0f;
    step_element<K>(u, w[i], dw[i], s1, s2);
    if constexpr (K != Kind::sgd) state1[i] = s1;
    if constexpr (K == Kind::adam || K == Kind::adamw) state2[i] = s2;
  }
}

template <class F>
void with_kind(Rule rule, bool momentum, F f) {
  switch (rule) {
    case Rule::sgd:
      return momentum ? f.template operator()<Kind::momentum>()
                      : f.template operator()<Kind::sgd>();
    case Rule::adam: return f.template operator()<Kind::adam>();
    case Rule::adamw: return f.template operator()<Kind::adamw>();
  }
}

__global__ void keep_kernel(Step step, const float* from, float* to, Index n) {
  const Index g = network_of_block();
  const StepInput& input = input_of(step, g, 1);
  if (step.state[g].stopped != 0 || input.rows == 0 || input.number != 0) return;
  from += g * n;
  to += g * n;
  for (Index i = grid_index(); i < n / 4; i += grid_size()) {
    reinterpret_cast<Four*>(to)[i] = reinterpret_cast<const Four*>(from)[i];
  }
}

}  // namespace

Index column_sums_scratch(Index m, Index n) {
  const Index chunks = chunks_of(m);
  return chunks > 1 ? chunks * n : 0;
}

template <class S>
void column_sums(const S* dy, Index ld, float* db, Index m, Index n, bool add, float* scratch,
                 const Group& group, cudaStream_t stream) {
  const Index chunks = chunks_of(m);
  const dim3 grid(static_cast<unsigned>((n + kColumns - 1) / kColumns),
                  static_cast<unsigned>(chunks), static_cast<unsigned>(group.networks));
  const Launch how{.grid = grid, .block = dim3(kColumns, kLines)};
  if (chunks == 1) {
    launch(stream, how, column_sums_kernel<S>, dy, ld, db, group.stride, m, n, chunks, add ? 1 : 0);
    return;
  }
  launch(stream, how, column_sums_kernel<S>, dy, ld, scratch, chunks * n, m, n, chunks, 0);
  launch(stream, spread(n, group.networks), add_chunks_kernel, scratch, db, group.stride, n, chunks,
         add ? 1 : 0);
}

Index squares_scratch(Index n) { return (n + kPiece - 1) / kPiece; }

namespace {

/// Sums of the squares of pieces, of each network.
void sum_pieces_of(const float* x, Index n, double* scratch, Index networks, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(squares_scratch(n)), 1, static_cast<unsigned>(networks));
  launch(stream, {.grid = grid, .block = dim3(kThreads)}, squares_kernel, x, n, scratch);
}

/// One block a network.
Launch block_each(Index networks) {
  return {.grid = dim3(1, 1, static_cast<unsigned>(networks)), .block = dim3(kThreads)};
}

}  // namespace

void sum_squares(const float* x, Index n, double* scratch, double* result, Index networks,
                 cudaStream_t stream) {
  sum_pieces_of(x, n, scratch, networks, stream);
  launch(stream, block_each(networks), sum_kernel, scratch, squares_scratch(n), result);
}

void clip(const Step& step, const float* gradients, Index n, double clip_norm, double* scratch,
          cudaStream_t stream) {
  sum_pieces_of(gradients, n, scratch, step.networks, stream);
  launch(stream, block_each(step.networks), clip_kernel, step, scratch, squares_scratch(n),
         clip_norm);
}

void scale_gradients(const Step& step, float* x, Index n, cudaStream_t stream) {
  launch(stream, spread(n, step.networks), scale_kernel, step, x, n);
}

void update(const Step& step, Rule rule, float* w, const float* dw, float* state1, float* state2,
            Bf16* copy, Index n, cudaStream_t stream) {
  with_kind(rule, state1 != nullptr, [&]<Kind K>() {
    launch(stream, spread(n / 4, step.networks), update_kernel<K>, step, w, dw, state1, state2,
           copy, n);
  });
}

void update_plain(const Update<float>& u, float* w, const float* dw, float* state1, float* state2,
                  Index n, cudaStream_t stream) {
  if (n == 0) return;
  with_kind(u.rule, state1 != nullptr, [&]<Kind K>() {
    launch(stream, spread(n), update_plain_kernel<K>, u, w, dw, state1, state2, n);
  });
}

void keep_epoch_start(const Step& step, const float* from, float* to, Index n,
                      cudaStream_t stream) {
  launch(stream, spread(n / 4, step.networks), keep_kernel, step, from, to, n);
}

template void column_sums(const float*, Index, float*, Index, Index, bool, float*, const Group&,
                          cudaStream_t);
template void column_sums(const Bf16*, Index, float*, Index, Index, bool, float*, const Group&,
                          cudaStream_t);

}  // namespace dlcore::cuda
