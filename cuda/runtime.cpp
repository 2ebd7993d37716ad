#include "runtime.h"

#include <algorithm>
#include <iomanip>
#include <map>
#include <mutex>

namespace dlcore::cuda {

std::string megabytes(Index bytes) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(bytes < 10'000'000 ? 2 : 0)
      << static_cast<double>(bytes) / 1e6 << " MB";
  return out.str();
}

namespace {

std::string version(int number) { return sentence(number / 1000, ".", number % 1000 / 10); }

/// Of the compute capability that the kernels are compiled for.
constexpr int kOldest = 8;

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "the GPU's properties cannot be read");
  return properties;
}

std::string too_old(const cudaDeviceProp& gpu) {
  return sentence("cannot be used: the GPU ", gpu.name, " is of compute capability ", gpu.major,
                  ".", gpu.minor, ", and dlcore needs ", kOldest, ".0");
}

bool is_new_enough(int device) {
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "the GPU's properties cannot be read");
  return major >= kOldest;
}

/// Functions of CUDA's driver, whose contexts are what is current for a thread. The runtime can
/// only make a device current, and then runs on it.
struct Driver {
  int (*init)(unsigned flags);
  int (*retain)(void** context, int device);
  int (*state)(int device, unsigned* flags, int* active);
  int (*current)(void** context);
  int (*make_current)(void* context);
};

/// The driver's errors have the runtime's numbers.
void check_driver(int status, const char* what) {
  check_cuda(static_cast<cudaError_t>(status), what);
}

template <class F>
void find(const char* name, F* function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check_cuda(
      cudaGetDriverEntryPointByVersion(name, &found, CUDART_VERSION, cudaEnableDefault, &result),
      "the driver cannot be asked");
  check_state(found != nullptr, "cuda: the driver has no ", name);
  *function = reinterpret_cast<F>(found);
}

const Driver& driver() {
  static const Driver found = [] {
    Driver d{};
    find("cuInit", &d.init);
    find("cuDevicePrimaryCtxRetain", &d.retain);
    find("cuDevicePrimaryCtxGetState", &d.state);
    find("cuCtxGetCurrent", &d.current);
    find("cuCtxSetCurrent", &d.make_current);
    check_driver(d.init(0), "the driver cannot be started");
    return d;
  }();
  return found;
}

/// The context in which the runtime works on a device, made where there was none, and kept for
/// good.
void* context_of(int device) {
  static std::mutex mutex;
  static auto* const contexts = new std::map<int, void*>;
  const std::lock_guard lock(mutex);
  void*& context = (*contexts)[device];
  if (context == nullptr) check_driver(driver().retain(&context, device), "the GPU cannot be used");
  return context;
}

/// Whether CUDA runs on a device already, for whichever library of this process.
bool runs_on(int device) {
  unsigned flags = 0;
  int active = 0;
  check_driver(driver().state(device, &flags, &active), "the GPU cannot be asked");
  return active != 0;
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not be found again by the next call
  throw std::runtime_error(
      sentence("cuda: ", what, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status)));
}

Status probe() {
  int driver = 0, runtime = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    if (driver == 0) return {false, "there is no NVIDIA driver"};
    if (driver < runtime) {
      return {false, sentence("the NVIDIA driver is too old: it serves CUDA ", version(driver),
                              ", and this build needs ", version(runtime))};
    }
    return {false, sentence(cudaGetErrorName(status), ", ", cudaGetErrorString(status))};
  }
  if (count == 0) return {false, "there is no GPU"};
  try {
    std::string names, others;
    for (int i = 0; i < count; ++i) {
      // Not device_info: to ask for free memory would start CUDA on a GPU that may be another's.
      const cudaDeviceProp gpu = properties_of(i);
      if (gpu.major >= kOldest) {
        names += (names.empty() ? "" : ", ") + std::string(gpu.name);
      } else {
        others += sentence("; cuda:", i, " ", too_old(gpu));
      }
    }
    if (names.empty()) return {false, others.substr(2)};
    return {true, sentence(names, others, "; driver for CUDA ", version(driver), ", runtime ",
                           version(runtime))};
  } catch (const std::runtime_error& e) {
    return {false, e.what()};
  }
}

int device_count() {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "no GPU can be found");
  return count;
}

std::string why_not(int device) {
  const int count = device_count();
  if (device < 0 || device >= count) {
    return sentence("does not exist; there ", count == 1 ? "is" : "are", " ", count, " GPU",
                    count == 1 ? "" : "s", ", counted from 0");
  }
  if (is_new_enough(device)) return "";
  std::string why = too_old(properties_of(device));
  for (int i = 0; i < count; ++i) {
    if (is_new_enough(i)) return sentence(why, "; use cuda:", i);
  }
  return why;
}

