#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "tensor.h"

namespace dlcore {

/// A wrong dtype or layout; Python's TypeError. std::invalid_argument is its ValueError and
/// std::runtime_error its RuntimeError.
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << to_string(shape);
}

/// The parts of a message as one string; numbers as C++ streams print them.
template <class... Parts>
std::string sentence(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws Python's ValueError with the parts as its sentence unless `holds`.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (!holds) throw std::invalid_argument(sentence(parts...));
}

template <class... Parts>
void check_type(bool holds, const Parts&... parts) {
  if (!holds) throw TypeError(sentence(parts...));
}

template <class... Parts>
void check_state(bool holds, const Parts&... parts) {
  if (!holds) throw std::runtime_error(sentence(parts...));
}

/// a * b, or ValueError where the product does not fit an Index.
Index checked_product(Index a, Index b, const char* what);

}  // namespace dlcore
