#include "kernels/select.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdlib>

#include "check.h"

namespace dlcore {
namespace {

// The CPU is asked here and not in avx2.cpp: that file is compiled for AVX2 and must not run
// before we know. For the same reason such files include no header with inline functions that
// other files use: the linker keeps one copy of those, and it may be the AVX2 one.
#if defined(__x86_64__)
// Clang 14 has no name for it.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

const Kernels& named(const std::string& name, const char* origin) {
  std::string choice;
  for (const Kernels* set : available_kernels()) {
    if (name.empty() || name == set->name) return *set;
    choice += std::string(choice.empty() ? "" : ", ") + set->name;
  }
  check(false, origin, "=", name, " is not available on this CPU; choose one of ", choice);
  return kReference;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> set{nullptr};
  return set;
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> sets;
#ifdef DLCORE_HAVE_AVX512
  if (has_avx512()) sets.push_back(&kAvx512);
#endif
#ifdef DLCORE_HAVE_AVX2
  if (has_avx2()) sets.push_back(&kAvx2);
#endif
#ifdef DLCORE_HAVE_NEON
  sets.push_back(&kNeon);
#endif
  sets.push_back(&kReference);
  return sets;
}

const Kernels& kernels() {
  const Kernels* set = current().load(std::memory_order_acquire);
  if (set == nullptr) {
    const char* name = std::getenv("DLCORE_KERNELS");
    set = &named(name == nullptr ? "" : name, "DLCORE_KERNELS");
    current().store(set, std::memory_order_release);
  }
  return *set;
}

const Bf16Kernels* bf16_kernels() {
#ifdef DLCORE_HAVE_AVX512
  if (has_avx512() && __builtin_cpu_supports("avx512bf16")) return &kAvx512Bf16;
#endif
  return nullptr;
}

void set_kernels(const std::string& name) {
  if (name.empty()) {
    current().store(nullptr, std::memory_order_release);
    kernels();
  } else {
    current().store(&named(name, "DLCORE_KERNELS"), std::memory_order_release);
  }
}

}  // namespace dlcore
