#include <cstdint>

#include "device.h"

#define DLCORE_SCALAR
#include "divisor.h"
#include "kernels/functors.h"
#include "launches.h"

namespace dlcore::cuda {
namespace {

constexpr unsigned kThreads = 256, kWarp = 32, kWarps = 4;

/// An IEEE half as float, exactly.
__device__ float half_as_float(uint16_t bits) {
  const unsigned sign = static_cast<unsigned>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Shifted into place the exponent is too small by 112, for subnormals too.
  const float value = __uint_as_float(rest << 13) * 0x1p112f;
  return __uint_as_float(sign | __float_as_uint(value));
}

template <DType D>
struct Element;
template <>
struct Element<DType::float32> {
  using Type = float;
  __device__ static float read(float x) { return x; }
};
template <>
struct Element<DType::float64> {
  using Type = double;
  __device__ static float read(double x) { return static_cast<float>(x); }
};
template <>
struct Element<DType::float16> {
  using Type = uint16_t;
  __device__ static float read(uint16_t x) { return half_as_float(x); }
};
template <>
struct Element<DType::uint8> {
  using Type = uint8_t;
  __device__ static float read(uint8_t x) { return static_cast<float>(x); }
};

__device__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

/// Four values of one dtype, so that one load of a row of bytes is four pixels.
template <class From>
struct alignas(4 * sizeof(From)) Four {
  From value[4];
};
template <class S>
struct alignas(4 * sizeof(S)) FourOf {
  S value[4];
};

/// One block an example: features columns, cut into pieces of n.
template <DType D, class S>
__global__ void gather_kernel(Step step, S* y, Index pieces, Divisor width, Index ld) {
  using From = typename Element<D>::Type;
  const Index g = network_of_block(), n = width.value();
  const StepInput& input = input_of(step, g);
  const Source& source = step.source[g];
  const auto* x = static_cast<const From*>(source.x);
  const uint32_t* order = source.x_order;
  const float scale = source.scale;
  const bool four = n % 4 == 0 && reinterpret_cast<std::uintptr_t>(x) % (4 * sizeof(From)) == 0;
  const Index i = blockIdx.x, features = pieces * n;
  S* to = y + (g * gridDim.x + i) * pieces * ld;
  if (i >= input.rows) {
    for (Index j = threadIdx.x; j < pieces * ld; j += blockDim.x) to[j] = to_storage<S>(0.0f);
    return;
  }
  const Index row = order == nullptr ? input.x_begin + i : Index{order[input.begin + i]};
  const From* from = x + row * features;
  bool finite = true;
  if (four) {
    for (Index j = threadIdx.x; j < features / 4; j += blockDim.x) {
      const Four<From> values = reinterpret_cast<const Four<From>*>(from)[j];
      FourOf<S> converted;
#pragma unroll
      for (int l = 0; l < 4; ++l) {
        const float value = Element<D>::read(values.value[l]) * scale;
        finite = finite && is_finite(value);
        converted.value[l] = to_storage<S>(value);
      }
      const Place at = width.split(4 * j);
      *reinterpret_cast<FourOf<S>*>(to + at.row * ld + at.column) = converted;
    }
  } else {
    for (Index j = threadIdx.x; j < features; j += blockDim.x) {
      const float value = Element<D>::read(from[j]) * scale;
      finite = finite && is_finite(value);
      const Place at = width.split(j);
      to[at.row * ld + at.column] = to_storage<S>(value);
    }
  }
  if (!finite) atomicOr(&step.state[g].bad_input, 1);
}

template <DType D, class S>
void run_gather(const Step& step, S* y, Index batch, Index pieces, Index n, Index ld,
                cudaStream_t stream) {
  launch(stream,
         {.grid = dim3(static_cast<unsigned>(batch), 1, static_cast<unsigned>(step.networks)),
          .block = dim3(kThreads),
          .independent = true},
         gather_kernel<D, S>, step, y, pieces, Divisor(n), ld);
}

__device__ float warp_sum(float x) {
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, static_cast<int>(step));
  }
  return x;
}
__device__ float warp_max(float x) {
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, x, static_cast<int>(step));
    x = other > x ? other : x;
  }
  return x;
}

/// What one warp, which works on one row, needs to know about it.
struct Row {
  bool used;      ///< one of the step's examples
  Index example;  ///< its number in the data
  Index at;       ///< row of the targets
  double weight;
  float share;  ///< factor of its gradient
};

