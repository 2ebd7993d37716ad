// Host versions of CUDA's runtime; see the header.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulated/cuda_runtime_api.h"

namespace dlcore::cuda::emulated {

using Work = std::function<void()>;

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  std::deque<Work> work;
  std::unique_ptr<Graph> captured;
  long enqueued = 0, done = 0;
};

struct Event {
  Stream* stream = nullptr;
  long after = 0;  ///< pieces of the stream's work that come before it
};

Counts& counts() {
  static Counts all;
  return all;
}

namespace {

struct Block {
  std::size_t bytes;
  int device;  ///< -1: pinned memory of the host
};

// One lock for everything: tests want the same result each time, not speed.
std::recursive_mutex mutex;
std::map<const std::byte*, Block> blocks;
std::vector<Stream*> streams;
// For the calling thread, as the runtime documents it: the driver's context, and the device that is
// started where there is none.
thread_local int context = -1;
thread_local int ordinal = 0;
std::set<int> running;

std::size_t setting(const char* name, std::size_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == 0 ? otherwise : std::strtoull(text, nullptr, 10);
}

int current() { return context >= 0 ? context : ordinal; }

/// What takes memory and time of a device at the first call, on a GPU.
void start(int device) {
  const std::lock_guard lock(mutex);
  if (running.insert(device).second) ++counts().started;
}

/// What each function does that needs a context: where none is current, it starts and takes one.
void enter() {
  context = current();
  start(context);
}

// The driver's functions. A context is a device's number, and one more, because null is none.
int retain(void** made, int device) {
  start(device);
  *made = reinterpret_cast<void*>(static_cast<std::intptr_t>(device) + 1);
  return cudaSuccess;
}
int state(int device, unsigned* flags, int* active) {
  const std::lock_guard lock(mutex);
  *flags = 0;
  *active = running.contains(device) ? 1 : 0;
  return cudaSuccess;
}
int get_current(void** found) {
  *found = reinterpret_cast<void*>(static_cast<std::intptr_t>(context) + 1);
  return cudaSuccess;
}
int set_current(void* wanted) {
  context = static_cast<int>(reinterpret_cast<std::intptr_t>(wanted)) - 1;
  return cudaSuccess;
}
int init(unsigned) { return cudaSuccess; }

/// The block a pointer lies in, or null.
const Block* find(const void* pointer) {
  const auto* at = static_cast<const std::byte*>(pointer);
  auto next = blocks.upper_bound(at);
  if (next == blocks.begin()) return nullptr;
  --next;
  return at < next->first + next->second.bytes ? &next->second : nullptr;
}

/// Runs a stream's work up to a point of it.
void run(Stream* stream, long until) {
  while (stream->done < until && !stream->work.empty()) {
    const Work work = std::move(stream->work.front());
    stream->work.pop_front();
    work();
    ++stream->done;
  }
}

cudaError_t allocate(void** memory, std::size_t bytes, bool pinned) {
  enter();
  const int device = pinned ? -1 : current();
  const std::lock_guard lock(mutex);
  if (device >= 0 &&
      counts().used + bytes > setting("DLCORE_EMULATED_MEMORY", std::size_t{4} << 30)) {
    return cudaErrorMemoryAllocation;
  }
  // CUDA aligns to 256 bytes.
  if (posix_memalign(memory, 256, std::max<std::size_t>(bytes, 1)) != 0) {
    return cudaErrorMemoryAllocation;
  }
  std::memset(*memory, 0xff, bytes);
  blocks[static_cast<std::byte*>(*memory)] = {bytes, device};
  if (device >= 0) {
    counts().used += bytes;
    ++counts().allocations;
  }
  return cudaSuccess;
}

cudaError_t release(void* memory) {
  enter();
  const std::lock_guard lock(mutex);
  // As CUDA does, wait for everything that may still use it.
  for (Stream* stream : streams) run(stream, stream->enqueued);
  const auto block = blocks.find(static_cast<std::byte*>(memory));
  if (block == blocks.end()) return cudaErrorInvalidValue;
  if (block->second.device >= 0) counts().used -= block->second.bytes;
  std::memset(memory, 0xff, block->second.bytes);
  blocks.erase(block);
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

void enqueue(Stream* stream, Work work) {
  const std::lock_guard lock(mutex);
  if (stream->captured != nullptr) {
    stream->captured->work.push_back(std::move(work));
    return;
  }
  stream->work.push_back(std::move(work));
  ++stream->enqueued;
}

int device_of(const void* pointer) {
  const std::lock_guard lock(mutex);
  const Block* block = find(pointer);
  return block == nullptr ? -1 : block->device;
}

int largest_cluster() { return static_cast<int>(setting("DLCORE_EMULATED_CLUSTER", 8)); }

}  // namespace dlcore::cuda::emulated

using namespace dlcore::cuda::emulated;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
  }
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t) { return "in the emulation"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(setting("DLCORE_EMULATED_DEVICES", 1));
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current();
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  if (device < 0 || device >= count) return cudaErrorInvalidDevice;
  ordinal = context = device;
  start(device);
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  static const std::map<std::string, void*> functions{
      {"cuInit", reinterpret_cast<void*>(&init)},
      {"cuDevicePrimaryCtxRetain", reinterpret_cast<void*>(&retain)},
      {"cuDevicePrimaryCtxGetState", reinterpret_cast<void*>(&state)},
      {"cuCtxGetCurrent", reinterpret_cast<void*>(&get_current)},
      {"cuCtxSetCurrent", reinterpret_cast<void*>(&set_current)}};
  *function = functions.at(symbol);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  if (device < 0 || device >= count) return cudaErrorInvalidDevice;
  std::strcpy(properties->name, "emulated GPU");
  properties->major = largest_cluster() > 1 ? 9 : 8;
  properties->minor = 0;
  const char* old = std::getenv("DLCORE_EMULATED_OLD_DEVICES");
  if (old != nullptr && std::strchr(old, '0' + device) != nullptr) {
    std::strcpy(properties->name, "emulated old GPU");
    properties->major = 7;
    properties->minor = 5;
  }
  properties->sharedMemPerBlockOptin = setting("DLCORE_EMULATED_SHARED_MEMORY", 227 * 1024);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties{};
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  *value = attribute == cudaDevAttrComputeCapabilityMajor
               ? properties.major
               : static_cast<int>(properties.sharedMemPerBlockOptin);
  return status;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  enter();
  const std::lock_guard lock(mutex);
  *total = setting("DLCORE_EMULATED_MEMORY", std::size_t{4} << 30);
  const std::size_t used = counts().used;
  *free = *total > used ? *total - used : 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) { return allocate(memory, bytes, false); }
