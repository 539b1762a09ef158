// Context and Side.
#include <cstdint>

#include "bindings.hpp"

namespace sparsegrad::python {

namespace {

constexpr const char* backend_words[] = {"default", "eigen", "blas", "onednn"};
constexpr const char* recipes[] = {"hosvd", "identity", "random", "hadamard"};

std::uint64_t default_seed() {
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  return options.out_side.seed;
}

std::int32_t threads_of(const Context& self) {
  std::int32_t threads = 0;
  require_ok(sparsegrad_context_describe(self.machine->handle(), nullptr, &threads));
  return threads;
}

std::string backend_of(const Context& self) {
  sparsegrad_backend backend = 0;
  require_ok(sparsegrad_context_describe(self.machine->handle(), &backend, nullptr));
  return backend_words[backend];
}

std::string side_text(const sparsegrad_side& side) {
  std::string arguments;
  const auto add = [&](const std::string& text) { arguments += (arguments.empty() ? "" : ", ") + text; };
  if (side.rank != 0) add("rank=" + std::to_string(side.rank));
  if (side.energy != 0) add("energy=" + std::string(nb::repr(nb::float_(side.energy)).c_str()));
  if (side.recipe >= SPARSEGRAD_RANDOM) add("seed=" + std::to_string(side.seed));
  return std::string("Side.") + recipes[side.recipe] + "(" + arguments + ")";
}

std::int64_t rank_of(std::optional<std::int64_t> rank) {
  if (rank && *rank <= 0)
    raise("ArgumentError", "rank is " + std::to_string(*rank) + ", expected at least 1, or None for all");
  return rank.value_or(0);
}

}  // namespace

void bind_context(nb::module_& m) {
  m.def(
      "backends",
      [] {
        nb::list names;
        for (std::int32_t b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b)
          if (sparsegrad_backend_available(b) != 0) names.append(backend_words[b]);
        return names;
      },
      nb::sig("def backends() -> list[str]"),
      "Backends that this build has: of \"eigen\", \"blas\", \"onednn\".");

  nb::class_<Context>(
      m, "Context",
      "Threads and temporary memory; what computes is made with one.\n\n"
      "One call at a time works on a context and what was made with it; calls of other Python\n"
      "threads wait. Several contexts work side by side. Whoever gives no context shares one with\n"
      "the library's default number of threads.")
      .def(
          "__init__",
          [](Context* self, int threads, const std::string& backend, bool deterministic) {
            sparsegrad_context_options options;
            sparsegrad_context_options_init(&options);
            options.threads = threads;
            options.backend = choice("backend", backend, backend_words);
            options.deterministic = deterministic ? 1 : 0;
            new (self) Context{std::make_shared<Machine>(options)};
          },
          nb::kw_only(), nb::arg("threads") = 0, nb::arg("backend") = "default",
          nb::arg("deterministic") = false,
          nb::sig("def __init__(self, *, threads: int = 0, backend: Literal['default', 'eigen', 'blas', "
                  "'onednn'] "
                  "= 'default', deterministic: bool = False) -> None"),
          "threads: 0 for as many as the process may keep busy.\n"
          "backend: which library takes the products.\n"
          "deterministic: the same bits for any number of threads.")
      .def_prop_ro("threads", threads_of, "Number of threads.")
      .def_prop_ro("backend", backend_of, "The backend, never \"default\".")
      .def("__repr__", [](const Context& self) {
        return repr_of("Context", self.machine, [&] {
          return "of " + counted(threads_of(self), "thread") + " on " + backend_of(self);
        });
      });

  nb::class_<sparsegrad_side>(
      m, "Side",
      "Recipe of one side of a basis. Cannot change.\n\n"
      "The out side, V [out, r], turns the rows of a gradient [out, in], the in side, U [in, c],\n"
      "its columns.")
      .def_static(
          "hosvd",
          [](std::optional<std::int64_t> rank, std::optional<double> energy) {
            if (rank && energy)
              raise("ArgumentError", "rank and energy are both given, expected one of them");
            if (energy && !(*energy > 0 && *energy <= 1)) {
              raise("ArgumentError", "energy is " + std::string(nb::repr(nb::float_(*energy)).c_str()) +
                                         ", expected 0 < energy <= 1");
            }
            return sparsegrad_side{SPARSEGRAD_HOSVD, rank_of(rank), energy.value_or(0), default_seed()};
          },
          nb::arg("rank") = nb::none(), nb::arg("energy") = nb::none(),
          "Leading singular vectors of the gradients: `rank` of them, or as many as keep the fraction "
          "`energy`\n"
          "of the sum of squares, or all.")
      .def_static(
          "identity",
          [] {
            return sparsegrad_side{SPARSEGRAD_IDENTITY, 0, 0, default_seed()};
          },
          "No rotation.")
      .def_static(
          "random",
          [](std::optional<std::int64_t> rank, std::optional<std::uint64_t> seed) {
            return sparsegrad_side{SPARSEGRAD_RANDOM, rank_of(rank), 0, seed.value_or(default_seed())};
          },
          nb::arg("rank") = nb::none(), nb::arg("seed") = nb::none(),
          "`rank` random orthonormal vectors, or as many as the side is long.")
      .def_static(
          "hadamard",
          [](std::optional<std::uint64_t> seed) {
            return sparsegrad_side{SPARSEGRAD_HADAMARD, 0, 0, seed.value_or(default_seed())};
          },
          nb::arg("seed") = nb::none(),
          "Randomised Hadamard transform: no stored factor, n log n operations.")
      .def("__repr__", side_text)
      .def("__hash__", [](const sparsegrad_side& a) { return nb::hash(nb::str(side_text(a).c_str())); })
      .def(
          "__eq__",
          [](const sparsegrad_side& a, nb::handle other) {
            return nb::isinstance<sparsegrad_side>(other) &&
                   side_text(a) == side_text(nb::cast<const sparsegrad_side&>(other));
          },
          nb::arg("other").none(), nb::sig("def __eq__(self, other: object) -> bool"));
}

}  // namespace sparsegrad::python
