// NcclReducer: a group's gradients summed over GPUs by NCCL. Target sparsegrad::nccl.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "device_reduce.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// NCCL as a DeviceReducer calls it.
struct NcclApi {
  using Comm = ncclComm_t;      ///< the caller's communicator
  using Stream = cudaStream_t;  ///< of the sums
  using Event = cudaEvent_t;    ///< what one stream waits for of another

  /// This process's number. This and the others throw CommunicationError.
  static int rank(Comm comm) {
    int rank = 0;
    check(ncclCommUserRank(comm, &rank), "ncclCommUserRank", comm);
    return rank;
  }
  /// Number of processes.
  static int size(Comm comm) {
    int size = 0;
    check(ncclCommCount(comm, &size), "ncclCommCount", comm);
    return size;
  }
  /// An event without times.
  static Event make_event() {
    Event event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    return event;
  }
  /// Its error is ignored, as a destructor cannot report it.
  static void destroy(Event event) noexcept { static_cast<void>(cudaEventDestroy(event)); }
  /// The stream's next work waits for the context's so far.
  template <class Context>
  static void follow(Stream stream, Event event, const Context& ctx) {
    check(cudaEventRecord(event, ctx.stream()), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
  }
  /// n numbers at p become their sums over ranks.
  template <class N>
  static void sum(Comm comm, Stream stream, N* p, index_t n) {
    constexpr ncclDataType_t type = std::is_same_v<N, float>    ? ncclFloat32
                                    : std::is_same_v<N, double> ? ncclFloat64
                                                                : ncclBfloat16;
    static_assert(std::is_same_v<N, float> || std::is_same_v<N, double> || std::is_same_v<N, bfloat16>);
    check(ncclAllReduce(p, p, static_cast<std::size_t>(n), type, ncclSum, comm, stream), "ncclAllReduce",
          comm);
  }
  /// n numbers at p become the largest over ranks.
  static void most(Comm comm, Stream stream, std::uint64_t* p, index_t n) {
    check(ncclAllReduce(p, p, static_cast<std::size_t>(n), ncclUint64, ncclMax, comm, stream),
          "ncclAllReduce", comm);
  }
  /// The event is the stream's work so far.
  static void record(Event event, Stream stream) { check(cudaEventRecord(event, stream), "cudaEventRecord"); }
  /// The context's next work waits for the event.
  template <class Context>
  static void wait(const Context& ctx, Event event) {
    check(cudaStreamWaitEvent(ctx.stream(), event, 0), "cudaStreamWaitEvent");
  }
  /// Throws what a sum before has met: a GPU or a connection that is gone.
  static void poll(Comm comm) {
    ncclResult_t later = ncclSuccess;
    check(ncclCommGetAsyncError(comm, &later), "ncclCommGetAsyncError", comm);
    check(later, "a sum before", comm);
  }

 private:
  static void check(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    throw CommunicationError(std::string(call) + ": " + cudaGetErrorName(status) + " (" +
                             cudaGetErrorString(status) + ")");
  }
  static void check(ncclResult_t result, const char* call, Comm comm) {
    if (result == ncclSuccess || result == ncclInProgress) return;
    const char* more = ncclGetLastError(comm);
    throw CommunicationError(std::string(call) + ": " + ncclGetErrorString(result) +
                             (more != nullptr && *more != '\0' ? std::string(": ") + more : std::string()));
  }
};

/// Sums a group's gradients over the ranks of an NCCL communicator, on a stream of the caller's beside
/// the context's.
///
///     ncclCommInitRank(&comm, ranks, id, rank);                      // the caller's, and its end too
///     cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
///     group.use_reduce(std::make_shared<NcclReducer<float, backend::Cuda>>(comm, stream));
///
/// The host does not wait. A rank that is gone shows as CommunicationError at a later call where NCCL
/// notices it (ncclCommGetAsyncError); one that hangs, never: call ncclCommAbort after a time of the
/// caller's own.
template <class C, Backend B>
using NcclReducer = DeviceReducer<C, B, NcclApi>;

}  // namespace sparsegrad::SPARSEGRAD_ABI