__device__ Row row_of(const StepInput& input, const Source& source, Index row, Divisor rows) {
  Row r{};
  const auto [i, within] = rows.split(row);
  r.used = i < input.rows;
  if (!r.used) return r;
  r.example = source.order == nullptr ? input.begin + i : Index{source.order[input.begin + i]};
  r.at = r.example * rows.value() + within;
  r.weight = source.weight == nullptr ? 1.0 : source.weight[r.example];
  r.share = static_cast<float>(r.weight * input.share);
  return r;
}

template <class S>
__device__ void zero_row(S* dx, Index n, Index lane) {
  for (Index j = lane; dx != nullptr && j < n; j += kWarp) dx[j] = to_storage<S>(0.0f);
}

/// loss = log sum exp(x) - x[label]; right where the label's logit is the first largest;
/// dx = (softmax(x) - onehot) * share.
template <class S>
__global__ void cross_entropy_kernel(Step step, const float* x, Index ldx, float* loss,
                                     float* correct, S* dx, Index lddx, Divisor rows, Index n,
                                     Index count) {
  const Index g = network_of_block();
  const Index within = static_cast<Index>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const Index lane = threadIdx.x % kWarp;
  if (within >= count) return;
  const Source& source = step.source[g];
  const Row r = row_of(input_of(step, g), source, within, rows);
  const Index row = g * count + within;
  S* to = dx == nullptr ? dx : dx + row * lddx;
  if (!r.used) {
    zero_row(to, n, lane);
    return;
  }
  const float* from = x + row * ldx;
  const Index label = source.labels[r.at];
  const float own = from[label];
  float largest = -__builtin_inff();
  float before = -__builtin_inff();  // largest of the classes before the label
  for (Index j = lane; j < n; j += kWarp) {
    largest = from[j] > largest ? from[j] : largest;
    before = j < label && from[j] > before ? from[j] : before;
  }
  largest = warp_max(largest);
  before = warp_max(before);
  float sum = 0;
  for (Index j = lane; j < n; j += kWarp) sum += exp<float>(from[j] - largest);
  sum = warp_sum(sum);
  for (Index j = lane; to != nullptr && j < n; j += kWarp) {
    const float share = exp<float>(from[j] - largest) / sum;
    const float slope = (share - (j == label ? 1.0f : 0.0f)) * r.share;
    to[j] = to_storage<S>(r.share == 0.0f ? 0.0f : slope);
  }
  if (lane == 0) {
    loss[row] = (largest - own) + log<float>(sum);
    // Classes before the label that are NaN do not count, as on the CPU.
    correct[row] = own >= largest && (label == 0 || before < own) ? 1.0f : 0.0f;
  }
}

template <ElementLoss L, class S>
__global__ void element_loss_kernel(Step step, const float* x, Index ldx, float delta, float* loss,
                                    float* correct, S* dx, Index lddx, Divisor rows, Index n,
                                    Index count) {
  const Index g = network_of_block();
  const Index within = static_cast<Index>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const Index lane = threadIdx.x % kWarp;
  if (within >= count) return;
  const Source& source = step.source[g];
  const Row r = row_of(input_of(step, g), source, within, rows);
  const Index row = g * count + within;
  S* to = dx == nullptr ? dx : dx + row * lddx;
  if (!r.used) {
    zero_row(to, n, lane);
    return;
  }
  const float* from = x + row * ldx;
  float sum = 0, right = 0;
  for (Index j = lane; j < n; j += kWarp) {
    const float value = from[j], t = source.values[r.at * n + j];
    sum += element_value<L, float>(value, t, delta);
    right += (value > 0.0f) == (t > 0.5f) ? 1.0f : 0.0f;
    if (to != nullptr) {
      const float slope = element_gradient<L, float>(value, t, delta) * r.share;
      to[j] = to_storage<S>(r.share == 0.0f ? 0.0f : slope);
    }
  }
  sum = warp_sum(sum);
  right = warp_sum(right);
  if (lane == 0) {
    loss[row] = sum;
    correct[row] = L == ElementLoss::binary_cross_entropy ? right / static_cast<float>(n) : 0.0f;
  }
}

