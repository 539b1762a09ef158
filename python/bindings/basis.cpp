// TuckerBasis.
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.hpp"

namespace sparsegrad::python {

namespace {

sparsegrad_basis_info describe(const Basis& basis) {
  sparsegrad_basis_info info;
  require_ok(sparsegrad_basis_describe(basis.handle(), &info));
  return info;
}

Basis fit(nb::handle gradients, std::optional<std::pair<std::int64_t, std::int64_t>> shape,
          const sparsegrad_side& out_side, const sparsegrad_side& in_side, const Context* context) {
  std::vector<Array> arrays;
  std::vector<sparsegrad_const_matrix> matrices;
  for (const nb::handle gradient : gradients) {
    const std::string name = "gradient " + std::to_string(arrays.size());
    arrays.emplace_back(name.c_str(), gradient, Use::read);
    matrices.push_back(arrays.back().const_matrix("[out, in]"));
  }
  std::int64_t out = 0, in = 0;
  if (shape) {
    std::tie(out, in) = *shape;
  } else if (!matrices.empty()) {
    out = matrices[0].rows;
    in = matrices[0].cols;
  } else {
    raise("ArgumentError", "there are neither gradients nor a shape, expected one of them");
  }
  const std::shared_ptr<Machine> machine = machine_of(context);
  sparsegrad_basis* basis = nullptr;
  call(machine, [&] {
    return sparsegrad_basis_fit(machine->handle(), out, in, matrices.data(),
                                static_cast<std::int64_t>(matrices.size()), out_side, in_side, &basis);
  });
  return {machine, basis};
}

Basis from_factors(nb::handle v, nb::handle u, double tolerance, const Context* context) {
  const Array v_array("V", v, Use::read), u_array("U", u, Use::read);
  const sparsegrad_const_matrix v_matrix = v_array.const_matrix("[out, r]"),
                                u_matrix = u_array.const_matrix("[in, c]");
  const std::shared_ptr<Machine> machine = machine_of(context);
  sparsegrad_basis* basis = nullptr;
  call(machine, [&] {
    return sparsegrad_basis_from_factors(machine->handle(), v_matrix, u_matrix, tolerance, &basis);
  });
  return {machine, basis};
}

nb::object factor(const Basis& self, std::int32_t side) {
  const sparsegrad_basis_info info = describe(self);
  const bool out = side == SPARSEGRAD_SIDE_OUT;
  nb::object result = new_floats(out ? info.out_extent : info.in_extent, out ? info.rows : info.cols);
  const Array array(out ? "V" : "U", result, Use::write);
  const sparsegrad_matrix to = array.matrix("[extent, rank]");
  call(self.machine(), [&] { return sparsegrad_basis_factor(self.handle(), side, to); });
  return result;
}

nb::object spectrum(const Basis& self, std::int32_t side) {
  std::int64_t count = 0;
  require_ok(sparsegrad_basis_spectrum(self.handle(), side, nullptr, 0, &count));
  std::vector<double> energies(static_cast<std::size_t>(count));
  require_ok(sparsegrad_basis_spectrum(self.handle(), side, energies.data(), count, &count));
  return new_vector(energies.data(), energies.size(), "float64");
}

nb::object energy(const Basis& self, nb::handle gradient, std::int64_t k) {
  const Array array("the gradient", gradient, Use::read);
  const sparsegrad_const_matrix g = array.const_matrix("[out, in]");
  sparsegrad_energy energy{};
  call(self.machine(), [&] { return sparsegrad_basis_energy(self.handle(), g, k, &energy); });
  return python_class("_results", "Energy")(energy.raw_top_k, energy.basis_top_k, energy.kept_block);
}

nb::object project(const Basis& self, nb::handle gradient) {
  const Array array("the gradient", gradient, Use::read);
  const sparsegrad_const_matrix g = array.const_matrix("[out, in]");
  const sparsegrad_basis_info info = describe(self);
  nb::object core = new_floats(info.rows, info.cols);
  const Array core_array("the core", core, Use::write);
  const sparsegrad_matrix to = core_array.matrix("[rows, cols]");
  call(self.machine(), [&] { return sparsegrad_basis_project(self.handle(), g, to); });
  return core;
}

nb::object expand(const Basis& self, nb::handle core) {
  const Array array("the core", core, Use::read);
  const sparsegrad_const_matrix from = array.const_matrix("[rows, cols]");
  const sparsegrad_basis_info info = describe(self);
  nb::object gradient = new_floats(info.out_extent, info.in_extent);
  const Array gradient_array("the gradient", gradient, Use::write);
  const sparsegrad_matrix to = gradient_array.matrix("[out, in]");
  call(self.machine(), [&] { return sparsegrad_basis_expand(self.handle(), from, to); });
  return gradient;
}

}  // namespace

void bind_basis(nb::module_& m) {
  const sparsegrad_side full{SPARSEGRAD_HOSVD, 0, 0, 0};
  nb::class_<Basis>(
      m, "TuckerBasis",
      "The two factors of a Tucker basis, V [out, r] and U [in, c], with orthonormal columns: a\n"
      "gradient G [out, in] has the core V^T G U [r, c]. Cannot change.")
      .def_static(
          "fit", fit, nb::arg("gradients"), nb::kw_only(), nb::arg("shape") = nb::none(),
          nb::arg("out_side") = full, nb::arg("in_side") = full, nb::arg("context") = nb::none(),
          nb::sig("def fit(gradients: Iterable[Array], *, shape: tuple[int, int] | None = None, out_side: "
                  "Side = ..., in_side: Side = ..., context: Context | None = None) -> TuckerBasis"),
          "Fits a basis to gradients [out, in] of float32, bfloat16 or float16, by default of full rank.\n"
          "Recipes that need no gradients take an empty list and `shape` = (out, in).")
      .def_static(
          "from_factors", from_factors, nb::arg("v").none(), nb::arg("u").none(), nb::kw_only(),
          nb::arg("tolerance") = 1e-4, nb::arg("context") = nb::none(),
          nb::sig("def from_factors(v: Array, u: Array, *, tolerance: float = 0.0001, context: Context | "
                  "None = None) -> TuckerBasis"),
          "Copies factors V [out, r] and U [in, c], whose columns are orthonormal to `tolerance`.")
      .def("energy", energy, nb::arg("gradient").none(), nb::arg("k"),
           nb::sig("def energy(self, gradient: Array, k: int) -> sparsegrad._results.Energy"),
           "How much of the sum of squares of G [out, in] its k largest entries hold, as it is and in the "
           "basis.")
      .def("project", project, nb::arg("gradient").none(),
           nb::sig("def project(self, gradient: Array) -> NDArray[numpy.float32]"),
           "The core V^T G U [r, c] of a gradient G [out, in].")
      .def("expand", expand, nb::arg("core").none(),
           nb::sig("def expand(self, core: Array) -> NDArray[numpy.float32]"),
           "The gradient V C U^T [out, in] of a core C [r, c].")
      .def_prop_ro(
          "v", [](const Basis& self) { return factor(self, SPARSEGRAD_SIDE_OUT); },
          nb::for_getter(nb::sig("def v(self) -> NDArray[numpy.float32]")), "A copy of V [out, r].")
      .def_prop_ro(
          "u", [](const Basis& self) { return factor(self, SPARSEGRAD_SIDE_IN); },
          nb::for_getter(nb::sig("def u(self) -> NDArray[numpy.float32]")), "A copy of U [in, c].")
      .def_prop_ro(
          "out_spectrum", [](const Basis& self) { return spectrum(self, SPARSEGRAD_SIDE_OUT); },
          nb::for_getter(nb::sig("def out_spectrum(self) -> NDArray[numpy.float64]")),
          "Squared singular values of the out side, descending; empty for a side that was not fitted.")
      .def_prop_ro(
          "in_spectrum", [](const Basis& self) { return spectrum(self, SPARSEGRAD_SIDE_IN); },
          nb::for_getter(nb::sig("def in_spectrum(self) -> NDArray[numpy.float64]")),
          "The same of the in side.")
      .def_prop_ro(
          "shape",
          [](const Basis& self) {
            const sparsegrad_basis_info info = describe(self);
            return nb::make_tuple(info.out_extent, info.in_extent);
          },
          nb::for_getter(nb::sig("def shape(self) -> tuple[int, int]")), "(out, in) of a gradient.")
      .def_prop_ro(
          "core_shape",
          [](const Basis& self) {
            const sparsegrad_basis_info info = describe(self);
            return nb::make_tuple(info.rows, info.cols);
          },
          nb::for_getter(nb::sig("def core_shape(self) -> tuple[int, int]")), "(r, c) of a core.")
      .def_prop_ro(
          "nbytes", [](const Basis& self) { return describe(self).bytes; }, "Bytes of memory held.")
      .def_prop_ro(
          "gradients", [](const Basis& self) { return describe(self).gradients; },
          "Number of gradients that it was fitted to; 0: none.")
      .def_prop_ro(
          "total_energy", [](const Basis& self) { return describe(self).total_energy; },
          "Sum of squares of those gradients.")
      .def_prop_ro(
          "out_kept_energy", [](const Basis& self) { return describe(self).out_kept_energy; },
          "Fraction of it in the span of V's columns; NaN where unknown.")
      .def_prop_ro(
          "in_kept_energy", [](const Basis& self) { return describe(self).in_kept_energy; },
          "The same of U's columns.")
      .def("__repr__", [](const Basis& self) {
        return repr_of("TuckerBasis", self.machine(), [&] {
          const sparsegrad_basis_info i = describe(self);
          return "of gradients " + extents(i.out_extent, i.in_extent) + ", cores " + extents(i.rows, i.cols);
        });
      });
}

}  // namespace sparsegrad::python
