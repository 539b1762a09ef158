// The functions of sparsegrad.h but for those of errors: each checks its pointers and asks the handle.
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sparsegrad/c/sparsegrad.h>

#include "conversions.hpp"
#include "errors.hpp"
#include "handles.hpp"
#include "home_process.hpp"

struct sparsegrad_context {
  std::shared_ptr<sparsegrad::c::AnyContext> self;
  sparsegrad::c::HomeProcess home = {};
};
struct sparsegrad_basis {
  std::shared_ptr<sparsegrad::c::AnyBasis> self;
  sparsegrad::c::HomeProcess home = {};
};
struct sparsegrad_layer {
  std::shared_ptr<sparsegrad::c::AnyLayer> self;
  sparsegrad::c::HomeProcess home = {};
};
struct sparsegrad_group {
  std::unique_ptr<sparsegrad::c::AnyGroup> self;
  sparsegrad::c::HomeProcess home = {};
};
struct sparsegrad_adam {
  std::unique_ptr<sparsegrad::c::AnyAdam> self;
  sparsegrad::c::HomeProcess home = {};
};
struct sparsegrad_state {
  std::vector<std::byte> bytes;
};

using namespace sparsegrad;
using namespace sparsegrad::c;

namespace {

/// What makes a backend's contexts; null where the backend is not compiled in.
using MakeContext = std::unique_ptr<AnyContext> (*)(const sparsegrad_context_options&);
MakeContext maker(sparsegrad_backend backend) {
  switch (backend) {
#ifdef SPARSEGRAD_C_WITH_EIGEN
    case SPARSEGRAD_BACKEND_EIGEN:
      return make_eigen_context;
#endif
#ifdef SPARSEGRAD_C_WITH_BLAS
    case SPARSEGRAD_BACKEND_BLAS:
      return make_blas_context;
#endif
#ifdef SPARSEGRAD_C_WITH_ONEDNN
    case SPARSEGRAD_BACKEND_ONEDNN:
      return make_onednn_context;
#endif
    default:
      return nullptr;
  }
}

sparsegrad_backend default_backend() {
  for (const sparsegrad_backend backend : {SPARSEGRAD_BACKEND_ONEDNN, SPARSEGRAD_BACKEND_BLAS})
    if (maker(backend) != nullptr) return backend;
  return SPARSEGRAD_BACKEND_EIGEN;
}

const char* backend_name(sparsegrad_backend backend) {
  return backend == SPARSEGRAD_BACKEND_EIGEN  ? "Eigen"
         : backend == SPARSEGRAD_BACKEND_BLAS ? "BLAS"
                                              : "oneDNN";
}

MakeContext require_maker(sparsegrad_backend backend) {
  require_choice("backend", backend, 4);
  if (const MakeContext make = maker(backend)) return make;
  std::string available;
  for (std::int32_t b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b)
    if (maker(b) != nullptr) available += std::string(available.empty() ? "" : ", ") + backend_name(b);
  throw ValueError(std::string("backend is ") + backend_name(backend) +
                   ", which this library was built without; it has " + available);
}

/// The owner of what a handle holds. Throws ValueError for NULL, StateError in a fork of the process that made it.
template <class Handle>
auto& owner(const char* what, Handle* handle) {
  require_pointer(what, handle);
  handle->home.require_here(what);
  return handle->self;
}
/// What a handle holds. Throws as `owner`.
template <class Handle>
auto& self(const char* what, Handle* handle) {
  return *owner(what, handle);
}
/// Frees a handle. A fork keeps it: there are no threads to join, and nobody knows what is half changed.
template <class Handle>
void destroy(Handle* handle) {
  if (handle != nullptr && handle->home.is_here()) delete handle;
}

/// A basis handle on the heap.
sparsegrad_basis* new_basis(std::shared_ptr<AnyBasis> basis) {
  return new sparsegrad_basis{std::move(basis)};
}

/// All members 0, so that padding and pointers are too.
template <class Options>
bool begin_options(Options* options) {
  if (options == nullptr) return false;
  std::memset(options, 0, sizeof(Options));
  options->struct_size = sizeof(Options);
  return true;
}

}  // namespace

