// CudaContext: stream, handles and scratch memory of the CUDA backend, borrowed or owned.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include <cublas_v2.h>
#include <cusolverDn.h>

#include "../../core/step_guard.hpp"
#include "../scratch.hpp"
#include "memory.cuh"

namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda {

/// Owner of something that CUDA gave as a pointer; its end is not told of failures.
template <auto Destroy>
struct Destroyer {
  /// Destroys the resource; its error is ignored, as a destructor cannot report it.
  template <class P>
  void operator()(P p) const noexcept {
    static_cast<void>(Destroy(p));
  }
};
using OwnedStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroyer<cudaStreamDestroy>>;
using OwnedBlas = std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, Destroyer<cublasDestroy>>;
using OwnedSolver = std::unique_ptr<std::remove_pointer_t<cusolverDnHandle_t>, Destroyer<cusolverDnDestroy>>;
using OwnedFlag = std::unique_ptr<StepFlag, Destroyer<cudaFreeHost>>;
using OwnedStaging = std::unique_ptr<std::byte, Destroyer<cudaFreeHost>>;

/// What a context borrows; what is not given it makes and owns. Borrowed things must outlive the
/// context.
struct ContextOptions {
  /// Not given: a stream of the context's own, which does not wait for the default stream nor that
  /// for it. A null stream is CUDA's default one (cudaStreamPerThread names that of a thread);
  /// nothing on the default stream can be captured.
  std::optional<cudaStream_t> stream = std::nullopt;
  /// Stream, pointer mode and math mode are set for each product and put back after it. Its
  /// workspace cannot be put back: after a product it is cuBLAS's own, so who has set another
  /// (cublasSetWorkspace) sets it again.
  cublasHandle_t blas = nullptr;
  cusolverDnHandle_t solver = nullptr;  ///< its stream is set for each eigenproblem and put back after it
  /// Where the memory of the context and of its objects comes from; null: cudaMalloc.
  MemoryResource* memory = nullptr;
  /// Bytes of cuBLAS's workspace on this context's products, on a borrowed handle as well: with it
  /// no product allocates, in graphs too.
  std::size_t blas_workspace = std::size_t{32} << 20;
  bool tf32 = false;  ///< see CudaContext::allow_tf32
};

/// What a computation on the GPU needs besides its arguments. All work goes to the context's
/// stream, in order. Made for the device that is current in the constructor, and to be used while
/// that one is current. One caller at a time; several contexts work side by side. What one context
/// has been asked to do is not ordered with what another is: bases are finished when a call returns
/// them, other memory that two contexts use needs an event, or synchronize().
class CudaContext {
 public:
  /// The context's temporary memory.
  using Scratch = BasicScratch<ContextMemory>;

  /// Throws CudaError: no device, a driver too old, handles that cannot be made; CudaOutOfMemory.
  explicit CudaContext(const ContextOptions& options = {})
      : own_stream_(options.stream ? nullptr : make_stream()),
        stream_(options.stream ? *options.stream : own_stream_.get()),
        memory_{options.memory, stream_},
        blas_(options.blas),
        solver_(options.solver),
        tf32_(options.tf32),
        flag_(make_flag()),
        scratch_(memory_) {
    if (blas_ == nullptr) {
      cuda::check(cublasCreate(&blas_), "cublasCreate");
      own_blas_.reset(blas_);
    }
    void* flag = nullptr;
    cuda::check(cudaHostGetDevicePointer(&flag, flag_.get(), 0), "cudaHostGetDevicePointer");
    flag_of_device_ = static_cast<StepFlag*>(flag);
    if (options.blas_workspace > 0) {
      workspace_ = ContextBytes(memory_, options.blas_workspace);
      workspace_bytes_ = options.blas_workspace;
    }
  }

  /// Waits for the context's work, which uses its memory; what that leaves behind, the next call
  /// tells.
  ~CudaContext() { static_cast<void>(cudaStreamSynchronize(stream_)); }
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  /// The stream of all its work.
  cudaStream_t stream() const { return stream_; }
  /// Where the memory of objects made with it comes from.
  ContextMemory memory() const { return memory_; }

  /// Waits for all work of the stream; throws the error that a kernel has left, if any.
  void synchronize() const {
    cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    staged_ = 0;
  }

  /// Copies bytes of the host's memory, which may be gone afterwards, to the device's without waiting:
  /// by way of pinned memory of the context's, which is free again when it next waits. Waits itself
  /// where there is no room, and for more than `staging_bytes` bytes. Not possible in a capture, whose
  /// replays would copy what that memory then holds: CUDA's error says so.
  void stage(const void* from, void* to, std::size_t bytes) {
    if (bytes == 0) return;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cuda::check(cudaStreamIsCapturing(stream_, &capture), "cudaStreamIsCapturing");
    if (bytes > staging_bytes || capture != cudaStreamCaptureStatusNone) {
      cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
      return synchronize();
    }
    if (staging_ == nullptr) staging_ = make_staging();
    if (bytes > staging_bytes - staged_) synchronize();
    std::byte* place = staging_.get() + staged_;
    std::memcpy(place, from, bytes);
    cuda::check(cudaMemcpyAsync(to, place, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
    staged_ += (std::min)((bytes + 255) / 256 * 256, staging_bytes - staged_);
  }
  /// Bytes of pinned memory for `stage`, taken at its first call.
  static constexpr std::size_t staging_bytes = std::size_t{1} << 20;

  /// Waits, and throws NonFiniteError where a step since the last call met NaN or Inf under
  /// NonFinite::raise: it and those after it have changed nothing. Steps then go on.
  void check() {
    synchronize();
    flag_->raise();
  }
  /// What a step's kernels tell the host without its waiting: host memory that the device reaches.
  StepFlag& step_flag() { return *flag_; }
  /// The same flag by the device's address.
  StepFlag* step_flag_of_device() { return flag_of_device_; }

  /// Float products of layers may run on TF32 tensor cores (10 bits of mantissa). Off unless asked
  /// for. What bases rest on (Gram sums, sketches, the check of factors, moments carried to a new
  /// basis) never does.
  void allow_tf32(bool on) { tf32_ = on; }
  /// Whether float products of layers may run on TF32 tensor cores.
  bool allows_tf32() const { return tf32_; }
  /// Products in full precision whatever is allowed; returns what was set before. For a scope:
  /// FullPrecision.
  bool full_precision(bool on) { return std::exchange(full_precision_, on); }
  /// Whether the next float product may run on TF32 tensor cores.
  bool uses_tf32() const { return tf32_ && !full_precision_; }

  /// One product: cuBLAS on this stream, with this context's workspace and modes. A borrowed handle
  /// gets its own back.
  class BlasCall {
   public:
    /// Sets stream, workspace and modes. Throws CudaError.
    explicit BlasCall(CudaContext& ctx, cublasMath_t math)
        : blas_(ctx.blas_), borrowed_(ctx.own_blas_ == nullptr) {
      if (borrowed_) {
        cuda::check(cublasGetStream(blas_, &stream_), "cublasGetStream");
        cuda::check(cublasGetPointerMode(blas_, &pointer_mode_), "cublasGetPointerMode");
        cuda::check(cublasGetMathMode(blas_, &math_), "cublasGetMathMode");
      }
      try {
        cuda::check(cublasSetStream(blas_, ctx.stream_), "cublasSetStream");
        if (ctx.workspace_bytes_ > 0) {  // setting the stream has taken the workspace away
          cuda::check(cublasSetWorkspace(blas_, ctx.workspace_.get(), ctx.workspace_bytes_),
                      "cublasSetWorkspace");
        }
        cuda::check(cublasSetPointerMode(blas_, CUBLAS_POINTER_MODE_HOST), "cublasSetPointerMode");
        cuda::check(cublasSetMathMode(blas_, math), "cublasSetMathMode");
      } catch (...) {
        put_back();
        throw;
      }
    }
    ~BlasCall() { put_back(); }
    BlasCall(const BlasCall&) = delete;
    BlasCall& operator=(const BlasCall&) = delete;

    /// The handle to call.
    cublasHandle_t handle() const { return blas_; }

   private:
    void put_back() noexcept {
      if (!borrowed_) return;
      static_cast<void>(cublasSetStream(blas_, stream_));  // and with it away from this context's workspace
      static_cast<void>(cublasSetPointerMode(blas_, pointer_mode_));
      static_cast<void>(cublasSetMathMode(blas_, math_));
    }

    cublasHandle_t blas_;
    bool borrowed_;
    cudaStream_t stream_ = nullptr;
    cublasPointerMode_t pointer_mode_ = CUBLAS_POINTER_MODE_HOST;
    cublasMath_t math_ = CUBLAS_DEFAULT_MATH;
  };
  /// The math mode of float and double products.
  cublasMath_t math() const { return uses_tf32() ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH; }

  /// The same for cuSOLVER, whose handle is made when first wanted: it takes memory, and only fits
  /// need it.
  class SolverCall {
   public:
    /// Makes the handle where there is none and sets its stream. Throws CudaError.
    explicit SolverCall(CudaContext& ctx) {
      if (ctx.solver_ == nullptr) {
        cuda::check(cusolverDnCreate(&ctx.solver_), "cusolverDnCreate");
        ctx.own_solver_.reset(ctx.solver_);
      }
      solver_ = ctx.solver_;
      borrowed_ = ctx.own_solver_ == nullptr;
      if (borrowed_) cuda::check(cusolverDnGetStream(solver_, &stream_), "cusolverDnGetStream");
      cuda::check(cusolverDnSetStream(solver_, ctx.stream_), "cusolverDnSetStream");
    }
    ~SolverCall() {
      if (borrowed_) static_cast<void>(cusolverDnSetStream(solver_, stream_));
    }
    SolverCall(const SolverCall&) = delete;
    SolverCall& operator=(const SolverCall&) = delete;

    /// The handle to call.
    cusolverDnHandle_t handle() const { return solver_; }

   private:
    cusolverDnHandle_t solver_ = nullptr;
    bool borrowed_ = false;
    cudaStream_t stream_ = nullptr;
  };

  /// The temporary memory itself, to reserve or measure it.
  Scratch& scratch() { return scratch_; }
  /// Temporary device memory until the frame ends; work that the stream still has to do on it comes
  /// before all that later frames do.
  Scratch::Frame frame() { return Scratch::Frame(scratch_); }

  /// Thrust's temporaries: of the innermost open frame, whose end takes them back.
  class Allocator {
   public:
    /// Memory is counted in bytes.
    using value_type = char;
    /// Allocates from this scratch memory.
    explicit Allocator(Scratch& scratch) : scratch_(&scratch) {}
    /// Memory that lasts until the innermost frame ends.
    char* allocate(std::ptrdiff_t bytes) {
      return reinterpret_cast<char*>(scratch_->take(static_cast<std::size_t>(bytes)));
    }
    /// Does nothing: the frame's end frees the memory.
    void deallocate(char*, std::size_t) noexcept {}

   private:
    Scratch* scratch_;
  };
  /// The allocator to give to Thrust.
  Allocator& allocator() { return allocator_; }

 private:
  static OwnedStream make_stream() {
    cudaStream_t stream = nullptr;
    cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    return OwnedStream(stream);
  }
  static OwnedStaging make_staging() {
    void* p = nullptr;
    cuda::check(cudaHostAlloc(&p, staging_bytes, cudaHostAllocDefault), "cudaHostAlloc");
    return OwnedStaging(static_cast<std::byte*>(p));
  }
  static OwnedFlag make_flag() {
    void* p = nullptr;
    cuda::check(cudaHostAlloc(&p, sizeof(StepFlag), cudaHostAllocMapped), "cudaHostAlloc");
    return OwnedFlag(new (p) StepFlag());
  }

  OwnedStream own_stream_;
  cudaStream_t stream_;
  ContextMemory memory_;
  ContextBytes
      workspace_;  ///< outlives the context's own handle; a borrowed one is set to it during products alone
  std::size_t workspace_bytes_ = 0;
  cublasHandle_t blas_;
  OwnedBlas own_blas_;
  cusolverDnHandle_t solver_;
  OwnedSolver own_solver_;
  bool tf32_;
  bool full_precision_ = false;
  OwnedFlag flag_;
  StepFlag* flag_of_device_ = nullptr;
  OwnedStaging staging_;            ///< null until `stage` is called
  mutable std::size_t staged_ = 0;  ///< bytes of it that copies may still read
  Scratch scratch_;
  Allocator allocator_{scratch_};
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::cuda