DeviceInfo device_info(int device) {
  const cudaDeviceProp properties = properties_of(device);
  DeviceInfo info;
  info.major = properties.major;
  info.shared_memory = static_cast<Index>(properties.sharedMemPerBlockOptin);
  const DeviceScope scope(device);
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "the GPU's memory cannot be asked for");
  info.free_memory = static_cast<Index>(free);
  return info;
}

Index largest_shared_memory() {
  int bytes = 0;
  check_cuda(
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, current_device()),
      "the GPU's properties cannot be read");
  return bytes;
}

int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "the current GPU cannot be asked for");
  return device;
}

int device_of(const void* pointer) {
  // The runtime answers on the current device, and would begin to run there. Where there is memory
  // of a GPU, one runs already.
  int asked = current_device();
  if (const int count = device_count(); count > 1 && !runs_on(asked)) {
    for (int i = count; i-- > 0;) {
      if (runs_on(i)) asked = i;
    }
  }
  const DeviceScope scope(asked);
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, pointer), "an array's place cannot be found");
  return std::max(attributes.device, -1);
}

void DeviceScope::enter(int device) {
  if (device == current_device()) return;
  check_driver(driver().current(&before_), "the current GPU cannot be asked for");
  check_driver(driver().make_current(context_of(device)), "the GPU cannot be used");
  changed_ = true;
}
DeviceScope::DeviceScope(int device) { enter(device); }
DeviceScope::DeviceScope(int device, std::nothrow_t) noexcept {
  try {
    enter(device);
  } catch (const std::exception&) {
    // As when the process ends and the driver is gone: then there is nothing to be freed either.
  }
}
DeviceScope::~DeviceScope() {
  if (changed_) driver().make_current(before_);
}

void* allocate(Index bytes, bool pinned) {
  if (bytes == 0) return nullptr;
  void* memory = nullptr;
  const auto size = static_cast<std::size_t>(bytes);
  if (pinned) {
    check_cuda(cudaHostAlloc(&memory, size, cudaHostAllocDefault), "no pinned memory");
    return memory;
  }
  const cudaError_t status = cudaMalloc(&memory, size);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw OutOfMemory(sentence(megabytes(bytes), " wanted in one piece, ",
                               megabytes(static_cast<Index>(free)), " of ",
                               megabytes(static_cast<Index>(total)), " free"));
  }
  check_cuda(status, "no device memory");
  return memory;
}

void release(void* memory, bool pinned, int device) {
  if (memory == nullptr) return;
  const DeviceScope scope(device, std::nothrow);
  // After an error of the device this fails too, and there is nobody to tell.
  pinned ? cudaFreeHost(memory) : cudaFree(memory);
}

void copy_bytes(void* to, const void* from, Index bytes, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream),
             "a copy failed");
}

void set_bytes(void* to, int value, Index bytes, cudaStream_t stream) {
  check_cuda(cudaMemsetAsync(to, value, static_cast<std::size_t>(bytes), stream),
             "device memory cannot be set");
}

Stream::Stream() : device_(current_device()) {
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "no stream");
}
Stream::~Stream() {
  const DeviceScope scope(device_, std::nothrow);
  cudaStreamDestroy(stream_);
}
void Stream::synchronize() const {
  check_cuda(cudaStreamSynchronize(stream_), "the work on the GPU failed");
}

Event::Event() : device_(current_device()) {
  check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync),
             "no event");
}
Event::~Event() {
  if (event_ == nullptr) return;
  const DeviceScope scope(device_, std::nothrow);
  cudaEventDestroy(event_);
}
void Event::record(cudaStream_t stream) {
  check_cuda(cudaEventRecord(event_, stream), "an event cannot be recorded");
}
void Event::wait() const { check_cuda(cudaEventSynchronize(event_), "the work on the GPU failed"); }
void Event::hold(cudaStream_t stream) const {
  check_cuda(cudaStreamWaitEvent(stream, event_, 0), "a stream cannot wait");
}

Recording::~Recording() {
  if (graph_ == nullptr) return;
  const DeviceScope scope(device_, std::nothrow);
  cudaGraphExecDestroy(graph_);
}
void Recording::begin(cudaStream_t stream) {
  // Relaxed: another thread may allocate while this one records.
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed),
             "recording cannot begin");
}
void Recording::end(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "recording failed");
  device_ = current_device();
  const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "a recorded step cannot be prepared");
}
void Recording::abandon(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  cudaGetLastError();
}
void Recording::launch(cudaStream_t stream) const {
  check_cuda(cudaGraphLaunch(graph_, stream), "a recorded step cannot be started");
}

}  // namespace dlcore::cuda
