#pragma once

#include <string>
#include <vector>

#include "buffer.h"
#include "graph.h"

namespace dlcore {

/// Elements from one row to the next of an activation: whole panels, and not a multiple of 1 KiB,
/// because rows that far apart fall into few sets of the cache.
template <class T>
constexpr Index leading_dimension(Index features) {
  const Index ld = padded<T>(features);
  return ld * static_cast<Index>(sizeof(T)) % 1024 == 0 ? ld + kPanel<T> : ld;
}

/// Where one dense layer's parameters lie in the arena, in elements.
struct DenseSlot {
  int node = 0;
  Index in_features = 0, out_features = 0;
  Index weight = 0;  ///< offset of the first panel
  Index panel_stride = 0;
  Index panels = 0;
  Index bias = -1;  ///< -1 without
};

/// One arena for all parameters of a network; gradients and optimizer state have the same layout,
/// so that element-wise work runs over it in one piece. Padding is zero and stays zero.
template <class T>
struct Layout {
  explicit Layout(const Graph& graph);

  std::vector<DenseSlot> slots;
  std::vector<int> slot_of_node;  ///< -1 where a node has none
  Index size = 0;
};

/// A parameter by its public name ("0.weight") and shape.
struct ParameterName {
  std::string name;
  int slot = 0;
  bool is_bias = false;
  Shape shape;
};

template <class T>
std::vector<ParameterName> parameter_names(const Graph& graph, const Layout<T>& layout);

/// Copies between the arena and an array of the parameter's shape, (out_features, in_features)
/// for weights.
template <class T>
void unpack(const T* arena, const DenseSlot& slot, bool is_bias, T* value);
template <class T>
void pack(const T* value, const DenseSlot& slot, bool is_bias, T* arena);

/// w (n, k), row-major, into panels at `panels` (their padding must be zero already).
template <class T>
void pack_weight(const T* w, Index n, Index k, T* panels, Index panel_stride);
template <class T>
void unpack_weight(const T* panels, Index panel_stride, Index n, Index k, T* w);

/// Elements from one panel to the next for k rows.
template <class T>
Index panel_stride_of(Index k);

}  // namespace dlcore
