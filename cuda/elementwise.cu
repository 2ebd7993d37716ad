#include <cstdint>

#include "device.h"

#define DLCORE_SCALAR
#include "divisor.h"
#include "kernels/functors.h"
#include "launches.h"
#include "random.h"

namespace dlcore::cuda {
namespace {

/// 16 bytes of values: what one thread loads at a time.
template <class S>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(S));
  S value[kSize];
};

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

/// y[i] = f(a[i], b[i]) for n elements, the first `packs` packs of them 16 bytes at a time.
template <class S, class F>
__global__ void map(F f, const S* a, const S* b, S* y, Index n, Index packs) {
  using P = Pack<S>;
#pragma unroll 1
  for (Index i = grid_index(); i < packs; i += grid_size()) {
    const P pa = reinterpret_cast<const P*>(a)[i];
    const P pb = F::kBinary ? reinterpret_cast<const P*>(b)[i] : pa;
    P py;
#pragma unroll
    for (int j = 0; j < P::kSize; ++j) {
      py.value[j] = to_storage<S>(f(to_float(pa.value[j]), to_float(pb.value[j])));
    }
    reinterpret_cast<P*>(y)[i] = py;
  }
#pragma unroll 1
  for (Index i = packs * P::kSize + grid_index(); i < n; i += grid_size()) {
    const float first = to_float(a[i]);
    y[i] = to_storage<S>(f(first, F::kBinary ? to_float(b[i]) : first));
  }
}

template <class S, class F>
void run_map(F f, const S* a, const S* b, S* y, Index n, cudaStream_t stream) {
  if (n == 0) return;
  const Index packs = aligned(a) && aligned(b) && aligned(y) ? n / Pack<S>::kSize : 0;
  launch(stream, spread(packs > 0 ? packs : n), map<S, F>, f, a, b, y, n, packs);
}

template <Activation A>
struct Forward {
  static constexpr bool kBinary = false;
  float alpha;
  __device__ float operator()(float x, float) const { return activate<A, float>(x, alpha); }
};
template <Activation A>
struct Backward {
  static constexpr bool kBinary = true;
  float alpha;
  __device__ float operator()(float dy, float saved) const {
    return activate_backward<A, float>(dy, saved, alpha);
  }
};
struct Add {
  static constexpr bool kBinary = true;
  __device__ float operator()(float a, float b) const { return a + b; }
};

/// Calls f with the activation as a constant.
template <class F>
void with_activation(Activation activation, F f) {
  switch (activation) {
    case Activation::identity: return f.template operator()<Activation::identity>();
    case Activation::relu: return f.template operator()<Activation::relu>();
    case Activation::leaky_relu: return f.template operator()<Activation::leaky_relu>();
    case Activation::sigmoid: return f.template operator()<Activation::sigmoid>();
    case Activation::tanh: return f.template operator()<Activation::tanh>();
    case Activation::gelu: return f.template operator()<Activation::gelu>();
    case Activation::gelu_tanh: return f.template operator()<Activation::gelu_tanh>();
    case Activation::silu: return f.template operator()<Activation::silu>();
    case Activation::softplus: return f.template operator()<Activation::softplus>();
  }
}

/// Dropout of the elements first .. first + count of a stream; each thread takes the four words of
/// one block.
template <class S>
__device__ void drop(uint64_t seed, uint64_t random_step, uint32_t layer, uint32_t threshold,
                     float scale, Index first, Index count, const S* x, S* y, Divisor n, Index ld) {
  const Index blocks = (first + count + 3) / 4;
#pragma unroll 1
  for (Index q = first / 4 + grid_index(); q < blocks; q += grid_size()) {
    const philox::Block block = philox::block(
        seed,
        philox::counter(philox::Purpose::dropout, layer, random_step, static_cast<uint64_t>(q)));
    const Index begin = 4 * q - first;  // below 0 where the first block is not taken whole
    Place place = n.split(begin > 0 ? begin : 0);
#pragma unroll
    for (int l = 0; l < 4; ++l) {
      const Index i = begin + l;
      if (i < 0 || i >= count) continue;
      const Index at = place.row * ld + place.column;
      if (++place.column == n.value()) place = {place.row + 1, 0};
      y[at] = to_storage<S>(block.word[l] >= threshold ? to_float(x[at]) * scale : 0.0f);
    }
  }
}

