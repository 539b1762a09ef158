// What the module's units share.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include "array.hpp"
#include "calls.hpp"

namespace sparsegrad::python {

/// sparsegrad.Context
struct Context {
  std::shared_ptr<Machine> machine;
};
/// The machine of an argument `context`, None for the default one.
inline std::shared_ptr<Machine> machine_of(const Context* context) {
  return context == nullptr ? default_machine() : context->machine;
}

/// sparsegrad.TuckerBasis
class Basis {
 public:
  Basis(std::shared_ptr<Machine> machine, sparsegrad_basis* handle)
      : machine_(std::move(machine)), handle_(handle, sparsegrad_basis_destroy) {}

  const std::shared_ptr<Machine>& machine() const { return machine_; }
  sparsegrad_basis* handle() const { return handle_.get(); }

 private:
  std::shared_ptr<Machine> machine_;
  std::unique_ptr<sparsegrad_basis, void (*)(sparsegrad_basis*)> handle_;
};

/// A weight with what keeps it where it is.
struct Weight {
  Weight() = default;
  /// Raises what Array and the shapes of weight and master raise.
  Weight(nb::handle weight, nb::handle master, const std::string& layout);
  void require_in_place() const;

  Array array;
  Array master;
  sparsegrad_weight c{};
};

/// sparsegrad.Layer
class Layer {
 public:
  Layer(std::shared_ptr<Machine> machine, Weight weight, Array bias, const sparsegrad_layer_options& options);

  const std::shared_ptr<Machine>& machine() const { return machine_; }
  sparsegrad_layer* handle() const { return handle_.get(); }
  const Weight& weight() const { return weight_; }
  std::int64_t out() const;
  std::int64_t in() const;
  void require_in_place() const;
  void rebind(Weight weight, Array bias);

 private:
  std::shared_ptr<Machine> machine_;
  Weight weight_;
  Array bias_;
  std::unique_ptr<sparsegrad_layer, void (*)(sparsegrad_layer*)> handle_;
};
/// The bias of a weight, None: none.
Array bias_of(const Weight& weight, nb::handle bias);
/// Its address.
const void* bias_data(const Weight& weight, const Array& bias);

inline constexpr const char* dtypes[] = {"float32", "bfloat16"};
inline constexpr const char* layouts[] = {"out_in", "in_out"};
inline constexpr const char* semantics[] = {"torch", "per_entry_step", "dense_core"};
inline constexpr const char* overflows[] = {"evict_smallest", "go_dense", "error"};
inline constexpr const char* moments[] = {"reset", "transport"};

void bind_context(nb::module_& m);
void bind_basis(nb::module_& m);
void bind_adam(nb::module_& m);
void bind_layer(nb::module_& m);
void bind_group(nb::module_& m);

}  // namespace sparsegrad::python
