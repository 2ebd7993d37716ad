#include "lt.h"

#ifndef DLCORE_EMULATE
#include <dlfcn.h>
#endif

#include <cstdlib>
#include <map>
#include <mutex>

namespace dlcore::cuda::lt {

#ifdef DLCORE_EMULATE
Functions emulated_functions();
#endif

namespace {

struct Library {
  Status status{false, "cuBLASLt was not opened yet", "", 0, true};
  Functions call{};
};

Library& library() {
  static Library* const opened = new Library;  // kept for good: products outlive static order
  return *opened;
}

void check_lt(int status, const char* what) {
  check_state(status == kSuccess, "cuda: cuBLASLt ", what, ": ",
              library().call.GetStatusString(status), " (", status, ")");
}

#ifdef DLCORE_EMULATE

void open_library(Library* opened, const std::string&) {
  opened->call = emulated_functions();
  opened->status = {true, "emulated on the CPU", "", static_cast<int>(opened->call.GetVersion()),
                    true};
}

#else

template <class F>
bool load(void* handle, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(handle, name));
  return *function != nullptr;
}

/// Empty, or why the file cannot be used.
std::string open_file(const std::string& path, bool own, Library* opened) {
  // Local: another library's cuBLAS must not take our symbols, nor we its.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return dlerror();
  Functions& f = opened->call;
  const bool whole =
      load(handle, "cublasLtGetVersion", &f.GetVersion) &&
      load(handle, "cublasLtGetStatusString", &f.GetStatusString) &&
      load(handle, "cublasLtCreate", &f.Create) && load(handle, "cublasLtDestroy", &f.Destroy) &&
      load(handle, "cublasLtMatmulDescCreate", &f.MatmulDescCreate) &&
      load(handle, "cublasLtMatmulDescDestroy", &f.MatmulDescDestroy) &&
      load(handle, "cublasLtMatmulDescSetAttribute", &f.MatmulDescSetAttribute) &&
      load(handle, "cublasLtMatrixLayoutCreate", &f.MatrixLayoutCreate) &&
      load(handle, "cublasLtMatrixLayoutSetAttribute", &f.MatrixLayoutSetAttribute) &&
      load(handle, "cublasLtMatrixLayoutDestroy", &f.MatrixLayoutDestroy) &&
      load(handle, "cublasLtMatmulPreferenceCreate", &f.MatmulPreferenceCreate) &&
      load(handle, "cublasLtMatmulPreferenceDestroy", &f.MatmulPreferenceDestroy) &&
      load(handle, "cublasLtMatmulPreferenceSetAttribute", &f.MatmulPreferenceSetAttribute) &&
      load(handle, "cublasLtMatmulAlgoGetHeuristic", &f.MatmulAlgoGetHeuristic) &&
      load(handle, "cublasLtMatmulAlgoCheck", &f.MatmulAlgoCheck) &&
      load(handle, "cublasLtMatmul", &f.Matmul);
  if (!whole) return sentence(path, " lacks a function of cuBLASLt");
  const int version = static_cast<int>(f.GetVersion());
  if (version / 10000 != kMajor) {
    return sentence(path, " is version ", version / 10000, ", not ", kMajor);
  }
  Dl_info info{};
  const bool known = dladdr(reinterpret_cast<void*>(f.GetVersion), &info) != 0;
  opened->status = {true, "", known ? info.dli_fname : path, version, own};
  opened->status.reason =
      sentence("cuBLASLt ", version / 10000, ".", version % 10000 / 100, ".", version % 100, ", ",
               opened->status.path, own ? "" : ", chosen by the system's loader");
  return "";
}

void open_library(Library* opened, const std::string& wheel) {
  const char* chosen = std::getenv("DLCORE_CUBLASLT");
  if (chosen != nullptr && *chosen != 0) {
    const std::string why = open_file(chosen, true, opened);
    if (!why.empty()) opened->status.reason = "DLCORE_CUBLASLT cannot be used: " + why;
    return;
  }
  std::string why;
  if (!wheel.empty()) {
    why = open_file(wheel, true, opened);
    if (why.empty()) return;
    why += "; ";
  }
  const std::string soname = sentence("libcublasLt.so.", kMajor);
  const std::string system = open_file(soname, false, opened);
  if (!system.empty()) opened->status.reason = why + "no cuBLASLt: " + system;
}

#endif

std::mutex opening;

/// One handle a device, for all threads: cuBLASLt's handles may be shared.
Handle handle() {
  static std::mutex mutex;
  static auto* const handles = new std::map<int, Handle>;
  const int device = current_device();
  const std::lock_guard lock(mutex);
  Handle& found = (*handles)[device];
  if (found == nullptr) check_lt(library().call.Create(&found), "cannot be started");
  return found;
}

int type_of(Type type) { return type == Type::float32 ? kFloat32 : kBfloat16; }

std::uint32_t epilogue_of(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::none: return kEpilogueNone;
    case Epilogue::bias: return kEpilogueBias;
    case Epilogue::relu: return kEpilogueRelu;
    case Epilogue::relu_bias: return kEpilogueReluBias;
    case Epilogue::relu_mask: return kEpilogueReluMask;
    case Epilogue::relu_mask_bias: return kEpilogueReluMaskBias;
    case Epilogue::relu_gradient: return kEpilogueReluGradient;
  }
  return kEpilogueNone;
}

