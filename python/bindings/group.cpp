// Group.
#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <nanobind/stl/map.h>

#include "bindings.hpp"

namespace sparsegrad::python {

namespace {

using Sides = std::map<std::string, std::pair<sparsegrad_side, sparsegrad_side>>;

/// sparsegrad.Group
class Group {
 public:
  Group(std::shared_ptr<Machine> machine, sparsegrad_group_options options, Sides sides)
      : machine_(std::move(machine)),
        sides_(std::make_unique<Sides>(std::move(sides))),
        dtype_(dtypes[options.weight_dtype]),
        handle_(nullptr, sparsegrad_group_destroy) {
    options.sides = [](void* user, const char* kind, sparsegrad_side* out, sparsegrad_side* in) {
      const auto& by_kind = *static_cast<const Sides*>(user);
      const auto found = by_kind.find(kind);
      if (found != by_kind.end()) std::tie(*out, *in) = found->second;
    };
    options.sides_user = sides_.get();
    sparsegrad_group* group = nullptr;
    call(machine_, [&] { return sparsegrad_group_create(machine_->handle(), &options, &group); });
    handle_.reset(group);
  }

  std::int64_t add_weight(nb::handle weight, const std::string& kind, nb::handle master,
                          const std::string& layout) {
    Member member;
    member.kind = kind;
    member.weight = Weight(weight, master, layout);
    members_.reserve(members_.size() + 1);
    const char* const name = c_text("kind", kind);
    std::int64_t index = 0;
    Calls calls(*machine_);
    calls([&] { return sparsegrad_group_add_weight(handle_.get(), member.weight->c, name, &index); });
    members_.push_back(std::move(member));
    return index;
  }

  std::int64_t add_layer(nb::handle_t<Layer> layer, const std::string& kind) {
    sparsegrad_layer* const handle = nb::cast<const Layer&>(layer).handle();
    Member member;
    member.kind = kind;
    member.layer = nb::borrow(layer);
    members_.reserve(members_.size() + 1);
    const char* const name = c_text("kind", kind);
    std::int64_t index = 0;
    Calls calls(*machine_);
    calls([&] { return sparsegrad_group_add_layer(handle_.get(), handle, name, &index); });
    members_.push_back(std::move(member));
    return index;
  }

  void remove(std::int64_t index) {
    Member gone;
    Calls calls(*machine_);
    calls([&] { return sparsegrad_group_remove(handle_.get(), index); });
    gone = std::move(at(index));
    members_.erase(members_.begin() + index);
  }

  void rebind(std::int64_t index, nb::handle weight, nb::handle master) {
    const char* layout = layouts[0];
    if (index >= 0 && index < size()) {
      const auto& old = at(index).weight;
      if (!old)
        raise("StateError",
              "number " + std::to_string(index) + " is a layer, whose rebind says where its weight is");
      layout = layouts[old->c.layout];
    }
    Weight moved(weight, master, layout), old;
    Calls calls(*machine_);
    calls([&] { return sparsegrad_group_rebind(handle_.get(), index, moved.c); });
    old = std::exchange(*at(index).weight, std::move(moved));
  }

  void set_gradient(std::int64_t index, nb::handle gradient) {
    const bool in_out = index >= 0 && index < size() && at(index).weight && at(index).weight->c.layout != 0;
    Array array("the gradient", gradient, Use::read), old;
    const sparsegrad_const_matrix g = array.const_matrix(in_out ? "[in, out]" : "[out, in]");
    Calls calls(*machine_);
    calls([&] { return sparsegrad_group_set_gradient(handle_.get(), index, g); });
    old = std::exchange(at(index).gradient, std::move(array));
  }

  void clear() {
    std::vector<Array> old;
    Calls calls(*machine_);
    calls([&] { return sparsegrad_group_clear(handle_.get()); });
    take_gradients(old);
  }

  double squared_norm() {
    require_in_place();
    double sum = 0;
    call(machine_, [&] { return sparsegrad_group_squared_norm(handle_.get(), &sum); });
    return sum;
  }

