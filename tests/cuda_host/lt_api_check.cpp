// cuda/lt_api.h against NVIDIA's own header: it compiles where every value, size and signature that
// dlcore declares for itself is the library's.

#include <cublasLt.h>

#include <type_traits>

#include "lt_api.h"

namespace lt = dlcore::cuda::lt;

static_assert(lt::kMajor == CUBLAS_VER_MAJOR);
static_assert(lt::kSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(lt::kNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
static_assert(lt::kFloat32 == CUDA_R_32F && lt::kBfloat16 == CUDA_R_16BF);
static_assert(lt::kCompute32 == CUBLAS_COMPUTE_32F);
static_assert(lt::kComputeTf32 == CUBLAS_COMPUTE_32F_FAST_TF32);
static_assert(lt::kPlain == CUBLAS_OP_N && lt::kTransposed == CUBLAS_OP_T);
static_assert(sizeof(lt::kPlain) == sizeof(cublasOperation_t));
static_assert(lt::kTransposeA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(lt::kTransposeB == CUBLASLT_MATMUL_DESC_TRANSB);
static_assert(lt::kEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(lt::kBiasPointer == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(lt::kMaskPointer == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER);
static_assert(lt::kMaskLd == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD);
static_assert(lt::kBiasStride == CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE);
static_assert(lt::kMaskStride == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE);
static_assert(lt::kBatchCount == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
static_assert(lt::kBatchStride == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
static_assert(lt::kEpilogueNone == CUBLASLT_EPILOGUE_DEFAULT);
static_assert(lt::kEpilogueBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(lt::kEpilogueRelu == CUBLASLT_EPILOGUE_RELU);
static_assert(lt::kEpilogueReluBias == CUBLASLT_EPILOGUE_RELU_BIAS);
static_assert(lt::kEpilogueReluMask == CUBLASLT_EPILOGUE_RELU_AUX);
static_assert(lt::kEpilogueReluMaskBias == CUBLASLT_EPILOGUE_RELU_AUX_BIAS);
static_assert(lt::kEpilogueReluGradient == CUBLASLT_EPILOGUE_DRELU);
static_assert(lt::kMaxWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(lt::kReductionSchemes == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(lt::kAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(lt::kAlignmentB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(lt::kAlignmentC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(lt::kAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(lt::kReductionComputeType == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);

static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::Heuristic, workspace) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::Heuristic, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(lt::Heuristic, waves) ==
              offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

// Signatures: as many arguments, each as large and passed alike.
template <class T>
constexpr bool kPointer = std::is_pointer_v<T>;
template <class A, class B>
constexpr bool kAlike = kPointer<A> == kPointer<B> && sizeof(A) == sizeof(B) &&
                        std::is_floating_point_v<A> == std::is_floating_point_v<B>;
template <class F, class G>
struct Same : std::false_type {};
template <class R, class... A, class Q, class... B>
struct Same<R (*)(A...), Q (*)(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) != sizeof...(B)) {
      return false;
    } else {
      return kAlike<R, Q> && (... && kAlike<A, B>);
    }
  }();
};
#define CHECK_SIGNATURE(name) \
  static_assert(Same<decltype(lt::Functions::name), decltype(&cublasLt##name)>::value)
CHECK_SIGNATURE(GetVersion);
CHECK_SIGNATURE(GetStatusString);
CHECK_SIGNATURE(Create);
CHECK_SIGNATURE(Destroy);
CHECK_SIGNATURE(MatmulDescCreate);
CHECK_SIGNATURE(MatmulDescDestroy);
CHECK_SIGNATURE(MatmulDescSetAttribute);
CHECK_SIGNATURE(MatrixLayoutSetAttribute);
CHECK_SIGNATURE(MatrixLayoutDestroy);
CHECK_SIGNATURE(MatmulPreferenceCreate);
CHECK_SIGNATURE(MatmulPreferenceDestroy);
CHECK_SIGNATURE(MatmulPreferenceSetAttribute);
CHECK_SIGNATURE(MatmulAlgoGetHeuristic);
CHECK_SIGNATURE(MatmulAlgoCheck);
CHECK_SIGNATURE(Matmul);
CHECK_SIGNATURE(MatrixLayoutCreate);

int main() { return 0; }