template <class S>
__global__ void dropout_kernel(Step step, int counted, uint32_t layer, uint32_t threshold,
                               float scale, const S* x, S* y, Index m, Index rows, Divisor width,
                               Index ld) {
  const Index g = network_of_block(), n = width.value();
  const StepInput& input = input_of(step, g, counted);
  const Index values = g * m * rows * ld;
  drop(step.source[g].seed, input.random_step, layer, threshold, scale, input.first_row * rows * n,
       m * rows * n, x + values, y + values, width, ld);
}

__global__ void dropout_plain_kernel(uint64_t seed, uint64_t random_step, uint32_t layer,
                                     uint32_t threshold, float scale, const float* x, float* y,
                                     Divisor n) {
  drop(seed, random_step, layer, threshold, scale, Index{0}, n.value(), x, y, n, n.value());
}

uint32_t threshold_of(double p) { return static_cast<uint32_t>(p * 4294967296.0); }
float scale_of(double p) { return static_cast<float>(1 / (1 - p)); }

template <class S>
__global__ void repack_kernel(const S* x, Divisor nx, Index ldx, S* y, Divisor ny, Index ldy,
                              Index count) {
#pragma unroll 1
  for (Index i = grid_index(); i < count; i += grid_size()) {
    const Place from = nx.split(i), to = ny.split(i);
    y[to.row * ldy + to.column] = x[from.row * ldx + from.column];
  }
}

template <class S>
__global__ void add_bias_kernel(const S* b, Index stride, S* y, Index ld, Index m, Divisor n) {
  const Index g = network_of_block(), count = m * n.value();
  b += g * stride;
  y += g * m * ld;
#pragma unroll 1
  for (Index i = grid_index(); i < count; i += grid_size()) {
    const Place at = n.split(i);
    S& value = y[at.row * ld + at.column];
    value = to_storage<S>(to_float(value) + to_float(b[at.column]));
  }
}

template <class From, class To>
__global__ void convert_kernel(const From* x, To* y, Index n) {
#pragma unroll 1
  for (Index i = grid_index(); i < n; i += grid_size()) y[i] = to_storage<To>(to_float(x[i]));
}

template <bool kSigmoid>
__global__ void rows_kernel(const float* x, Index ldx, float* y, Divisor n, Index count) {
#pragma unroll 1
  for (Index i = grid_index(); i < count; i += grid_size()) {
    const Place at = n.split(i);
    const float value = x[at.row * ldx + at.column];
    y[i] = kSigmoid ? activate<Activation::sigmoid, float>(value, 0.0f) : value;
  }
}

constexpr unsigned kWarp = 32, kWarps = 4;

/// One warp a row.
__global__ void softmax_kernel(const float* x, Index ldx, float* y, Index m, Index n) {
  const Index row = static_cast<Index>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const Index lane = threadIdx.x % kWarp;
  if (row >= m) return;
  const float* from = x + row * ldx;
  float largest = -__builtin_inff();
  for (Index j = lane; j < n; j += kWarp) largest = from[j] > largest ? from[j] : largest;
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, static_cast<int>(step));
    largest = other > largest ? other : largest;
  }
  float sum = 0;
  for (Index j = lane; j < n; j += kWarp) sum += exp<float>(from[j] - largest);
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, static_cast<int>(step));
  }
  for (Index j = lane; j < n; j += kWarp) y[row * n + j] = exp<float>(from[j] - largest) / sum;
}

}  // namespace