  nb::object step(double learning_rate, double weight_decay, double grad_scale, bool norm) {
    require_in_place();
    require_kinds();
    sparsegrad_step_options options;
    sparsegrad_step_options_init(&options);
    options.learning_rate = learning_rate;
    options.weight_decay = weight_decay;
    options.grad_scale = grad_scale;
    options.want_norm = norm ? 1 : 0;
    sparsegrad_step_report r{};
    std::vector<Array> old;
    {
      Calls calls(*machine_);
      calls([&] { return sparsegrad_group_step(handle_.get(), &options, &r); });
      take_gradients(old);
    }
    return python_class("_results", "StepReport")(r.kept, r.norm, r.without_gradient, r.became_dense,
                                                  r.evicted, r.warming_up != 0, r.skipped != 0);
  }

  void collect() {
    call(machine_, [&] { return sparsegrad_group_collect(handle_.get()); });
  }
  void stop_collecting() {
    call(machine_, [&] { return sparsegrad_group_stop_collecting(handle_.get()); });
  }
  void refresh(const std::string& policy) {
    const std::int32_t of_moments = choice("moments", policy, moments);
    call(machine_, [&] { return sparsegrad_group_refresh(handle_.get(), of_moments); });
  }
  Basis basis(std::int64_t index) {
    sparsegrad_basis* basis = nullptr;
    call(machine_, [&] { return sparsegrad_group_basis(handle_.get(), index, &basis); });
    return {machine_, basis};
  }
  void set_basis(std::int64_t index, const Basis* basis, const std::string& policy) {
    const std::int32_t of_moments = choice("moments", policy, moments);
    call(machine_, [&] {
      return sparsegrad_group_set_basis(handle_.get(), index, basis == nullptr ? nullptr : basis->handle(),
                                        of_moments);
    });
  }
  void reserve(std::int64_t max_tokens) {
    call(machine_, [&] { return sparsegrad_group_reserve(handle_.get(), max_tokens); });
  }

  nb::object memory() {
    sparsegrad_memory b{};
    call(machine_, [&] { return sparsegrad_group_memory(handle_.get(), &b); });
    return python_class("_results", "Memory")(b.gradients, b.sparse_gradients, b.optimizer, b.bases,
                                              b.collection, b.scratch, b.total);
  }
  sparsegrad_group_info describe() {
    sparsegrad_group_info info{};
    call(machine_, [&] { return sparsegrad_group_describe(handle_.get(), &info); });
    return info;
  }
  nb::object describe_weight(std::int64_t index) {
    sparsegrad_weight_info w{};
    call(machine_, [&] { return sparsegrad_group_describe_weight(handle_.get(), index, &w); });
    return python_class("_results", "WeightInfo")(nb::make_tuple(w.out_extent, w.in_extent),
                                                  nb::make_tuple(w.core_rows, w.core_cols), w.kept, w.steps,
                                                  w.optimizer_bytes);
  }
  std::string repr() const {
    return repr_of("Group", machine_, [&] {
      sparsegrad_group_info info{};
      std::int64_t steps = 0;  // of the weight that has made most
      Calls calls(*machine_);
      calls([&] { return sparsegrad_group_describe(handle_.get(), &info); });
      for (std::int64_t i = 0; i < info.size; ++i) {
        sparsegrad_weight_info weight{};
        calls([&] { return sparsegrad_group_describe_weight(handle_.get(), i, &weight); });
        steps = std::max(steps, weight.steps);
      }
      return "of " + counted(info.size, "weight") + " of " + dtype_ + ", " +
             (info.warming_up != 0 ? "warming up" : counted(steps, "step"));
    });
  }
  std::int64_t size() const { return static_cast<std::int64_t>(members_.size()); }

