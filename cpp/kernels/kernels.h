#pragma once

#include "types.h"

namespace dlcore {

enum class Activation {
  identity,
  relu,
  leaky_relu,
  sigmoid,
  tanh,
  gelu,
  gelu_tanh,
  silu,
  softplus,
};

/// Whether the derivative is a function of the result y; otherwise it needs the argument x.
constexpr bool gradient_from_result(Activation activation) {
  return activation != Activation::gelu && activation != Activation::gelu_tanh &&
         activation != Activation::silu;
}

enum class Rule { sgd, adam, adamw };

/// One step of an optimizer with everything that is equal for all elements worked out before.
template <class T>
struct Update {
  Rule rule = Rule::sgd;
  bool nesterov = false;
  T learning_rate = 0;
  T weight_decay = 0;
  T momentum = 0;
  T beta1 = 0;
  T beta2 = 0;
  T complement1 = 0;  ///< 1 - beta1, rounded once: 1 - T(0.999) would be wrong by 1e-5
  T complement2 = 0;  ///< 1 - beta2
  T epsilon = 0;
  T step_size = 0;       ///< learning_rate / (1 - beta1^t)
  T inverse_root = 0;    ///< 1 / sqrt(1 - beta2^t)
  T decay = 0;           ///< learning_rate * weight_decay
  T gradient_scale = 1;  ///< from clipping by norm
};

/// Rows of memory that are read soon and lie anywhere, which the hardware cannot foresee: a kernel
/// that computes more than it loads asks for them meanwhile.
struct Wanted {
  const char* base;
  Index stride, bytes;  ///< from row to row, and of a row
  const Index* rows;
  Index count;

