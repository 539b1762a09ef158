// What the opaque handles of the C interface hold: interfaces without a backend or a type of elements, which
// the backends' units implement (context_handle.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <sparsegrad/c/sparsegrad.h>

namespace sparsegrad::c {

/// A basis with the context that it computes on.
class AnyBasis {
 public:
  virtual ~AnyBasis() = default;
  virtual sparsegrad_basis_info describe() const = 0;
  virtual void factor(std::int32_t side, const sparsegrad_matrix& factor) = 0;
  virtual const std::vector<double>& spectrum(std::int32_t side) const = 0;
  virtual sparsegrad_energy energy(const sparsegrad_const_matrix& gradient, std::int64_t k) = 0;
  virtual void project(const sparsegrad_const_matrix& gradient, const sparsegrad_matrix& core) = 0;
  virtual void expand(const sparsegrad_const_matrix& core, const sparsegrad_matrix& gradient) = 0;
};

/// An Adam of one core with its context.
class AnyAdam {
 public:
  virtual ~AnyAdam() = default;
  virtual sparsegrad_adam_info describe() const = 0;
  virtual void step(const std::int32_t* positions, const float* values, std::int64_t count,
                    const sparsegrad_step_options& options, const sparsegrad_matrix& update) = 0;
};

/// A layer with its context.
class AnyLayer {
 public:
  virtual ~AnyLayer() = default;
  virtual std::int64_t kept_cols() const = 0;
  virtual sparsegrad_saved_input forward(const sparsegrad_const_matrix& x, const sparsegrad_matrix& y,
                                         const sparsegrad_matrix& keep) = 0;
  virtual void backward(const sparsegrad_const_matrix& dy, const sparsegrad_saved_input& saved,
                        const sparsegrad_matrix& dx, float* db, std::int32_t mode) = 0;
  virtual void rebind(const sparsegrad_weight& weight, const void* bias) = 0;
};

/// A group with its context and its layers.
class AnyGroup {
 public:
  virtual ~AnyGroup() = default;
  virtual std::int64_t add_weight(const sparsegrad_weight& weight, const char* kind) = 0;
  virtual std::int64_t add_layer(const std::shared_ptr<AnyLayer>& layer, const char* kind) = 0;
  virtual void remove(std::int64_t index) = 0;
  virtual void rebind(std::int64_t index, const sparsegrad_weight& weight) = 0;
  virtual void set_gradient(std::int64_t index, const sparsegrad_const_matrix& gradient) = 0;
  virtual void clear() = 0;
  virtual double squared_norm() = 0;
  virtual sparsegrad_step_report step(const sparsegrad_step_options& options) = 0;
  virtual void collect() = 0;
  virtual void stop_collecting() = 0;
  virtual void refresh(std::int32_t moments) = 0;
  virtual std::shared_ptr<AnyBasis> basis(std::int64_t index) = 0;
  /// Null: none.
  virtual void set_basis(std::int64_t index, const std::shared_ptr<AnyBasis>& basis,
                         std::int32_t moments) = 0;
  virtual void reserve(std::int64_t max_tokens) = 0;
  virtual sparsegrad_memory memory() = 0;
  virtual sparsegrad_group_info describe() = 0;
  virtual sparsegrad_weight_info describe_weight(std::int64_t index) = 0;
  virtual std::vector<std::byte> save() = 0;
  virtual void restore(std::vector<std::byte> bytes) = 0;
  virtual void save_file(const char* path) = 0;
  virtual void load_file(const char* path) = 0;
};

/// A context of some backend, which makes the rest.
class AnyContext {
 public:
  virtual ~AnyContext() = default;
  virtual sparsegrad_backend backend() const = 0;
  virtual std::int32_t threads() const = 0;
  virtual std::unique_ptr<AnyGroup> make_group(const sparsegrad_group_options& options) = 0;
  virtual std::shared_ptr<AnyLayer> make_layer(const sparsegrad_weight& weight, const void* bias,
                                               const sparsegrad_layer_options& options) = 0;
  virtual std::shared_ptr<AnyBasis> fit_basis(std::int64_t out, std::int64_t in,
                                              const sparsegrad_const_matrix* gradients, std::int64_t count,
                                              const sparsegrad_side& out_side,
                                              const sparsegrad_side& in_side) = 0;
  virtual std::shared_ptr<AnyBasis> basis_from_factors(const sparsegrad_const_matrix& v,
                                                       const sparsegrad_const_matrix& u,
                                                       double tolerance) = 0;
  virtual std::unique_ptr<AnyAdam> make_adam(std::int64_t rows, std::int64_t cols,
                                             const sparsegrad_adam_options& options) = 0;
  /// How many entries were written.
  virtual std::int64_t top_k(const sparsegrad_const_matrix& core, std::int64_t k, std::int32_t* positions,
                             float* values) = 0;
};

// One unit each; only those of the backends that the library is built with are there.
std::unique_ptr<AnyContext> make_eigen_context(const sparsegrad_context_options& options);
std::unique_ptr<AnyContext> make_blas_context(const sparsegrad_context_options& options);
std::unique_ptr<AnyContext> make_onednn_context(const sparsegrad_context_options& options);

}  // namespace sparsegrad::c
