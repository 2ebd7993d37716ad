#pragma once

#include <stdint.h>

namespace dlcore {

/// Signed, as a difference of pointers is.
using Index = int64_t;

/// Element types that data may come in; parameters and activations are float32 or float64.
enum class DType { float32, float64, float16, uint8 };

}  // namespace dlcore
