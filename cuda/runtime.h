#pragma once

#ifdef DLCORE_EMULATE
#include "emulated/cuda_runtime_api.h"
#else
#include <cuda_runtime_api.h>
#endif

#include <cstddef>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "types.h"

/// CUDA's runtime as the engines use it: owners of device memory, streams and graphs, and errors as
/// exceptions.
namespace dlcore::cuda {

/// Throws Python's RuntimeError with `what` and CUDA's reason unless the call succeeded.
void check_cuda(cudaError_t status, const char* what);

/// Device memory that is not there; the sentence says how much was wanted and how much is free.
struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// "12 MB"
std::string megabytes(Index bytes);

struct Status {
  bool usable = false;
  std::string reason;  ///< in a few words: the device and versions, or what is missing
};
/// Whether there is a driver and a device that can be used. Never throws.
Status probe();
/// Empty where a device can be used, else why it cannot, to be said of its name.
std::string why_not(int device);

struct DeviceInfo {
  int major = 0;  ///< of its compute capability
  Index free_memory = 0;
  Index shared_memory = 0;  ///< largest that one block may ask for
};
int device_count();
DeviceInfo device_info(int device);
/// DeviceInfo::shared_memory of the current device alone: cheap enough for every launch.
Index largest_shared_memory();

/// The device that is current for this thread; asking starts nothing.
int current_device();
/// The device that memory lies on, or -1; whoever made it.
int device_of(const void* pointer);

/// Makes a device current for this thread, and at the end what was current before: the other
/// device, or none where CUDA had not begun to run on that one, which it then does not.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  /// For destructors: where the device cannot be used, it is not made current.
  DeviceScope(int device, std::nothrow_t) noexcept;
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  void enter(int device);

  bool changed_ = false;
  void* before_ = nullptr;  ///< the driver's context
};

void* allocate(Index bytes, bool pinned);
void release(void* memory, bool pinned, int device);
void copy_bytes(void* to, const void* from, Index bytes, cudaStream_t stream);
void set_bytes(void* to, int value, Index bytes, cudaStream_t stream);

/// Owned memory: on the device, or of the host but pinned.
template <class T, bool pinned>
class OwnedMemory {
 public:
  OwnedMemory() = default;
  explicit OwnedMemory(Index size)
      : data_(static_cast<T*>(
            allocate(checked_product(size, static_cast<Index>(sizeof(T)), "memory"), pinned))),
        size_(size),
        capacity_(size),
        device_(size > 0 ? current_device() : 0) {}
  OwnedMemory(OwnedMemory&& other) noexcept { *this = std::move(other); }
  OwnedMemory& operator=(OwnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~OwnedMemory() { release(data_, pinned, device_); }

  /// Null where the size is 0.
  T* data() const { return size_ > 0 ? data_ : nullptr; }
  Index size() const { return size_; }
  /// Contents are lost; memory is allocated only where there was less.
  void resize(Index size) {
    if (size > capacity_) {
      *this = OwnedMemory();  // the old first: there may be no room for both
      *this = OwnedMemory(size);
    }
    size_ = size;
  }
  Index bytes() const { return size_ * static_cast<Index>(sizeof(T)); }

 private:
  T* data_ = nullptr;
  Index size_ = 0, capacity_ = 0;
  int device_ = 0;  ///< that was current when it was allocated
};
template <class T>
using DeviceMemory = OwnedMemory<T, false>;
template <class T>
using PinnedMemory = OwnedMemory<T, true>;

/// Copies `count` elements in stream order, in whatever direction the pointers say. What lies on
/// the host has to stay there until the stream has come so far, also where it is not pinned: CUDA
/// may have read or written such memory before this returns, and promises neither.
template <class T>
void copy(T* to, const T* from, Index count, cudaStream_t stream) {
  if (count > 0) copy_bytes(to, from, count * static_cast<Index>(sizeof(T)), stream);
}
template <class T>
void set_zero(T* to, Index count, cudaStream_t stream) {
  if (count > 0) set_bytes(to, 0, count * static_cast<Index>(sizeof(T)), stream);
}

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  operator cudaStream_t() const { return stream_; }
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
  int device_;
};

/// A point in a stream's work.
class Event {
 public:
  Event();
  ~Event();
  Event(Event&& other) noexcept
      : event_(std::exchange(other.event_, nullptr)), device_(other.device_) {}
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream);
  /// Blocks the thread until the point is reached; at once where none was recorded.
  void wait() const;
  /// Lets what is enqueued from here on into `stream` begin after the point.
  void hold(cudaStream_t stream) const;

 private:
  cudaEvent_t event_ = nullptr;
  int device_;
};

/// What `record` enqueues into a stream, to be enqueued again as a whole.
class Recording {
 public:
  Recording() = default;
  template <class F>
  Recording(cudaStream_t stream, F record) {
    begin(stream);
    try {
      record();
    } catch (...) {
      abandon(stream);
      throw;
    }
    end(stream);
  }
  Recording(Recording&& other) noexcept
      : graph_(std::exchange(other.graph_, nullptr)), device_(other.device_) {}
  Recording& operator=(Recording&& other) noexcept {
    std::swap(graph_, other.graph_);
    std::swap(device_, other.device_);
    return *this;
  }
  ~Recording();

  bool empty() const { return graph_ == nullptr; }
  void launch(cudaStream_t stream) const;

 private:
  void begin(cudaStream_t stream);
  void end(cudaStream_t stream);
  void abandon(cudaStream_t stream);

  cudaGraphExec_t graph_ = nullptr;
  int device_ = 0;
};

}  // namespace dlcore::cuda
