#pragma once

// The part of cuBLASLt that dlcore uses, declared here so that a build needs no cuBLAS: its headers
// come with a package of 400 MB. Values and layouts are fixed within a major version; a test holds
// them against NVIDIA's own header (tests/cuda_host/lt_api_check.cpp).

#include <cstddef>
#include <cstdint>

#ifdef DLCORE_EMULATE
#include "emulated/cuda_runtime_api.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace dlcore::cuda::lt {

using Handle = struct HandleOpaque*;
using Description = struct DescriptionOpaque*;
using Layout = struct LayoutOpaque*;
using Preference = struct PreferenceOpaque*;

inline constexpr int kMajor = 13;  ///< of the library these declarations belong to
inline constexpr int kSuccess = 0, kNotSupported = 15;

// cudaDataType_t, cublasComputeType_t, cublasOperation_t
inline constexpr int kFloat32 = 0, kBfloat16 = 14;
inline constexpr int kCompute32 = 68, kComputeTf32 = 77;
inline constexpr std::int32_t kPlain = 0, kTransposed = 1;

// cublasLtMatmulDescAttributes_t
inline constexpr int kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBiasPointer = 8,
                     kBiasStride = 10, kMaskPointer = 11, kMaskLd = 12, kMaskStride = 13;

// cublasLtMatrixLayoutAttribute_t
inline constexpr int kBatchCount = 5, kBatchStride = 6;

// cublasLtEpilogue_t
inline constexpr std::uint32_t kEpilogueNone = 1, kEpilogueBias = 4, kEpilogueRelu = 2,
                               kEpilogueReluBias = 6, kEpilogueReluMask = 130,
                               kEpilogueReluMaskBias = 134, kEpilogueReluGradient = 136;

// cublasLtMatmulPreferenceAttributes_t, cublasLtReductionScheme_t
inline constexpr int kMaxWorkspace = 1, kReductionSchemes = 3, kAlignmentA = 5, kAlignmentB = 6,
                     kAlignmentC = 7, kAlignmentD = 8;
inline constexpr std::uint32_t kReductionComputeType = 2;

/// Rows of a bit mask lie a multiple of this many bits apart.
inline constexpr std::int64_t kMaskAlignment = 128;

struct Algorithm {
  std::uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace;
  int status;
  float waves;
  int reserved[4];
};

/// The library's functions, by their names without "cublasLt".
struct Functions {
  std::size_t (*GetVersion)();
  const char* (*GetStatusString)(int status);
  int (*Create)(Handle*);
  int (*Destroy)(Handle);
  int (*MatmulDescCreate)(Description*, int compute_type, int scale_type);
  int (*MatmulDescDestroy)(Description);
  int (*MatmulDescSetAttribute)(Description, int attribute, const void* value, std::size_t bytes);
  int (*MatrixLayoutCreate)(Layout*, int type, std::uint64_t rows, std::uint64_t columns,
                            std::int64_t ld);
  int (*MatrixLayoutSetAttribute)(Layout, int attribute, const void* value, std::size_t bytes);
  int (*MatrixLayoutDestroy)(Layout);
  int (*MatmulPreferenceCreate)(Preference*);
  int (*MatmulPreferenceDestroy)(Preference);
  int (*MatmulPreferenceSetAttribute)(Preference, int attribute, const void* value,
                                      std::size_t bytes);
  int (*MatmulAlgoGetHeuristic)(Handle, Description, Layout a, Layout b, Layout c, Layout d,
                                Preference, int wanted, Heuristic* results, int* found);
  int (*MatmulAlgoCheck)(Handle, Description, Layout a, Layout b, Layout c, Layout d,
                         const Algorithm*, Heuristic* result);
  int (*Matmul)(Handle, Description, const void* alpha, const void* a, Layout, const void* b,
                Layout, const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*,
                void* workspace, std::size_t bytes, cudaStream_t);
};

}  // namespace dlcore::cuda::lt
