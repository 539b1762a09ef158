// One matmul of oneDNN for fixed extents and strides, and a cache of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "../../core/config.hpp"
#include "../../core/error.hpp"
#include "../host/blas_threads.hpp"

namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn {

static_assert(DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP ||
                  DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_SEQ,
              "sparsegrad::onednn needs a oneDNN whose threads are OpenMP's or that has none: another build "
              "would not stay on the context's threads");

/// What a matmul is made for: C = op(A) op(B), or C += op(A) op(B), all row-major.
struct Shape {
  index_t m = 0;         ///< rows of C
  index_t n = 0;         ///< columns of C
  index_t k = 0;         ///< depth
  index_t stride_a = 0;  ///< numbers from row to row of A as it is stored
  index_t stride_b = 0;  ///< the same of B
  index_t stride_c = 0;  ///< the same of C
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;                                     ///< C += in place of C =
  dnnl::memory::data_type in = dnnl::memory::data_type::f32;   ///< of A and B
  dnnl::memory::data_type out = dnnl::memory::data_type::f32;  ///< of C

  bool operator==(const Shape&) const = default;

  /// FNV-1a over the members.
  std::size_t hash() const {
    std::uint64_t h = 1469598103934665603ULL;
    const auto flags = (transpose_a ? 1 : 0) + (transpose_b ? 2 : 0) + (accumulate ? 4 : 0) +
                       8 * static_cast<int>(in) + 1024 * static_cast<int>(out);
    for (const index_t part : {m, n, k, stride_a, stride_b, stride_c, static_cast<index_t>(flags)})
      h = (h ^ static_cast<std::uint64_t>(part)) * 1099511628211ULL;
    return static_cast<std::size_t>(h ^ (h >> 32));
  }
};

/// A primitive, and for each worker the memory objects of one call: a call sets their addresses and
/// makes nothing.
class Matmul {
 public:
  /// Throws Error where oneDNN has no such product, std::bad_alloc where there is no memory.
  Matmul(const dnnl::engine& engine, const Shape& shape, int workers) {
    // oneDNN plans a primitive for the number of threads that it may use when it is made.
    const host::BlasThreads serial(1);
    try {
      const auto description = describe(engine, shape);
      scratch_bytes_ = description.scratchpad_desc().get_size();
      primitive_ = dnnl::matmul(description);
      calls_.resize(static_cast<std::size_t>(workers));
      for (Call& call : calls_) {
        call.a = dnnl::memory(description.src_desc(), engine, DNNL_MEMORY_NONE);
        call.b = dnnl::memory(description.weights_desc(), engine, DNNL_MEMORY_NONE);
        call.c = dnnl::memory(description.dst_desc(), engine, DNNL_MEMORY_NONE);
        call.scratch = dnnl::memory(description.scratchpad_desc(), engine, DNNL_MEMORY_NONE);
        call.arguments = {{{DNNL_ARG_SRC, call.a.get()},
                           {DNNL_ARG_WEIGHTS, call.b.get()},
                           {DNNL_ARG_DST, call.c.get()},
                           {DNNL_ARG_SCRATCHPAD, call.scratch.get()}}};
      }
    } catch (const dnnl::error& error) {
      refuse(error.status, error.what(), shape);
    }
  }

  /// Scratch memory of one call.
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  /// On the calling thread; two calls at once need two workers.
  void run(const dnnl::stream& stream, int worker, const void* a, const void* b, void* c, void* scratch) {
    Call& call = calls_[static_cast<std::size_t>(worker)];
    const host::BlasThreads serial(1);
    set(call.a, const_cast<void*>(a));
    set(call.b, const_cast<void*>(b));
    set(call.c, c);
    if (scratch_bytes_ > 0) set(call.scratch, scratch);
    require(dnnl_primitive_execute(primitive_.get(), stream.get(), scratch_bytes_ > 0 ? 4 : 3,
                                   call.arguments.data()),
            "dnnl_primitive_execute");
  }

  /// Name of the kernel with which this processor multiplies numbers of these types itself, or "":
  /// where oneDNN has plain loops ("ref"), or its older kernels ("gemm:jit"), which take three times
  /// as long as a product in float where there are no instructions for 16 bits.
  static std::string native_kernel(const dnnl::engine& engine, const Shape& shape) {
    const host::BlasThreads serial(1);
    try {
      const std::string kernel = describe(engine, shape).impl_info_str();
      return kernel.rfind("ref", 0) != 0 && kernel.rfind("gemm:jit", 0) != 0 ? kernel : "";
    } catch (const dnnl::error& error) {
      if (error.status == dnnl_unimplemented) return "";
      refuse(error.status, error.what(), shape);
    }
  }

 private:
  struct Call {
    dnnl::memory a, b, c, scratch;
    std::array<dnnl_exec_arg_t, 4> arguments{};
  };

  static dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const Shape& s) {
    using dnnl::memory;
    const auto strides = [](bool transposed, index_t stride) {
      return transposed ? memory::dims{1, stride} : memory::dims{stride, 1};
    };
    const memory::desc a({s.m, s.k}, s.in, strides(s.transpose_a, s.stride_a));
    const memory::desc b({s.k, s.n}, s.in, strides(s.transpose_b, s.stride_b));
    const memory::desc c({s.m, s.n}, s.out, strides(false, s.stride_c));
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (s.accumulate) {
      dnnl::post_ops after;
      after.append_sum(1.0F);
      attributes.set_post_ops(after);
    }
#if DNNL_VERSION_MAJOR < 3
    return {dnnl::matmul::desc(a, b, c), attributes, engine};
#else
    return {engine, a, b, c, attributes};
#endif
  }

  static void set(const dnnl::memory& memory, void* address) {
    require(dnnl_memory_set_data_handle(memory.get(), address), "dnnl_memory_set_data_handle");
  }
  static void require(dnnl_status_t status, const char* call) {
    if (status == dnnl_success) return;
    if (status == dnnl_out_of_memory) throw std::bad_alloc();
    throw Error(std::string(call) + " of oneDNN returned status " + std::to_string(status));
  }
  [[noreturn]] static void refuse(dnnl_status_t status, const char* message, const Shape& shape) {
    if (status == dnnl_out_of_memory) throw std::bad_alloc();
    throw Error("oneDNN has no product of " + std::to_string(shape.m) + " x " + std::to_string(shape.k) +
                " and " + std::to_string(shape.k) + " x " + std::to_string(shape.n) + ": " + message +
                " (status " + std::to_string(status) + ")");
  }

  dnnl::matmul primitive_;
  std::size_t scratch_bytes_ = 0;
  std::vector<Call> calls_;
};

