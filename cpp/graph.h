#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tensor.h"

namespace dlcore {

enum class OpKind { input, dense, activation, dropout, flatten, add };

/// One node of a network's graph. Shapes are those of one example, the batch left out.
struct Node {
  OpKind op = OpKind::input;
  std::vector<int> inputs;
  std::string name;   ///< dense: prefix of its parameters' names
  Index units = 0;    ///< dense
  bool bias = false;  ///< dense
  Activation activation = Activation::identity;
  double alpha = 0;  ///< leaky_relu's slope
  double p = 0;      ///< dropout's probability

  // Worked out by make_graph:
  Shape shape;
  bool needs_gradient = false;  ///< a parameter lies in it or before it
  int uses = 0;                 ///< nodes that read it

  Index features() const { return shape.back(); }
  /// Rows one example makes: a dense layer maps the last axis of each.
  Index rows() const;
};

/// A checked directed acyclic graph: node 0 is the input, the last one the output.
struct Graph {
  std::vector<Node> nodes;
  Shape input_shape;  ///< as given: nodes[0] is flat where the first layer flattens it

  const Node& input() const { return nodes.front(); }
  const Node& output() const { return nodes.back(); }
  Index parameter_count() const;
  /// Floating-point operations of the products of one training step, per example: forward 2 k n,
  /// weight gradient 2 k n and, unless nothing before it learns, input gradient 2 k n a layer.
  Index flops_per_example() const;
};

/// Checks every node against those before it (the shape rules of ops/) and fills in what follows.
Graph make_graph(std::vector<Node> nodes, const Shape& input_shape);

/// The activation of this name ("relu", ...), or ValueError listing them.
Activation activation_named(const std::string& name);

}  // namespace dlcore
