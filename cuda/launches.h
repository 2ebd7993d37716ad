#pragma once

#include "kernels/kernels.h"
#include "ops/loss.h"
#include "runtime.h"

/// Host functions that start the kernels, with their formulas. They know pointers, sizes and
/// strides, and enqueue into a stream. S is what values are stored as, float or Bf16; n, ld and
/// rows as in cpp/kernels/kernels.h. Rows lie ld elements apart, a multiple of kLine; kernels that
/// run over whole rows treat their padding as values, which is harmless: products and losses do not
/// read it.
///
/// Several networks of the same shapes are worked on at once: their values lie beside each other
/// without gaps, network by network, and so do their parameters. Sizes are those of one network,
/// except where a kernel does not care whose elements they are.
namespace dlcore::cuda {

/// A bfloat16, the upper half of a float32.
struct Bf16 {
  uint16_t bits;
};

/// Elements to which rows are padded: 16 bytes of bfloat16, what cuBLASLt's fast kernels ask for.
inline constexpr Index kLine = 8;
constexpr Index line(Index n) { return (n + kLine - 1) / kLine * kLine; }

/// Everything about one step that changes from step to step, worked out by the host. A network that
/// rests has a step of no rows, which changes nothing.
struct StepInput {
  Update<float> update;
  double share = 0;          ///< 1 / (sum of the batch's weights * elements of an example)
  uint64_t random_step = 0;  ///< of the network's life, for dropout
  Index begin = 0;           ///< first position of the batch in the order of examples
  Index x_begin = 0;         ///< its first row in x, where x lies in order of use
  Index first_row = 0;       ///< number of its first example within the batch (a batch in pieces)
  Index number = 0;          ///< of the step within its epoch
  int32_t rows = 0;          ///< examples; the rest of the plan's batch is filled with zeros
};

/// What steps leave for each other and for the host, in device memory.
struct StepState {
  int32_t step = 0;        ///< the table's entry in use
  int32_t stopped = 0;     ///< nonzero from the first loss that is not finite: nothing moves then
  int32_t bad_input = 0;   ///< nonzero where a value of x was not finite
  Index stopped_step = 0;  ///< number of the step in which it was
  double loss = 0, correct = 0, weight = 0;  ///< sums, as ops::LossSums
  float gradient_scale = 1;                  ///< from clipping
};

/// What stays from step to step: where a network's examples come from, all on the device.
struct Source {
  const void* x = nullptr;            ///< (examples, features), or a part of them in order of use
  const uint32_t* order = nullptr;    ///< example i of a batch is order[begin + i], null: begin + i
  const uint32_t* x_order = nullptr;  ///< the same for its row in x, null: x_begin + i
  const int32_t* labels = nullptr;    ///< (examples * rows,)
  const float* values = nullptr;      ///< (examples * rows, features)
  const double* weight = nullptr;     ///< (examples,) or null
  float scale = 1;                    ///< of x
  uint64_t seed = 0;                  ///< of dropout
};

/// The step that runs. Network g of as many has state[g], source[g] and, of the table's row
/// state[g].step (the one before once `finish` has counted it), entry g.
struct Step {
  StepState* state = nullptr;
  const StepInput* table = nullptr;
  const Source* source = nullptr;
  Index networks = 1;
};

/// Networks beside each other whose parameters lie `stride` elements apart.
struct Group {
  Index networks = 1, stride = 0;
};

// --- Element by element (elementwise.cu) ---------------------------------------------------------

/// y = activation(x); y may be x.
template <class S>
void activation_forward(Activation activation, float alpha, const S* x, S* y, Index n,
                        cudaStream_t stream);
/// dx = dy * activation'(saved); dx may be dy.
template <class S>
void activation_backward(Activation activation, float alpha, const S* dy, const S* saved, S* dx,
                         Index n, cudaStream_t stream);
/// y = a + b; y may be a.
template <class S>
void add(const S* a, const S* b, S* y, Index n, cudaStream_t stream);
/// y[i] = words[i] >= threshold ? x[i] * scale : 0 on the m rows of a batch, words of the dropout
/// stream (random.h); y may be x. `counted`: finish has counted the step already.
template <class S>
void dropout(const Step& step, bool counted, uint32_t layer, double p, const S* x, S* y, Index m,
             Index rows, Index n, Index ld, cudaStream_t stream);
/// The same on n plain elements, with the step given.
void dropout_plain(uint64_t seed, uint64_t random_step, uint32_t layer, double p, const float* x,
                   float* y, Index n, cudaStream_t stream);
/// The same elements in the same order, rows cut elsewhere.
template <class S>
void repack(const S* x, Index nx, Index ldx, S* y, Index ny, Index ldy, Index count,
            cudaStream_t stream);
/// y[m,n] += b[n] for each network of a group
template <class S>
void add_bias(const S* b, S* y, Index ld, Index m, Index n, const Group& group,
              cudaStream_t stream);
template <class From, class To>
void convert(const From* x, To* y, Index n, cudaStream_t stream);
/// y (m, n) without gaps = x, sigmoid(x) or softmax(x) by rows.
void identity_rows(const float* x, Index ldx, float* y, Index m, Index n, cudaStream_t stream);
void sigmoid_rows(const float* x, Index ldx, float* y, Index m, Index n, cudaStream_t stream);
void softmax_rows(const float* x, Index ldx, float* y, Index m, Index n, cudaStream_t stream);

// --- Batches and losses (batch.cu) ---------------------------------------------------------------

/// y = S(x[rows] * scale), each example cut into `pieces` rows of n; rows beyond the step's become
/// 0.
template <class S>
void gather(const Step& step, DType dtype, S* y, Index batch, Index pieces, Index n, Index ld,
            cudaStream_t stream);

/// How a network's outputs are compared with what its source says.
struct Targets {
  ops::Loss loss;
  ops::TargetShape shape;
};
/// Loss and right answers of each row, and dx unless null, which becomes 0 beyond the step's rows.
template <class S>
void loss_rows(const Step& step, const Targets& targets, const float* x, Index ldx, float* loss,
               float* correct, S* dx, Index lddx, Index batch, cudaStream_t stream);
/// Adds the batch's sums to the state's, or stops where they are not finite; then counts the step.
void finish(const Step& step, const Targets& targets, const float* loss, const float* correct,
            Index batch, cudaStream_t stream);

/// Counts a step that has no loss.
void count_step(const Step& step, cudaStream_t stream);
/// Goes back to the table's first row; what the steps have left stays.
void rewind(const Step& step, cudaStream_t stream);

// --- Gradients and updates (update.cu) -----------------------------------------------------------

/// Floats that column_sums needs as scratch for each network.
Index column_sums_scratch(Index m, Index n);
/// db[n] = sum_m dy[m,n] for each network of a group, or added to it; in a fixed order.
template <class S>
void column_sums(const S* dy, Index ld, float* db, Index m, Index n, bool add, float* scratch,
                 const Group& group, cudaStream_t stream);

/// Doubles that sums of n squares need as scratch for each network.
Index squares_scratch(Index n);
/// result[g] = sum x^2 of each network of a group, in double and in a fixed order.
void sum_squares(const float* x, Index n, double* scratch, double* result, Index networks,
                 cudaStream_t stream);
/// state->gradient_scale = min(1, clip_norm / (norm + 1e-6)), sums in double in a fixed order.
void clip(const Step& step, const float* gradients, Index n, double clip_norm, double* scratch,
          cudaStream_t stream);
/// x *= state->gradient_scale
void scale_gradients(const Step& step, float* x, Index n, cudaStream_t stream);

/// One optimizer step in place, and the bfloat16 copy unless null; nothing where the network has
/// stopped or rests.
void update(const Step& step, Rule rule, float* w, const float* dw, float* state1, float* state2,
            Bf16* copy, Index n, cudaStream_t stream);
/// The same with the coefficients given.
void update_plain(const Update<float>& update, float* w, const float* dw, float* state1,
                  float* state2, Index n, cudaStream_t stream);

/// to = from for each network in the first step of an epoch, unless that has stopped.
void keep_epoch_start(const Step& step, const float* from, float* to, Index n, cudaStream_t stream);

}  // namespace dlcore::cuda
