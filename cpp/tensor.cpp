#include "tensor.h"

#include "check.h"

namespace dlcore {

std::string to_string(const Shape& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  // A tuple of one has a comma.
  return text + (shape.size() == 1 ? ",)" : ")");
}

Index checked_product(Index a, Index b, const char* what) {
  Index product = 0;
  check(!__builtin_mul_overflow(a, b, &product), what, ": the sizes ", a, " and ", b,
        " multiply to more than 2**63 - 1 elements");
  return product;
}

}  // namespace dlcore
