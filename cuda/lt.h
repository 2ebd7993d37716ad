#pragma once

#include <memory>
#include <string>

#include "lt_api.h"
#include "runtime.h"

/// Matrix products of cuBLASLt, opened at run time.
namespace dlcore::cuda::lt {

struct Status {
  bool usable = false;
  std::string reason;  ///< what was opened, or what was tried
  std::string path;    ///< of the file in use
  int version = 0;     ///< as 130100
  bool own = true;     ///< false where the system's loader chose, and may have taken another's copy
};

/// Opens the library at the first call, for good: the file that the environment variable
/// DLCORE_CUBLASLT names, else `wheel` (that of the package nvidia-cublas, may be empty), else
/// whatever the system's loader finds.
const Status& open(const std::string& wheel);
/// The same without opening; what open() found so far.
const Status& status();

enum class Type { float32, bfloat16 };
enum class Precision { fp32, tf32, bf16 };

/// What a product does to its result before it is written.
enum class Epilogue {
  none,
  bias,  ///< + bias, one for each column of d
  relu,  ///< max(.., 0)
  relu_bias,
  relu_mask,       ///< max(.., 0), and a mask of what was above 0
  relu_mask_bias,  ///< both
  relu_gradient,   ///< 0 where the mask says so
};

/// d (m, n) = op(a) op(b) (+ d), row-major, a of m rows or columns; epilogues work on columns. The
/// same for each of several networks, whose matrices lie strides apart, in elements; by the
/// algorithm that one alone would get, so that its bits do not depend on the others, unless the
/// library cannot run that for so many.
struct Shape {
  Index m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  Index lda = 0, ldb = 0, ldd = 0;
  Type type = Type::float32;    ///< of a and b
  Type result = Type::float32;  ///< of d and the bias
  Precision precision = Precision::tf32;
  Epilogue epilogue = Epilogue::none;
  Index mask_ld = 0;  ///< bits from one row of the mask to the next
  Index networks = 1;
  Index stride_a = 0, stride_b = 0, stride_d = 0, stride_bias = 0;
  Index stride_mask = 0;         ///< bits
  std::uint32_t alignment = 16;  ///< bytes, of all pointers and rows
};

/// Workspace that the products of one stream share.
inline constexpr Index kWorkspaceBytes = Index{32} << 20;

/// One product of fixed shape: descriptors made, algorithm chosen.
class Product {
 public:
  Product() = default;
  /// Empty where the library offers nothing for an epilogue; a plain product it must have.
  static Product make(const Shape& shape);

  Product(Product&& other) noexcept { *this = std::move(other); }
  Product& operator=(Product&& other) noexcept;
  ~Product();

  bool empty() const { return description_ == nullptr; }

  struct Arguments {
    const void* a = nullptr;
    const void* b = nullptr;
    void* d = nullptr;
    const void* bias = nullptr;
    void* mask = nullptr;
    bool add = false;
  };
  void run(const Arguments& arguments, void* workspace, cudaStream_t stream) const;

 private:
  Description description_ = nullptr;
  Layout a_ = nullptr, b_ = nullptr, d_ = nullptr;
  Algorithm algorithm_{};
};

}  // namespace dlcore::cuda::lt