extern "C" {

// ---- contexts ----------------------------------------------------------------------------------------------

int32_t sparsegrad_backend_available(sparsegrad_backend backend) {
  return backend == SPARSEGRAD_BACKEND_DEFAULT || maker(backend) != nullptr ? 1 : 0;
}

void sparsegrad_context_options_init(sparsegrad_context_options* options) {
  (void)begin_options(options);
}

sparsegrad_status sparsegrad_context_create(const sparsegrad_context_options* options,
                                            sparsegrad_context** context) {
  return guard([&] {
    require_pointer("context", context);
    const auto chosen =
        options_or_default("sparsegrad_context_options", options, sparsegrad_context_options_init);
    const bool any = chosen.backend == SPARSEGRAD_BACKEND_DEFAULT;
    const MakeContext make = require_maker(any ? default_backend() : chosen.backend);
    *context = new sparsegrad_context{make(chosen)};
  });
}

void sparsegrad_context_destroy(sparsegrad_context* context) {
  destroy(context);
}

sparsegrad_status sparsegrad_context_describe(const sparsegrad_context* context, sparsegrad_backend* backend,
                                              int32_t* threads) {
  return guard([&] {
    const AnyContext& of = self("context", context);
    if (backend != nullptr) *backend = of.backend();
    if (threads != nullptr) *threads = of.threads();
  });
}

// ---- bases -------------------------------------------------------------------------------------------------

sparsegrad_status sparsegrad_basis_fit(sparsegrad_context* context, int64_t out, int64_t in,
                                       const sparsegrad_const_matrix* gradients, int64_t count,
                                       sparsegrad_side out_side, sparsegrad_side in_side,
                                       sparsegrad_basis** basis) {
  return guard([&] {
    require_pointer("basis", basis);
    *basis = new_basis(self("context", context).fit_basis(out, in, gradients, count, out_side, in_side));
  });
}

sparsegrad_status sparsegrad_basis_from_factors(sparsegrad_context* context, sparsegrad_const_matrix v,
                                                sparsegrad_const_matrix u, double tolerance,
                                                sparsegrad_basis** basis) {
  return guard([&] {
    require_pointer("basis", basis);
    *basis = new_basis(self("context", context).basis_from_factors(v, u, tolerance));
  });
}

void sparsegrad_basis_destroy(sparsegrad_basis* basis) {
  destroy(basis);
}

sparsegrad_status sparsegrad_basis_describe(const sparsegrad_basis* basis, sparsegrad_basis_info* info) {
  return guard([&] {
    require_pointer("info", info);
    *info = self("basis", basis).describe();
  });
}

sparsegrad_status sparsegrad_basis_factor(const sparsegrad_basis* basis, int32_t side,
                                          sparsegrad_matrix factor) {
  return guard([&] { self("basis", basis).factor(side, factor); });
}

sparsegrad_status sparsegrad_basis_spectrum(const sparsegrad_basis* basis, int32_t side, double* energies,
                                            int64_t capacity, int64_t* count) {
  return guard([&] {
    const std::vector<double>& spectrum = self("basis", basis).spectrum(side);
    if (capacity < 0) throw ValueError("capacity is " + std::to_string(capacity) + ", expected >= 0");
    if (capacity > 0) require_pointer("energies", energies);
    for (std::size_t i = 0; i < spectrum.size() && static_cast<int64_t>(i) < capacity; ++i)
      energies[i] = spectrum[i];
    if (count != nullptr) *count = static_cast<int64_t>(spectrum.size());
  });
}

sparsegrad_status sparsegrad_basis_energy(const sparsegrad_basis* basis, sparsegrad_const_matrix gradient,
                                          int64_t k, sparsegrad_energy* energy) {
  return guard([&] {
    require_pointer("energy", energy);
    *energy = self("basis", basis).energy(gradient, k);
  });
}

sparsegrad_status sparsegrad_basis_project(const sparsegrad_basis* basis, sparsegrad_const_matrix gradient,
                                           sparsegrad_matrix core) {
  return guard([&] { self("basis", basis).project(gradient, core); });
}

sparsegrad_status sparsegrad_basis_expand(const sparsegrad_basis* basis, sparsegrad_const_matrix core,
                                          sparsegrad_matrix gradient) {
  return guard([&] { self("basis", basis).expand(core, gradient); });
}

// ---- entries of one core -----------------------------------------------------------------------------------

sparsegrad_status sparsegrad_top_k(sparsegrad_context* context, sparsegrad_const_matrix core, int64_t k,
                                   int32_t* positions, float* values, int64_t* count) {
  return guard([&] {
    const int64_t kept = self("context", context).top_k(core, k, positions, values);
    if (count != nullptr) *count = kept;
  });
}

// ---- layers ------------------------------------------------------------------------------------------------

void sparsegrad_layer_options_init(sparsegrad_layer_options* options) {
  if (!begin_options(options)) return;
  const Workload workload;
  options->tokens = workload.tokens;
  options->micro_batches = workload.micro_batches;
}

sparsegrad_status sparsegrad_layer_create(sparsegrad_context* context, sparsegrad_weight weight,
                                          const void* bias, const sparsegrad_layer_options* options,
                                          sparsegrad_layer** layer) {
  return guard([&] {
    require_pointer("layer", layer);
    AnyContext& of = self("context", context);
    const auto chosen =
        options_or_default("sparsegrad_layer_options", options, sparsegrad_layer_options_init);
    *layer = new sparsegrad_layer{of.make_layer(weight, bias, chosen)};
  });
}

void sparsegrad_layer_destroy(sparsegrad_layer* layer) {
  destroy(layer);
}

sparsegrad_status sparsegrad_layer_kept_cols(const sparsegrad_layer* layer, int64_t* cols) {
  return guard([&] {
    require_pointer("cols", cols);
    *cols = self("layer", layer).kept_cols();
  });
}

sparsegrad_status sparsegrad_layer_forward(sparsegrad_layer* layer, sparsegrad_const_matrix x,
                                           sparsegrad_matrix y, sparsegrad_matrix keep,
                                           sparsegrad_saved_input* saved) {
  return guard([&] {
    const sparsegrad_saved_input result = self("layer", layer).forward(x, y, keep);
    if (saved != nullptr) *saved = result;
  });
}

sparsegrad_status sparsegrad_layer_backward(sparsegrad_layer* layer, sparsegrad_const_matrix dy,
                                            const sparsegrad_saved_input* saved, sparsegrad_matrix dx,
                                            float* db, int32_t mode) {
  return guard([&] {
    require_pointer("saved", saved);
    self("layer", layer).backward(dy, *saved, dx, db, mode);
  });
}

sparsegrad_status sparsegrad_layer_rebind(sparsegrad_layer* layer, sparsegrad_weight weight,
                                          const void* bias) {
  return guard([&] { self("layer", layer).rebind(weight, bias); });
}

// ---- groups ------------------------------------------------------------------------------------------------

void sparsegrad_group_options_init(sparsegrad_group_options* options) {
  if (!begin_options(options)) return;
  const GroupOptions defaults;
  options->density = defaults.density;
  options->gram_limit_bytes = defaults.recipe.gram_limit_bytes;
  options->out_side.seed = options->in_side.seed = SideRecipe::default_seed;
  options->beta1 = defaults.optimizer.beta1;
  options->beta2 = defaults.optimizer.beta2;
  options->eps = defaults.optimizer.eps;
  options->capacity_factor = 4;
}

void sparsegrad_step_options_init(sparsegrad_step_options* options) {
  if (!begin_options(options)) return;
  const GroupStep defaults;
  options->learning_rate = defaults.learning_rate;
  options->weight_decay = defaults.weight_decay;
  options->grad_scale = defaults.grad_scale;
}

sparsegrad_status sparsegrad_group_create(sparsegrad_context* context,
                                          const sparsegrad_group_options* options, sparsegrad_group** group) {
  return guard([&] {
    require_pointer("group", group);
    AnyContext& of = self("context", context);
    const auto chosen =
        options_or_default("sparsegrad_group_options", options, sparsegrad_group_options_init);
    *group = new sparsegrad_group{of.make_group(chosen)};
  });
}

void sparsegrad_group_destroy(sparsegrad_group* group) {
  destroy(group);
}

sparsegrad_status sparsegrad_group_add_weight(sparsegrad_group* group, sparsegrad_weight weight,
                                              const char* kind, int64_t* index) {
  return guard([&] {
    const int64_t number = self("group", group).add_weight(weight, kind);
    if (index != nullptr) *index = number;
  });
}

sparsegrad_status sparsegrad_group_add_layer(sparsegrad_group* group, sparsegrad_layer* layer,
                                             const char* kind, int64_t* index) {
  return guard([&] {
    const std::shared_ptr<AnyLayer>& added = owner("layer", layer);
    const int64_t number = self("group", group).add_layer(added, kind);
    if (index != nullptr) *index = number;
  });
}

sparsegrad_status sparsegrad_group_remove(sparsegrad_group* group, int64_t index) {
  return guard([&] { self("group", group).remove(index); });
}

sparsegrad_status sparsegrad_group_rebind(sparsegrad_group* group, int64_t index, sparsegrad_weight weight) {
  return guard([&] { self("group", group).rebind(index, weight); });
}

sparsegrad_status sparsegrad_group_set_gradient(sparsegrad_group* group, int64_t index,
                                                sparsegrad_const_matrix gradient) {
  return guard([&] { self("group", group).set_gradient(index, gradient); });
}

sparsegrad_status sparsegrad_group_clear(sparsegrad_group* group) {
  return guard([&] { self("group", group).clear(); });
}

sparsegrad_status sparsegrad_group_squared_norm(sparsegrad_group* group, double* sum) {
  return guard([&] {
    require_pointer("sum", sum);
    *sum = self("group", group).squared_norm();
  });
}

sparsegrad_status sparsegrad_group_step(sparsegrad_group* group, const sparsegrad_step_options* options,
                                        sparsegrad_step_report* report) {
  return guard([&] {
    AnyGroup& of = self("group", group);
    const sparsegrad_step_report result =
        of.step(options_or_default("sparsegrad_step_options", options, sparsegrad_step_options_init));
    if (report != nullptr) *report = result;
  });
}

sparsegrad_status sparsegrad_group_collect(sparsegrad_group* group) {
  return guard([&] { self("group", group).collect(); });
}

sparsegrad_status sparsegrad_group_stop_collecting(sparsegrad_group* group) {
  return guard([&] { self("group", group).stop_collecting(); });
}

sparsegrad_status sparsegrad_group_refresh(sparsegrad_group* group, int32_t moments) {
  return guard([&] { self("group", group).refresh(moments); });
}

sparsegrad_status sparsegrad_group_basis(sparsegrad_group* group, int64_t index, sparsegrad_basis** basis) {
  return guard([&] {
    require_pointer("basis", basis);
    *basis = new_basis(self("group", group).basis(index));
  });
}

sparsegrad_status sparsegrad_group_set_basis(sparsegrad_group* group, int64_t index,
                                             const sparsegrad_basis* basis, int32_t moments) {
  return guard([&] {
    AnyGroup& of = self("group", group);
    of.set_basis(index, basis == nullptr ? nullptr : owner("basis", basis), moments);
  });
}

sparsegrad_status sparsegrad_group_reserve(sparsegrad_group* group, int64_t max_tokens) {
  return guard([&] { self("group", group).reserve(max_tokens); });
}

sparsegrad_status sparsegrad_group_memory(const sparsegrad_group* group, sparsegrad_memory* memory) {
  return guard([&] {
    require_pointer("memory", memory);
    *memory = self("group", group).memory();
  });
}

sparsegrad_status sparsegrad_group_describe(const sparsegrad_group* group, sparsegrad_group_info* info) {
  return guard([&] {
    require_pointer("info", info);
    *info = self("group", group).describe();
  });
}

sparsegrad_status sparsegrad_group_describe_weight(const sparsegrad_group* group, int64_t index,
                                                   sparsegrad_weight_info* info) {
  return guard([&] {
    require_pointer("info", info);
    *info = self("group", group).describe_weight(index);
  });
}

sparsegrad_status sparsegrad_group_save(const sparsegrad_group* group, sparsegrad_state** state) {
  return guard([&] {
    require_pointer("state", state);
    *state = new sparsegrad_state{self("group", group).save()};
  });
}

sparsegrad_status sparsegrad_group_restore(sparsegrad_group* group, const void* data, size_t size) {
  return guard([&] {
    AnyGroup& of = self("group", group);
    require_pointer("data", data);
    const auto* bytes = static_cast<const std::byte*>(data);
    of.restore(std::vector<std::byte>(bytes, bytes + size));
  });
}

sparsegrad_status sparsegrad_group_save_file(const sparsegrad_group* group, const char* path) {
  return guard([&] {
    require_pointer("path", path);
    self("group", group).save_file(path);
  });
}

sparsegrad_status sparsegrad_group_load_file(sparsegrad_group* group, const char* path) {
  return guard([&] {
    require_pointer("path", path);
    self("group", group).load_file(path);
  });
}

const void* sparsegrad_state_data(const sparsegrad_state* state) {
  return state == nullptr ? nullptr : state->bytes.data();
}

size_t sparsegrad_state_size(const sparsegrad_state* state) {
  return state == nullptr ? 0 : state->bytes.size();
}

void sparsegrad_state_destroy(sparsegrad_state* state) {
  delete state;
}

// ---- Adam by itself ----------------------------------------------------------------------------------------

void sparsegrad_adam_options_init(sparsegrad_adam_options* options) {
  if (!begin_options(options)) return;
  const SparseAdamOptions defaults;
  options->beta1 = defaults.beta1;
  options->beta2 = defaults.beta2;
  options->eps = defaults.eps;
}

sparsegrad_status sparsegrad_adam_create(sparsegrad_context* context, int64_t rows, int64_t cols,
                                         const sparsegrad_adam_options* options, sparsegrad_adam** adam) {
  return guard([&] {
    require_pointer("adam", adam);
    AnyContext& of = self("context", context);
    const auto chosen = options_or_default("sparsegrad_adam_options", options, sparsegrad_adam_options_init);
    if (rows <= 0 || cols <= 0)
      throw ShapeError("the core is " + shape_text(rows, cols) + ", expected positive extents");
    *adam = new sparsegrad_adam{of.make_adam(rows, cols, chosen)};
  });
}

void sparsegrad_adam_destroy(sparsegrad_adam* adam) {
  destroy(adam);
}

sparsegrad_status sparsegrad_adam_describe(const sparsegrad_adam* adam, sparsegrad_adam_info* info) {
  return guard([&] {
    require_pointer("info", info);
    *info = self("adam", adam).describe();
  });
}

sparsegrad_status sparsegrad_adam_step(sparsegrad_adam* adam, const int32_t* positions, const float* values,
                                       int64_t count, const sparsegrad_step_options* options,
                                       sparsegrad_matrix update) {
  return guard([&] {
    AnyAdam& of = self("adam", adam);
    of.step(positions, values, count,
            options_or_default("sparsegrad_step_options", options, sparsegrad_step_options_init), update);
  });
}

}  // extern "C"
