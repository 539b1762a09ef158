// CudaContext: stream, handles and scratch memory of the CUDA backend, borrowed or owned.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

#include <cublas_v2.h>
#include <cusolverDn.h>

#include "../scratch.hpp"
#include "memory.cuh"

namespace sparsegrad::backend::cuda {

/// Owner of something that CUDA gave as a pointer; its end is not told of failures.
template <auto Destroy>
struct Destroyer {
  template <class P>
  void operator()(P p) const noexcept {
    static_cast<void>(Destroy(p));
  }
};
using OwnedStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroyer<cudaStreamDestroy>>;
using OwnedBlas = std::unique_ptr<std::remove_pointer_t<cublasHandle_t>, Destroyer<cublasDestroy>>;
using OwnedSolver = std::unique_ptr<std::remove_pointer_t<cusolverDnHandle_t>, Destroyer<cusolverDnDestroy>>;
using OwnedBytes = std::unique_ptr<void, Destroyer<cudaFree>>;

/// What a context borrows; what is null it makes and owns. Borrowed things must outlive the context.
struct ContextOptions {
  cudaStream_t stream = nullptr;
  cublasHandle_t blas = nullptr;  ///< its stream and modes are set for each product, then put back
  cusolverDnHandle_t solver = nullptr;
  MemoryResource* memory = nullptr;
  /// Bytes of cuBLAS's workspace on a handle of the context's own: with it no product allocates, in graphs too.
  std::size_t blas_workspace = std::size_t{32} << 20;
  bool tf32 = false;  ///< see CudaContext::allow_tf32
};

/// What a computation on the GPU needs besides its arguments. All work goes to the context's stream, in order. Made
/// for the device that is current in the constructor, and to be used while that one is current. One caller at a time;
/// several contexts work side by side.
class CudaContext {
 public:
  using Scratch = BasicScratch<ScratchMemory>;

  /// Throws CudaError: no device, a driver too old, handles that cannot be made; CudaOutOfMemory.
  explicit CudaContext(const ContextOptions& options = {})
      : own_stream_(options.stream == nullptr ? make_stream() : nullptr),
        stream_(options.stream == nullptr ? own_stream_.get() : options.stream),
        blas_(options.blas),
        solver_(options.solver),
        tf32_(options.tf32),
        scratch_(ScratchMemory{options.memory, stream_}) {
    if (blas_ == nullptr) make_blas(options.blas_workspace);
  }

  cudaStream_t stream() const { return stream_; }

  /// Waits for all work of the stream; throws the error that a kernel has left, if any.
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  /// Float products of layers may run on TF32 tensor cores (10 bits of mantissa). Off unless asked for; Gram sums,
  /// on which bases rest, never do.
  void allow_tf32(bool on) { tf32_ = on; }
  bool allows_tf32() const { return tf32_; }

  /// cuBLAS on the context's stream, in the modes of one product, until it ends: a borrowed handle then has its own stream
  /// and modes again.
  class Blas {
   public:
    Blas(const CudaContext& ctx, bool full_precision) : Blas(ctx) {
      if (stream_ != ctx.stream_) check(cublasSetStream(handle_, ctx.stream_), "cublasSetStream");
      if (!borrowed_) {  // a change of stream takes the workspace away
        check(cublasSetWorkspace(handle_, ctx.workspace_.get(), ctx.workspace_bytes_), "cublasSetWorkspace");
      }
      check(cublasSetPointerMode(handle_, CUBLAS_POINTER_MODE_HOST), "cublasSetPointerMode");
      const cublasMath_t own = ctx.tf32_ ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH;
      check(cublasSetMathMode(handle_, full_precision ? CUBLAS_PEDANTIC_MATH : own), "cublasSetMathMode");
    }
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;
    ~Blas() {
      if (!borrowed_) return;
      static_cast<void>(cublasSetMathMode(handle_, math_));
      static_cast<void>(cublasSetPointerMode(handle_, pointers_));
      cudaStream_t now = nullptr;
      static_cast<void>(cublasGetStream(handle_, &now));
      if (now != stream_) static_cast<void>(cublasSetStream(handle_, stream_));
    }
    operator cublasHandle_t() const { return handle_; }  // NOLINT(google-explicit-constructor)

   private:
    /// What there was before: the destructor runs from here on.
    explicit Blas(const CudaContext& ctx) : handle_(ctx.blas_), borrowed_(ctx.own_blas_ == nullptr) {
      check(cublasGetStream(handle_, &stream_), "cublasGetStream");
      check(cublasGetMathMode(handle_, &math_), "cublasGetMathMode");
      check(cublasGetPointerMode(handle_, &pointers_), "cublasGetPointerMode");
    }

    cublasHandle_t handle_;
    bool borrowed_;
    cudaStream_t stream_ = nullptr;
    cublasMath_t math_ = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointers_ = CUBLAS_POINTER_MODE_HOST;
  };

  /// In full precision or, where it is allowed and wanted, TF32. Keep it as long as the product is being called.
  [[nodiscard]] Blas blas(bool full_precision) const { return Blas(*this, full_precision); }

  /// cuSOLVER, made when first wanted: it takes memory, and only fits need it.
  cusolverDnHandle_t solver() {
    if (solver_ == nullptr) {
      check(cusolverDnCreate(&solver_), "cusolverDnCreate");
      own_solver_.reset(solver_);
    }
    check(cusolverDnSetStream(solver_, stream_), "cusolverDnSetStream");
    return solver_;
  }

  Scratch& scratch() { return scratch_; }
  /// Temporary device memory until the frame ends; work that the stream still has to do on it comes before all that
  /// later frames do.
  Scratch::Frame frame() { return Scratch::Frame(scratch_); }

  /// Thrust's temporaries: of the innermost open frame, whose end takes them back.
  class Allocator {
   public:
    using value_type = char;
    explicit Allocator(Scratch& scratch) : scratch_(&scratch) {}
    char* allocate(std::ptrdiff_t bytes) {
      return reinterpret_cast<char*>(scratch_->take(static_cast<std::size_t>(bytes)));
    }
    void deallocate(char*, std::size_t) noexcept {}

   private:
    Scratch* scratch_;
  };
  Allocator& allocator() { return allocator_; }

 private:
  static OwnedStream make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    return OwnedStream(stream);
  }
  void make_blas(std::size_t workspace) {
    check(cublasCreate(&blas_), "cublasCreate");
    own_blas_.reset(blas_);
    workspace_bytes_ = workspace;
    if (workspace > 0) workspace_.reset(allocate_bytes(workspace));
  }

  OwnedStream own_stream_;
  cudaStream_t stream_;
  cublasHandle_t blas_;
  OwnedBlas own_blas_;
  OwnedBytes workspace_;
  std::size_t workspace_bytes_ = 0;
  cusolverDnHandle_t solver_;
  OwnedSolver own_solver_;
  bool tf32_;
  Scratch scratch_;
  Allocator allocator_{scratch_};
};

}  // namespace sparsegrad::backend::cuda
