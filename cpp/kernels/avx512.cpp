#define DLCORE_VECTOR_BYTES 64
#include "kernels/body-inl.h"

const dlcore::Kernels dlcore::kAvx512{"avx512", table<float>(), table<double>()};