  nb::bytes save() {
    sparsegrad_state* state = nullptr;
    call(machine_, [&] { return sparsegrad_group_save(handle_.get(), &state); });
    const std::unique_ptr<sparsegrad_state, void (*)(sparsegrad_state*)> owner(state,
                                                                               sparsegrad_state_destroy);
    return nb::bytes(sparsegrad_state_data(state), sparsegrad_state_size(state));
  }
  void restore(const nb::bytes& state) {
    const void* const data = state.data();
    const std::size_t size = state.size();
    call(machine_, [&] { return sparsegrad_group_restore(handle_.get(), data, size); });
  }
  void save_file(nb::handle path) {
    const std::string name = file_name(path);
    call(machine_, [&] { return sparsegrad_group_save_file(handle_.get(), name.c_str()); });
  }
  void load_file(nb::handle path) {
    const std::string name = file_name(path);
    call(machine_, [&] { return sparsegrad_group_load_file(handle_.get(), name.c_str()); });
  }

 private:
  /// What the group refers to.
  struct Member {
    std::string kind;
    std::optional<Weight> weight;  // or
    nb::object layer;
    Array gradient;
  };

  Member& at(std::int64_t index) { return members_[static_cast<std::size_t>(index)]; }

  void take_gradients(std::vector<Array>& to) {
    for (Member& member : members_)
      if (member.gradient) to.push_back(std::exchange(member.gradient, Array()));
  }

  void require_in_place() const {
    for (const Member& member : members_) {
      if (member.weight) {
        member.weight->require_in_place();
      } else {
        nb::cast<const Layer&>(member.layer).require_in_place();
      }
      if (member.gradient) member.gradient.require_in_place();
    }
  }

  /// A kind with sides of its own that no weight has is a slip of the pen.
  void require_kinds() {
    if (kinds_checked_ || members_.empty()) return;
    std::set<std::string> kinds;
    for (const Member& member : members_)
      kinds.insert(member.kind);
    for (const auto& [kind, sides] : *sides_) {
      if (kinds.contains(kind)) continue;
      std::string there;
      for (const std::string& k : kinds)
        there += (there.empty() ? "'" : ", '") + k + "'";
      raise("ArgumentError",
            "sides names '" + kind + "', which is the kind of no weight; there are " + there);
    }
    kinds_checked_ = true;
  }

  static std::string file_name(nb::handle path) {
    const nb::object bytes = nb::module_::import_("os").attr("fsencode")(path);
    std::string name = nb::cast<nb::bytes>(bytes).c_str();
    if (name.size() != nb::len(bytes))
      raise("ArgumentError", "path has a zero byte in it, expected text without");
    return name;
  }