cudaError_t cudaFree(void* memory) { return release(memory); }
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return allocate(memory, bytes, true);
}
cudaError_t cudaFreeHost(void* memory) { return release(memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  enter();
  // CUDA may take pageable memory into a buffer of its own before it returns, and promises nothing.
  enqueue(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  enter();
  enqueue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  enter();
  const std::lock_guard lock(mutex);
  *stream = new Stream;
  streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  enter();
  const std::lock_guard lock(mutex);
  run(stream, stream->enqueued);
  std::erase(streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  enter();
  const std::lock_guard lock(mutex);
  // The legacy stream and that of the thread have small numbers, and nothing of ours in them.
  if (reinterpret_cast<std::uintptr_t>(stream) <= 2) return cudaDeviceSynchronize();
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  run(stream, stream->enqueued);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  enter();
  if (event->stream == nullptr) return cudaSuccess;
  enqueue(stream, [from = event->stream, after = event->after] { run(from, after); });
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  enter();
  const std::lock_guard lock(mutex);
  for (Stream* stream : streams) run(stream, stream->enqueued);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  enter();
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  enter();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  enter();
  const std::lock_guard lock(mutex);
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  event->stream = stream;
  event->after = stream->enqueued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  enter();
  const std::lock_guard lock(mutex);
  if (event->stream != nullptr) run(event->stream, event->after);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  enter();
  const std::lock_guard lock(mutex);
  if (stream->captured != nullptr) return cudaErrorInvalidValue;
  stream->captured = std::make_unique<Graph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex);
  if (stream->captured == nullptr) return cudaErrorInvalidValue;
  *graph = stream->captured.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned) {
  enter();
  *executable = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  enter();
  const std::lock_guard lock(mutex);
  for (Stream* stream : streams) run(stream, stream->enqueued);
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  enter();
  enqueue(stream, [executable] {
    for (const Work& work : executable->work) work();
  });
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  enter();
  const std::lock_guard lock(mutex);
  const Block* block = find(pointer);
  attributes->type = block == nullptr    ? cudaMemoryTypeUnregistered
                     : block->device < 0 ? cudaMemoryTypeHost
                                         : cudaMemoryTypeDevice;
  attributes->device = block == nullptr ? -1 : block->device;
  return cudaSuccess;
}
