// top_k and SparseAdam.
#include <algorithm>
#include <vector>

#include "bindings.hpp"

namespace sparsegrad::python {

namespace {

nb::object top_k(nb::handle core, std::int64_t k, const Context* context) {
  const Array array("the core", core, Use::read);
  const sparsegrad_const_matrix from = array.const_matrix("[rows, cols]");
  const auto room = static_cast<std::size_t>(std::max<std::int64_t>(0, std::min(k, from.rows * from.cols)));
  std::vector<std::int32_t> positions(room);
  std::vector<float> values(room);
  const std::shared_ptr<Machine> machine = machine_of(context);
  call(machine, [&] {
    return sparsegrad_top_k(machine->handle(), from, k, positions.data(), values.data(), nullptr);
  });
  return python_class("_results", "SparseGradient")(new_vector(positions.data(), positions.size(), "int32"),
                                                    new_vector(values.data(), values.size(), "float32"));
}

/// sparsegrad.SparseAdam
class Adam {
 public:
  Adam(std::shared_ptr<Machine> machine, sparsegrad_adam* handle)
      : machine_(std::move(machine)), handle_(handle, sparsegrad_adam_destroy) {}

  const std::shared_ptr<Machine>& machine() const { return machine_; }
  sparsegrad_adam_info describe() const {
    sparsegrad_adam_info info;
    require_ok(sparsegrad_adam_describe(handle_.get(), &info));
    return info;
  }

  nb::object step(nb::handle gradient, double learning_rate, double grad_scale) {
    const auto [given_positions, given_values] = nb::cast<std::pair<nb::object, nb::object>>(gradient);
    // Any integers, but no other numbers; copied, since they may be of another size.
    const nb::module_ numpy = nb::module_::import_("numpy");
    const nb::object positions = numpy.attr("asarray")(given_positions);
    if (!nb::cast<bool>(numpy.attr("issubdtype")(positions.attr("dtype"), numpy.attr("integer")))) {
      throw nb::type_error(
          ("positions are of " + text_of(positions.attr("dtype")) + ", expected integers").c_str());
    }
    if (nb::cast<int>(positions.attr("ndim")) != 1)
      raise("ShapeError", "positions have " + text_of(positions.attr("ndim")) + " dimensions, expected 1");
    const sparsegrad_adam_info info = describe();
    std::vector<std::int32_t> at;
    for (const nb::handle position : nb::list(positions.attr("tolist")())) {
      const auto p = nb::cast<long long>(position);
      if (p < 0 || p >= info.rows * info.cols) {
        raise("ArgumentError", "position " + std::to_string(p) + " lies outside of a core of " +
                                   std::to_string(info.rows * info.cols) + " entries");
      }
      at.push_back(static_cast<std::int32_t>(p));
    }
    const Array values("values", given_values, Use::read);
    const auto* numbers = static_cast<const float*>(
        values.vector(static_cast<std::int64_t>(at.size()), "[positions]", SPARSEGRAD_FLOAT32));
    nb::object update = new_floats(info.rows, info.cols);
    const Array update_array("the update", update, Use::write);
    const sparsegrad_matrix to = update_array.matrix("[rows, cols]");
    sparsegrad_step_options options;
    sparsegrad_step_options_init(&options);
    options.learning_rate = learning_rate;
    options.grad_scale = grad_scale;
    call(machine_, [&] {
      return sparsegrad_adam_step(handle_.get(), at.data(), numbers, static_cast<std::int64_t>(at.size()),
                                  &options, to);
    });
    return update;
  }

