#include "parameters.h"

#include <algorithm>

namespace dlcore {

template <class T>
Index panel_stride_of(Index k) {
  // The input gradient reads the same rows of many panels in turn: a distance of 4 KiB times
  // anything would put them into the same sets of the first-level cache.
  const Index rows = k >= 256 && k % 16 == 0 ? k + 7 : k;
  return checked_product(rows, kPanel<T>, "dense");
}

template <class T>
Layout<T>::Layout(const Graph& graph) : slot_of_node(graph.nodes.size(), -1) {
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.op != OpKind::dense) continue;
    DenseSlot slot;
    slot.node = static_cast<int>(i);
    slot.in_features = graph.nodes[static_cast<std::size_t>(node.inputs[0])].features();
    slot.out_features = node.units;
    slot.panel_stride = panel_stride_of<T>(slot.in_features);
    slot.weight = size;
    slot.panels = padded<T>(node.units) / kPanel<T>;
    const Index weights =
        checked_product(padded<T>(node.units) / kPanel<T>, slot.panel_stride, "dense");
    check(!__builtin_add_overflow(size, weights + padded<T>(node.units), &size),
          "network: its parameters are more than 2**63 - 1 elements");
    if (node.bias) {
      slot.bias = size - padded<T>(node.units);
    } else {
      size -= padded<T>(node.units);
    }
    slot_of_node[i] = static_cast<int>(slots.size());
    slots.push_back(slot);
  }
}

template <class T>
std::vector<ParameterName> parameter_names(const Graph& graph, const Layout<T>& layout) {
  std::vector<ParameterName> names;
  for (std::size_t i = 0; i < layout.slots.size(); ++i) {
    const DenseSlot& slot = layout.slots[i];
    const std::string& prefix = graph.nodes[static_cast<std::size_t>(slot.node)].name;
    const int index = static_cast<int>(i);
    names.push_back({prefix + ".weight", index, false, {slot.out_features, slot.in_features}});
    if (slot.bias >= 0) names.push_back({prefix + ".bias", index, true, {slot.out_features}});
  }
  return names;
}

template <class T>
void pack_weight(const T* w, Index n, Index k, T* panels, Index panel_stride) {
  for (Index j = 0; j < n; ++j) {
    T* column = panels + j / kPanel<T> * panel_stride + j % kPanel<T>;
    for (Index d = 0; d < k; ++d) column[d * kPanel<T>] = w[j * k + d];
  }
}

template <class T>
void unpack_weight(const T* panels, Index panel_stride, Index n, Index k, T* w) {
  for (Index j = 0; j < n; ++j) {
    const T* column = panels + j / kPanel<T> * panel_stride + j % kPanel<T>;
    for (Index d = 0; d < k; ++d) w[j * k + d] = column[d * kPanel<T>];
  }
}

template <class T>
void unpack(const T* arena, const DenseSlot& slot, bool is_bias, T* value) {
  if (is_bias) {
    std::copy_n(arena + slot.bias, slot.out_features, value);
  } else {
    unpack_weight(arena + slot.weight, slot.panel_stride, slot.out_features, slot.in_features,
                  value);
  }
}

template <class T>
void pack(const T* value, const DenseSlot& slot, bool is_bias, T* arena) {
  if (is_bias) {
    std::copy_n(value, slot.out_features, arena + slot.bias);
  } else {
    pack_weight(value, slot.out_features, slot.in_features, arena + slot.weight, slot.panel_stride);
  }
}

#define DLCORE_INSTANTIATE(T)                                                          \
  template struct Layout<T>;                                                           \
  template std::vector<ParameterName> parameter_names(const Graph&, const Layout<T>&); \
  template void unpack(const T*, const DenseSlot&, bool, T*);                          \
  template void pack(const T*, const DenseSlot&, bool, T*);                            \
  template void pack_weight(const T*, Index, Index, T*, Index);                        \
  template void unpack_weight(const T*, Index, Index, Index, T*);                      \
  template Index panel_stride_of<T>(Index);
DLCORE_INSTANTIATE(float)
DLCORE_INSTANTIATE(double)
#undef DLCORE_INSTANTIATE

}  // namespace dlcore
