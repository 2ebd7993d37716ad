// cuBLASLt's products on the host: column-major, with the epilogues that lt_api.h names, so that
// descriptors, layouts, leading dimensions and masks are the ones the GPU's library would see.
// Factors are rounded as the compute type says: tf32 keeps 10 bits of the mantissa and drops the
// rest, which is the worst a tensor core does.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "lt_api.h"

namespace dlcore::cuda::lt {

struct HandleOpaque {};
struct DescriptionOpaque {
  int compute;
  std::int32_t transpose_a = kPlain, transpose_b = kPlain;
  std::uint32_t epilogue = kEpilogueNone;
  const void* bias = nullptr;
  void* mask = nullptr;
  std::int64_t mask_ld = 0, bias_stride = 0, mask_stride = 0;
};
struct LayoutOpaque {
  int type;
  std::int64_t rows, columns, ld;
  std::int32_t count = 1;
  std::int64_t stride = 0;
};
struct PreferenceOpaque {
  std::uint32_t schemes = 7;
  std::uint32_t alignment = 256;
};

namespace {

constexpr int kInvalidValue = 7;

float bf16_as_float(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float x;
  std::memcpy(&x, &wide, sizeof x);
  return x;
}

std::uint16_t float_as_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float as_tf32(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x;
  bits &= ~std::uint32_t{0x1fff};
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float read(const void* data, const LayoutOpaque& layout, std::int64_t row, std::int64_t column) {
  const std::int64_t at = row + column * layout.ld;
  return layout.type == kFloat32 ? static_cast<const float*>(data)[at]
                                 : bf16_as_float(static_cast<const std::uint16_t*>(data)[at]);
}

void write(void* data, const LayoutOpaque& layout, std::int64_t row, std::int64_t column, float x) {
  const std::int64_t at = row + column * layout.ld;
  if (layout.type == kFloat32) {
    static_cast<float*>(data)[at] = x;
  } else {
    static_cast<std::uint16_t*>(data)[at] = float_as_bf16(x);
  }
}

bool has_mask(std::uint32_t epilogue) { return (epilogue & 128u) != 0; }

/// What the library would refuse: dimensions that do not fit, and masks that are not aligned.
bool valid(const DescriptionOpaque& p, const LayoutOpaque& a, const LayoutOpaque& b,
           const LayoutOpaque& d) {
  const auto m = p.transpose_a == kPlain ? a.rows : a.columns;
  const auto k = p.transpose_a == kPlain ? a.columns : a.rows;
  const auto n = p.transpose_b == kPlain ? b.columns : b.rows;
  const auto k_again = p.transpose_b == kPlain ? b.rows : b.columns;
  if (m != d.rows || n != d.columns || k != k_again || k < 1) return false;
  for (const LayoutOpaque* layout : {&a, &b, &d}) {
    if (layout->ld < layout->rows) return false;
  }
  if (a.type != b.type) return false;
  if (a.count != d.count || b.count != d.count || d.count < 1) return false;
  // Results of one batch must not lie in each other, nor may masks.
  const std::int64_t mask_bits = has_mask(p.epilogue) ? d.columns * p.mask_ld : 0;
  if (d.count > 1 && (d.stride < d.columns * d.ld || p.mask_stride < mask_bits)) return false;
  if (has_mask(p.epilogue) && p.mask_stride % kMaskAlignment != 0) return false;
  return !has_mask(p.epilogue) || (p.mask_ld % kMaskAlignment == 0 && p.mask_ld >= d.rows);
}

void multiply(const DescriptionOpaque& p, const void* a, const LayoutOpaque& la, const void* b,
              const LayoutOpaque& lb, float beta, void* d, const LayoutOpaque& ld) {
  const auto m = ld.rows, n = ld.columns;
  const auto k = p.transpose_a == kPlain ? la.columns : la.rows;
  const auto factor = [&](float x) { return p.compute == kComputeTf32 ? as_tf32(x) : x; };
  // op(a) by columns and op(b) by columns, each as float.
  std::vector<float> left(static_cast<std::size_t>(m * k)), right(static_cast<std::size_t>(k)),
      sum(static_cast<std::size_t>(m));
  for (std::int64_t l = 0; l < k; ++l) {
    for (std::int64_t i = 0; i < m; ++i) {
      left[static_cast<std::size_t>(l * m + i)] =
          factor(p.transpose_a == kPlain ? read(a, la, i, l) : read(a, la, l, i));
    }
  }
  // Of max(x, 0) NVIDIA's documentation does not say what it is where x is NaN.
  const bool drops = std::getenv("DLCORE_EMULATED_RELU_DROPS_NAN") != nullptr;
  auto* bits = static_cast<std::uint8_t*>(p.mask);
  for (std::int64_t j = 0; j < n; ++j) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (std::int64_t l = 0; l < k; ++l) {
      const float r = factor(p.transpose_b == kPlain ? read(b, lb, l, j) : read(b, lb, j, l));
      const float* column = left.data() + l * m;
      for (std::int64_t i = 0; i < m; ++i) sum[static_cast<std::size_t>(i)] += column[i] * r;
    }
    for (std::int64_t i = 0; i < m; ++i) {
      float x = sum[static_cast<std::size_t>(i)];
      if (beta != 0) x += beta * read(d, ld, i, j);
      if ((p.epilogue & kEpilogueBias) != 0) {
        x += ld.type == kFloat32 ? static_cast<const float*>(p.bias)[i]
                                 : bf16_as_float(static_cast<const std::uint16_t*>(p.bias)[i]);
      }
      const std::int64_t bit = j * p.mask_ld + i;
      const auto one = static_cast<std::uint8_t>(1u << bit % 8);
      if (p.epilogue == kEpilogueReluGradient) {
        if ((bits[bit / 8] & one) == 0) x = 0;
      } else if ((p.epilogue & kEpilogueRelu) != 0) {
        const bool above = x > 0;
        if (drops ? !above : x <= 0) x = 0;
        if (has_mask(p.epilogue)) {
          bits[bit / 8] =
              static_cast<std::uint8_t>(above ? bits[bit / 8] | one : bits[bit / 8] & ~one);
        }
      }
      write(d, ld, i, j, x);
    }
  }
}

/// Matrix g of a batch.
template <class T>
T* matrix(T* data, const LayoutOpaque& layout, std::int64_t g) {
  const std::int64_t bytes = layout.type == kFloat32 ? 4 : 2;
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return static_cast<Byte*>(data) + g * layout.stride * bytes;
}

template <class T>
int take(T* field, const void* value, std::size_t bytes) {
  if (bytes != sizeof(T)) return kInvalidValue;
  std::memcpy(field, value, bytes);
  return kSuccess;
}

}  // namespace

Functions emulated_functions();
Functions emulated_functions() {
  return {
      .GetVersion = [] { return std::size_t{130000}; },
      .GetStatusString = [](int) { return "in the emulation"; },
      .Create =
          [](Handle* handle) {
            *handle = new HandleOpaque;
            return kSuccess;
          },
      .Destroy =
          [](Handle handle) {
            delete handle;
            return kSuccess;
          },
      .MatmulDescCreate =
          [](Description* made, int compute, int scale) {
            if (scale != kFloat32) return kNotSupported;
            *made = new DescriptionOpaque{compute};
            return kSuccess;
          },
      .MatmulDescDestroy =
          [](Description description) {
            delete description;
            return kSuccess;
          },
      .MatmulDescSetAttribute =
          [](Description p, int attribute, const void* value, std::size_t bytes) {
            switch (attribute) {
              case kTransposeA: return take(&p->transpose_a, value, bytes);
              case kTransposeB: return take(&p->transpose_b, value, bytes);
              case kEpilogue: return take(&p->epilogue, value, bytes);
              case kBiasPointer: return take(&p->bias, value, bytes);
              case kMaskPointer: return take(&p->mask, value, bytes);
              case kMaskLd: return take(&p->mask_ld, value, bytes);
              case kBiasStride: return take(&p->bias_stride, value, bytes);
              case kMaskStride: return take(&p->mask_stride, value, bytes);
              default: return kInvalidValue;
            }
          },
      .MatrixLayoutCreate =
          [](Layout* made, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t ld) {
            *made = new LayoutOpaque{type, static_cast<std::int64_t>(rows),
                                     static_cast<std::int64_t>(columns), ld};
            return kSuccess;
          },
      .MatrixLayoutSetAttribute =
          [](Layout layout, int attribute, const void* value, std::size_t bytes) {
            switch (attribute) {
              case kBatchCount: return take(&layout->count, value, bytes);
              case kBatchStride: return take(&layout->stride, value, bytes);
              default: return kInvalidValue;
            }
          },
      .MatrixLayoutDestroy =
          [](Layout layout) {
            delete layout;
            return kSuccess;
          },
      .MatmulPreferenceCreate =
          [](Preference* made) {
            *made = new PreferenceOpaque;
            return kSuccess;
          },
      .MatmulPreferenceDestroy =
          [](Preference preference) {
            delete preference;
            return kSuccess;
          },
      .MatmulPreferenceSetAttribute =
          [](Preference p, int attribute, const void* value, std::size_t bytes) {
            if (attribute == kReductionSchemes) return take(&p->schemes, value, bytes);
            if (attribute >= kAlignmentA && attribute <= kAlignmentD) {
              return take(&p->alignment, value, bytes);
            }
            return attribute == kMaxWorkspace && bytes == 8 ? kSuccess : kInvalidValue;
          },
      .MatmulAlgoGetHeuristic =
          [](Handle, Description p, Layout a, Layout b, Layout, Layout d, Preference choice,
             int wanted, Heuristic* results, int* found) {
            // Tests set it, so that the way without fused epilogues runs too. It is refused in each
            // of the three ways that there are.
            const bool refused = std::getenv("DLCORE_EMULATED_PLAIN_PRODUCTS") != nullptr &&
                                 p->epilogue != kEpilogueNone;
            *found = 0;
            if (!valid(*p, *a, *b, *d) || wanted < 1) return kInvalidValue;
            if (choice->schemes != kReductionComputeType) return kInvalidValue;
            if (refused && has_mask(p->epilogue)) return kNotSupported;
            if (refused && (p->epilogue & kEpilogueRelu) != 0) return kSuccess;
            *found = 1;
            results[0] = {};
            results[0].status = refused ? kNotSupported : kSuccess;
            if (refused) return kSuccess;
            ++emulated::counts().choices;
            // The algorithm remembers what it was promised, and is held to it.
            results[0].algorithm.data[0] = choice->alignment;
            return kSuccess;
          },
      .MatmulAlgoCheck =
          [](Handle, Description p, Layout a, Layout b, Layout, Layout d,
             const Algorithm* algorithm, Heuristic* result) {
            // Tests set it, so that the way with an algorithm of the group's own runs too.
            if (std::getenv("DLCORE_EMULATED_OTHER_ALGORITHMS") != nullptr) return kNotSupported;
            if (!valid(*p, *a, *b, *d)) return kInvalidValue;
            *result = {};
            result->algorithm = *algorithm;
            return kSuccess;
          },
      .Matmul =
          [](Handle, Description p, const void* alpha, const void* a, Layout la, const void* b,
             Layout lb, const void* beta, const void* c, Layout, void* d, Layout ld,
             const Algorithm* algorithm, void* workspace, std::size_t, cudaStream_t stream) {
            const float one = *static_cast<const float*>(alpha);
            const float factor = *static_cast<const float*>(beta);
            const bool device = emulated::device_of(a) >= 0 && emulated::device_of(b) >= 0 &&
                                emulated::device_of(d) >= 0 && emulated::device_of(workspace) >= 0;
            if (!device || one != 1 || c != d || algorithm == nullptr || algorithm->data[0] == 0 ||
                !valid(*p, *la, *lb, *ld)) {
              return kInvalidValue;
            }
            if ((p->epilogue & kEpilogueBias) != 0 && emulated::device_of(p->bias) < 0) {
              return kInvalidValue;
            }
            if (has_mask(p->epilogue) && emulated::device_of(p->mask) < 0) return kInvalidValue;
            for (const void* pointer : {a, b, static_cast<const void*>(d)}) {
              if (reinterpret_cast<std::uintptr_t>(pointer) % algorithm->data[0] != 0) {
                return kInvalidValue;
              }
            }
            ++emulated::counts().products;
            emulated::enqueue(stream, [=, p = *p, la = *la, lb = *lb, ld = *ld] {
              for (std::int64_t g = 0; g < ld.count; ++g) {
                DescriptionOpaque own = p;
                if (p.bias != nullptr) {
                  own.bias = static_cast<const std::byte*>(p.bias) +
                             g * p.bias_stride * (ld.type == kFloat32 ? 4 : 2);
                }
                if (p.mask != nullptr) {
                  own.mask = static_cast<std::byte*>(p.mask) + g * p.mask_stride / 8;
                }
                multiply(own, matrix(a, la, g), la, matrix(b, lb, g), lb, factor, matrix(d, ld, g),
                         ld);
              }
            });
            return kSuccess;
          },
  };
}

}  // namespace dlcore::cuda::lt