/// One block sums a network's batch: each thread every 256th row, then pairs of threads.
__global__ void finish_kernel(Step step, const float* loss, const float* correct, Index count,
                              Divisor rows, Index width) {
  DLCORE_SHARED(double, losses, kThreads);
  DLCORE_SHARED(double, corrects, kThreads);
  DLCORE_SHARED(double, weights, kThreads);
  const Index g = network_of_block();
  const StepInput& input = input_of(step, g);
  const double per_row = 1 / static_cast<double>(rows.value());
  const double per_element = 1 / static_cast<double>(width);
  double sums[3] = {0, 0, 0};
  for (Index row = threadIdx.x; row < input.rows * rows.value(); row += kThreads) {
    const Row r = row_of(input, step.source[g], row, rows);
    if (r.weight == 0) continue;
    sums[0] += r.weight * static_cast<double>(loss[g * count + row]) * per_element;
    sums[1] += r.weight * static_cast<double>(correct[g * count + row]) * per_row;
    sums[2] += r.weight * per_row;
  }
  losses[threadIdx.x] = sums[0];
  corrects[threadIdx.x] = sums[1];
  weights[threadIdx.x] = sums[2];
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      losses[threadIdx.x] += losses[threadIdx.x + half];
      corrects[threadIdx.x] += corrects[threadIdx.x + half];
      weights[threadIdx.x] += weights[threadIdx.x + half];
    }
  }
  if (threadIdx.x != 0) return;
  StepState& state = step.state[g];
  if (state.stopped == 0) {
    const double difference = losses[0] - losses[0];  // 0, or NaN where the sum is not finite
    if (state.bad_input != 0 || difference != 0 || difference != difference) {
      state.stopped = 1;
      state.stopped_step = input.number;
    }
  }
  state.loss += losses[0];
  state.correct += corrects[0];
  state.weight += weights[0];
  ++state.step;
}

__global__ void count_kernel(Step step) { ++step.state[network_of_block()].step; }
__global__ void rewind_kernel(Step step) { step.state[network_of_block()].step = 0; }

/// One thread a network.
Launch one_each(const Step& step) {
  return {.grid = dim3(1, 1, static_cast<unsigned>(step.networks)),
          .block = dim3(1),
          .independent = true};
}

}  // namespace

template <class S>
void gather(const Step& step, DType dtype, S* y, Index batch, Index pieces, Index n, Index ld,
            cudaStream_t stream) {
  switch (dtype) {
    case DType::float32: return run_gather<DType::float32>(step, y, batch, pieces, n, ld, stream);
    case DType::float64: return run_gather<DType::float64>(step, y, batch, pieces, n, ld, stream);
    case DType::float16: return run_gather<DType::float16>(step, y, batch, pieces, n, ld, stream);
    case DType::uint8: return run_gather<DType::uint8>(step, y, batch, pieces, n, ld, stream);
  }
}

template <class S>
void loss_rows(const Step& step, const Targets& t, const float* x, Index ldx, float* loss,
               float* correct, S* dx, Index lddx, Index batch, cudaStream_t stream) {
  const Index count = batch * t.shape.rows, n = t.shape.features;
  const Launch how{.grid = dim3(static_cast<unsigned>((count + kWarps - 1) / kWarps), 1,
                                static_cast<unsigned>(step.networks)),
                   .block = dim3(kWarp * kWarps)};
  if (t.loss.has_labels()) {
    launch(stream, how, cross_entropy_kernel<S>, step, x, ldx, loss, correct, dx, lddx,
           Divisor(t.shape.rows), n, count);
    return;
  }
  const auto delta = static_cast<float>(t.loss.delta);
  const auto run = [&]<ElementLoss L>() {
    launch(stream, how, element_loss_kernel<L, S>, step, x, ldx, delta, loss, correct, dx, lddx,
           Divisor(t.shape.rows), n, count);
  };
  switch (t.loss.element()) {
    case ElementLoss::binary_cross_entropy:
      return run.template operator()<ElementLoss::binary_cross_entropy>();
    case ElementLoss::mse: return run.template operator()<ElementLoss::mse>();
    case ElementLoss::huber: return run.template operator()<ElementLoss::huber>();
  }
}

void finish(const Step& step, const Targets& t, const float* loss, const float* correct,
            Index batch, cudaStream_t stream) {
  launch(stream,
         {.grid = dim3(1, 1, static_cast<unsigned>(step.networks)), .block = dim3(kThreads)},
         finish_kernel, step, loss, correct, batch * t.shape.rows, Divisor(t.shape.rows),
         t.shape.width);
}

void count_step(const Step& step, cudaStream_t stream) {
  launch(stream, one_each(step), count_kernel, step);
}

void rewind(const Step& step, cudaStream_t stream) {
  launch(stream, one_each(step), rewind_kernel, step);
}

#define DLCORE_INSTANTIATE(S)                                                                   \
  template void gather(const Step&, DType, S*, Index, Index, Index, Index, cudaStream_t);       \
  template void loss_rows(const Step&, const Targets&, const float*, Index, float*, float*, S*, \
                          Index, Index, cudaStream_t);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(Bf16)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore::cuda
