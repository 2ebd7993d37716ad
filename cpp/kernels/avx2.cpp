#define DLCORE_VECTOR_BYTES 32
#include "kernels/body-inl.h"

const dlcore::Kernels dlcore::kAvx2{"avx2", table<float>(), table<double>()};
