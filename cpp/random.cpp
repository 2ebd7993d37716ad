#include "random.h"

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

namespace dlcore::philox {

Normals normals(Stream& words) {
  uint32_t word[4];
  for (uint32_t& w : word) w = words.next();
  const double radius = std::sqrt(-2 * std::log(1 - uniform(word[0], word[1])));
  const double angle = 2 * std::numbers::pi * uniform(word[2], word[3]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

void shuffle(uint64_t seed, uint64_t step, Index* rows, Index count) {
  // Word i belongs to position i: made from the front, used from the back.
  Stream words(seed, Purpose::shuffle, 0, step);
  std::vector<uint32_t> word(static_cast<std::size_t>(count));
  for (uint32_t& w : word) w = words.next();
  for (Index i = count - 1; i > 0; --i) {
    const uint64_t j =
        (uint64_t{word[static_cast<std::size_t>(i)]} * static_cast<uint64_t>(i + 1)) >> 32;
    std::swap(rows[i], rows[j]);
  }
}

}  // namespace dlcore::philox