template <class T>
void set(Description description, int attribute, const T& value) {
  check_lt(library().call.MatmulDescSetAttribute(description, attribute, &value, sizeof(T)),
           "refuses an attribute");
}

/// Any address no more aligned than those that will come, for the choice of an algorithm.
void* const kSomewhere = reinterpret_cast<void*>((std::uintptr_t{1} << 20) + 16);

}  // namespace

const Status& open(const std::string& wheel) {
  const std::lock_guard lock(opening);
  Library& opened = library();
  if (!opened.status.usable) open_library(&opened, wheel);
  return opened.status;
}

const Status& status() { return library().status; }

Product Product::make(const Shape& s) {
  const Functions& call = library().call;
  Product p;
  // Row-major d = op(a) op(b) is column-major d^T = op(b)^T op(a)^T: the factors change places and
  // a matrix of r rows and c columns is one of c rows and r columns.
  check_lt(
      call.MatmulDescCreate(&p.description_,
                            s.precision == Precision::tf32 ? kComputeTf32 : kCompute32, kFloat32),
      "cannot describe a product");
  set(p.description_, kTransposeA, s.transpose_b ? kTransposed : kPlain);
  set(p.description_, kTransposeB, s.transpose_a ? kTransposed : kPlain);
  set(p.description_, kEpilogue, epilogue_of(s.epilogue));
  const bool biased = s.epilogue == Epilogue::bias || s.epilogue == Epilogue::relu_bias ||
                      s.epilogue == Epilogue::relu_mask_bias;
  const bool masked = s.epilogue == Epilogue::relu_mask || s.epilogue == Epilogue::relu_mask_bias ||
                      s.epilogue == Epilogue::relu_gradient;
  if (biased) set(p.description_, kBiasPointer, kSomewhere);
  if (masked) {
    set(p.description_, kMaskPointer, kSomewhere);
    set(p.description_, kMaskLd, static_cast<std::int64_t>(s.mask_ld));
  }
  const auto layout = [&](Layout* made, Type type, Index rows, Index columns, Index ld) {
    check_lt(call.MatrixLayoutCreate(made, type_of(type), static_cast<std::uint64_t>(columns),
                                     static_cast<std::uint64_t>(rows), ld),
             "cannot describe a matrix");
  };
  layout(&p.a_, s.type, s.transpose_b ? s.n : s.k, s.transpose_b ? s.k : s.n, s.ldb);
  layout(&p.b_, s.type, s.transpose_a ? s.k : s.m, s.transpose_a ? s.m : s.k, s.lda);
  layout(&p.d_, s.result, s.m, s.n, s.ldd);

  struct Chosen {
    const Functions& call;
    Preference preference = nullptr;
    ~Chosen() { call.MatmulPreferenceDestroy(preference); }
  } chosen{call};
  check_lt(call.MatmulPreferenceCreate(&chosen.preference), "cannot prepare a choice");
  const auto workspace = static_cast<std::uint64_t>(kWorkspaceBytes);
  check_lt(call.MatmulPreferenceSetAttribute(chosen.preference, kMaxWorkspace, &workspace,
                                             sizeof workspace),
           "refuses an attribute");
  // Partial sums are added in a fixed order, in the compute type: no atomics, the same bits each
  // run. (The bits of a mask left out allow no more than one sum a result.)
  check_lt(call.MatmulPreferenceSetAttribute(chosen.preference, kReductionSchemes,
                                             &kReductionComputeType, sizeof kReductionComputeType),
           "refuses an attribute");
  for (const int attribute : {kAlignmentA, kAlignmentB, kAlignmentC, kAlignmentD}) {
    check_lt(call.MatmulPreferenceSetAttribute(chosen.preference, attribute, &s.alignment,
                                               sizeof s.alignment),
             "refuses an attribute");
  }
  Heuristic heuristic{};
  int found = 0;
  const auto choose = [&] {
    const int status = call.MatmulAlgoGetHeuristic(handle(), p.description_, p.a_, p.b_, p.d_, p.d_,
                                                   chosen.preference, 1, &heuristic, &found);
    const bool offered = status == kSuccess && found > 0 && heuristic.status == kSuccess;
    // Whatever it answers to an epilogue that it does not offer, there is another way.
    if (s.epilogue != Epilogue::none && !offered) return false;
    check_lt(status, "cannot choose an algorithm");
    check_state(offered, "cuda: cuBLASLt has no product for m ", s.m, ", n ", s.n, ", k ", s.k);
    p.algorithm_ = heuristic.algorithm;
    return true;
  };
  if (!choose()) return {};
  if (s.networks == 1) return p;

  const auto repeat = [&](Layout matrix, std::int64_t stride) {
    const auto count = static_cast<std::int32_t>(s.networks);
    check_lt(call.MatrixLayoutSetAttribute(matrix, kBatchCount, &count, sizeof count),
             "refuses an attribute");
    check_lt(call.MatrixLayoutSetAttribute(matrix, kBatchStride, &stride, sizeof stride),
             "refuses an attribute");
  };
  repeat(p.a_, s.stride_b);
  repeat(p.b_, s.stride_a);
  repeat(p.d_, s.stride_d);
  if (biased) set(p.description_, kBiasStride, static_cast<std::int64_t>(s.stride_bias));
  if (masked) set(p.description_, kMaskStride, static_cast<std::int64_t>(s.stride_mask));
  const bool serves = call.MatmulAlgoCheck(handle(), p.description_, p.a_, p.b_, p.d_, p.d_,
                                           &p.algorithm_, &heuristic) == kSuccess &&
                      heuristic.workspace <= static_cast<std::size_t>(kWorkspaceBytes);
  if (!serves && !choose()) return {};
  return p;
}

Product& Product::operator=(Product&& other) noexcept {
  std::swap(description_, other.description_);
  std::swap(a_, other.a_);
  std::swap(b_, other.b_);
  std::swap(d_, other.d_);
  std::swap(algorithm_, other.algorithm_);
  return *this;
}

Product::~Product() {
  const Functions& call = library().call;
  for (const Layout layout : {a_, b_, d_}) {
    if (layout != nullptr) call.MatrixLayoutDestroy(layout);
  }
  if (description_ != nullptr) call.MatmulDescDestroy(description_);
}

void Product::run(const Arguments& a, void* workspace, cudaStream_t stream) const {
  if (a.bias != nullptr) set(description_, kBiasPointer, a.bias);
  if (a.mask != nullptr) set(description_, kMaskPointer, a.mask);
  const float alpha = 1, beta = a.add ? 1.0f : 0.0f;
  check_lt(library().call.Matmul(handle(), description_, &alpha, a.b, a_, a.a, b_, &beta, a.d, d_,
                                 a.d, d_, &algorithm_, workspace,
                                 static_cast<std::size_t>(kWorkspaceBytes), stream),
           "cannot multiply");
}

}  // namespace dlcore::cuda::lt
