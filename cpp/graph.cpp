#include "graph.h"

#include <functional>
#include <numeric>

#include "check.h"
#include "ops/activation.h"
#include "ops/add.h"
#include "ops/dense.h"
#include "ops/dropout.h"
#include "ops/flatten.h"

namespace dlcore {
namespace {

Shape output_shape(const Node& node, const std::vector<Node>& nodes) {
  const auto input = [&](std::size_t i) -> const Shape& {
    return nodes[static_cast<std::size_t>(node.inputs[i])].shape;
  };
  switch (node.op) {
    case OpKind::input: return node.shape;
    case OpKind::dense: return ops::dense_shape(input(0), node.units);
    case OpKind::activation: return ops::activation_shape(input(0));
    case OpKind::dropout: return ops::dropout_shape(input(0), node.p);
    case OpKind::flatten: return ops::flatten_shape(input(0));
    case OpKind::add: return ops::add_shape(input(0), input(1));
  }
  return {};
}

}  // namespace

Index Node::rows() const {
  return std::accumulate(shape.begin(), shape.end() - 1, Index{1}, std::multiplies<>());
}

Index Graph::parameter_count() const {
  Index count = 0;
  for (const Node& node : nodes) {
    if (node.op != OpKind::dense) continue;
    const Index k = nodes[static_cast<std::size_t>(node.inputs[0])].features();
    count += k * node.units + (node.bias ? node.units : 0);
  }
  return count;
}

Index Graph::flops_per_example() const {
  Index flops = 0;
  for (const Node& node : nodes) {
    if (node.op != OpKind::dense) continue;
    const Node& x = nodes[static_cast<std::size_t>(node.inputs[0])];
    flops += 2 * node.rows() * x.features() * node.units * (x.needs_gradient ? 3 : 2);
  }
  return flops;
}

Graph make_graph(std::vector<Node> nodes, const Shape& input_shape) {
  check(!input_shape.empty(), "network: input_shape needs at least one axis, found ()");
  Index size = 1;
  for (const Index extent : input_shape) {
    check(extent >= 1, "network: every axis of input_shape must be at least 1, found ",
          to_string(input_shape));
    size = checked_product(size, extent, "network");
  }
  Node input;
  input.shape = input_shape;
  nodes.insert(nodes.begin(), input);
  for (std::size_t i = 1; i < nodes.size(); ++i) {
    Node& node = nodes[i];
    const std::size_t arity = node.op == OpKind::add ? 2 : 1;
    check(node.inputs.size() == arity, "network: node ", i, " needs ", arity, " inputs, found ",
          node.inputs.size());
    for (const int from : node.inputs) {
      check(from >= 0 && static_cast<std::size_t>(from) < i, "network: node ", i, " reads node ",
            from, ", which does not come before it");
    }
    node.shape = output_shape(node, nodes);
    node.needs_gradient = node.op == OpKind::dense;
    for (const int from : node.inputs) {
      Node& x = nodes[static_cast<std::size_t>(from)];
      node.needs_gradient = node.needs_gradient || x.needs_gradient;
      ++x.uses;
    }
  }
  // Flattening the input is a matter of how it is read.
  if (nodes.size() > 1 && nodes[1].op == OpKind::flatten && nodes[0].uses == 1) {
    nodes[0].shape = nodes[1].shape;
  }
  return Graph{std::move(nodes), input_shape};
}

Activation activation_named(const std::string& name) {
  static const std::pair<const char*, Activation> kNames[] = {
      {"identity", Activation::identity},
      {"relu", Activation::relu},
      {"leaky_relu", Activation::leaky_relu},
      {"sigmoid", Activation::sigmoid},
      {"tanh", Activation::tanh},
      {"gelu", Activation::gelu},
      {"gelu_tanh", Activation::gelu_tanh},
      {"silu", Activation::silu},
      {"softplus", Activation::softplus}};
  std::string known;
  for (const auto& [text, activation] : kNames) {
    if (name == text) return activation;
    known += std::string(known.empty() ? "" : ", ") + text;
  }
  check(false, "activation: \"", name, "\" is not one of ", known);
  return Activation::identity;
}

}  // namespace dlcore
