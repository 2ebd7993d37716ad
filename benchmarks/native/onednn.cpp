// oneDNN at the products of a dense layer. It has two primitives for each, the inner product and
// the matmul of the same matrices, and several implementations of both. None is the fastest
// everywhere, and the default rarely for gradients (`peer_way` in a result says which was). So all
// are timed when a case is prepared, and the fastest is the peer.

#include "onednn.h"

#include <omp.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

namespace dlcore::bench {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Arguments = std::unordered_map<int, memory>;

constexpr auto kFloat = memory::data_type::f32;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory view(const Buffer<float>& numbers, const memory::desc& desc) {
  return memory(desc, engine(), const_cast<float*>(numbers.data()));
}

/// A primitive that is ready to run.
struct Way {
  std::string name;
  dnnl::primitive primitive;
  dnnl::stream stream;
  Arguments arguments;
  std::vector<Buffer<float>> owned;
  int result;            ///< the argument that is written
  memory::desc written;  ///< how the caller wants to read it

  memory own(const memory::desc& desc) {
    owned.emplace_back((static_cast<Index>(desc.get_size()) + 3) / 4);
    return view(owned.back(), desc);
  }
  void run() { primitive.execute(stream, arguments); }
};

/// Every implementation of a primitive on these arguments; theirs that it wants in another layout
/// are reordered here, once.
template <class Description>
void add_ways(const std::string& name, Description description, const Arguments& given, int result,
              const memory::desc& written, std::vector<Way>* ways) {
  do {
    const std::string implementation = description.impl_info_str();
    if (implementation.find("ref") != std::string::npos) continue;
    Way way{.name = name + " " + implementation,
            .primitive = dnnl::primitive(description),
            .stream = dnnl::stream(engine()),
            .arguments = given,
            .owned = {},
            .result = result,
            .written = written};
    for (auto& [argument, value] : way.arguments) {
      const memory::desc liked = description.query_md(dnnl::query::exec_arg_md, argument);
      if (liked == value.get_desc()) continue;
      memory ordered = way.own(liked);
      dnnl::reorder(value, ordered).execute(way.stream, value, ordered);
      value = ordered;
    }
    way.arguments[result] = way.own(description.query_md(dnnl::query::exec_arg_md, result));
    way.arguments[DNNL_ARG_SCRATCHPAD] = way.own(description.scratchpad_desc());
    way.stream.wait();
    ways->push_back(std::move(way));
  } while (description.next_impl());
}

std::vector<Way> all_ways(Product product, const DenseData& d) {
  const memory::desc x({d.m, d.k}, kFloat, Tag::ab), y({d.m, d.n}, kFloat, Tag::ab);
  const memory::desc w({d.n, d.k}, kFloat, Tag::any), b({d.n}, kFloat, Tag::a);
  const memory::desc plain_w({d.n, d.k}, kFloat, Tag::ab), turned_w({d.n, d.k}, kFloat, Tag::ba);
  const auto training = dnnl::prop_kind::forward_training;
  // A scratchpad of ours lies in huge pages where it is large, as every array here does.
  dnnl::primitive_attr plain, relu;
  plain.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  relu.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops operations;
  operations.append_eltwise(dnnl::algorithm::eltwise_relu, 0, 0);
  relu.set_post_ops(operations);

  std::vector<Way> ways;
  if (product == Product::forward) {
    const memory::desc row({1, d.n}, kFloat, Tag::ab);
    const memory::desc any({d.k, d.n}, kFloat, Tag::any), turned({d.k, d.n}, kFloat, Tag::ba);
    for (const auto kind : {training, dnnl::prop_kind::forward_inference}) {
      add_ways("inner_product",
               dnnl::inner_product_forward::primitive_desc(engine(), kind, x, w, b, y, relu),
               {{DNNL_ARG_SRC, view(d.x, x)},
                {DNNL_ARG_WEIGHTS, view(d.w, plain_w)},
                {DNNL_ARG_BIAS, view(d.b, b)}},
               DNNL_ARG_DST, y, &ways);
    }
    add_ways("matmul", dnnl::matmul::primitive_desc(engine(), x, any, row, y, relu),
             {{DNNL_ARG_SRC, view(d.x, x)},
              {DNNL_ARG_WEIGHTS, view(d.w, turned)},
              {DNNL_ARG_BIAS, view(d.b, row)}},
             DNNL_ARG_DST, y, &ways);
    return ways;
  }
  const dnnl::inner_product_forward::primitive_desc hint(engine(), training, x, w, y);
  if (product == Product::input_gradient) {
    add_ways("inner_product",
             dnnl::inner_product_backward_data::primitive_desc(engine(), x, w, y, hint, plain),
             {{DNNL_ARG_DIFF_DST, view(d.dy, y)}, {DNNL_ARG_WEIGHTS, view(d.w, plain_w)}},
             DNNL_ARG_DIFF_SRC, x, &ways);
    add_ways("matmul", dnnl::matmul::primitive_desc(engine(), y, w, x, plain),
             {{DNNL_ARG_SRC, view(d.dy, y)}, {DNNL_ARG_WEIGHTS, view(d.w, plain_w)}}, DNNL_ARG_DST,
             x, &ways);
    return ways;
  }
  add_ways("inner_product",
           dnnl::inner_product_backward_weights::primitive_desc(engine(), x, w, y, hint, plain),
           {{DNNL_ARG_SRC, view(d.x, x)}, {DNNL_ARG_DIFF_DST, view(d.dy, y)}},
           DNNL_ARG_DIFF_WEIGHTS, turned_w, &ways);
  // dw and its transpose: x^T dy and dy^T x.
  const memory::desc turned_x({d.k, d.m}, kFloat, Tag::ba), turned_y({d.n, d.m}, kFloat, Tag::ba);
  const memory::desc dw({d.k, d.n}, kFloat, Tag::ab);
  add_ways("matmul x^T dy", dnnl::matmul::primitive_desc(engine(), turned_x, y, dw, plain),
           {{DNNL_ARG_SRC, view(d.x, turned_x)}, {DNNL_ARG_WEIGHTS, view(d.dy, y)}}, DNNL_ARG_DST,
           dw, &ways);
  add_ways("matmul dy^T x", dnnl::matmul::primitive_desc(engine(), turned_y, x, plain_w, plain),
           {{DNNL_ARG_SRC, view(d.dy, turned_y)}, {DNNL_ARG_WEIGHTS, view(d.x, x)}}, DNNL_ARG_DST,
           turned_w, &ways);
  return ways;
}

/// Which way is the fastest: the least of several bursts of each, in rounds, because what else uses
/// the last cache disturbs some; after the first round only those that may still win.
std::size_t fastest(std::vector<Way>* ways) {
  constexpr double kBurst = 2e-3;
  constexpr int kRounds = 4;
  std::vector<double> least(ways->size(), 1e9);
  const auto best = [&] { return std::min_element(least.begin(), least.end()); };
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < ways->size(); ++i) {
      if (round > 0 && least[i] > 2 * *best()) continue;
      (*ways)[i].run();
      const double begin = now();
      double taken = 0;
      int calls = 0;
      for (; taken < kBurst; ++calls, taken = now() - begin) (*ways)[i].run();
      least[i] = std::min(least[i], taken / calls);
    }
  }
  return static_cast<std::size_t>(best() - least.begin());
}

}  // namespace

OneDnnProduct onednn_product(Product product, std::shared_ptr<const DenseData> data) {
  omp_set_num_threads(1);
  std::vector<Way> ways = all_ways(product, *data);
  const auto way = std::make_shared<Way>(std::move(ways[fastest(&ways)]));
  const dnnl_version_t& v = *dnnl_version();
  const std::string version =
      std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch);
  const auto result = [way, data] {
    way->run();
    Buffer<float> numbers(static_cast<Index>(way->written.get_size()) / 4);
    memory to = view(numbers, way->written), from = way->arguments.at(way->result);
    dnnl::reorder(from, to).execute(way->stream, from, to);
    way->stream.wait();
    return numbers;
  };
  return {{"oneDNN " + version, way->name, repeated([way, data] { way->run(); })}, result};
}

}  // namespace dlcore::bench
