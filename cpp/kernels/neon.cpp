#define DLCORE_VECTOR_BYTES 16
#include "kernels/body-inl.h"

const dlcore::Kernels dlcore::kNeon{"neon", table<float>(), table<double>()};