  Wanted from(Index i) const { return {base, stride, bytes, rows + i, count - i}; }
};

/// Losses whose elements stand alone (cross-entropy works on whole rows).
enum class ElementLoss { binary_cross_entropy, mse, huber };

/// Columns of one panel of weights: 128 bytes, two vectors of the widest instruction set.
template <class T>
inline constexpr Index kPanel = 128 / static_cast<Index>(sizeof(T));

/// n rounded up to whole panels.
template <class T>
constexpr Index padded(Index n) {
  return (n + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
}

/// The kernels of one instruction set for one element type.
///
/// Words: m rows (the batch), n columns (out_features), k summed length (in_features); x w b y
/// values, dy dx dw db derivatives of the loss. Row-major with a leading dimension ld. Weights lie
/// in panels: panel p holds columns [p P, p P + P), P = kPanel<T>, element (k, j) at
/// w[p * panel_stride + k * P + j]; the padding of the last panel is zero and stays zero. Products
/// and dense_finish read and write whole vectors, so rows they touch are padded to whole panels;
/// what the padding of y holds is finite but otherwise free, that of dy is zero. All other kernels
/// touch n columns and no more. Outputs alias nothing else unless said. Sizes are already checked.
template <class T>
struct KernelsOf {
  /// Elements of one row of a panel of weights.
  static constexpr Index kRow = kPanel<T>;

  /// y[j] = T(x[j]) * scale, for a contiguous row of any dtype; returns whether all y are finite.
  bool (*convert_row)(const void* x, DType dtype, T scale, T* y, Index k);

  /// z[m,n] = sum_k x[m,k] w[k,n] + b[n] (b may be null); y = activation(z); z may be null. Beside
  /// each row of x one of `wanted`, which may be null, is asked for.
  void (*dense_forward)(const T* x, Index ldx, const T* w, Index panel_stride, const T* b,
                        Activation activation, T alpha, T* z, T* y, Index ldy, Index m, Index n,
                        Index k, const Wanted* wanted);

  /// z[m,n] = y[m,n] + more[m,n] + b[n] and y = activation(z), as dense_forward ends: y and more,
  /// which lies like y, hold the sums over two parts of k.
  void (*dense_finish)(const T* more, const T* b, Activation activation, T alpha, T* z, T* y,
                       Index ldy, Index m, Index n);

  /// dx[m,k] = sum_n dy[m,n] w[k,n]; add adds to what is there.
  void (*dense_input_gradient)(const T* dy, Index ldy, const T* w, Index panel_stride, bool add,
                               T* dx, Index ldx, Index m, Index n, Index k);

  /// dxt[k,m] = sum_n w[k,n] dyt[n,m]: the same with the batch transposed, so that the weights are
  /// read as they lie.
  void (*dense_input_gradient_transposed)(const T* dyt, Index ldt, const T* w, Index panel_stride,
                                          T* dxt, Index ldxt, Index m, Index n, Index k);

  /// dw[k,n] = sum_m x[m,k] dy[m,n], in panels; add adds to what is there.
  void (*dense_weight_gradient)(const T* x, Index ldx, const T* dy, Index ldy, bool add, T* dw,
                                Index panel_stride, Index m, Index n, Index k);

  /// The same product, each tile handed to update() while it is in the first-level cache; `ahead`
  /// asks for w and its states early.
  void (*dense_weight_update)(const T* x, Index ldx, const T* dy, Index ldy,
                              const Update<T>& update, T* w, T* state1, T* state2,
                              Index panel_stride, bool ahead, Index m, Index n, Index k);

  /// db[n] = sum_m dy[m,n]
  void (*column_sums)(const T* dy, Index ld, T* db, Index m, Index n);

  /// xt[n,m] = x[m,n]; columns m .. m_padded of xt become zero.
  void (*transpose)(const T* x, Index ldx, T* xt, Index ldt, Index m, Index n, Index m_padded);

  /// y = activation(x) and dx = dy * activation'(saved); y may be x, dx may be dy.
  void (*activation_forward)(Activation activation, T alpha, const T* x, T* y, Index n);
  void (*activation_backward)(Activation activation, T alpha, const T* dy, const T* saved, T* dx,
                              Index n);

  /// y = softmax(x) by rows; y may be x.
  void (*softmax)(const T* x, Index ldx, T* y, Index ldy, Index m, Index n);

  /// loss[m] = log sum exp(x[m,:]) - x[m, labels[m]]; correct[m] = 1 where the label's logit is the
  /// first largest, else 0; dx[m,n] = (softmax(x[m,:]) - onehot) * weight[m] unless dx is null.
  void (*cross_entropy)(const T* x, Index ldx, const Index* labels, const T* weight, T* loss,
                        T* correct, T* dx, Index lddx, Index m, Index n);

  /// loss[m] = sum_n l(x[m,n], target[m,n]); dx[m,n] = l' * weight[m] unless dx is null.
  void (*element_loss)(ElementLoss kind, T delta, const T* x, Index ldx, const T* target, Index ldt,
                       const T* weight, T* loss, T* dx, Index lddx, Index m, Index n);

  /// One optimizer step in place (Update); state1 is the velocity or first moment, state2 the
  /// second.
  void (*update)(const Update<T>& update, T* w, const T* dw, T* state1, T* state2, Index n);

  /// y += x
  void (*add)(const T* x, T* y, Index n);

  /// sum x^2 in double precision, in a fixed order.
  double (*sum_squares)(const T* x, Index n);

  /// y[i] = words[i] >= threshold ? x[i] * scale : 0, words first .. first + n - 1 of the dropout
  /// stream (random.h); y may be x.
  void (*dropout)(const T* x, T* y, uint32_t threshold, T scale, uint64_t seed, uint64_t step,
                  uint32_t layer, Index first, Index n);
};

/// Products of rounded numbers: float32 rounded to bfloat16, two to a 32-bit element, summed in
/// float32. The arrays are declared float for their size; m, n, k and the strides count elements,
/// so the summed length is half of what it stands for.
struct Bf16Kernels {
  const char* name;
  /// Elements of one row of a panel of weights rounded by round_rows.
  static constexpr Index kRow = kPanel<float> / 2;

  /// y[i,j] = the pair (x[i,2j], x[i,2j+1]); an odd n is filled up with 0.
  void (*round_rows)(const float* x, Index ldx, float* y, Index ldy, Index m, Index n);
  /// y[i,j] = the pair (x[2i,j], x[2i+1,j]); an odd m is filled up with 0. Whole vectors.
  void (*round_row_pairs)(const float* x, Index ldx, float* y, Index ldy, Index m, Index n);

  // As in KernelsOf<float>, with both factors rounded so that pairs lie along the summed index:
  // x by rows and w by row pairs, w and dy by rows (dyt is that transposed), x and dy by row pairs.
  decltype(KernelsOf<float>::dense_forward) dense_forward;
  decltype(KernelsOf<float>::dense_input_gradient) dense_input_gradient;
  decltype(KernelsOf<float>::dense_input_gradient_transposed) dense_input_gradient_transposed;
  decltype(KernelsOf<float>::dense_weight_gradient) dense_weight_gradient;
  decltype(KernelsOf<float>::dense_weight_update) dense_weight_update;
};

/// One instruction set.
struct Kernels {
  const char* name;
  KernelsOf<float> f32;
  KernelsOf<double> f64;

  template <class T>
  const KernelsOf<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

extern const Kernels kReference;
#ifdef DLCORE_HAVE_AVX2
extern const Kernels kAvx2;
#endif
#ifdef DLCORE_HAVE_AVX512
extern const Kernels kAvx512;
extern const Bf16Kernels kAvx512Bf16;
#endif
#ifdef DLCORE_HAVE_NEON
extern const Kernels kNeon;
#endif

}  // namespace dlcore
