#pragma once

#include "types.h"

namespace dlcore {

/// Philox 4x32-10, a random number as a function of (seed; purpose, layer, step, index) and of
/// nothing else, so that any thread or device can make any part of a stream.
/// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
namespace philox {

enum class Purpose : uint32_t { shuffle = 0, dropout = 1, weights = 2 };

inline constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
inline constexpr int kRounds = 10;

struct Block {
  uint32_t word[4];
};

/// Counter of block `index` of a stream (four words a block).
constexpr Block counter(Purpose purpose, uint32_t layer, uint64_t step, uint64_t index) {
  return {{static_cast<uint32_t>(index),
           (static_cast<uint32_t>(index >> 32) & 0xffffffu) | static_cast<uint32_t>(purpose) << 24,
           static_cast<uint32_t>(step),
           (static_cast<uint32_t>(step >> 32) & 0xffffu) | layer << 16}};
}

constexpr Block block(uint64_t seed, Block c) {
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * c.word[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * c.word[2];
    c = {{static_cast<uint32_t>(product1 >> 32) ^ c.word[1] ^ key0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ c.word[3] ^ key1,
          static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return c;
}

static_assert(block(0, {{0, 0, 0, 0}}).word[0] == 0x6627e8d5);

/// Words of one stream in order.
class Stream {
 public:
  Stream(uint64_t seed, Purpose purpose, uint32_t layer, uint64_t step)
      : seed_(seed), purpose_(purpose), layer_(layer), step_(step) {}

  constexpr uint32_t next() {
    if (used_ == 4) {
      block_ = block(seed_, counter(purpose_, layer_, step_, index_++));
      used_ = 0;
    }
    return block_.word[used_++];
  }

 private:
  uint64_t seed_;
  Purpose purpose_;
  uint32_t layer_;
  uint64_t step_;
  uint64_t index_ = 0;
  Block block_{};
  int used_ = 4;
};

/// 53 random bits as a number in [0, 1).
constexpr double uniform(uint32_t high, uint32_t low) {
  return (static_cast<double>(high >> 5) * 67108864.0 + static_cast<double>(low >> 6)) *
         (1.0 / 9007199254740992.0);
}

/// Two independent standard normals from the next four words (Box and Muller, Annals of
/// Mathematical Statistics 29, 1958).
struct Normals {
  double first, second;
};
Normals normals(Stream& words);

/// Puts rows into the order of this seed and step (Fisher and Yates): position i > 0, from the last
/// to the first, changes places with floor(word_i (i + 1) / 2^32). The multiplication's bias is
/// below 2^-32 of the number of rows.
void shuffle(uint64_t seed, uint64_t step, Index* rows, Index count);

}  // namespace philox
}  // namespace dlcore