/// The matmuls that a context has used last. Making one compiles its kernel (0.1 to 0.4 ms and some
/// 80 kB on AVX-512), so that each is kept until `most` others have been used since.
class MatmulCache {
 public:
  /// Matmuls that are kept.
  static constexpr std::size_t most = 512;

  explicit MatmulCache(int workers) : engine_(dnnl::engine::kind::cpu, 0), workers_(workers) {
    streams_.reserve(static_cast<std::size_t>(workers));
    for (int w = 0; w < workers; ++w)
      streams_.emplace_back(engine_);
  }
  MatmulCache(const MatmulCache&) = delete;
  MatmulCache& operator=(const MatmulCache&) = delete;

  /// The matmul of that shape, made where it is not there; stays until `trim`.
  Matmul& find(const Shape& shape) {
    const auto found = places_.find(shape);
    if (found != places_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return found->second->matmul;
    }
    entries_.emplace_front(shape, engine_, workers_);
    try {
      places_.emplace(shape, entries_.begin());
    } catch (...) {
      entries_.pop_front();
      throw;
    }
    return entries_.front().matmul;
  }

  /// Forgets those that were not used for longest, down to `most`.
  void trim() {
    while (entries_.size() > most) {
      places_.erase(entries_.back().shape);
      entries_.pop_back();
    }
  }

  /// Number of matmuls that are there.
  std::size_t size() const { return entries_.size(); }
  /// The engine that they are made for.
  const dnnl::engine& engine() const { return engine_; }
  /// The stream of one worker.
  const dnnl::stream& stream(int worker) const { return streams_[static_cast<std::size_t>(worker)]; }

 private:
  struct Entry {
    Entry(const Shape& s, const dnnl::engine& engine, int workers) : shape(s), matmul(engine, s, workers) {}
    Shape shape;
    Matmul matmul;
  };
  struct Hash {
    std::size_t operator()(const Shape& shape) const { return shape.hash(); }
  };

  dnnl::engine engine_;
  int workers_;
  std::vector<dnnl::stream> streams_;
  std::list<Entry> entries_;  // the last used first
  std::unordered_map<Shape, std::list<Entry>::iterator, Hash> places_;
};

}  // namespace sparsegrad::SPARSEGRAD_ABI::backend::onednn