  std::shared_ptr<Machine> machine_;
  std::unique_ptr<Sides> sides_;
  const char* dtype_;
  std::vector<Member> members_;  // outlive the handle
  std::unique_ptr<sparsegrad_group, void (*)(sparsegrad_group*)> handle_;
  bool kinds_checked_ = false;
};

void make_group(Group* self, double density, std::int64_t entries, std::int64_t warmup_steps,
                const sparsegrad_side& out_side, const sparsegrad_side& in_side, Sides sides,
                const std::string& scope, bool normalize, std::int64_t gram_limit_bytes, double beta1,
                double beta2, double eps, const std::string& meaning, const std::string& overflow,
                double capacity_factor, const std::string& non_finite, const std::string& dtype,
                const Context* context) {
  constexpr const char* scopes[] = {"kind", "weight"};
  constexpr const char* policies[] = {"raise", "skip"};
  sparsegrad_group_options options;
  sparsegrad_group_options_init(&options);
  options.weight_dtype = choice("dtype", dtype, dtypes);
  options.density = density;
  options.entries = entries;
  options.warmup_steps = warmup_steps;
  options.scope = choice("scope", scope, scopes);
  options.out_side = out_side;
  options.in_side = in_side;
  options.normalize = normalize ? 1 : 0;
  options.gram_limit_bytes = gram_limit_bytes;
  options.beta1 = beta1;
  options.beta2 = beta2;
  options.eps = eps;
  options.semantics = choice("semantics", meaning, semantics);
  options.overflow = choice("overflow", overflow, overflows);
  options.capacity_factor = capacity_factor;
  options.non_finite = choice("non_finite", non_finite, policies);
  new (self) Group(machine_of(context), options, std::move(sides));
}

}  // namespace

void bind_group(nb::module_& m) {
  sparsegrad_group_options d;
  sparsegrad_group_options_init(&d);
  nb::class_<Group>(
      m, "Group",
      "The optimizer of many weight matrices: finds their bases, keeps the entries that matter, takes\n"
      "sparse steps. It keeps the arrays that it was given alive.")
      .def(
          "__init__", make_group, nb::kw_only(), nb::arg("density") = d.density,
          nb::arg("entries") = d.entries, nb::arg("warmup_steps") = d.warmup_steps,
          nb::arg("out_side") = d.out_side, nb::arg("in_side") = d.in_side, nb::arg("sides") = Sides(),
          nb::arg("scope") = "kind", nb::arg("normalize") = false,
          nb::arg("gram_limit_bytes") = d.gram_limit_bytes, nb::arg("beta1") = d.beta1,
          nb::arg("beta2") = d.beta2, nb::arg("eps") = d.eps, nb::arg("semantics") = semantics[0],
          nb::arg("overflow") = overflows[0], nb::arg("capacity_factor") = d.capacity_factor,
          nb::arg("non_finite") = "raise", nb::arg("dtype") = dtypes[0], nb::arg("context") = nb::none(),
          nb::sig(
              "def __init__(self, *, density: float = 0.012, entries: int = 0, warmup_steps: int = 0, "
              "out_side: "
              "Side = ..., in_side: Side = ..., sides: Mapping[str, tuple[Side, Side]] = ..., scope: "
              "Literal['kind', 'weight'] = 'kind', normalize: bool = False, gram_limit_bytes: int = ..., "
              "beta1: "
              "float = 0.9, beta2: float = 0.999, eps: float = 1e-08, semantics: Literal['torch', "
              "'per_entry_step', 'dense_core'] = 'torch', overflow: Literal['evict_smallest', 'go_dense', "
              "'error'] = 'evict_smallest', capacity_factor: float = 4.0, non_finite: Literal['raise', "
              "'skip'] "
              "= 'raise', dtype: Literal['float32', 'bfloat16'] = 'float32', context: Context | None = None) "
              "-> None"),
          "density: part of a weight's out x in entries that a step keeps; entries, where not 0, in its "
          "place.\n"
          "warmup_steps: first steps, which collect gradients for the bases and change no weight; 0: no "
          "basis.\n"
          "out_side, in_side: recipes of the bases; sides has others for some kinds, as {\"up\": (out, "
          "in)}.\n"
          "scope: whether all weights of one kind share a basis, as in the paper, or each has its own.\n"
          "normalize: every gradient enters the bases with norm 1.\n"
          "gram_limit_bytes: most bytes for the sums of one side; a larger side is sketched.\n"
          "semantics, overflow: as of SparseAdam; capacity_factor times the kept entries have moments, 0: "
          "all.\n"
          "non_finite: NaN or Inf in a gradient raises, or the step is left out and reported.\n"
          "dtype: of the weights.")
      .def("add_weight", &Group::add_weight, nb::arg("weight").none(), nb::arg("kind") = "", nb::kw_only(),
           nb::arg("master") = nb::none(), nb::arg("layout") = layouts[0],
           nb::sig(
               "def add_weight(self, weight: Array, kind: str = '', *, master: Array | None = None, layout: "
               "Literal['out_in', 'in_out'] = 'out_in') -> int"),
           "Adds a weight whose gradient the caller computes; returns its number.\n"
           "weight: [out, in], or its transpose [in, out] by layout, of the group's type; trained in place.\n"
           "kind: weights of one kind have the same shape and share a basis.\n"
           "master: float32 of the weight's shape, for a weight in bfloat16, which becomes its rounded "
           "master.")
      .def("add_layer", &Group::add_layer, nb::arg("layer"), nb::arg("kind") = "",
           nb::sig("def add_layer(self, layer: Layer, kind: str = '') -> int"),
           "Adds a layer of the same context and weight type, which makes its gradient itself.")
      .def("remove", &Group::remove, nb::arg("index"),
           "Takes a weight or layer out; those behind it move up by one number.")
      .def("rebind", &Group::rebind, nb::arg("index"), nb::arg("weight").none(), nb::kw_only(),
           nb::arg("master") = nb::none(),
           nb::sig("def rebind(self, index: int, weight: Array, *, master: Array | None = None) -> None"),
           "From now on weight `index` is this array, of the same shape, type and layout.")
      .def("set_gradient", &Group::set_gradient, nb::arg("index"), nb::arg("gradient").none(),
           nb::sig("def set_gradient(self, index: int, gradient: Array) -> None"),
           "The gradient of a weight in this step, of its shape and layout, in float32, bfloat16 or float16: "
           "read\n"
           "where it is at the step, not copied. A second one in a step replaces the first.")
      .def("clear", &Group::clear, "Forgets the gradients of this step.")
      .def("squared_norm", &Group::squared_norm,
           "Sum of squares of all cores, to clip over these and all other parameters:\n"
           "grad_scale = min(1, max_norm / sqrt(sum + that of the others)). Between gradients and step.")
      .def("step", &Group::step, nb::kw_only(), nb::arg("learning_rate"), nb::arg("weight_decay") = 0.0,
           nb::arg("grad_scale") = 1.0, nb::arg("norm") = false,
           nb::sig("def step(self, *, learning_rate: float, weight_decay: float = 0.0, grad_scale: float = "
                   "1.0, norm: "
                   "bool = False) -> sparsegrad._results.StepReport"),
           "The step of all weights. During the warm-up it collects, and its last step fits the bases.\n"
           "weight_decay: decoupled, W shrinks by learning_rate * weight_decay.\n"
           "grad_scale: the gradients are multiplied by it first.\n"
           "norm: whether the report has the norm of all cores.\n"
           "After an error no weight has changed, and the gradients are kept until clear().")
      .def("collect", &Group::collect, "Steps from now on train, and collect gradients for new bases.")
      .def("stop_collecting", &Group::stop_collecting, "Ends a collection without new bases.")
      .def("refresh", &Group::refresh, nb::arg("moments") = moments[0],
           nb::sig("def refresh(self, moments: Literal['reset', 'transport'] = 'reset') -> None"),
           "Fits and sets the bases from what was collected; moments are emptied, or carried over.")
      .def("basis", &Group::basis, nb::arg("index"), "The basis of a weight.")
      .def("set_basis", &Group::set_basis, nb::arg("index"), nb::arg("basis").none(),
           nb::arg("moments") = moments[0],
           nb::sig("def set_basis(self, index: int, basis: TuckerBasis | None, moments: Literal['reset', "
                   "'transport'] = 'reset') -> None"),
           "Sets the basis of a weight, of the same backend; None: none.")
      .def("reserve", &Group::reserve, nb::arg("max_tokens") = 0,
           "Takes the memory of later steps with up to max_tokens tokens in a layer's pass.")
      .def("memory", &Group::memory, nb::sig("def memory(self) -> sparsegrad._results.Memory"),
           "Memory that group and context hold.")
      .def("describe_weight", &Group::describe_weight, nb::arg("index"),
           nb::sig("def describe_weight(self, index: int) -> sparsegrad._results.WeightInfo"),
           "What the group knows of one weight.")
      .def("__len__", &Group::size)
      .def("__repr__", &Group::repr)
      .def_prop_ro(
          "warming_up", [](Group& self) { return self.describe().warming_up != 0; },
          "Whether the next step is one of the warm-up.")
      .def_prop_ro(
          "collecting", [](Group& self) { return self.describe().collecting != 0; },
          "Whether gradients are collected for bases.")
      .def(
          "save", &Group::save,
          "Bases, plans and optimizer states as bytes, between steps and after the warm-up. Weights are the\n"
          "caller's to save. The bytes are those of save_file, of the C and C++ interfaces too.")
      .def("restore", &Group::restore, nb::arg("state"),
           "Restores a group with the same options and weights, which goes on with the same bits.")
      .def("save_file", &Group::save_file, nb::arg("path"),
           nb::sig("def save_file(self, path: Path) -> None"),
           "Saves the same in a safetensors file, which is written aside and renamed.")
      .def("load_file", &Group::load_file, nb::arg("path"),
           nb::sig("def load_file(self, path: Path) -> None"), "Restores from a file.");
}

}  // namespace sparsegrad::python
