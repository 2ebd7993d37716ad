#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "check.h"
#include "types.h"

namespace dlcore {

/// Owned zeroed elements aligned to a cache line; large ones ask for huge pages, because weights
/// and batches are walked by columns and would otherwise miss the TLB at every row.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index size) : size_(size) {
    const Index bytes = checked_product(size, static_cast<Index>(sizeof(T)), "memory");
    if (bytes == 0) return;
    void* memory = nullptr;
    const bool huge = bytes >= kHugePage;
    if (posix_memalign(&memory, static_cast<std::size_t>(huge ? kHugePage : kLine),
                       static_cast<std::size_t>(bytes)) != 0) {
      throw std::bad_alloc();
    }
#ifdef MADV_HUGEPAGE
    // Whole huge pages only: the last one would take up to 2 MiB that nobody asked for.
    if (huge)
      madvise(memory, static_cast<std::size_t>(bytes / kHugePage * kHugePage), MADV_HUGEPAGE);
#endif
    std::memset(memory, 0, static_cast<std::size_t>(bytes));
    data_.reset(static_cast<T*>(memory));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  Index size() const { return size_; }
  Index bytes() const { return size_ * static_cast<Index>(sizeof(T)); }

  void copy_from(const Buffer& other) {
    if (size_ > 0) std::memcpy(data(), other.data(), static_cast<std::size_t>(bytes()));
  }
  void fill_zero() {
    if (size_ > 0) std::memset(data(), 0, static_cast<std::size_t>(bytes()));
  }

 private:
  static constexpr Index kHugePage = Index{2} << 20, kLine = 64;
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  Index size_ = 0;
};

}  // namespace dlcore
