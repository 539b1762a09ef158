// Layer and SavedInput.
#include <utility>
#include <vector>

#include "bindings.hpp"

namespace sparsegrad::python {

Weight::Weight(nb::handle weight, nb::handle of_float, const std::string& layout)
    : array("the weight", weight, Use::train) {
  c.layout = choice("layout", layout, layouts);
  const char* const extents = c.layout == SPARSEGRAD_OUT_IN ? "[out, in]" : "[in, out]";
  c.matrix = array.matrix(extents);
  if (of_float.is_none()) return;
  master = Array("the master", of_float, Use::train);
  const sparsegrad_matrix m = master.matrix(extents);
  if (m.rows != c.matrix.rows || m.cols != c.matrix.cols) {
    raise("ShapeError", "the master is " + std::to_string(m.rows) + "x" + std::to_string(m.cols) +
                            ", expected " + std::to_string(c.matrix.rows) + "x" +
                            std::to_string(c.matrix.cols) + ", as the weight");
  }
  if (m.dtype != SPARSEGRAD_FLOAT32) raise("ArgumentError", "the master is of 16 bits, expected float32");
  c.master = static_cast<float*>(m.data);
  c.master_stride = m.stride;
}

void Weight::require_in_place() const {
  array.require_in_place();
  master.require_in_place();
}

Array bias_of(const Weight& weight, nb::handle bias) {
  if (bias.is_none()) return {};
  Array array("the bias", bias, Use::train);
  (void)bias_data(weight, array);
  return array;
}

const void* bias_data(const Weight& weight, const Array& bias) {
  if (!bias) return nullptr;
  const sparsegrad_matrix& w = weight.c.matrix;
  return bias.vector(weight.c.layout == SPARSEGRAD_OUT_IN ? w.rows : w.cols, "[out]", w.dtype);
}

Layer::Layer(std::shared_ptr<Machine> machine, Weight weight, Array bias,
             const sparsegrad_layer_options& options)
    : machine_(std::move(machine)),
      weight_(std::move(weight)),
      bias_(std::move(bias)),
      handle_(nullptr, sparsegrad_layer_destroy) {
  sparsegrad_layer* layer = nullptr;
  call(machine_, [&] {
    return sparsegrad_layer_create(machine_->handle(), weight_.c, bias_data(weight_, bias_), &options,
                                   &layer);
  });
  handle_.reset(layer);
}

std::int64_t Layer::out() const {
  return weight_.c.layout == SPARSEGRAD_OUT_IN ? weight_.c.matrix.rows : weight_.c.matrix.cols;
}
std::int64_t Layer::in() const {
  return weight_.c.layout == SPARSEGRAD_OUT_IN ? weight_.c.matrix.cols : weight_.c.matrix.rows;
}

void Layer::require_in_place() const {
  weight_.require_in_place();
  bias_.require_in_place();
}

void Layer::rebind(Weight weight, Array bias) {
  Weight old_weight;
  Array old_bias;
  const void* const b = bias_data(weight, bias);
  Calls calls(*machine_);
  calls([&] { return sparsegrad_layer_rebind(handle_.get(), weight.c, b); });
  old_weight = std::exchange(weight_, std::move(weight));
  old_bias = std::exchange(bias_, std::move(bias));
}

namespace {

/// sparsegrad.SavedInput
struct SavedInput {
  nb::object layer;
  Array x;                  // where x itself is kept
  std::vector<float> keep;  // memory of x U, of either type
  sparsegrad_saved_input c{};
};

nb::tuple forward(nb::handle_t<Layer> self, nb::handle x, nb::handle out) {
  const auto& layer = nb::cast<const Layer&>(self);
  layer.require_in_place();
  SavedInput saved;
  saved.layer = nb::borrow(self);
  saved.x = Array("X", x, Use::read);
  const sparsegrad_const_matrix from = saved.x.const_matrix("[tokens, in]");
  nb::object y = nb::borrow(out);
  if (y.is_none()) {
    if (layer.weight().c.matrix.dtype != SPARSEGRAD_FLOAT32)
      raise("ArgumentError",
            "the layer is of bfloat16, which numpy lacks: pass out, [tokens, out] of bfloat16");
    y = new_floats(from.rows, layer.out());
  }
  const Array y_array("Y", y, Use::write);
  const sparsegrad_matrix to = y_array.matrix("[tokens, out]");
  {
    Calls calls(*layer.machine());
    std::int64_t cols = 0;
    calls([&] { return sparsegrad_layer_kept_cols(layer.handle(), &cols); });
    sparsegrad_matrix keep = sparsegrad_no_matrix();
    if (cols > 0) {
      saved.keep.resize(static_cast<std::size_t>(from.rows * cols));
      keep = {saved.keep.data(), from.rows, cols, 0, layer.weight().c.matrix.dtype};
    }
    calls([&] { return sparsegrad_layer_forward(layer.handle(), from, to, keep, &saved.c); });
  }
  if (saved.c.projected != 0) {
    saved.x = Array();
  } else {
    saved.keep = {};
  }
  return nb::make_tuple(y, std::move(saved));
}

nb::object backward(nb::handle_t<Layer> self, nb::handle dy, const SavedInput& saved, bool input_gradient,
                    nb::handle out, bool add, nb::handle db) {
  const auto& layer = nb::cast<const Layer&>(self);
  if (!saved.layer.is(self))
    raise("ArgumentError", "the saved input is another layer's, expected that of this layer's forward");
  layer.require_in_place();
  const Array dy_array("dY", dy, Use::read);
  const sparsegrad_const_matrix from = dy_array.const_matrix("[tokens, out]");
  if (!input_gradient && (!out.is_none() || add))
    raise("ArgumentError", "out or add is given without input_gradient, expected input_gradient=True");
  if (add && out.is_none()) raise("ArgumentError", "add is given without out, expected the dX to add to");
  nb::object dx = nb::borrow(out);
  Array dx_array;
  sparsegrad_matrix to = sparsegrad_no_matrix();
  if (input_gradient) {
    if (dx.is_none()) {
      if (layer.weight().c.matrix.dtype != SPARSEGRAD_FLOAT32)
        raise("ArgumentError",
              "the layer is of bfloat16, which numpy lacks: pass out, [tokens, in] of bfloat16");
      dx = new_floats(from.rows, layer.in());
    }
    dx_array = Array("dX", dx, Use::write);
    to = dx_array.matrix("[tokens, in]");
  }
  Array db_array;
  float* sums = nullptr;
  if (!db.is_none()) {
    db_array = Array("db", db, Use::write);
    sums = static_cast<float*>(db_array.vector(layer.out(), "[out]", SPARSEGRAD_FLOAT32));
  }
  call(layer.machine(), [&] {
    return sparsegrad_layer_backward(layer.handle(), from, &saved.c, to, sums,
                                     add ? SPARSEGRAD_ADD : SPARSEGRAD_OVERWRITE);
  });
  return dx;
}

}  // namespace

void bind_layer(nb::module_& m) {
  sparsegrad_layer_options defaults;
  sparsegrad_layer_options_init(&defaults);
  nb::class_<SavedInput>(m, "SavedInput",
                         "What the backward pass needs of its forward pass: x itself, which must not change\n"
                         "meanwhile, or a copy of x U where the basis has fewer columns.");
  nb::class_<Layer>(
      m, "Layer",
      "A linear layer y = x W^T + b on the caller's W and b, that forms the core of its weight\n"
      "gradient from tokens. A group trains W; nobody here trains b.")
      .def(
          "__init__",
          [](Layer* self, nb::handle weight, nb::handle bias, nb::handle master, const std::string& layout,
             std::int64_t tokens, std::int64_t micro_batches, const Context* context) {
            sparsegrad_layer_options options;
            sparsegrad_layer_options_init(&options);
            options.tokens = tokens;
            options.micro_batches = micro_batches;
            Weight w(weight, master, layout);
            Array b = bias_of(w, bias);
            new (self) Layer(machine_of(context), std::move(w), std::move(b), options);
          },
          nb::arg("weight").none(), nb::arg("bias") = nb::none(), nb::kw_only(),
          nb::arg("master") = nb::none(), nb::arg("layout") = layouts[0], nb::arg("tokens") = defaults.tokens,
          nb::arg("micro_batches") = defaults.micro_batches, nb::arg("context") = nb::none(),
          nb::sig(
              "def __init__(self, weight: Array, bias: Array | None = None, *, master: Array | None = None, "
              "layout: Literal['out_in', 'in_out'] = 'out_in', tokens: int = ..., micro_batches: int = ..., "
              "context: Context | None = None) -> None"),
          "weight: [out, in], or its transpose [in, out] by layout; float32 or bfloat16.\n"
          "bias: [out] of the weight's type.\n"
          "master: float32 of the weight's shape, for a weight in bfloat16.\n"
          "tokens, micro_batches: of a step, about, for the choice of the order of products.")
      .def("forward", forward, nb::arg("x").none(), nb::arg("out") = nb::none(),
           nb::sig("def forward(self, x: Array, out: Array | None = None) -> tuple[Any, SavedInput]"),
           "y = x W^T + b, x [tokens, in], y [tokens, out], of the weight's type.\n"
           "Returns y (out where it is given, else a new numpy array) and what backward needs.")
      .def(
          "backward", backward, nb::arg("dy").none(), nb::arg("saved"), nb::kw_only(),
          nb::arg("input_gradient") = true, nb::arg("out") = nb::none(), nb::arg("add") = false,
          nb::arg("db") = nb::none(),
          nb::sig(
              "def backward(self, dy: Array, saved: SavedInput, *, input_gradient: bool = True, out: Array | "
              "None = None, add: bool = False, db: Array | None = None) -> Any"),
          "The layer's gradient += that of these tokens; passes of a step add up.\n"
          "dy: [tokens, out] of the weight's type.\n"
          "out: dX [tokens, in], which is overwritten with dY W, or added to where `add` is set; returned. "
          "None:\n"
          "a new numpy array, or none at all without input_gradient.\n"
          "db: [out] of float32, to which the column sums of dY are added.")
      .def(
          "rebind",
          [](Layer& self, nb::handle weight, nb::handle bias, nb::handle master) {
            Weight w(weight, master, layouts[self.weight().c.layout]);
            Array b = bias_of(w, bias);
            self.rebind(std::move(w), std::move(b));
          },
          nb::arg("weight").none(), nb::arg("bias") = nb::none(), nb::kw_only(),
          nb::arg("master") = nb::none(),
          nb::sig(
              "def rebind(self, weight: Array, bias: Array | None = None, *, master: Array | None = None) -> "
              "None"),
          "From now on weight and bias are these arrays, of the same shape, type and layout.")
      .def("__repr__", [](const Layer& self) {
        return "<Layer " + extents(self.out(), self.in()) + " of " + dtypes[self.weight().c.matrix.dtype] +
               ">";
      });
}

}  // namespace sparsegrad::python
