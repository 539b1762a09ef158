// What a run asks of the machine that a backend computes on.
#pragma once

#include <exception>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sparsegrad/core/buffer.hpp>
#include <sparsegrad/core/view.hpp>

#include "training/memory/process_memory.hpp"
#include "training/options.hpp"

namespace sparsegrad::finetune {

/// The CPU: memory is that of the process.
template <class Backend>
struct RunDevice {
  using Context = typename Backend::Context;
  /// Whether it has products to choose from.
  static constexpr bool chooses = requires(const Context& ctx) { ctx.products(); };

  static Context make_context(const TrainOptions& options) {
    try {
      if constexpr (chooses) {
        if (!options.product_choice.of_float.empty())
          return Context(options.threads, options.deterministic, options.product_choice);
      }
      return Context(options.threads, options.deterministic);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {  // of the system
      throw ValueError(fmt::format("--threads is {}, which cannot be started ({}); expected fewer threads",
                                   options.threads, error.what()));
    }
  }
  static index_t available_memory() { return finetune::available_memory(); }
  static index_t memory_in_use() { return process_memory().resident; }
  /// The most since the start, or since reset_peak.
  static index_t peak_memory() { return process_memory().peak; }
  static bool reset_peak() { return reset_peak_memory(); }
  static void return_freed_memory() { finetune::return_freed_memory(); }
  static void describe(const Context& ctx, nlohmann::json& versions) {
    versions["device"] = "cpu";
    versions["threads"] = ctx.threads();
    versions["deterministic"] = ctx.deterministic();
    if constexpr (chooses) versions["products"] = to_json(ctx.products());
  }
};

/// A product large enough that the BLAS and the threads take the memory that they keep.
template <class Backend>
void warm_up(typename Backend::Context& ctx) {
  constexpr index_t n = 512;
  Buffer<float, Backend> a(ctx, n * n);
  Buffer<float, Backend> b(ctx, n * n);
  const MatrixView<const float> factor = a.matrix(n, n);
  Backend::template gemm<float>(ctx, Op::none, Op::none, 1.0F, factor, factor, 0.0F, b.matrix(n, n));
}

}  // namespace sparsegrad::finetune