template <class S>
void activation_forward(Activation activation, float alpha, const S* x, S* y, Index n,
                        cudaStream_t stream) {
  with_activation(activation,
                  [&]<Activation A>() { run_map(Forward<A>{alpha}, x, x, y, n, stream); });
}

template <class S>
void activation_backward(Activation activation, float alpha, const S* dy, const S* saved, S* dx,
                         Index n, cudaStream_t stream) {
  with_activation(activation,
                  [&]<Activation A>() { run_map(Backward<A>{alpha}, dy, saved, dx, n, stream); });
}

template <class S>
void add(const S* a, const S* b, S* y, Index n, cudaStream_t stream) {
  run_map(Add{}, a, b, y, n, stream);
}

template <class S>
void dropout(const Step& step, bool counted, uint32_t layer, double p, const S* x, S* y, Index m,
             Index rows, Index n, Index ld, cudaStream_t stream) {
  launch(stream, spread(m * rows * n / 4 + 2, step.networks), dropout_kernel<S>, step,
         counted ? 1 : 0, layer, threshold_of(p), scale_of(p), x, y, m, rows, Divisor(n), ld);
}

void dropout_plain(uint64_t seed, uint64_t random_step, uint32_t layer, double p, const float* x,
                   float* y, Index n, cudaStream_t stream) {
  if (n == 0) return;
  launch(stream, spread(n / 4 + 2), dropout_plain_kernel, seed, random_step, layer, threshold_of(p),
         scale_of(p), x, y, Divisor(n));
}

template <class S>
void repack(const S* x, Index nx, Index ldx, S* y, Index ny, Index ldy, Index count,
            cudaStream_t stream) {
  launch(stream, spread(count), repack_kernel<S>, x, Divisor(nx), ldx, y, Divisor(ny), ldy, count);
}

template <class S>
void add_bias(const S* b, S* y, Index ld, Index m, Index n, const Group& group,
              cudaStream_t stream) {
  launch(stream, spread(m * n, group.networks), add_bias_kernel<S>, b, group.stride, y, ld, m,
         Divisor(n));
}

template <class From, class To>
void convert(const From* x, To* y, Index n, cudaStream_t stream) {
  launch(stream, spread(n), convert_kernel<From, To>, x, y, n);
}

void identity_rows(const float* x, Index ldx, float* y, Index m, Index n, cudaStream_t stream) {
  launch(stream, spread(m * n), rows_kernel<false>, x, ldx, y, Divisor(n), m * n);
}
void sigmoid_rows(const float* x, Index ldx, float* y, Index m, Index n, cudaStream_t stream) {
  launch(stream, spread(m * n), rows_kernel<true>, x, ldx, y, Divisor(n), m * n);
}
void softmax_rows(const float* x, Index ldx, float* y, Index m, Index n, cudaStream_t stream) {
  if (m == 0 || n == 0) return;
  const auto blocks = static_cast<unsigned>((m + kWarps - 1) / kWarps);
  launch(stream, {.grid = dim3(blocks), .block = dim3(kWarp * kWarps)}, softmax_kernel, x, ldx, y,
         m, n);
}

#define DLCORE_INSTANTIATE(S)                                                                   \
  template void activation_forward(Activation, float, const S*, S*, Index, cudaStream_t);       \
  template void activation_backward(Activation, float, const S*, const S*, S*, Index,           \
                                    cudaStream_t);                                              \
  template void add(const S*, const S*, S*, Index, cudaStream_t);                               \
  template void dropout(const Step&, bool, uint32_t, double, const S*, S*, Index, Index, Index, \
                        Index, cudaStream_t);                                                   \
  template void repack(const S*, Index, Index, S*, Index, Index, Index, cudaStream_t);          \
  template void add_bias(const S*, S*, Index, Index, Index, const Group&, cudaStream_t);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(Bf16)
#undef DLCORE_INSTANTIATE
template void convert(const float*, Bf16*, Index, cudaStream_t);
template void convert(const Bf16*, float*, Index, cudaStream_t);

}  // namespace dlcore::cuda