 private:
  std::shared_ptr<Machine> machine_;
  std::unique_ptr<sparsegrad_adam, void (*)(sparsegrad_adam*)> handle_;
};

}  // namespace

void bind_adam(nb::module_& m) {
  m.def("top_k", top_k, nb::arg("core").none(), nb::arg("k"), nb::kw_only(), nb::arg("context") = nb::none(),
        nb::sig("def top_k(core: Array, k: int, *, context: Context | None = None) -> "
                "sparsegrad._results.SparseGradient"),
        "The k largest entries of a core [rows, cols] by absolute value, of equal ones those of lowest "
        "position.\n"
        "Raises NonFiniteError where NaN or Inf is among them.");

  sparsegrad_adam_options defaults;
  sparsegrad_adam_options_init(&defaults);
  nb::class_<Adam>(
      m, "SparseAdam",
      "Adam on chosen entries of one core [rows, cols].\n\n"
      "semantics says what it means for entries that are not in every gradient: \"torch\", only kept\n"
      "entries move, as in torch.optim.SparseAdam; \"per_entry_step\", the same, each entry with a step\n"
      "count of its own; \"dense_core\", all moments move, and with all entries kept it is AdamW.")
      .def(
          "__init__",
          [](Adam* self, std::pair<std::int64_t, std::int64_t> shape, double beta1, double beta2, double eps,
             const std::string& meaning, std::int64_t capacity, const std::string& overflow,
             const Context* context) {
            sparsegrad_adam_options options;
            sparsegrad_adam_options_init(&options);
            options.beta1 = beta1;
            options.beta2 = beta2;
            options.eps = eps;
            options.semantics = choice("semantics", meaning, semantics);
            options.overflow = choice("overflow", overflow, overflows);
            options.capacity = capacity;
            const std::shared_ptr<Machine> machine = machine_of(context);
            sparsegrad_adam* adam = nullptr;
            call(machine, [&] {
              return sparsegrad_adam_create(machine->handle(), shape.first, shape.second, &options, &adam);
            });
            new (self) Adam(machine, adam);
          },
          nb::arg("shape"), nb::kw_only(), nb::arg("beta1") = defaults.beta1,
          nb::arg("beta2") = defaults.beta2, nb::arg("eps") = defaults.eps,
          nb::arg("semantics") = semantics[0], nb::arg("capacity") = 0, nb::arg("overflow") = overflows[0],
          nb::arg("context") = nb::none(),
          nb::sig(
              "def __init__(self, shape: tuple[int, int], *, beta1: float = 0.9, beta2: float = 0.999, eps: "
              "float = 1e-08, semantics: Literal['torch', 'per_entry_step', 'dense_core'] = 'torch', "
              "capacity: "
              "int = 0, overflow: Literal['evict_smallest', 'go_dense', 'error'] = 'evict_smallest', "
              "context: "
              "Context | None = None) -> None"),
          "shape: (rows, cols) of the core.\n"
          "capacity: this many entries have moments, 0: all; overflow says what becomes of more.")
      .def("step", &Adam::step, nb::arg("gradient").none(), nb::kw_only(), nb::arg("learning_rate"),
           nb::arg("grad_scale") = 1.0,
           nb::sig("def step(self, gradient: tuple[NDArray[Any], Array], *, learning_rate: float, "
                   "grad_scale: float "
                   "= 1.0) -> NDArray[numpy.float32]"),
           "One step with a sparse gradient, (positions, values) as top_k returns it.\n"
           "Returns the update D [rows, cols], which is to be added: W += basis.expand(D).")
      .def_prop_ro(
          "steps", [](const Adam& self) { return self.describe().steps; }, "Steps taken.")
      .def_prop_ro(
          "entries", [](const Adam& self) { return self.describe().entries; }, "Entries that have moments.")
      .def_prop_ro(
          "nbytes", [](const Adam& self) { return self.describe().bytes; }, "Bytes of its state.")
      .def("__repr__", [](const Adam& self) {
        return repr_of("SparseAdam", self.machine(), [&] {
          const sparsegrad_adam_info i = self.describe();
          return "of a core " + extents(i.rows, i.cols) + ", " + counted(i.steps, "step");
        });
      });
}

}  // namespace sparsegrad::python
