#pragma once

// The part of CUDA's runtime that dlcore uses, over host memory: for tests on machines without a
// GPU, and never in a wheel. It is made to show mistakes:
//  - a stream's work runs only when the host waits for it or asks about it, so a missing wait
//  shows;
//    a copy reads its source then, also one from pageable memory, which has to be there still;
//  - memory is filled with 0xff (NaN) when it is allocated;
//  - what is captured runs when the graph is launched, with the pointers it was captured with.
// The environment variables DLCORE_EMULATED_MEMORY (bytes), DLCORE_EMULATED_DEVICES,
// DLCORE_EMULATED_OLD_DEVICES ("02": the first and the third are of compute capability 7.5),
// DLCORE_EMULATED_SHARED_MEMORY (bytes of a block) and DLCORE_EMULATED_CLUSTER (blocks of the
// largest cluster, 1 for a device of compute capability 8.0) are read at each call.

#include <cstddef>
#include <functional>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorIllegalAddress = 700,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900,
};
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  std::size_t sharedMemPerBlockOptin;
};
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
enum { CUDART_VERSION = 13000, cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0 };
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);

namespace dlcore::cuda::emulated {
struct Stream;
struct Event;
struct Graph;
/// Adds work to a stream, or to the graph that is being captured from it.
void enqueue(Stream* stream, std::function<void()> work);
/// The device a pointer lies on, or -1 for memory of the host.
int device_of(const void* pointer);
/// Blocks of the largest cluster that a device takes.
int largest_cluster();
/// What has been asked for since the process began; tests look at it.
struct Counts {
  std::size_t used = 0;  ///< bytes of device memory, now
  long allocations = 0;  ///< of device memory
  long choices = 0;      ///< of an algorithm, by cuBLASLt
  long products = 0;     ///< enqueued, each for any number of networks
  long started = 0;      ///< devices on which something was asked for that needs CUDA to run there
};
Counts& counts();
}  // namespace dlcore::cuda::emulated

using cudaStream_t = dlcore::cuda::emulated::Stream*;
using cudaEvent_t = dlcore::cuda::emulated::Event*;
using cudaGraph_t = dlcore::cuda::emulated::Graph*;
using cudaGraphExec_t = dlcore::cuda::emulated::Graph*;

enum { cudaHostAllocDefault = 0 };
cudaError_t cudaMalloc(void** memory, std::size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);

enum cudaMemcpyKind { cudaMemcpyDefault = 4 };
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream);

enum { cudaStreamNonBlocking = 1 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaDeviceSynchronize();

enum { cudaEventDisableTiming = 2, cudaEventBlockingSync = 1 };
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);

enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);

enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class F>
cudaError_t cudaFuncSetAttribute(F, cudaFuncAttribute, int) {
  return cudaSuccess;
}
